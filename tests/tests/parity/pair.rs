//! One of the two pairs: two hosts, a container on each, senders and captures.

use std::{fmt, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::Agent,
    capture::{Capture, Seen},
    container::{Container, Place as _},
    craft::Frame,
    dump::Counters,
    host::Host,
    lab::Lab,
    probe,
    sender::Sender,
    wait,
    world::{CONFIG, Kind},
};

use crate::{
    build::{self, Hooks, Rules},
    case::{From, Wire},
    compare::Point,
    place::{A, B, Owner, THIRD, mac},
    seen::{is_ip, plain},
    sockets::Air,
};

const LIMIT: Duration = Duration::from_secs(10);

pub struct Pair {
    // In the order in which they go.
    senders: [Sender; 4],
    captures: [Capture; 3],
    /// For sockets: their links are as wide as the overlay.
    pub containers: [Container; 2],
    /// For crafted frames.
    crafters: [Container; 2],
    agents: Vec<Agent>,
    hosts: [Arc<Host>; 2],
    lab: Lab,
}

/// What a pair showed, by the place where it was seen.
#[derive(Debug)]
pub struct Observed {
    pub at_a: Vec<Frame>,
    pub at_b: Vec<Frame>,
    pub wire_there: Vec<Frame>,
    pub wire_back: Vec<Frame>,
}

impl Observed {
    pub fn at(&self, point: Point) -> &[Frame] {
        match point {
            Point::A => &self.at_a,
            Point::B => &self.at_b,
            Point::There => &self.wire_there,
            Point::Back => &self.wire_back,
        }
    }
}

impl Pair {
    pub fn start(kind: Kind, rules: Rules, hooks: Hooks) -> Result<Self> {
        let lab = Lab::new(&format!("parity {kind:?}"), 2)?;
        lab.etcd.put_config(&match hooks {
            Hooks::Ports | Hooks::Bridges => CONFIG.to_owned(),
            Hooks::Direct => CONFIG.replace("\"vxlan\"", "\"vxlan\",\"DirectRouting\":true"),
        })?;
        let hosts = [lab.host(0)?, lab.host(1)?];
        for (number, host) in hosts.iter().enumerate() {
            build::uplink(host, number)?;
            rules.write(host)?;
        }
        let envs = THIRD.map(build::env);
        let agents = build::carry(kind, hooks, &lab, &hosts, &envs)?;
        for (number, (host, env)) in hosts.iter().zip(&envs).enumerate() {
            build::bridge(host, env, number)?;
        }
        let ([first, second], [near, far]) = (&hosts, &envs);
        let crafters = [
            build::crafter(first, near, 0)?,
            build::crafter(second, far, 1)?,
        ];
        let containers = [
            build::neighbour(first, near, 0)?,
            build::neighbour(second, far, 1)?,
        ];
        // A little more than the far end takes, for packets that do not fit inside.
        lab.switch.ip("link set p2 mtu 1600")?;
        build::set_mac(&lab.switch, "br0", mac(Owner::Switch, 0))?;
        let [a, b] = &crafters;
        let senders = [
            Sender::start(a, "eth0")?,
            Sender::start(b, "eth0")?,
            Sender::in_namespace(&lab.switch, "p2")?,
            Sender::in_namespace(&lab.switch, "p1")?,
        ];
        let captures = [
            Capture::in_namespace(&a.ns, "eth0")?,
            Capture::in_namespace(&b.ns, "eth0")?,
            Capture::start(&b.host, "eth0")?,
        ];
        let pair = Self {
            senders,
            captures,
            containers,
            crafters,
            agents,
            hosts,
            lab,
        };
        pair.acquaint().with_context(|| pair.to_string())?;
        Ok(pair)
    }

    /// Everybody knows everybody before anything is compared.
    fn acquaint(&self) -> Result<()> {
        let [crafter, far] = &self.crafters;
        let [a, b] = &self.containers;
        ensure!(crafter.address == A && far.address == B, "other addresses");
        for (from, to) in [(crafter, far), (far, crafter), (a, b), (b, a)] {
            wait::until_true("a ping is answered", LIMIT, || {
                Ok(probe::ping(from, to.address(), "--count 1")?.replies == 1)
            })?;
        }
        for host in self.hosts.iter().filter(|_| !self.agents.is_empty()) {
            wait::until_true("endpoints are known", LIMIT, || {
                let known = host.endpoints()?.len();
                Ok(known == 2)
            })?;
        }
        Ok(())
    }

