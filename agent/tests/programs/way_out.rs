//! The way out, byte by byte.

use std::collections::BTreeSet;

use weft_common::stats::{Hook, Reason};

use crate::{
    frames::{ETH, ICMP, IPV4, Ip, OVERLAY, Tunnel, UDP, checksum, ethernet, icmp, tcp, udp},
    packets::{
        BOX, BOX_MAC, BRIDGE_MAC, MTU, OUR_VTEP, OUR_VTEP_MAC, PEER_VTEP, PEER_VTEP_MAC, PLAIN_BOX,
        PLAIN_MAC, PORT, REMOTE, SOURCE_PORTS, from_box, outgoing,
    },
    world::{At, World},
};

/// Where the outer packet's free parts are.
const ID: std::ops::Range<usize> = ETH + 4..ETH + 6;
const SOURCE_PORT: std::ops::Range<usize> = ETH + 20..ETH + 22;

fn number(frame: &[u8], place: std::ops::Range<usize>) -> u16 {
    u16::from_be_bytes(frame[place].try_into().unwrap())
}

fn source_port(frame: &[u8]) -> u16 {
    number(frame, SOURCE_PORT)
}

/// The frame that must come out for a packet: all of it but the id and the source port is given,
/// and the source port is in range.
fn expected(packet: &Ip, macs: ([u8; 6], [u8; 6]), outer_tos: u8, out: &[u8]) -> Vec<u8> {
    let port = source_port(out);
    assert!(SOURCE_PORTS.contains(&port), "source port {port}");
    let outer = Ip::new(OUR_VTEP, PEER_VTEP, UDP, Vec::new()).but(|ip| {
        ip.id = number(out, ID);
        ip.fragment = 0;
        ip.ttl = 64;
        ip.tos = outer_tos;
    });
    let tunnel = Tunnel {
        // The kernel's neighbour code writes the outer MACs later.
        outer_macs: macs,
        outer,
        source_port: port,
        port: PORT,
        udp_len: None,
        udp_checksum: 0,
        vxlan: [8, 0, 0, 0, 0, 0, 1, 0],
        inner_macs: (PEER_VTEP_MAC, OUR_VTEP_MAC),
        inner_kind: IPV4,
    };
    tunnel.frame(&packet.clone().but(|ip| ip.ttl -= 1).bytes())
}

fn check(world: &World, packet: &Ip, outer_tos: u8) -> Vec<u8> {
    let out = world.taken(Hook::FromContainer, At::BoxPort, &from_box(packet));
    assert_eq!(
        out,
        expected(packet, (BRIDGE_MAC, BOX_MAC), outer_tos, &out)
    );
    out
}

#[test]
fn a_packet_goes_out_as_flannel_sends_it() {
    World::with(|world| {
        let out = check(world, &outgoing(), 0);
        // The same once more, in plain numbers: the outer packet from its first byte on.
        let len = u8::try_from(out.len() - ETH).unwrap();
        assert_eq!(out[ETH..ETH + 4], [0x45, 0, 0, len]);
        assert_eq!(out[ETH + 6..ETH + 10], [0, 0, 64, 17]);
        assert_eq!(out[ETH + 12..ETH + 20], [192, 0, 2, 1, 192, 0, 2, 2]);
        assert_eq!(out[ETH + 22..ETH + 28], [0x21, 0x18, 0, len - 20, 0, 0]);
        assert_eq!(out[ETH + 28..ETH + 36], [8, 0, 0, 0, 0, 0, 1, 0]);
        let inner = &out[ETH + OVERLAY..];
        assert_eq!(inner[8], 63);
        assert_eq!(inner[12..], outgoing().bytes()[12..]);
    });
}

#[test]
fn congestion_marks_go_out_as_the_kernel_does_it_and_nothing_else_of_the_tos() {
    World::with(|world| {
        for (ecn, outer) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            for dscp in [0, 0x28, 0xb8, 0xfc] {
                check(world, &outgoing().but(|ip| ip.tos = dscp | ecn), outer);
            }
        }
    });
}

#[test]
fn every_length_and_protocol_goes_out_whole() {
    World::with(|world| {
        let bytes: Vec<u8> = (0..=255).cycle().take(MTU).collect();
        for len in [0, 1, 2, 63, 64, 500, 501, MTU - 29, MTU - 28] {
            let payload = udp(40000, 53, &bytes[..len]);
            check(world, &Ip::new(BOX, REMOTE, UDP, payload), 0);
        }
        check(
            world,
            &Ip::new(BOX, REMOTE, ICMP, icmp(8, 77, &bytes[..100])),
            0,
        );
        check(world, &Ip::new(BOX, REMOTE, 99, Vec::new()), 0);
        check(world, &outgoing().but(|ip| ip.fragment = 0), 0);
        // A bit that means nothing is the inner packet's own.
        check(world, &outgoing().but(|ip| ip.fragment = 0x8000), 0);
    });
}

