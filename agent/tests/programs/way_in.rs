//! The way in, byte by byte.

use weft_common::stats::{Hook, Reason};

use crate::{
    frames::{ICMP, IPV4, Ip, TCP, UDP, ethernet},
    packets::{
        BRIDGE_MAC, OUR_VTEP, PEER_VTEP, PEER_VTEP_MAC, PLAIN_BOX, PLAIN_MAC, REMOTE, UPLINK_MAC,
        from_box, from_peer, incoming, outgoing, to_box, tunnel,
    },
    world::{At, World},
};

fn by_uplink(world: &World, packet: &Ip) -> Vec<u8> {
    let frame = tunnel().frame(&packet.bytes());
    world.taken(Hook::FromUplink, At::Uplink, &frame)
}

fn by_overlay(world: &World, packet: &Ip) -> Vec<u8> {
    world.taken(Hook::FromOverlay, At::Overlay, &from_peer(packet))
}

/// Both ways in deliver the same frame.
fn check(world: &World, packet: &Ip) {
    assert_eq!(by_uplink(world, packet), to_box(packet));
    assert_eq!(by_overlay(world, packet), to_box(packet));
}

#[test]
fn a_packet_comes_in_as_its_sender_made_it() {
    World::with(|world| {
        check(world, &incoming());
        let frame = by_uplink(world, &incoming());
        assert_eq!(frame[..6], [2, 66, 10, 1, 2, 5]);
        assert_eq!(frame[6..14], [2, 66, 0, 0, 0, 1, 8, 0]);
        assert_eq!(frame[14 + 8], 63);
        assert_eq!(frame[14 + 12..], incoming().bytes()[12..]);
        let lens = [8, 9, 63, 64, 500, 1429, 1430];
        for (protocol, len) in [TCP, UDP, ICMP, 99]
            .into_iter()
            .flat_map(|p| lens.map(|len| (p, len)))
        {
            let bytes: Vec<u8> = (0..=255).cycle().take(len).collect();
            check(
                world,
                &incoming().but(|ip| (ip.protocol, ip.payload) = (protocol, bytes)),
            );
        }
        check(world, &incoming().but(|ip| ip.fragment = 0));
        check(world, &incoming().but(|ip| ip.fragment = 0x8000));
    });
}

#[test]
fn the_checksum_follows_the_ttl() {
    World::with(|world| {
        for ttl in 2..=255 {
            check(world, &incoming().but(|ip| ip.ttl = ttl));
        }
        for id in (0..=u16::MAX).step_by(0x101) {
            check(world, &incoming().but(|ip| ip.id = id));
        }
    });
}

#[test]
fn congestion_marks_come_in_as_the_kernel_does_it() {
    // Rows: outer; columns: inner (`INET_ECN_decapsulate` of the kernel).
    let table = [
        [Some(0), Some(1), Some(2), Some(3)],
        [Some(0), Some(1), Some(1), Some(3)],
        [Some(0), Some(1), Some(2), Some(3)],
        [None, Some(3), Some(3), Some(3)],
    ];
    World::with(move |world| {
        for (outer, row) in (0u8..).zip(table) {
            for (inner, merged) in (0u8..).zip(row) {
                for (outside, inside) in [(0, 0), (0xb8, 0x28), (0xfc, 0), (0, 0xfc)] {
                    let packet = incoming().but(|ip| ip.tos = inside | inner);
                    let tunnel = tunnel().but(|t| t.outer.tos = outside | outer);
                    let frame = tunnel.frame(&packet.bytes());
                    let (reason, trial) = world.trial(Hook::FromUplink, At::Uplink, &frame, 0);
                    let Some(merged) = merged else {
                        assert_eq!(reason, Reason::EcnConflict);
                        continue;
                    };
                    let want = packet.clone().but(|ip| ip.tos = inside | merged);
                    assert_eq!(trial.frame, to_box(&want), "{outer} {inner}");
                    // The kernel has merged them before the overlay's device.
                    assert_eq!(by_overlay(world, &packet), to_box(&packet));
                }
            }
        }
    });
}

#[test]
fn the_parts_that_senders_choose_do_not_matter() {
    World::with(|world| {
        for (port, id, ttl, fragment) in [
            (0, 0, 1, 0),
            (1, 1, 255, 0x4000),
            (65535, 65535, 64, 0x4000),
            (8472, 7, 2, 0),
        ] {
            let tunnel = tunnel().but(|t| {
                t.source_port = port;
                t.outer.id = id;
                t.outer.ttl = ttl;
                t.outer.fragment = fragment;
                // Another router, another sender's MAC.
                t.outer_macs.1 = [2, 9, 9, 9, 9, 9];
                t.inner_macs.1 = [2, 8, 8, 8, 8, 8];
            });
            let frame = tunnel.frame(&incoming().bytes());
            let out = world.taken(Hook::FromUplink, At::Uplink, &frame);
            assert_eq!(out, to_box(&incoming()));
        }
    });
}

#[test]
fn a_port_that_is_no_veth_pair_gets_the_same() {
    World::with(|world| {
        let packet = incoming().but(|ip| ip.destination = PLAIN_BOX);
        let mut want = packet.clone();
        want.ttl -= 1;
        let want = ethernet(PLAIN_MAC, BRIDGE_MAC, IPV4, &want.bytes());
        assert_eq!(by_uplink(world, &packet), want);
        assert_eq!(by_overlay(world, &packet), want);
    });
}

#[test]
fn an_aggregate_is_delivered_whole() {
    World::with(|world| {
        let frame = from_peer(&incoming());
        let (reason, trial) = world.trial(Hook::FromOverlay, At::Overlay, &frame, 4);
        assert_eq!(reason, Reason::TakenAggregate);
        assert_eq!(trial.frame, to_box(&incoming()));
    });
}

/// What one host sends and the next receives, end to end: two hops of the TTL, nothing else.
#[test]
fn what_goes_out_comes_in() {
    World::with(|world| {
        let sent = outgoing();
        let out = world.taken(Hook::FromContainer, At::BoxPort, &from_box(&sent));
        // The receiver is the peer: its world is ours with the sides changed.
        world.settings(|settings| {
            settings.subnet = [10, 1, 3, 0];
            settings.vtep_addr = PEER_VTEP;
            settings.vtep_mac = PEER_VTEP_MAC;
        });
        world.lease(2, OUR_VTEP);
        world.container(REMOTE);
        let mut arrived = out;
        arrived[..6].copy_from_slice(&UPLINK_MAC);
        let got = world.taken(Hook::FromUplink, At::Uplink, &arrived);
        assert_eq!(got, to_box(&sent.but(|ip| ip.ttl -= 1)));
    });
}
