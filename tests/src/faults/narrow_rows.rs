//! Row 37: a link on the way that is narrower than both ends know, between routers that say nothing;
//! and the same within a switch.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{
    Injected,
    stage::Stage,
    switch_rows::{a_smaller_switch, forget_widths},
};
use crate::{command, netns::Netns, probe, report::Udp, wait};

pub const LIMIT: Duration = Duration::from_secs(40);
/// The host that is behind it.
pub const HOST: usize = 2;
const WIDTH: u32 = 1400;
/// An overlay's packet that fits the hosts' own links to the byte.
pub const PACKET: u32 = 1450;
/// Of IP and UDP.
const HEADERS: u32 = 28;
const COUNT: u64 = 100;
/// Longest that one write may be held up: lost packets are sent again after a second at first.
const STALL_MS: u64 = 3000;
const LARGE: u64 = 8 << 20;

/// Row 37.
pub fn a_smaller_link(stage: &mut Stage) -> Result<Injected> {
    let mut notes = a_smaller_switch(stage)?;
    let routers = Routers::insert(stage)?;
    let outcome = across(stage);
    routers.remove(stage)?;
    notes.extend(outcome?);
    forget_widths(stage)?;
    for index in 0..stage.nodes.len() {
        until_said(stage, index, "none is known")?;
    }
    let mut injected = Injected::now();
    injected.notes = notes;
    Ok(injected)
}

fn across(stage: &Stage) -> Result<Vec<String>> {
    let (near, far) = (stage.node(0)?, stage.node(HOST)?);
    let (a, b) = (near.container(0)?, far.container(0)?);
    wait::until_true("the ends reach each other", LIMIT, || {
        Ok(probe::ping(a, b.address, "--count 2 --patience-ms 300")?.replies == 2)
    })?;
    let mut notes = Vec::new();
    for (from, to) in [(a, b), (b, a)] {
        let tcp = probe::transfer(from, to, 9301, LARGE)?;
        ensure!(
            tcp.complete() && tcp.longest_stall_ms < STALL_MS,
            "TCP: {tcp:?}"
        );
        notes.push(format!(
            "8 MiB by TCP in {} ms, held up for {} ms at most",
            tcp.milliseconds, tcp.longest_stall_ms
        ));
    }
    let began = Instant::now();
    let place = format!("{}: packets above {WIDTH} bytes", far.host.address);
    until_said(stage, 0, &place)?;
    until_said(stage, HOST, &format!("packets above {WIDTH} bytes"))?;
    notes.push(format!(
        "the limit is named after {:.1?} more",
        began.elapsed()
    ));
    whole(stage, WIDTH - 50)?;
    Ok(notes)
}

/// What must not be taken to pieces arrives as long as it fits, and is refused to its sender beyond.
pub fn whole(stage: &Stage, fits: u32) -> Result<()> {
    let (a, b) = (
        stage.node(0)?.container(0)?,
        stage.node(HOST)?.container(0)?,
    );
    let largest = fits - HEADERS;
    for (size, fits) in [(largest, true), (largest + 1, false)] {
        let port = 9302;
        let side = |from: &crate::container::Container, to: &crate::container::Container| {
            let (bind, to) = (from.address, to.address);
            let words = format!(
                "udp --df --rate 500 --count {COUNT} --size {size} --bind {bind}:{port} --to {to}:{port}"
            );
            probe::start(from, &words)
        };
        let (one, other) = (side(a, b)?, side(b, a)?);
        for udp in [one.report::<Udp>()?, other.report()?] {
            ensure!(
                if fits {
                    udp.refused == 0 && udp.received >= COUNT - 5
                } else {
                    udp.refused >= COUNT - 10 && udp.received == 0
                },
                "{size} bytes of UDP, fits: {fits}: {udp:?}"
            );
        }
    }
    Ok(())
}

pub fn until_said(stage: &Stage, index: usize, what: &str) -> Result<()> {
    let host = &stage.node(index)?.host;
    let said = format!("{} says {what}", host.label);
    wait::until_true(&said, LIMIT, || {
        Ok(host.component("path_mtu")?.contains(what))
    })
}

/// Two routers between the switch and the host, and the narrow link between the two. They have no
/// network of their own: each answers for what is behind it.
struct Routers {
    near: Netns,
    far: Netns,
}

impl Routers {
    fn insert(stage: &Stage) -> Result<Self> {
        let near = Netns::new(&stage.lab, "r1")?;
        let far = Netns::new(&stage.lab, "r2")?;
        let (one, other) = (near.name(), far.name());
        stage.switch.ip(&format!("link set p3 netns {other}"))?;
        stage.switch.ip(&format!(
            "link add p37 type veth peer name near netns {one}"
        ))?;
        stage.switch.ip("link set p37 master br0 up")?;
        near.ip(&format!(
            "link add mid type veth peer name mid netns {other}"
        ))?;
        let behind = stage.node(HOST)?.host.address;
        let sides = [
            (&near, [("near", 251), ("mid", 252)], ("near", "mid")),
            (&far, [("mid", 253), ("p3", 254)], ("mid", "p3")),
        ];
        for (ns, devices, (out, inward)) in sides {
            ns.sysctl("net/ipv4/ip_forward", "1")?;
            ns.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            for (device, last) in devices {
                let conf = format!("net/ipv4/conf/{device}");
                ns.sysctl(&format!("{conf}/proxy_arp"), "1")?;
                ns.sysctl(&format!("{conf}/rp_filter"), "0")?;
                ns.sysctl(&format!("{conf}/send_redirects"), "0")?;
                ns.sysctl(&format!("net/ipv4/neigh/{device}/proxy_delay"), "0")?;
                ns.ip(&format!("address add 192.0.2.{last}/32 dev {device}"))?;
                let width = if device == "mid" { WIDTH } else { 1500 };
                ns.ip(&format!("link set {device} mtu {width} up"))?;
            }
            ns.ip(&format!("route add 192.0.2.0/24 dev {out}"))?;
            ns.ip(&format!("route add {behind}/32 dev {inward}"))?;
            let silent = "table inet silent { chain out { type filter hook output priority 0; icmp type destination-unreachable icmp code frag-needed drop; } ; }";
            command::run(ns.command("nft").arg(silent))?;
        }
        forget_neighbours(stage)?;
        Ok(Self { near, far })
    }

    fn remove(self, stage: &Stage) -> Result<()> {
        let Self { near, far } = self;
        let switch = stage.switch.name();
        far.ip(&format!("link set p3 netns {switch}"))?;
        stage.switch.ip("link set p3 master br0 up")?;
        drop((near, far));
        forget_neighbours(stage)
    }
}

fn forget_neighbours(stage: &Stage) -> Result<()> {
    for node in &stage.nodes {
        node.host.ip("neigh flush dev eth0")?;
    }
    stage.switch.ip("neigh flush dev br0").map(drop)
}