#[test]
fn the_inner_checksum_follows_the_ttl() {
    World::with(|world| {
        for ttl in 2..=255 {
            check(world, &outgoing().but(|ip| ip.ttl = ttl), 0);
        }
        // Sums on both sides of every carry.
        for id in (0..=u16::MAX).step_by(0x101) {
            check(world, &outgoing().but(|ip| ip.id = id), 0);
        }
    });
}

#[test]
fn the_source_port_belongs_to_the_flow() {
    World::with(|world| {
        let flow = |port| outgoing().but(|ip| ip.payload = tcp(port, 80, b"x"));
        let mut ports = BTreeSet::new();
        for source in 40000..40064 {
            let first = source_port(&check(world, &flow(source), 0));
            let other = flow(source).but(|ip| {
                ip.id = 7;
                ip.payload.extend(b"more of it");
            });
            assert_eq!(source_port(&check(world, &other, 0)), first);
            ports.insert(first);
        }
        assert!(ports.len() > 48, "{} ports for 64 flows", ports.len());
        world.settings(|settings| (settings.port_min, settings.port_max) = (50000, 50003));
        for source in 40000..40064 {
            let port = source_port(&check(world, &flow(source), 0));
            assert!((50000..=50003).contains(&port), "{port}");
        }
    });
}

#[test]
fn the_outer_id_varies() {
    World::with(|world| {
        let ids: BTreeSet<_> = (0..16)
            .map(|_| number(&check(world, &outgoing(), 0), ID))
            .collect();
        assert!(ids.len() > 8, "{ids:?}");
    });
}

#[test]
fn the_settings_and_the_peer_are_followed() {
    World::with(|world| {
        world.settings(|settings| {
            settings.vni = 0x00ab_cdef;
            settings.port = 4789u16.to_be_bytes();
            settings.ttl = 17;
            settings.vtep_addr = [198, 51, 100, 1];
            settings.vtep_mac = [2, 7, 7, 7, 7, 7];
        });
        world.peer(|peer| {
            peer.vtep_addr = [198, 51, 100, 2];
            peer.vtep_mac = [2, 8, 8, 8, 8, 8];
        });
        let out = world.taken(Hook::FromContainer, At::BoxPort, &from_box(&outgoing()));
        assert_eq!(out[ETH + 8], 17);
        assert_eq!(out[ETH + 12..ETH + 20], [198, 51, 100, 1, 198, 51, 100, 2]);
        assert_eq!(out[ETH + 22..ETH + 24], [0x12, 0xb5]);
        assert_eq!(out[ETH + 28..ETH + 36], [8, 0, 0, 0, 0xab, 0xcd, 0xef, 0]);
        assert_eq!(out[ETH + 36..ETH + 42], [2, 8, 8, 8, 8, 8]);
        assert_eq!(out[ETH + 42..ETH + 48], [2, 7, 7, 7, 7, 7]);
        let header = &out[ETH..ETH + 20];
        assert_eq!(checksum(header), 0);
    });
}

#[test]
fn the_longest_subnet_names_the_peer() {
    World::with(|world| {
        world.lease_of("10.1.0.0/16", [198, 51, 100, 1]);
        world.lease_of("10.1.3.128/25", [198, 51, 100, 2]);
        for (destination, vtep) in [
            (REMOTE, PEER_VTEP),
            ([10, 1, 9, 9], [198, 51, 100, 1]),
            ([10, 1, 3, 129], [198, 51, 100, 2]),
        ] {
            let frame = from_box(&outgoing().but(|ip| ip.destination = destination));
            let out = world.taken(Hook::FromContainer, At::BoxPort, &frame);
            assert_eq!(out[ETH + 16..ETH + 20], vtep);
        }
    });
}

#[test]
fn the_bridge_takes_for_a_port_without_a_program() {
    World::with(|world| {
        let packet = outgoing().but(|ip| ip.source = PLAIN_BOX);
        let frame = ethernet(BRIDGE_MAC, PLAIN_MAC, IPV4, &packet.bytes());
        let out = world.taken(Hook::FromBridge, At::Bridge, &frame);
        assert_eq!(out, expected(&packet, (BRIDGE_MAC, PLAIN_MAC), 0, &out));
        // What has a program at its port was judged there.
        let (reason, _) = world.trial(Hook::FromBridge, At::Bridge, &from_box(&outgoing()), 0);
        assert_eq!(reason, Reason::PortPassed);
    });
}
