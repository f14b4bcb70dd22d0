//! The recorders of the stack's flows. A packet of a trial run has no conntrack entry; where the
//! place of the entry is not known, a packet without a note counts as translated.

use nix::mount::{MsFlags, mount};
use weft::datapath::Datapath;
use weft_common::{
    flow::{FLOW_NATED, FLOW_SEEN},
    stats::{Hook, Reason},
};

use super::Case;
use crate::{
    frames::{ICMP, IPV4, Ip, TCP, UDP, ethernet, icmp, tcp, udp},
    netns::with_bpffs,
    packets::{
        BOX, BOX_MAC, BRIDGE, BRIDGE_MAC, OUR_VTEP_MAC, PEER_VTEP_MAC, REMOTE, SLOW_REMOTE,
        error_about, incoming, outgoing,
    },
    world::{At, World},
};

/// One direction of the flows that are recorded.
struct Way {
    hook: Hook,
    at: At,
    /// MACs of a frame, destination first.
    macs: ([u8; 6], [u8; 6]),
    /// A packet of a flow that is recorded.
    packet: fn() -> Ip,
    /// Turns the addresses round.
    turned: bool,
}

const OUT: Way = Way {
    hook: Hook::ToOverlay,
    at: At::Overlay,
    macs: (PEER_VTEP_MAC, OUR_VTEP_MAC),
    packet: outgoing,
    turned: false,
};
const IN: Way = Way {
    hook: Hook::ToContainer,
    at: At::BoxPort,
    macs: (BOX_MAC, BRIDGE_MAC),
    packet: incoming,
    turned: true,
};

impl Way {
    fn case(&self, name: &'static str, reason: Reason, packet: &Ip) -> Case {
        self.raw(name, reason, IPV4, &packet.bytes())
    }

    fn raw(&self, name: &'static str, reason: Reason, kind: u16, packet: &[u8]) -> Case {
        let frame = ethernet(self.macs.0, self.macs.1, kind, packet);
        Case::new(name, self.hook, self.at, reason, frame)
    }

    fn but(&self, change: impl FnOnce(&mut Ip)) -> Ip {
        (self.packet)().but(change)
    }

    fn between(&self, ours: [u8; 4], theirs: [u8; 4]) -> Ip {
        let (source, destination) = if self.turned {
            (theirs, ours)
        } else {
            (ours, theirs)
        };
        self.but(|ip| (ip.source, ip.destination) = (source, destination))
    }
}

/// Where conntrack can be read.
pub fn cases() -> Vec<Case> {
    both_ways(|way| {
        let mut cases = no_flows(way);
        let packet = (way.packet)();
        let piece = way.but(|ip| ip.fragment = 0x2000);
        cases.extend([
            way.case("not followed", Reason::Untracked, &packet),
            way.case("a first piece", Reason::Untracked, &piece),
            way.case("an aggregate", Reason::Untracked, &packet).gso(4),
        ]);
        cases
    })
}

/// Where it cannot.
pub fn blind_cases() -> Vec<Case> {
    use Reason::*;
    both_ways(|way| {
        let mut cases = no_flows(way);
        let packet = (way.packet)();
        let bare = way.but(|ip| ip.payload = vec![0; 3]);
        let quoted = if way.turned { outgoing() } else { incoming() };
        let error = error_about(&quoted, packet.source, packet.destination, 3);
        let slow = way.between(BOX, SLOW_REMOTE);
        cases.extend([
            way.case("translated", RecordedNat, &packet),
            way.case("translated, again", RecordedNat, &packet)
                .given(|world| world.record_why(TCP, 40000, 80, FLOW_NATED)),
            way.case("translated, as it turns out", RecordedNat, &packet)
                .given(|world| world.record_why(TCP, 40000, 80, FLOW_SEEN)),
            way.case("of a peer of the kernel's", RecordedNat, &slow),
            way.case("without a transport", BadHeader, &bare),
            way.case("an error about a flow", NoFlow, &error),
            way.case("one too many", RecordFailed, &packet)
                .given(World::fill),
        ]);
        cases
    })
}

