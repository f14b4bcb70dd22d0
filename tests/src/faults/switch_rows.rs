//! Row 37, its other half: something that forwards frames, and drops what is above its own width
//! without a word. To take packets to pieces on the way is of no help there, nor is a router.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    narrow_rows::{HOST, LIMIT, PACKET, until_said, whole},
    stage::Stage,
};
use crate::{
    container::{Container, Place as _},
    probe::{self, Running},
    report::Tcp,
    wait,
};

const MTU: u32 = 1400;
/// A bridge leaves room for a VLAN's tag, and lets it be used for anything.
const WIDTH: u32 = MTU + 4;
const TUNNEL: u32 = 50;
const PORT: u16 = 9303;
/// In single frames: more of them at a time than the machine's queues hold would be lost there.
const LENGTH: u64 = 1 << 20;
/// A stream that lost its first full packets tries again after 0.2 s, 0.4 s, and so on.
const STUCK_MS: u64 = 500;
/// From when the way has been measured: a stream tries again after as long as it was stuck.
const MOVES: Duration = Duration::from_secs(15);

/// Begins with streams that are stuck, ends with a way as wide as before.
pub fn a_smaller_switch(stage: &Stage) -> Result<Vec<String>> {
    forget_widths(stage)?;
    shrink(stage, true)?;
    let outcome = across(stage);
    shrink(stage, false)?;
    let notes = outcome?;
    for index in 0..stage.nodes.len() {
        until_said(stage, index, "none is known")?;
    }
    widened(stage)?;
    Ok(notes)
}

/// Nothing may pass as an aggregate: it would not be measured.
fn shrink(stage: &Stage, narrow: bool) -> Result<()> {
    let (state, mtu) = if narrow { ("off", MTU) } else { ("on", 1500) };
    for node in &stage.nodes {
        node.host.run(&format!(
            "ethtool -K eth0 gso {state} tso {state} tx-udp_tnl-segmentation {state} tx-udp_tnl-csum-segmentation {state}"
        ))?;
    }
    let port = HOST + 1;
    stage.switch.ip(&format!("link set p{port} mtu {mtu}"))?;
    // It would go by its narrowest port from now on.
    stage.switch.ip("link set br0 mtu 1500").map(drop)
}

/// What a container was told of a way it believes for ten minutes.
pub fn forget_widths(stage: &Stage) -> Result<()> {
    for node in &stage.nodes {
        node.container(0)?.ip("route flush cache")?;
    }
    Ok(())
}

fn ends(stage: &Stage) -> Result<(&Container, &Container)> {
    let (near, far) = (stage.node(0)?, stage.node(HOST)?);
    Ok((near.container(0)?, far.container(0)?))
}

fn across(stage: &Stage) -> Result<Vec<String>> {
    let (a, b) = ends(stage)?;
    let mut streams = [Stream::start(a, b)?, Stream::start(b, a)?];
    let said = format!("packets above {WIDTH} bytes");
    for index in [0, HOST] {
        until_said(stage, index, &said)?;
    }
    let began = Instant::now();
    let mut notes = Vec::new();
    for stream in &mut streams {
        wait::until_true("TCP moves", MOVES, || stream.sender.ended())?;
    }
    let after = began.elapsed();
    for stream in streams {
        let tcp: Tcp = stream.sender.report()?;
        ensure!(
            tcp.complete() && tcp.longest_stall_ms > STUCK_MS,
            "TCP: {tcp:?}"
        );
        notes.push(format!(
            "1 MiB by TCP, stuck for {} ms",
            tcp.longest_stall_ms
        ));
    }
    notes.push(format!("all there {after:.1?} after the limit is named"));

    let fits = WIDTH - TUNNEL;
    whole(stage, fits)?;
    // What senders were answered, as their kernel keeps it.
    for (from, to) in [(a, b), (b, a)] {
        let way = from.ip(&format!("route get {}", to.address))?;
        ensure!(way.contains(&format!("mtu {fits}")), "{way}");
    }
    Ok(notes)
}

/// Packets of full size arrive again, and no route says otherwise.
fn widened(stage: &Stage) -> Result<()> {
    for index in [0, HOST] {
        let node = stage.node(index)?;
        wait::until_true("no route names a width", LIMIT, || {
            let routes = node.host.ip("route show dev flannel.1")?;
            Ok(!routes.contains("mtu"))
        })?;
    }
    forget_widths(stage)?;
    whole(stage, PACKET)
}

/// One transfer, under way.
struct Stream {
    sender: Running,
    _sink: Running,
}

impl Stream {
    fn start(from: &Container, to: &Container) -> Result<Self> {
        let at = format!("{}:{PORT}", to.address());
        let sink = probe::serve(to, &format!("tcp-sink {at}"))?;
        let sender = probe::start(from, &format!("tcp-send --to {at} --bytes {LENGTH}"))?;
        Ok(Self {
            sender,
            _sink: sink,
        })
    }
}
