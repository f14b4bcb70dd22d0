//! The stack's flows stay the stack's: what conntrack follows or translates never changes its way
//! in mid-stream, whatever comes and goes around it.

mod containers;
mod crowd;
mod nodes;
mod services;
mod survive;
mod ways;

use anyhow::{Context as _, Result};
use weft_tests::{
    agent::READY,
    reach::{self, Effort},
    wait,
    world::{Plan, World},
};

/// Enough to teach both hosts who is where.
const SMALL: Effort = Effort {
    pings: 2,
    packets: 20,
    tcp_bytes: 1 << 16,
};

/// A world whose containers have met.
fn met(plan: &Plan) -> Result<World> {
    let world = World::start(plan)?;
    reach::ensure_all(&reach::everybody(&world, SMALL)?).with_context(|| world.describe())?;
    Ok(world)
}

/// Both agents begin again, with this data path.
fn restart(world: &mut World, datapath: &'static str) -> Result<()> {
    for node in &mut world.nodes {
        let agent = node.agent()?;
        agent.stop()?;
        agent.flags.datapath = datapath;
        agent.restart()?;
    }
    for node in &mut world.nodes {
        let agent = node.agent()?;
        agent.ready()?;
        agent.knows(1)?;
    }
    Ok(())
}

/// Waits until packets may be taken on both hosts.
fn until_fast(world: &World) -> Result<()> {
    for node in &world.nodes {
        wait::until_true("the fast path is on", READY, || {
            Ok(node.host.fast_path()?.0 == "on")
        })
        .with_context(|| format!("{:?}", node.host.fast_path()))?;
    }
    Ok(())
}
