//! Containers that come while the agent lives, and those that are replaced while it does not.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{BRIDGE, Container, Place},
    probe, reach, rules, wait,
    world::{Plan, World, total},
};

use crate::{SMALL, met};

/// For what the agent must hear of first.
const PATIENCE: Duration = Duration::from_secs(15);

/// How many programs hang where they should, if none is missing.
fn attached(world: &World) -> Result<Option<u32>> {
    let said = world.node(0)?.host.component("programs")?;
    let count = said.strip_suffix(" attached");
    count
        .map(|count| count.parse().context("a number"))
        .transpose()
}

#[test]
fn the_first_connection_of_a_new_container_is_fast() -> Result<()> {
    let mut world = met(&Plan::new("first"))?;
    for node in &world.nodes {
        rules::drop_invalid(&node.host)?;
    }
    let programs = attached(&world)?.context("programs are missing")?;
    let node = world.node_mut(0)?;
    let (host, env) = (node.host.clone(), node.env);
    node.containers.push(Container::new(&host, &env, 2)?);
    // It has said nothing yet that the host's tables would remember.
    wait::until_true("the new port has its programs", PATIENCE, || {
        Ok(attached(&world)? == Some(programs + 2))
    })?;
    let new = world.node(0)?.container(1)?;
    let known = host.ip(&format!("neigh show {} dev {BRIDGE}", new.address))?;
    ensure!(known.trim().is_empty(), "it is known already: {known}");

    let before = world.counters()?;
    let (_, b) = world.pair()?;
    let sent = probe::transfer(new, b, 7100, 1 << 20)?;
    ensure!(sent.complete(), "{sent:?}");
    let share = total(&world.shares(&before)?);
    ensure!(
        share.qualified > 0 && share.taken == share.qualified,
        "{share}\n{}",
        world.describe()
    );
    let now = world.counters()?;
    let (now, before) = (now.first(), before.first());
    let (now, before) = (now.context("counters")?, before.context("counters")?);
    let entered = |counters: &weft_tests::dump::Counters| {
        counters.of("from_container", "provisional_endpoint")
    };
    ensure!(entered(now) == entered(before) + 1, "{}", now.lines());
    // And the agent has found it in the kernel's tables.
    wait::until_true("the endpoint is confirmed", PATIENCE, || {
        let address = new.address.to_string();
        Ok(host.endpoints()?.iter().any(|one| one.address == address))
    })
}

/// Replaces the first host's container while its agent is dead, and brings the agent back.
fn replace(world: &mut World, mac: &str) -> Result<()> {
    world.node_mut(0)?.agent()?.kill_hard()?;
    let node = world.node_mut(0)?;
    let (host, env) = (node.host.clone(), node.env);
    node.containers.clear();
    node.containers
        .push(Container::with_mac(&host, &env, 1, mac)?);
    let (a, b) = world.pair()?;
    let pings = probe::ping(b, a.address(), "--count 3")?;
    ensure!(
        pings.replies == 3,
        "while no agent runs: {pings:?}\n{}",
        world.describe()
    );

    let agent = world.node_mut(0)?.agent()?;
    agent.restart()?;
    agent.ready()?;
    agent.knows(1)?;
    let address = world.node(0)?.container(0)?.address.to_string();
    wait::until_true("the new container is known", PATIENCE, || {
        let known = host.endpoints()?;
        Ok(known
            .iter()
            .any(|one| one.address == address && one.mac == mac))
    })
    .with_context(|| format!("{:?}", host.endpoints()))?;
    let before = world.counters()?;
    reach::ensure_all(&reach::everybody(world, SMALL)?).with_context(|| world.describe())?;
    world.ensure_fast(&before)
}

#[test]
fn a_container_replaced_under_a_dead_agent_is_fast_again() -> Result<()> {
    let mut world = met(&Plan::new("replaced"))?;
    // Another hardware address at another port; then the same one at another port.
    for _ in 0..2 {
        replace(&mut world, "0a:00:00:00:00:77").context("0a:00:00:00:00:77")?;
    }
    Ok(())
}
