//! Peers that are reached without a tunnel: what containers send to them, and what they send.

use weft::datapath::DatapathOp;
use weft_common::{
    peer::{PEER_DIRECT, PEER_FAST, PEER_LOST, VtepEntry},
    settings::{DIRECT_ROUTING, FAST_PATH},
    stats::{Hook, Reason},
};

use super::Case;
use crate::{
    frames::{ICMP, IPV4, Ip, TCP, UDP, ethernet, icmp, tcp, udp},
    packets::{
        BOX, BOX_MAC, BRIDGE, BRIDGE_MAC, OUR_VTEP, PLAIN_BOX, PLAIN_MAC, PORT, REMOTE, ROUTER_MAC,
        SLOW_REMOTE, UPLINK_MAC, error_about, from_peer, incoming, tunnel,
    },
    world::{At, World},
};

/// The peer is on our wire, and the wire takes as much as most do.
pub fn near(world: &mut World) {
    world.settings(|settings| settings.flags |= DIRECT_ROUTING);
    world.peer(|peer| (peer.flags, peer.mtu) = (PEER_DIRECT, 1500));
}

/// A frame that the wire brings without a tunnel.
pub fn by_wire(packet: &Ip) -> Vec<u8> {
    ethernet(UPLINK_MAC, ROUTER_MAC, IPV4, &packet.bytes())
}

pub fn cases() -> Vec<Case> {
    let mut all = sent(Hook::FromContainer, At::BoxPort, BOX, BOX_MAC);
    all.extend(sent(Hook::FromBridge, At::Bridge, PLAIN_BOX, PLAIN_MAC));
    all.extend([brought(), refused(), tunnelled()].into_iter().flatten());
    all
}

fn of(packet: Ip, len: usize) -> Ip {
    packet.but(|ip| ip.payload = udp(40000, 53, &vec![7; len - 28]))
}

fn sent(hook: Hook, at: At, address: [u8; 4], mac: [u8; 6]) -> Vec<Case> {
    use Reason::*;
    let packet = || Ip::new(address, REMOTE, TCP, tcp(40000, 80, b"request!"));
    let datagram = || Ip::new(address, REMOTE, UDP, udp(40000, 53, b"question"));
    let case = |name, reason, packet: &Ip| {
        let frame = ethernet(BRIDGE_MAC, mac, IPV4, &packet.bytes());
        Case::new(name, hook, at, reason, frame).given(near)
    };
    let recorded: fn(&mut World) = |world| {
        near(world);
        world.record_of(BOX, TCP, 40000, 80);
        world.record_of(PLAIN_BOX, TCP, 40000, 80);
    };
    let other_mac = ethernet(ROUTER_MAC, mac, IPV4, &packet().bytes());
    vec![
        case("TCP", Taken, &packet()),
        case("UDP", Taken, &datagram()),
        case("a later piece", Taken, &packet().but(|ip| ip.fragment = 9)),
        case("last hop but one", Taken, &packet().but(|ip| ip.ttl = 2)),
        case("at the wire's MTU", Taken, &of(datagram(), 1500)),
        case("above the wire's MTU", TooBig, &of(datagram(), 1501)),
        case("segments at its MTU", TakenAggregate, &packet()).gso(1448),
        case("segments above its MTU", TooBig, &packet()).gso(1449),
        case("datagrams at its MTU", TakenAggregate, &datagram()).gso(1472),
        case("last hop", TtlExpiring, &packet().but(|ip| ip.ttl = 1)),
        case("a flow of the stack", RecordedFlow, &packet()).given(recorded),
        case(
            "from elsewhere",
            DropForeignSource,
            &packet().but(|ip| ip.source = [203, 0, 113, 8]),
        ),
        Case::new("to another MAC", hook, at, OtherMac, other_mac).given(near),
        case("fast path off", FastPathOff, &packet()).given(|world| {
            near(world);
            world.settings(|settings| settings.flags = DIRECT_ROUTING);
        }),
    ]
}

fn wire(name: &'static str, reason: Reason, packet: Ip) -> Case {
    Case::new(name, Hook::FromUplink, At::Uplink, reason, by_wire(&packet)).given(near)
}

