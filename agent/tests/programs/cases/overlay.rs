//! What the kernel decapsulated, at the overlay's device.

use weft_common::{
    endpoint::ENDPOINT_KERNEL,
    settings::FAST_PATH,
    stats::{Hook, Reason},
};

use super::Case;
use crate::{
    frames::{ICMP, IPV4, Ip, TCP, UDP, ethernet, icmp, udp},
    packets::{
        BOX, BRIDGE, OUR_VTEP, OUR_VTEP_MAC, PEER_VTEP, PEER_VTEP_MAC, PLAIN_BOX, PORT, REMOTE,
        ROUTER_MAC, SLOW_REMOTE, error_about, from_peer, incoming, outgoing,
    },
    world::{At, World},
};

pub fn cases() -> Vec<Case> {
    [delivered(), guarded(), passed(), recorded()]
        .into_iter()
        .flatten()
        .collect()
}

fn raw(name: &'static str, reason: Reason, frame: Vec<u8>) -> Case {
    Case::new(name, Hook::FromOverlay, At::Overlay, reason, frame)
}

fn case(name: &'static str, reason: Reason, packet: Ip) -> Case {
    raw(name, reason, from_peer(&packet))
}

fn but(change: impl FnOnce(&mut Ip)) -> Ip {
    incoming().but(change)
}

fn datagram() -> Ip {
    Ip::new(REMOTE, BOX, UDP, udp(53, 40000, b"answer"))
}

fn echo() -> Ip {
    Ip::new(REMOTE, BOX, ICMP, icmp(0, 77, b"pong"))
}

fn delivered() -> Vec<Case> {
    use Reason::*;
    let plain = but(|ip| ip.destination = PLAIN_BOX);
    vec![
        case("TCP", Taken, incoming()),
        case("UDP", Taken, datagram()),
        case("echo", Taken, echo()),
        case(
            "from the peer's node address",
            Taken,
            but(|ip| ip.source = [10, 1, 3, 0]),
        ),
        case(
            "from the peer's VTEP address",
            HostTraffic,
            but(|ip| ip.source = PEER_VTEP),
        ),
        case(
            "from a peer of the kernel's",
            PeerKernelOnly,
            but(|ip| ip.source = SLOW_REMOTE),
        ),
        case("to a port with something on it", PortKept, incoming())
            .given(|world| world.endpoint(|box_| box_.flags |= ENDPOINT_KERNEL)),
        case("to a port that is no veth pair", Taken, plain.clone()),
        case("an aggregate", TakenAggregate, incoming()).gso(4),
        case("an aggregate of datagrams", TakenAggregate, datagram()).gso(3),
        case("an aggregate to such a port", PortKind, plain).gso(4),
        case("pings put together", OtherAggregate, echo()).gso(4),
    ]
}

fn guarded() -> Vec<Case> {
    use Reason::*;
    let from = |source| but(|ip| ip.source = source);
    let to = |destination| but(|ip| ip.destination = destination);
    vec![
        case("as our container", DropSpoofedInner, from([10, 1, 2, 9])),
        case("as our bridge", DropSpoofedInner, from(BRIDGE)),
        case("as our VTEP", DropSpoofedInner, from(OUR_VTEP)),
        case(
            "as nobody's container",
            DropSpoofedInner,
            from([10, 1, 9, 9]),
        ),
        case("as the Internet", DropSpoofedInner, from([203, 0, 113, 8])),
        case("a spoofed aggregate", DropSpoofedInner, from(BRIDGE)).gso(4),
        case("without the fast path", DropSpoofedInner, from(BRIDGE))
            .given(|world| world.settings(|settings| settings.flags &= !FAST_PATH)),
        case("a spoof, the guard off", Unguarded, from(BRIDGE))
            .given(|world| world.settings(|settings| settings.flags = FAST_PATH)),
        case("a tunnel to the bridge", DropContainerTunnel, {
            Ip::new(REMOTE, BRIDGE, UDP, udp(40000, PORT, &[0; 8]))
        }),
        raw("to all MACs", DropSpoofedInner, {
            let packet = from([10, 1, 9, 9]).bytes();
            ethernet([255; 6], PEER_VTEP_MAC, IPV4, &packet)
        }),
        raw("to another MAC", OtherMac, {
            let packet = from([10, 1, 9, 9]).bytes();
            ethernet(ROUTER_MAC, PEER_VTEP_MAC, IPV4, &packet)
        }),
        case("to another peer", DropNotOurs, to(SLOW_REMOTE)),
        case("to the Internet", DropNotOurs, to([203, 0, 113, 8])),
        case("to our VTEP", DropNotOurs, to(OUR_VTEP)),
    ]
}

