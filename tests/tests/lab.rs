//! The lab itself: two hosts programmed by hand, with no code of ours on the way.
//! What fails here is the lab's fault, not the agent's.

use std::time::Duration;

use anyhow::{Result, ensure};
use weft_tests::{
    capture::Capture,
    connectivity,
    container::Place as _,
    craft::{Aggregate, Flow, Frame, Link, Segment, Sum, TAG, payload},
    load::Load,
    probe,
    sender::{Blast, Sender, blast},
    wait,
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

/// From the first container towards the second.
fn crafted(world: &World) -> Result<(Link, Flow)> {
    let (a, b) = world.pair()?;
    let link = Link {
        source: a.ns.mac("eth0")?,
        destination: world.node(0)?.host.ns.mac("cni0")?,
    };
    let flow = Flow {
        source: std::net::SocketAddrV4::new(a.address, 4000),
        destination: std::net::SocketAddrV4::new(b.address, 5000),
    };
    Ok((link, flow))
}

#[test]
fn crafted_frames_leave_as_they_are() -> Result<()> {
    let world = hand_made("crafted")?;
    let (link, flow) = crafted(&world)?;
    let (a, _) = world.pair()?;
    let port = Capture::start(&world.node(0)?.host, &a.port)?;
    let large = flow.tcp(&Segment::data(), &payload(30_000));
    let large = link.ip(&large.sum(Sum::Partial));
    let sent = [
        link.ip(&flow.udp(b"right")),
        link.ip(&flow.udp(b"none").sum(Sum::Zero)),
        link.ip(&flow.sctp(b"chunk")),
        large.aggregate(Aggregate::Tcp4, 1398),
        link.ip(&flow.udp(b"tagged")).tagged(TAG, 7),
    ];
    let mut sender = Sender::start(a, "eth0")?;
    sender.send(&sent)?;
    // How much of a frame is in one piece is the kernel's business.
    let bare = |frame: Frame| frame.but(|frame| frame.offload.header = 0);
    let wanted: Vec<_> = sent.into_iter().map(bare).collect();
    let seen = wait::until("all are captured", Duration::from_secs(5), || {
        let frames = port.seen().into_iter().map(|seen| bare(seen.frame));
        let ours = frames.filter(|frame| frame.bytes[6..12] == link.source);
        // Not what the container says by itself.
        let crafted = |frame: &Frame| matches!(frame.bytes[12..14], [8 | 0x81, 0]);
        let ours: Vec<_> = ours.filter(crafted).collect();
        Ok((ours.len() >= wanted.len()).then_some(ours))
    })?;
    ensure!(seen == wanted, "{seen:02x?}\n{wanted:02x?}");
    Ok(())
}

#[test]
fn a_blast_repeats_or_damages() -> Result<()> {
    let world = hand_made("blast")?;
    let (link, flow) = crafted(&world)?;
    let (a, b) = world.pair()?;
    let port = Capture::start(&b.host, "eth0")?;
    let frames = [link.ip(&flow.udp(b"one")), link.ip(&flow.udp(b"two"))];
    let sent = blast(a, "eth0", &frames, Blast::Count(50))?;
    ensure!(sent.sent == 100 && sent.refused == 0, "{sent:?}");
    let of = |frame: &Frame| frame.bytes[34..].to_vec();
    wait::until_true("each arrives fifty times", Duration::from_secs(5), || {
        let seen = port.overlay();
        let count = |frame| {
            seen.iter()
                .filter(|o| o.inner_bytes[20..] == of(frame))
                .count()
        };
        Ok(frames.iter().all(|frame| count(frame) == 50))
    })?;

    let time = Duration::from_millis(200);
    let sent = blast(a, "eth0", &frames, Blast::Mutate { seed: 7, time })?;
    ensure!(sent.sent > 500, "{sent:?}");
    Ok(())
}
