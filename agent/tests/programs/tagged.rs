//! Frames with a tag of VLAN 0, which the stack takes as if they had none. A trial run has no such
//! packets, so these are sent over a veth pair.

use std::{
    os::fd::AsRawFd as _,
    time::{Duration, Instant},
};

use nix::{
    ifaddrs::getifaddrs,
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket},
};
use weft::datapath::{Attachment, Datapath, DatapathOp};
use weft_common::stats::{Hook, Reason};

use crate::{
    frames::ETH,
    netns::run,
    packets::{SLOW_REMOTE, from_box, from_peer, incoming, outgoing, tunnel},
    world::{At, World},
};

/// Puts a tag of VLAN 0 behind the MACs.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let (macs, rest) = frame.split_at(ETH - 2);
    [macs, &[0x81, 0, 0, 0], rest].concat()
}

fn send_from(name: &str, frame: &[u8]) {
    let device = getifaddrs()
        .unwrap()
        .filter(|found| found.interface_name == name)
        .find_map(|found| found.address?.as_link_addr().copied())
        .unwrap();
    let family = AddressFamily::Packet;
    let socket = socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &device).unwrap();
    let sent = send(socket.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
    assert_eq!(sent, frame.len());
}

/// Sends a frame to the device until the hook has counted it: a device that has just come up, and
/// a bridge's port above all, loses the first.
fn meets(world: &World, hook: Hook, far: &str, frame: &[u8], reason: Reason) {
    let before = world.datapath.counters().unwrap();
    let mut next = Instant::now();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if Instant::now() >= next {
            send_from(far, &tagged(frame));
            next += Duration::from_millis(200);
        }
        let now = world.datapath.counters().unwrap();
        // The host's own talk on its new devices is no IPv4.
        let moved = now.keys().find(|place| {
            place.0 == hook && place.1 != Reason::NotIpv4 && now.get(place) != before.get(place)
        });
        match moved {
            Some((_, met)) => return assert_eq!(*met, reason, "{}", hook.name()),
            None => assert!(Instant::now() < deadline, "{} saw nothing", hook.name()),
        }
    }
}

fn with_attached(hook: Hook, at: At, test: impl FnOnce(&mut World) + Send + 'static) {
    World::with(move |world| {
        let name = World::name(at);
        let link = World::ifindex(at).try_into().unwrap();
        let name = name.to_owned();
        world.put(DatapathOp::Attach(Attachment { hook, link, name }));
        for name in [
            "up0",
            "far-up0",
            "over0",
            "far-over0",
            "port0",
            "in-port0",
            "br0",
        ] {
            run(&format!("ip link set {name} up"));
        }
        test(world);
    });
}

#[test]
fn are_not_taken_from_containers() {
    with_attached(Hook::FromContainer, At::BoxPort, |world| {
        let frame = from_box(&outgoing());
        meets(world, Hook::FromContainer, "in-port0", &frame, Reason::Vlan);
    });
    with_attached(Hook::FromBridge, At::Bridge, |world| {
        let frame = from_box(&outgoing());
        meets(world, Hook::FromBridge, "in-port0", &frame, Reason::Vlan);
    });
}

#[test]
fn do_not_hide_what_containers_send() {
    let twice = || tagged(&from_box(&outgoing()));
    with_attached(Hook::FromContainer, At::BoxPort, move |world| {
        let hook = Hook::FromContainer;
        meets(world, hook, "in-port0", &twice(), Reason::DropTagged);
    });
    with_attached(Hook::FromBridge, At::Bridge, move |world| {
        let hook = Hook::FromBridge;
        meets(world, hook, "in-port0", &twice(), Reason::DropTagged);
    });
}

#[test]
fn do_not_hide_tunnel_packets() {
    with_attached(Hook::FromUplink, At::Uplink, |world| {
        let twice = tagged(&tunnel().frame(&incoming().bytes()));
        meets(
            world,
            Hook::FromUplink,
            "far-up0",
            &twice,
            Reason::DropTagged,
        );
    });
}

#[test]
fn do_not_pass_the_guard_of_the_uplink() {
    with_attached(Hook::FromUplink, At::Uplink, |world| {
        let frame = tunnel().frame(&incoming().bytes());
        meets(world, Hook::FromUplink, "far-up0", &frame, Reason::Vlan);
        let stranger = tunnel().but(|t| t.outer.source = [192, 0, 2, 99]);
        let frame = stranger.frame(&incoming().bytes());
        meets(
            world,
            Hook::FromUplink,
            "far-up0",
            &frame,
            Reason::DropUnknownPeer,
        );
        let spoof = incoming().but(|ip| ip.source = SLOW_REMOTE);
        let frame = tunnel().frame(&spoof.bytes());
        meets(
            world,
            Hook::FromUplink,
            "far-up0",
            &frame,
            Reason::DropSpoofedInner,
        );
    });
}

#[test]
fn do_not_pass_the_guard_of_the_overlay() {
    with_attached(Hook::FromOverlay, At::Overlay, |world| {
        let frame = from_peer(&incoming());
        meets(world, Hook::FromOverlay, "far-over0", &frame, Reason::Vlan);
        let spoof = incoming().but(|ip| ip.source = [10, 1, 9, 9]);
        let frame = from_peer(&spoof);
        meets(
            world,
            Hook::FromOverlay,
            "far-over0",
            &frame,
            Reason::DropSpoofedInner,
        );
    });
}