fn passed() -> Vec<Case> {
    use Reason::*;
    let len = u16::try_from(incoming().bytes().len()).unwrap();
    let says = |len| but(|ip| ip.total_len = Some(len));
    let mac = |mac| ethernet(mac, PEER_VTEP_MAC, IPV4, &incoming().bytes());
    let kind = |kind| ethernet(OUR_VTEP_MAC, PEER_VTEP_MAC, kind, &incoming().bytes());
    let mut narrow = from_peer(&incoming());
    narrow[14] = 0x44;
    vec![
        case("settings not filled", NotReady, incoming())
            .given(|world| world.settings(|settings| settings.ready = 0)),
        raw("two tags", DropTagged, kind(0x8100)),
        raw("a service tag", DropTagged, kind(0x88a8)),
        raw("ARP", NotIpv4, kind(0x0806)),
        raw("IPv6", NotIpv4, kind(0x86dd)),
        raw("to another MAC", OtherMac, mac(ROUTER_MAC)),
        raw("to all MACs", OtherMac, mac([255; 6])),
        raw("a header of 16 bytes", BadHeader, narrow),
        case("another version", BadHeader, but(|ip| ip.version = 6)),
        case("wrong checksum", BadHeader, but(|ip| ip.checksum = Some(1))),
        case("says more than there is", BadHeader, says(len + 1)),
        case("says less than there is", BadHeader, says(len - 1)),
        case("options", IpOptions, but(|ip| ip.options = vec![1; 4])),
        case("first piece", Taken, but(|ip| ip.fragment = 0x2000)),
        case("last piece", Taken, but(|ip| ip.fragment = 0x0010)),
        case(
            "a piece of a translated pair",
            RecordedFlow,
            but(|ip| ip.fragment = 0x0010),
        )
        .given(|world| world.translate(BOX, TCP)),
        case("TTL 1", TtlExpiring, but(|ip| ip.ttl = 1)),
        case("TTL 0", TtlExpiring, but(|ip| ip.ttl = 0)),
        case(
            "to the bridge",
            HostTraffic,
            but(|ip| ip.destination = BRIDGE),
        ),
        case("above the bridge's MTU", TooBig, incoming())
            .given(|world| world.endpoint(|box_| box_.bridge_mtu = 59)),
        case("segments above the bridge's MTU", TooBig, incoming())
            .given(|world| world.endpoint(|box_| box_.bridge_mtu = 55))
            .gso(4),
        case("segments at the bridge's MTU", TakenAggregate, incoming())
            .given(|world| world.endpoint(|box_| box_.bridge_mtu = 56))
            .gso(4),
        case("fast path off", FastPathOff, incoming())
            .given(|world| world.settings(|settings| settings.flags = 0)),
        case(
            "to nobody",
            NoEndpoint,
            but(|ip| ip.destination = [10, 1, 2, 99]),
        ),
    ]
}

fn recorded() -> Vec<Case> {
    use Reason::*;
    let error = error_about(&outgoing(), [10, 1, 3, 1], BOX, 3);
    let tcp_flow: fn(&mut World) = |world| world.record(TCP, 40000, 80);
    vec![
        case("the record is full", FlowsFull, incoming()).given(World::overflow),
        case("TCP", RecordedFlow, incoming()).given(tcp_flow),
        case("a recorded aggregate", RecordedFlow, incoming())
            .given(tcp_flow)
            .gso(4),
        case("UDP", RecordedFlow, datagram()).given(|world| world.record(UDP, 40000, 53)),
        case("echo", RecordedFlow, echo()).given(|world| world.record(ICMP, 77, 77)),
        case("an error about it", RecordedFlow, error).given(tcp_flow),
        case("another protocol", Taken, datagram()).given(tcp_flow),
    ]
}