fn both_ways(cases: impl Fn(&Way) -> Vec<Case>) -> Vec<Case> {
    let mut all = cases(&OUT);
    all.extend(cases(&IN));
    all
}

fn no_flows(way: &Way) -> Vec<Case> {
    use Reason::*;
    let packet = (way.packet)().bytes();
    vec![
        way.raw("settings not filled", NotReady, IPV4, &packet)
            .given(|world| world.settings(|settings| settings.ready = 0)),
        way.raw("ARP", NotIpv4, 0x0806, &packet),
        way.case("not ours", NoFlow, &way.between([203, 0, 113, 8], REMOTE)),
        way.case("the bridge's", NoFlow, &way.between(BRIDGE, REMOTE)),
        way.case("not a peer's", NoFlow, &way.between(BOX, [203, 0, 113, 8])),
        way.case("options", NoFlow, &way.but(|ip| ip.options = vec![1; 4])),
        way.case("a later piece", NoFlow, &way.but(|ip| ip.fragment = 0x0001)),
    ]
}

/// Runs a test on a host that does not say where conntrack's entry is, with room for two flows.
pub fn without_conntrack(test: impl FnOnce(&mut World) + Send + 'static) {
    with_bpffs(|| {
        let nothing = MsFlags::empty();
        let hidden = "/sys/kernel/btf";
        mount(Some("none"), hidden, Some("tmpfs"), nothing, None::<&str>).unwrap();
        let mut world = World::new(2);
        assert!(!world.datapath.reads_conntrack);
        test(&mut world);
    });
}

#[test]
fn a_flow_is_recorded_as_its_container_sees_it() {
    without_conntrack(|world| {
        let answer = Ip::new(REMOTE, BOX, UDP, udp(53, 40000, b"answer"));
        let echo = Ip::new(BOX, REMOTE, ICMP, icmp(8, 77, b"ping"));
        let other = Ip::new(BOX, REMOTE, 99, vec![1; 8]);
        for (way, packet, protocol, ports) in [
            (&OUT, outgoing(), TCP, (40000, 80)),
            (&IN, incoming(), TCP, (40000, 80)),
            (&IN, answer, UDP, (40000, 53)),
            (&OUT, echo, ICMP, (77, 77)),
            (&OUT, other, 99, (0, 0)),
        ] {
            world.reset();
            let frame = ethernet(way.macs.0, way.macs.1, IPV4, &packet.bytes());
            let (reason, _) = world.trial(way.hook, way.at, &frame, 0);
            assert_eq!(reason, Reason::RecordedNat);
            let flows = world.datapath.flows().unwrap();
            let [(key, entry)] = flows.into_iter().collect::<Vec<_>>()[..] else {
                panic!("one flow must be recorded");
            };
            assert_eq!((key.local, key.remote), (BOX, REMOTE));
            assert_eq!((key.protocol, key._pad), (protocol, [0; 3]));
            let own = u16::from_be_bytes(key.local_port);
            assert_eq!((own, u16::from_be_bytes(key.remote_port)), ports);
            assert_eq!(entry.why, FLOW_NATED);
        }
    });
}

#[test]
fn a_record_without_room_sends_everything_to_the_stack() {
    without_conntrack(|world| {
        world.fill();
        assert!(!world.datapath.flows_full(false).unwrap());
        let frame = ethernet(OUT.macs.0, OUT.macs.1, IPV4, &outgoing().bytes());
        let (reason, _) = world.trial(OUT.hook, OUT.at, &frame, 0);
        assert_eq!(reason, Reason::RecordFailed);
        assert!(world.datapath.flows_full(true).unwrap());
        // What is recorded already needs no room.
        let known = outgoing().but(|ip| ip.payload = tcp(1, 1, b""));
        let frame = ethernet(OUT.macs.0, OUT.macs.1, IPV4, &known.bytes());
        let (reason, _) = world.trial(OUT.hook, OUT.at, &frame, 0);
        assert_eq!(reason, Reason::RecordedNat);
        assert!(!world.datapath.flows_full(false).unwrap());
    });
}