fn brought() -> Vec<Case> {
    use Reason::*;
    let datagram = Ip::new(REMOTE, BOX, UDP, udp(53, 40000, b"answer"));
    let echo = Ip::new(REMOTE, BOX, ICMP, icmp(8, 5, b"ping"));
    let sent = Ip::new(BOX, REMOTE, TCP, tcp(40000, 80, b"request!"));
    let mut padded = by_wire(&datagram);
    padded.resize(60, 0);
    let but = |change: fn(&mut Ip)| incoming().but(change);
    let to_plain = but(|ip| ip.destination = PLAIN_BOX);
    vec![
        wire("TCP", Taken, incoming()),
        wire("UDP", Taken, datagram.clone()),
        wire("echo", Taken, echo.clone()),
        wire("a first piece", Taken, but(|ip| ip.fragment = 0x2000)),
        wire("a later piece of UDP", Taken, {
            datagram.clone().but(|ip| ip.fragment = 7)
        }),
        wire("an aggregate", TakenAggregate, incoming()).gso(1398),
        wire("an aggregate of datagrams", TakenAggregate, datagram).gso(8),
        wire("pings put together", OtherAggregate, echo).gso(100),
        wire("segments above the bridge's MTU", TooBig, incoming()).gso(1399),
        wire("to a port that is no veth pair", Taken, to_plain.clone()),
        wire("an aggregate to such a port", PortKind, to_plain).gso(100),
        Case::new(
            "filled up by the device",
            Hook::FromUplink,
            At::Uplink,
            Taken,
            padded,
        )
        .given(near),
        // What is an UDP port of the host is one of the container, too.
        wire("the overlay's port, of a container", Taken, {
            Ip::new(REMOTE, BOX, UDP, udp(53, PORT, b"no tunnel"))
        }),
        wire("a flow of the stack", RecordedFlow, incoming()).given(|world| {
            near(world);
            world.record(TCP, 40000, 80);
        }),
        wire("an error about it", RecordedFlow, {
            error_about(&sent, [10, 1, 3, 1], BOX, 3)
        })
        .given(|world| {
            near(world);
            world.record(TCP, 40000, 80);
        }),
        wire("the record is full", FlowsFull, incoming()).given(|world| {
            near(world);
            world.overflow();
        }),
        wire("last hop", TtlExpiring, but(|ip| ip.ttl = 1)),
        wire("options", IpOptions, but(|ip| ip.options = vec![1; 4])),
        wire("wrong checksum", BadHeader, but(|ip| ip.checksum = Some(1))),
        wire("says more than there is", BadHeader, {
            but(|ip| ip.total_len = Some(1000))
        }),
        wire("says less than a header", BadHeader, {
            but(|ip| ip.total_len = Some(19))
        }),
        wire(
            "to the bridge",
            HostTraffic,
            but(|ip| ip.destination = BRIDGE),
        ),
        wire("to nobody", NoEndpoint, {
            but(|ip| ip.destination = [10, 1, 2, 99])
        }),
        wire("fast path off", FastPathOff, incoming()).given(|world| {
            near(world);
            world.settings(|settings| settings.flags = DIRECT_ROUTING);
        }),
    ]
}

fn refused() -> Vec<Case> {
    use Reason::*;
    let from = |source: [u8; 4]| incoming().but(|ip| ip.source = source);
    let frame = |to| ethernet(to, ROUTER_MAC, IPV4, &incoming().bytes());
    let raw = |name, reason, frame| {
        Case::new(name, Hook::FromUplink, At::Uplink, reason, frame).given(near)
    };
    let unguarded: fn(&mut World) = |world| {
        near(world);
        world.settings(|settings| settings.flags = FAST_PATH | DIRECT_ROUTING);
    };
    vec![
        wire(
            "from nobody's subnet",
            DropSpoofedPlain,
            from([10, 1, 4, 7]),
        ),
        wire("from our own", DropSpoofedPlain, from([10, 1, 2, 9])),
        wire("from the bridge", DropSpoofedPlain, from(BRIDGE)),
        // A container that stands by itself, behind a device of its own.
        wire(
            "from our own, by another device",
            NotOverlay,
            from([10, 1, 2, 9]),
        )
        .given(|world| {
            near(world);
            world.put(DatapathOp::PutLocal(OUR_VTEP.into(), 2));
        }),
        wire(
            "from a node inside the overlay",
            NotOverlay,
            from([10, 1, 4, 7]),
        )
        .given(|world| {
            near(world);
            let entry = VtepEntry { leases: 1, _pad: 0 };
            world.put(DatapathOp::PutVtep([10, 1, 4, 7].into(), entry));
        }),
        wire("from nobody's, unguarded", Unguarded, from([10, 1, 4, 7])).given(unguarded),
        wire("from our own, unguarded", Unguarded, from([10, 1, 2, 9])).given(unguarded),
        wire("from outside", NotOverlay, from([203, 0, 113, 8])),
        wire("to a peer", NotOverlay, {
            incoming().but(|ip| ip.destination = SLOW_REMOTE)
        }),
        wire("no peer is near", NotOverlay, from([10, 1, 4, 7])).given(|_| {}),
        // Its routes may be others than ours: the kernel judges.
        wire("from a peer of tunnels", PeerKernelOnly, incoming()).given(|world| {
            near(world);
            world.peer(|peer| peer.flags = PEER_FAST);
        }),
        wire(
            "from a peer of the kernel's",
            PeerKernelOnly,
            from(SLOW_REMOTE),
        ),
        wire("from who has what was ours", PeerKernelOnly, incoming()).given(|world| {
            near(world);
            world.peer(|peer| peer.flags = PEER_LOST);
        }),
        wire("by another device", OtherDevice, incoming()).given(|world| {
            near(world);
            world.peer(|peer| (peer.flags, peer.ifindex) = (PEER_DIRECT, peer.ifindex + 1));
        }),
        raw("to another machine", NotOverlay, frame([2, 9, 9, 9, 9, 9])),
        raw("to all machines", OtherMac, frame([255; 6])),
    ]
}

/// A peer's routes may lead it into the tunnel where ours do not.
fn tunnelled() -> Vec<Case> {
    let frame = tunnel().frame(&incoming().bytes());
    let raw = |name, hook, at, reason, frame| Case::new(name, hook, at, reason, frame);
    vec![
        raw(
            "from a near peer",
            Hook::FromUplink,
            At::Uplink,
            Reason::Taken,
            frame.clone(),
        )
        .given(near),
        raw(
            "from a near peer, by another device",
            Hook::FromUplink,
            At::Uplink,
            Reason::OtherDevice,
            frame,
        )
        .given(|world| {
            near(world);
            world.peer(|peer| (peer.flags, peer.ifindex) = (PEER_DIRECT, peer.ifindex + 1));
        }),
        raw(
            "from a near peer",
            Hook::FromOverlay,
            At::Overlay,
            Reason::Taken,
            from_peer(&incoming()),
        )
        .given(near),
    ]
}
