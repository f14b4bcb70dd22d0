//! The bridge forgets after two seconds and neighbours are doubted after one: a silent and a busy
//! container are still reached, on the path that they should take.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{BRIDGE, Place as _},
    probe::{self, Exchange},
    reach::{self, Effort},
    world::{Plan, World, total},
};

/// Ten lifetimes of the bridge's entries.
const SPELL: u64 = 20;

fn shorten(world: &World) -> Result<()> {
    for node in &world.nodes {
        // In hundredths of a second.
        node.host
            .ip(&format!("link set {BRIDGE} type bridge ageing_time 200"))?;
        let neighbours = format!("net/ipv4/neigh/{BRIDGE}");
        for (key, value) in [
            ("base_reachable_time_ms", "1000"),
            ("delay_first_probe_time", "1"),
            ("gc_stale_time", "2"),
        ] {
            node.host.ns.sysctl(&format!("{neighbours}/{key}"), value)?;
        }
    }
    Ok(())
}

#[test]
fn silent_and_busy_containers_stay_reachable() -> Result<()> {
    let mut plan = Plan::new("ageing");
    plan.containers = 2;
    let world = World::start(&plan)?;
    shorten(&world)?;
    reach::everybody(
        &world,
        Effort {
            pings: 1,
            packets: 10,
            tcp_bytes: 1 << 16,
        },
    )?;

    let before = world.counters()?;
    let (a, b) = world.pair()?;
    let busy = Exchange {
        port: 9000,
        rate: 1000,
        count: SPELL * 1000,
        size: 64,
    };
    probe::ensure_complete("the busy pair", busy.run(a, b)?).with_context(|| world.describe())?;
    let share = total(&world.shares(&before)?);
    println!("busy: {share}");
    ensure!(
        share.milli_percent() >= 99_900,
        "busy: {share}\n{}",
        world.describe()
    );

    // Nobody has spoken to these for as long.
    let before = world.counters()?;
    let (a, b) = (world.node(0)?.container(1)?, world.node(1)?.container(1)?);
    let pings = probe::ping(a, b.address(), "--count 20 --patience-ms 500")?;
    ensure!(
        pings.replies == 20,
        "silent: {pings:?}\n{}",
        world.describe()
    );
    let share = total(&world.shares(&before)?);
    println!("silent: {share}");
    ensure!(share.taken > 0, "silent: {share}\n{}", world.describe());
    Ok(())
}

#[test]
fn a_container_that_goes_is_forgotten_and_its_address_can_move() -> Result<()> {
    let mut world = World::start(&Plan::new("move"))?;
    reach::everybody(
        &world,
        Effort {
            pings: 1,
            packets: 10,
            tcp_bytes: 1 << 16,
        },
    )?;
    let node = world.node_mut(1)?;
    let (host, env) = (node.host.clone(), node.env);
    node.containers.clear();
    // The same address, another MAC and another port.
    node.containers
        .push(weft_tests::container::Container::new(&host, &env, 1)?);
    let (a, b) = world.pair()?;
    let pings = probe::ping(a, b.address(), "--count 5 --patience-ms 1000")?;
    ensure!(
        pings.replies >= 4,
        "after the move: {pings:?}\n{}",
        world.describe()
    );
    reach::ensure_all(&reach::everybody(&world, Effort::default())?)
}
