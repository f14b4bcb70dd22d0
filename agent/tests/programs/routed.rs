//! Packets without a tunnel, byte by byte: as the kernel's forwarding leaves them.

use weft_common::stats::Hook;

use crate::{
    cases::direct::{by_wire, near},
    frames::{ICMP, Ip, UDP, icmp, udp},
    packets::{BOX, REMOTE, from_box, incoming, outgoing, to_box},
    world::{At, World},
};

/// One hop on; the kernel's neighbour code writes the MACs later.
fn sent_on(packet: &Ip) -> Vec<u8> {
    from_box(&packet.clone().but(|ip| ip.ttl -= 1))
}

fn check_out(world: &World, packet: &Ip) {
    let out = world.taken(Hook::FromContainer, At::BoxPort, &from_box(packet));
    assert_eq!(out, sent_on(packet));
}

fn check_in(world: &World, packet: &Ip) {
    let out = world.taken(Hook::FromUplink, At::Uplink, &by_wire(packet));
    assert_eq!(out, to_box(packet));
}

#[test]
fn a_packet_is_the_same_one_hop_on() {
    World::with(|world| {
        near(world);
        let bytes: Vec<u8> = (0..=255).cycle().take(1500).collect();
        for len in [0, 1, 2, 63, 64, 500, 501, 1421, 1422] {
            let datagram = udp(40000, 53, &bytes[..len]);
            check_out(world, &Ip::new(BOX, REMOTE, UDP, datagram.clone()));
            check_in(world, &Ip::new(REMOTE, BOX, UDP, datagram));
        }
        let echo = icmp(8, 77, &bytes[..100]);
        check_out(world, &Ip::new(BOX, REMOTE, ICMP, echo.clone()));
        check_in(world, &Ip::new(REMOTE, BOX, ICMP, echo));
        for tos in [0, 1, 2, 3, 0x28, 0xb8, 0xff] {
            check_out(world, &outgoing().but(|ip| ip.tos = tos));
            check_in(world, &incoming().but(|ip| ip.tos = tos));
        }
        for fragment in [0, 0x2000, 0x2001, 0x1fff, 0x8000] {
            check_out(world, &outgoing().but(|ip| ip.fragment = fragment));
            check_in(world, &incoming().but(|ip| ip.fragment = fragment));
        }
    });
}

#[test]
fn the_checksum_follows_the_ttl() {
    World::with(|world| {
        near(world);
        for ttl in 2..=255 {
            check_out(world, &outgoing().but(|ip| ip.ttl = ttl));
            check_in(world, &incoming().but(|ip| ip.ttl = ttl));
        }
        // Sums on both sides of every carry.
        for id in (0..=u16::MAX).step_by(0x101) {
            check_out(world, &outgoing().but(|ip| ip.id = id));
            check_in(world, &incoming().but(|ip| ip.id = id));
        }
    });
}

#[test]
fn what_a_device_filled_up_comes_without_the_filling() {
    World::with(|world| {
        near(world);
        let packet = Ip::new(REMOTE, BOX, UDP, udp(53, 40000, b"answer"));
        for filling in [1, 2, 12, 46, 200] {
            let mut frame = by_wire(&packet);
            frame.resize(frame.len() + filling, 0xee);
            let out = world.taken(Hook::FromUplink, At::Uplink, &frame);
            assert_eq!(out, to_box(&packet), "{filling} bytes");
        }
    });
}
