//! Two agents: everything that must work between two hosts, on either data path.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    connectivity,
    container::Place as _,
    probe,
    world::{Plan, World},
};

fn check(plan: &Plan) -> Result<World> {
    let world = World::start(plan)?;
    connectivity::check(&world).with_context(|| world.describe())?;
    Ok(world)
}

#[test]
fn programs_carry_everything() -> Result<()> {
    let world = check(&Plan::new("programs"))?;
    let status = world.node(0)?.host.status()?;
    ensure!(
        status
            .pointer("/mode/datapath")
            .is_some_and(|mode| mode == "ebpf"),
        "{status}"
    );
    Ok(())
}

#[test]
fn the_kernel_carries_everything() -> Result<()> {
    let mut plan = Plan::new("kernel");
    plan.datapath = "kernel";
    let world = check(&plan)?;
    let status = world.node(0)?.host.status()?;
    ensure!(
        status
            .pointer("/mode/datapath")
            .is_some_and(|mode| mode == "kernel"),
        "{status}"
    );
    Ok(())
}

#[test]
fn programs_that_only_guard_leave_everything_to_the_kernel() -> Result<()> {
    let mut plan = Plan::new("guard");
    plan.fast_path = "off";
    let world = check(&plan)?;
    for counters in world.counters()? {
        ensure!(
            counters.taken == 0,
            "taken in spite of --fast-path=off:\n{}",
            counters.lines()
        );
        ensure!(
            counters.qualified > 0,
            "nothing was counted:\n{}",
            counters.lines()
        );
    }
    Ok(())
}

#[test]
fn masquerade_hides_containers_from_outside_and_only_there() -> Result<()> {
    let mut plan = Plan::new("masquerade");
    plan.flags.push("--ip-masq".to_owned());
    let world = World::start(&plan)?;
    let (a, b) = world.pair()?;
    ensure!(
        probe::ask(a, b, 9000)? == a.address(),
        "hidden from a container of the overlay"
    );
    // The other host's own address is outside the overlay.
    let second = &world.node(1)?.host;
    let outside = weft_tests::container::HostAt {
        address: second.address,
        host: second.clone(),
    };
    let seen = probe::ask(a, &outside, 9001)?;
    ensure!(
        seen == world.node(0)?.host.address,
        "seen from outside as {seen}"
    );
    Ok(())
}

#[test]
fn three_hosts_meet() -> Result<()> {
    let mut plan = Plan::new("three");
    plan.kinds = vec![weft_tests::world::Kind::Weft; 3];
    let world = World::start(&plan)?;
    let effort = weft_tests::reach::Effort {
        tcp_bytes: 4 << 20,
        ..Default::default()
    };
    let reached = weft_tests::reach::everybody(&world, effort)?;
    weft_tests::reach::ensure_all(&reached).with_context(|| world.describe())
}
