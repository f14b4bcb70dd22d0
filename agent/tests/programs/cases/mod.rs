//! Packets and the reason that each must meet: tables by hook, and whether they are complete.

use std::collections::BTreeSet;

use weft::datapath::Datapath;
use weft_common::stats::{Hook, Reason};

use super::world::{At, World};

pub mod direct;
mod guard;
mod lost;
mod outward;
mod overlay;
mod recorders;
mod uplink;

/// One packet at one hook.
pub struct Case {
    name: &'static str,
    hook: Hook,
    at: At,
    reason: Reason,
    frame: Vec<u8>,
    gso_size: u32,
    given: fn(&mut World),
}

impl Case {
    fn new(name: &'static str, hook: Hook, at: At, reason: Reason, frame: Vec<u8>) -> Self {
        Self {
            name,
            hook,
            at,
            reason,
            frame,
            gso_size: 0,
            given: |_| {},
        }
    }

    /// What is different in the world.
    fn given(mut self, given: fn(&mut World)) -> Self {
        self.given = given;
        self
    }

    /// Makes it an aggregate.
    fn gso(mut self, size: u32) -> Self {
        self.gso_size = size;
        self
    }

    fn at(mut self, at: At) -> Self {
        self.at = at;
        self
    }

    fn check(&self, world: &mut World) {
        world.reset();
        world.doing = self.name;
        (self.given)(world);
        let recorded = world.datapath.flows().unwrap();
        let (reason, _) = world.trial(self.hook, self.at, &self.frame, self.gso_size);
        assert_eq!(reason, self.reason, "{}: {}", self.hook.name(), self.name);
        if !matches!(reason, Reason::Recorded | Reason::RecordedNat) {
            assert_eq!(world.datapath.flows().unwrap(), recorded, "{}", self.name);
        }
    }
}

fn check(cases: Vec<Case>) {
    World::with(move |world| cases.iter().for_each(|case| case.check(world)));
}

#[test]
fn of_containers() {
    check(outward::port_cases());
}

#[test]
fn of_bridges() {
    check(outward::bridge_cases());
}

#[test]
fn of_the_uplink() {
    check(uplink::cases());
}

#[test]
fn of_the_guard() {
    check(guard::cases());
}

#[test]
fn of_direct_routes() {
    check(direct::cases());
}

#[test]
fn of_a_lost_subnet() {
    check(lost::cases());
}

#[test]
fn of_the_overlay() {
    check(overlay::cases());
}

#[test]
fn of_the_recorders() {
    check(recorders::cases());
}

#[test]
fn of_the_recorders_where_conntrack_cannot_be_read() {
    recorders::without_conntrack(|world| {
        let cases = recorders::blind_cases();
        cases.iter().for_each(|case| case.check(world));
    });
}

/// What can happen at a hook, but not to a packet of a trial run.
const OUT_OF_REACH: &[(Reason, &str)] = &[
    (
        Reason::Vlan,
        "the kernel takes tags off only on real devices: see `tagged`",
    ),
    (
        Reason::Recorded,
        "needs a note or a conntrack entry on the packet",
    ),
    (Reason::DropNoMemory, "the kernel has to be out of memory"),
];

/// The same for one hook.
const OUT_OF_REACH_AT: &[(Hook, Reason, &str)] = &[
    (
        Hook::FromContainer,
        Reason::DropTagged,
        "the tag that the kernel took off travels only on real devices: see `tagged`",
    ),
    (
        Hook::FromBridge,
        Reason::DropTagged,
        "the tag that the kernel took off travels only on real devices: see `tagged`",
    ),
    (
        Hook::FromUplink,
        Reason::DropTagged,
        "the tag that the kernel took off travels only on real devices: see `tagged`",
    ),
    (
        Hook::FromUplink,
        Reason::HelperRefused,
        "what the kernel would not shrink is refused before",
    ),
];

/// What can happen at a hook.
fn possible(hook: Hook) -> Vec<Reason> {
    use Reason::*;
    let everywhere = [NotReady, NotIpv4, Vlan, BadHeader];
    let of_the_plain = [
        Taken,
        OtherMac,
        IpOptions,
        TtlExpiring,
        TooBig,
        HostTraffic,
        FastPathOff,
        RecordedFlow,
        FlowsFull,
        PeerKernelOnly,
        PortKind,
        PortKept,
    ];
    let (plain, own): (&[Reason], &[Reason]) = match hook {
        Hook::FromContainer | Hook::FromBridge => (
            &of_the_plain,
            &[
                NotOverlay,
                ForeignSource,
                DropForeignSource,
                DropSubnetLost,
                DropContainerTunnel,
                DropNoMemory,
                DropTagged,
                Unguarded,
                OtherAggregate,
                NoSourceEndpoint,
                WrongPort,
                HelperRefused,
                TakenAggregate,
            ],
        ),
        Hook::FromUplink => (
            &of_the_plain,
            &[
                NotOverlay,
                OtherVxlan,
                OtherDevice,
                Fragment,
                UdpChecksum,
                DropNoMemory,
                DropTagged,
                PeerKernelOnly,
                Unguarded,
                DropContainerTunnel,
                Aggregate,
                TakenAggregate,
                OtherAggregate,
                DropSpoofedPlain,
                EcnConflict,
                NoEndpoint,
                HelperRefused,
                DropUnknownPeer,
                DropSpoofedInner,
                DropNotOurs,
                DropSubnetLost,
            ],
        ),
        Hook::FromOverlay => (
            &of_the_plain,
            &[
                TakenAggregate,
                OtherAggregate,
                NoEndpoint,
                DropSpoofedInner,
                DropNotOurs,
                DropSubnetLost,
                DropContainerTunnel,
                DropTagged,
                DropNoMemory,
                PeerKernelOnly,
                Unguarded,
            ],
        ),
        Hook::ToContainer | Hook::ToOverlay => (
            &[],
            &[Recorded, RecordedNat, RecordFailed, Untracked, NoFlow],
        ),
    };
    let mut possible = [&everywhere, plain, own].concat();
    match hook {
        Hook::FromBridge => possible.push(PortPassed),
        Hook::ToOverlay => possible.push(DropSubnetLost),
        Hook::FromContainer => possible.push(Provisional),
        _ => {}
    }
    possible
}

#[test]
fn every_reason_has_a_case_at_every_hook_that_knows_it() {
    let mut cases = outward::port_cases();
    cases.extend(outward::bridge_cases());
    cases.extend(uplink::cases());
    cases.extend(guard::cases());
    cases.extend(direct::cases());
    cases.extend(lost::cases());
    cases.extend(overlay::cases());
    cases.extend(recorders::cases());
    cases.extend(recorders::blind_cases());
    let reached: BTreeSet<_> = cases.iter().map(|case| (case.hook, case.reason)).collect();
    let mut known = BTreeSet::new();
    for hook in Hook::ALL {
        let wanted: BTreeSet<_> = possible(*hook)
            .into_iter()
            .filter(|reason| {
                known.insert(*reason);
                let anywhere = OUT_OF_REACH.iter().any(|(out, _)| out == reason);
                let here = |(at, out, _): &(Hook, Reason, &str)| (at, out) == (hook, reason);
                !anywhere && !OUT_OF_REACH_AT.iter().any(here)
            })
            .collect();
        let found = reached.iter().filter(|(at, _)| at == hook);
        let found: BTreeSet<_> = found.map(|(_, reason)| *reason).collect();
        assert_eq!(found, wanted, "{}", hook.name());
    }
    let all: BTreeSet<_> = Reason::ALL.iter().copied().collect();
    assert_eq!(known, all);
}
