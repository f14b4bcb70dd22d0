//! Who may speak to the uplink: other tunnels, other machines, and senders that are not who they
//! say.

use weft_common::{
    settings::{FAST_PATH, GUARD_PEERS},
    stats::Reason,
};

use super::{
    Case,
    uplink::{inner, outer, raw},
};
use crate::{
    frames::{Ip, Tunnel, UDP, udp},
    packets::{
        BOX, BRIDGE, OUR_VTEP, OUR_VTEP_MAC, PEER_VTEP, PORT, REMOTE, ROUTER_MAC, SLOW_REMOTE,
        SLOW_VTEP, incoming, tunnel,
    },
    world::World,
};

pub fn cases() -> Vec<Case> {
    [tunnels(), guarded(), roundabout()]
        .into_iter()
        .flatten()
        .collect()
}

fn tunnels() -> Vec<Case> {
    use Reason::*;
    let mut cases = vec![
        outer("another VNI", OtherVxlan, |t| t.vxlan[6] = 2),
        outer("another VNI by its first byte", OtherVxlan, |t| {
            t.vxlan[4] = 1
        }),
        outer("no VNI", OtherVxlan, |t| t.vxlan[0] = 0),
        outer("a group policy", OtherVxlan, |t| t.vxlan[0] = 0x88),
        outer("to another machine", OtherMac, |t| {
            t.outer_macs.0 = ROUTER_MAC
        }),
        outer("to all machines", OtherMac, |t| t.outer_macs.0 = [255; 6]),
        outer("to another VTEP", OtherMac, |t| t.inner_macs.0 = ROUTER_MAC),
        outer("to all VTEPs", OtherMac, |t| t.inner_macs.0 = [255; 6]),
        outer("from our own VTEP's MAC", OtherMac, |t| {
            t.inner_macs.1 = OUR_VTEP_MAC
        }),
        outer("ARP inside", NotIpv4, |t| t.inner_kind = 0x0806),
        outer("IPv6 inside", NotIpv4, |t| t.inner_kind = 0x86dd),
        outer("a tag inside", NotIpv4, |t| t.inner_kind = 0x8100),
    ];
    for byte in [0, 1, 2, 3, 7] {
        for bit in 0..8 {
            let mask = 1 << bit;
            cases.push(outer("a reserved bit", OtherVxlan, |t| {
                t.vxlan[byte] ^= mask
            }));
        }
    }
    cases
}

fn guarded() -> Vec<Case> {
    use Reason::*;
    let says = |name, reason, vtep, source| {
        let packet = incoming().but(|ip| ip.source = source);
        let tunnel = tunnel().but(|t| t.outer.source = vtep);
        raw(name, reason, tunnel.frame(&packet.bytes()))
    };
    let to = |destination| incoming().but(|ip| ip.destination = destination);
    let stranger = [192, 0, 2, 99];
    vec![
        says(
            "a stranger as a peer's container",
            DropUnknownPeer,
            stranger,
            REMOTE,
        ),
        says("a stranger as itself", DropUnknownPeer, stranger, stranger),
        says("we ourselves", DropUnknownPeer, OUR_VTEP, REMOTE),
        says(
            "a peer as another's container",
            DropSpoofedInner,
            PEER_VTEP,
            SLOW_REMOTE,
        ),
        says(
            "a peer as another's node",
            DropSpoofedInner,
            PEER_VTEP,
            SLOW_VTEP,
        ),
        says(
            "a peer as our container",
            DropSpoofedInner,
            PEER_VTEP,
            [10, 1, 2, 9],
        ),
        says("a peer as our bridge", DropSpoofedInner, PEER_VTEP, BRIDGE),
        says(
            "a peer as nobody's container",
            DropSpoofedInner,
            PEER_VTEP,
            [10, 1, 9, 9],
        ),
        says(
            "a peer as the Internet",
            DropSpoofedInner,
            PEER_VTEP,
            [203, 0, 113, 8],
        ),
        says(
            "another peer for itself",
            PeerKernelOnly,
            SLOW_VTEP,
            SLOW_REMOTE,
        ),
        says(
            "a second lease of the node",
            Taken,
            PEER_VTEP,
            [10, 1, 8, 7],
        )
        .given(second_lease),
        says(
            "not the first's",
            DropSpoofedInner,
            SLOW_VTEP,
            [10, 1, 8, 7],
        )
        .given(second_lease),
        inner("to a peer's container", DropNotOurs, to(SLOW_REMOTE)),
        inner("to the Internet", DropNotOurs, to([203, 0, 113, 8])),
        inner("to our VTEP", DropNotOurs, to(OUR_VTEP)),
        inner(
            "a tunnel to the bridge",
            DropContainerTunnel,
            Ip::new(REMOTE, BRIDGE, UDP, udp(40000, PORT, &[0; 8])),
        ),
        inner(
            "to the Internet, the guard off",
            Unguarded,
            to([203, 0, 113, 8]),
        )
        .given(|world| world.settings(|settings| settings.flags = FAST_PATH)),
        inner(
            "to the Internet, peers only",
            Unguarded,
            to([203, 0, 113, 8]),
        )
        .given(|world| world.settings(|settings| settings.flags = FAST_PATH | GUARD_PEERS)),
        inner(
            "a spoof without the fast path",
            DropSpoofedInner,
            incoming().but(|ip| ip.source = BOX),
        )
        .given(|world| world.settings(|settings| settings.flags &= !FAST_PATH)),
        inner(
            "a spoofed aggregate",
            DropSpoofedInner,
            incoming().but(|ip| ip.source = BOX),
        )
        .gso(40),
        inner(
            "a spoofed piece",
            DropSpoofedInner,
            incoming().but(|ip| (ip.source, ip.fragment) = (BOX, 0x2000)),
        ),
    ]
}

