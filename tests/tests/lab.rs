//! The lab itself: two hosts programmed by hand, with no code of ours on the way.
//! What fails here is the lab's fault, not the agent's.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::{
    capture::Capture,
    connectivity,
    container::Place as _,
    load::Load,
    probe, wait,
    world::{Kind, Plan, World},
};

fn hand_made(test: &str) -> Result<World> {
    let mut plan = Plan::new(test);
    plan.kinds = vec![Kind::Kernel; 2];
    World::start(&plan)
}

#[test]
fn hand_made_hosts_are_connected() -> Result<()> {
    connectivity::check(&hand_made("hand_made")?)
}

#[test]
fn the_load_loses_nothing_by_itself() -> Result<()> {
    let world = hand_made("idle_load")?;
    let (a, b) = world.pair()?;
    let outcome = Load::start(a, b, Duration::from_secs(3))?.finish()?;
    println!("{outcome}");
    outcome.ensure_lossless()
}

#[test]
fn a_loss_is_seen() -> Result<()> {
    let world = hand_made("loss")?;
    let (a, b) = world.pair()?;
    let load = Load::start(a, b, Duration::from_secs(3))?;
    let rule = "FORWARD -p udp -m statistic --mode nth --every 50 --packet 0 -j DROP";
    world.node(1)?.host.run(&format!("iptables -A {rule}"))?;
    let outcome = load.finish()?;
    println!("{outcome}");
    ensure!(
        outcome.ensure_lossless().is_err(),
        "packets were dropped and nobody noticed"
    );
    Ok(())
}

#[test]
fn the_wire_can_be_read() -> Result<()> {
    let world = hand_made("wire")?;
    let (a, b) = world.pair()?;
    let capture = Capture::start(&world.node(0)?.host, "eth0")?;
    ensure!(probe::ping(a, b.address(), "--count 2")?.replies == 2);
    let frames = wait::until("four frames", Duration::from_secs(5), || {
        let frames = capture.overlay();
        Ok((frames.len() >= 4).then_some(frames))
    })?;
    for frame in &frames {
        ensure!(
            frame.ip.checksum_is_right && !frame.ip.dont_fragment,
            "{frame:?}"
        );
        ensure!(frame.vxlan == [8, 0, 0, 0, 0, 0, 1, 0], "{frame:?}");
    }
    Ok(())
}