    pub fn send(&mut self, from: From, frames: &[Frame]) -> Result<()> {
        let [a, b, wire, near] = &mut self.senders;
        match from {
            From::A => a.send(frames),
            From::B => b.send(frames),
            From::Wire => wire.send(frames),
            From::Near => near.send(frames),
        }
    }

    /// Everything up to the marker's answer, and `late` more frames at the first container.
    pub fn observe(&self, is_marker: &dyn Fn(&Seen) -> bool, late: usize) -> Result<Observed> {
        let [a, b, wire] = &self.captures;
        // What comes late goes to the first container, by the wire.
        let until = |capture: &Capture, outgoing: bool, late: usize| -> Result<Vec<Seen>> {
            let seen = wait::until("the marker passes", LIMIT, || {
                let seen = capture.seen();
                let (markers, others): (Vec<_>, Vec<_>) =
                    seen.iter().partition(|seen| is_marker(seen));
                let others = others.iter().filter(|seen| is_ip(seen));
                let came = others.filter(|seen| seen.outgoing == outgoing).count();
                Ok((markers.len() >= 2 && came >= late).then_some(seen))
            });
            seen.with_context(|| format!("{:02x?}", capture.take()))
        };
        let at_a = until(a, false, late)?;
        let at_b = until(b, false, 0)?;
        let wire_seen = until(wire, true, late)?;
        for capture in &self.captures {
            capture.take();
        }
        let pick = |seen: &[Seen], outgoing: bool| {
            let wanted = seen
                .iter()
                .filter(|seen| seen.outgoing == outgoing && !is_marker(seen) && is_ip(seen));
            wanted.map(|seen| plain(&seen.frame)).collect()
        };
        Ok(Observed {
            at_a: pick(&at_a, false),
            at_b: pick(&at_b, false),
            wire_there: pick(&wire_seen, false),
            wire_back: pick(&wire_seen, true),
        })
    }

    /// The host whose settings change.
    pub fn host(&self, number: usize) -> &Host {
        &self.hosts[number]
    }

    /// What the programs of both hosts counted so far.
    pub fn counters(&self) -> Result<[Counters; 2]> {
        let [a, b] = &self.hosts;
        Ok([a.counters()?, b.counters()?])
    }

    /// What becomes of tunnel packets that have left the first host.
    pub fn set_air(&self, air: Air) -> Result<()> {
        let switch = &self.lab.switch;
        switch.run("nft flush ruleset")?;
        if air == Air::Lossy {
            switch.run("nft add table netdev air")?;
            let hook = "{ type filter hook ingress device p1 priority 0 ; }";
            switch.run(&format!("nft add chain netdev air in {hook}"))?;
            let lost = "udp dport 8472 numgen random mod 50 0 drop";
            switch.run(&format!("nft add rule netdev air in {lost}"))?;
        }
        // A veth pair gathers only what comes from a device that cuts.
        let [cut, gather, list] = match air {
            Air::Clear | Air::Lossy => ["on", "off", "off"],
            Air::Gathered => ["off", "on", "off"],
            Air::Listed => ["off", "on", "on"],
        };
        switch.run(&format!("ethtool -K p2 tso {cut}"))?;
        let [_, far] = &self.hosts;
        far.run(&format!("ethtool -K eth0 gro {gather} rx-gro-list {list}"))?;
        // As it is from the start; what a capture holds does not matter here.
        far.run("ethtool -K flannel.1 gro on").map(drop)
    }

    /// Whether aggregates cross the wire whole.
    pub fn set_wire(&self, wire: Wire) -> Result<()> {
        let state = match wire {
            Wire::Whole => "on",
            Wire::Cut => "off",
        };
        for host in &self.hosts {
            host.run(&format!(
                "ethtool -K eth0 tx-udp_tnl-segmentation {state} tx-udp_tnl-csum-segmentation {state}"
            ))?;
        }
        Ok(())
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for agent in &self.agents {
            let counters = agent.host.counters().map(|counters| counters.lines());
            writeln!(f, "{}\n{}", agent.tail(), counters.unwrap_or_default())?;
        }
        write!(f, "{}", self.lab.folder().display())
    }
}