/// The kernel takes these too, so the guard must have seen them.
fn roundabout() -> Vec<Case> {
    use Reason::*;
    let stranger = |name, reason, change: fn(&mut Tunnel)| {
        outer(name, reason, |t| {
            t.outer.source = [192, 0, 2, 99];
            change(t);
        })
    };
    let spoof = |change: fn(&mut Tunnel)| {
        let packet = incoming().but(|ip| ip.source = SLOW_REMOTE);
        let frame = tunnel().but(change).frame(&packet.bytes());
        raw("a spoof", DropSpoofedInner, frame)
    };
    vec![
        stranger("to all machines", DropUnknownPeer, |t| {
            t.outer_macs.0 = [255; 6]
        }),
        stranger("to some machines", DropUnknownPeer, |t| {
            t.outer_macs.0 = [1, 0, 94, 0, 0, 1]
        }),
        stranger("to all VTEPs", DropUnknownPeer, |t| {
            t.inner_macs.0 = [255; 6]
        }),
        stranger("to another machine", OtherMac, |t| {
            t.outer_macs.0 = ROUTER_MAC
        }),
        spoof(|t| t.outer_macs.0 = [255; 6]),
        spoof(|t| t.inner_macs.0 = [255; 6]),
        stranger("ARP inside", DropUnknownPeer, |t| t.inner_kind = 0x0806),
        stranger("IPv6 inside", DropUnknownPeer, |t| t.inner_kind = 0x86dd),
        stranger("a tag inside", DropUnknownPeer, |t| t.inner_kind = 0x8100),
        stranger("a first piece", DropUnknownPeer, |t| {
            t.outer.fragment = 0x2000
        }),
        stranger("a later piece", Fragment, |t| t.outer.fragment = 0x2001),
        stranger("to the bridge", DropUnknownPeer, |t| {
            t.outer.destination = BRIDGE
        }),
        stranger("to the bridge in pieces", DropUnknownPeer, |t| {
            (t.outer.destination, t.outer.fragment) = (BRIDGE, 0x2000)
        }),
        stranger("to all of the wire", DropUnknownPeer, |t| {
            t.outer.destination = [192, 0, 2, 255];
            t.outer_macs.0 = [255; 6];
        }),
        // The frame does not decide who hears it.
        stranger("to all of the wire by hand", DropUnknownPeer, |t| {
            t.outer.destination = [192, 0, 2, 255];
        }),
        stranger("to all by hand", DropUnknownPeer, |t| {
            t.outer.destination = [255; 4];
        }),
        stranger("to all hosts by hand", DropUnknownPeer, |t| {
            t.outer.destination = [224, 0, 0, 1];
        }),
        stranger("to all by hand in pieces", DropUnknownPeer, |t| {
            (t.outer.destination, t.outer.fragment) = ([192, 0, 2, 255], 0x2000)
        }),
        stranger("through us", NotOverlay, |t| {
            t.outer.destination = [203, 0, 113, 9]
        }),
        outer("a peer to the bridge", NotOverlay, |t| {
            t.outer.destination = BRIDGE
        }),
        stranger("options", DropUnknownPeer, |t| t.outer.options = vec![1; 4]),
        stranger("all the options", DropUnknownPeer, |t| {
            t.outer.options = vec![1; 40]
        }),
        stranger("both", DropUnknownPeer, |t| {
            t.outer.options = vec![1; 4];
            t.outer.fragment = 0x2000;
        }),
        // What is not for the overlay may come from anyone.
        stranger("a first piece of something", Fragment, |t| {
            t.outer.fragment = 0x2000;
            t.port = 53;
        }),
        stranger("options on something", IpOptions, |t| {
            t.outer.options = vec![1; 4];
            t.port = 53;
        }),
        stranger("another network", OtherVxlan, |t| t.vxlan[6] = 2),
    ]
}

fn second_lease(world: &mut World) {
    world.lease(8, PEER_VTEP);
}
