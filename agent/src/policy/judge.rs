//! Whether rules could drop packets of a kind. What is not understood counts as "could".

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::chains::{Action, Base, Chain, Condition, Hook, Layer, Rule, Table};

/// Chains call one another in the kernel up to a depth of 16; loops are not accepted there.
const DEPTH: usize = 32;
const UDP: u8 = 17;

/// Interfaces that a packet may have on one side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Names {
    /// One of these.
    Known(Vec<String>),
    /// Any.
    Any,
    /// None: the packet is the host's own.
    None,
}

/// A kind of packet: what is known of all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packets {
    /// They enter the host by one of these.
    pub input: Names,
    /// They leave it by one of these.
    pub output: Names,
    /// Their source is in one of these.
    pub source: Vec<Ipv4Net>,
    /// Their destination is in one of these.
    pub destination: Vec<Ipv4Net>,
    /// They are UDP to this port.
    pub udp_port: Option<u16>,
    /// Hooks of the IP layer that they pass.
    pub hooks: &'static [Hook],
    /// They pass bridges.
    pub bridged: bool,
    /// They pass these devices.
    pub devices: Names,
}

/// How a condition or a rule stands to all packets of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holds {
    Always,
    Maybe,
    Never,
}

impl Holds {
    fn not(self, turned: bool) -> Self {
        match (self, turned) {
            (Self::Always, true) => Self::Never,
            (Self::Never, true) => Self::Always,
            (other, _) => other,
        }
    }

    fn of(all: bool, some: bool) -> Self {
        match (all, some) {
            (true, _) => Self::Always,
            (false, true) => Self::Maybe,
            (false, false) => Self::Never,
        }
    }
}

/// How a chain ends for the packets that have come to it.
enum End<'a> {
    /// This rule could drop some.
    Stopped(&'a str),
    /// All are accepted.
    Accepted,
    /// Some may come to its end, or return from it.
    Open,
}

/// The first rule that could drop a packet of that kind.
#[must_use]
pub fn blocker(tables: &[Table], packets: &Packets) -> Option<String> {
    for table in tables {
        for (name, chain) in &table.chains {
            let Some(base) = &chain.base else { continue };
            if !packets.pass(base) {
                continue;
            }
            match walk(table, chain, &packets.at(base.hook), 0) {
                End::Stopped(rule) => return Some(rule.to_owned()),
                End::Open if base.drops => {
                    return Some(format!("{} chain {name}: policy drop", table.name));
                }
                End::Open | End::Accepted => {}
            }
        }
    }
    None
}

fn walk<'a>(table: &'a Table, chain: &'a Chain, packets: &Packets, depth: usize) -> End<'a> {
    for rule in &chain.rules {
        let holds = packets.match_all(&rule.when);
        if holds == Holds::Never {
            continue;
        }
        let always = holds == Holds::Always;
        let (name, comes_back) = match &rule.then {
            Action::Continue => continue,
            Action::Accept if always => return End::Accepted,
            Action::Return if always => return End::Open,
            Action::Accept | Action::Return => continue,
            Action::Stop if is_hygiene(rule) => continue,
            Action::Stop => return End::Stopped(&rule.text),
            Action::Jump(name) => (name, true),
            Action::Goto(name) => (name, false),
        };
        let Some(next) = table.chains.get(name).filter(|_| depth < DEPTH) else {
            return End::Stopped(&rule.text);
        };
        match walk(table, next, packets, depth + 1) {
            End::Stopped(rule) => return End::Stopped(rule),
            End::Accepted if always => return End::Accepted,
            End::Open if always && !comes_back => return End::Open,
            End::Accepted | End::Open => {}
        }
    }
    End::Open
}

/// What drops only what connection tracking calls invalid is no policy: it does not say who may
/// talk to whom, and flows on the fast path have no state to be invalid by. kube-proxy has such a
/// rule, and so have many hosts.
fn is_hygiene(rule: &Rule) -> bool {
    rule.when.contains(&Condition::Invalid)
}

impl Packets {
    /// What is known of them at a hook: where they will leave is not decided at first.
    fn at(&self, hook: Hook) -> Self {
        let mut packets = self.clone();
        if matches!(hook, Hook::Prerouting | Hook::Input | Hook::Device) {
            packets.output = Names::Any;
        }
        packets
    }

    fn pass(&self, base: &Base) -> bool {
        match &base.layer {
            Layer::Ip => self.hooks.contains(&base.hook),
            Layer::Bridge => self.bridged,
            Layer::Devices(devices) => match &self.devices {
                Names::Any => true,
                Names::None => false,
                Names::Known(_) if devices.is_empty() => true,
                Names::Known(own) => own.iter().any(|name| devices.contains(name)),
            },
        }
    }

    fn match_all(&self, conditions: &[Condition]) -> Holds {
        let mut all = Holds::Always;
        for condition in conditions {
            match self.holds(condition) {
                Holds::Never => return Holds::Never,
                Holds::Maybe => all = Holds::Maybe,
                Holds::Always => {}
            }
        }
        all
    }

    fn holds(&self, condition: &Condition) -> Holds {
        match condition {
            Condition::Source(not, nets) => within(&self.source, nets).not(*not),
            Condition::Destination(not, nets) => within(&self.destination, nets).not(*not),
            Condition::Input(not, patterns) => named(&self.input, patterns).not(*not),
            Condition::Output(not, patterns) => named(&self.output, patterns).not(*not),
            Condition::Protocol(not, protocols) => match self.udp_port {
                None => Holds::Maybe,
                Some(_) => {
                    let udp = protocols.contains(&UDP);
                    Holds::of(udp, udp).not(*not)
                }
            },
            Condition::DestinationPort(not, ranges) => match self.udp_port {
                None => Holds::Maybe,
                Some(port) => {
                    let hit = ranges.iter().any(|range| range.contains(&port));
                    Holds::of(hit, hit).not(*not)
                }
            },
            Condition::NotIpv4 => Holds::Never,
            Condition::Invalid | Condition::Unclear => Holds::Maybe,
        }
    }
}

/// How packets whose address is in `ours` stand to a condition that names `theirs`.
fn within(ours: &[Ipv4Net], theirs: &[Ipv4Net]) -> Holds {
    let inside = |own: &Ipv4Net| theirs.iter().any(|net| net.contains(own));
    let touches = |own: &Ipv4Net| theirs.iter().any(|net| overlap(net, own));
    Holds::of(
        !ours.is_empty() && ours.iter().all(inside),
        ours.is_empty() || ours.iter().any(touches),
    )
}

/// Whether two ranges have an address in common: one of them then holds the other.
#[must_use]
pub fn overlap(a: &Ipv4Net, b: &Ipv4Net) -> bool {
    a.contains(b) || b.contains(a)
}

/// The range of a single address.
#[must_use]
pub fn single(address: Ipv4Addr) -> Ipv4Net {
    Ipv4Net::from(address)
}

fn named(ours: &Names, patterns: &[String]) -> Holds {
    let fits = |name: &String| patterns.iter().any(|pattern| fits(pattern, name));
    match ours {
        Names::Any => Holds::Maybe,
        // At a hook where the side does not exist a name is never equal.
        Names::None => Holds::Never,
        Names::Known(names) if names.is_empty() => Holds::Maybe,
        Names::Known(names) => Holds::of(names.iter().all(fits), names.iter().any(fits)),
    }
}

fn fits(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix(['+', '*']) {
        Some(start) => name.starts_with(start),
        None => pattern == name,
    }
}
