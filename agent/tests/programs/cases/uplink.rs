//! What the wire brings to the uplink.

use weft_common::{
    endpoint::{ENDPOINT_HOOKED, ENDPOINT_KERNEL},
    stats::{Hook, Reason},
};

use super::Case;
use crate::{
    frames::{ETH, ICMP, Ip, TCP, Tunnel, UDP, icmp, tcp, udp},
    packets::{BOX, BRIDGE, PEER_VTEP, PLAIN_BOX, REMOTE, error_about, incoming, outgoing, tunnel},
    world::{At, World},
};

pub fn cases() -> Vec<Case> {
    [plain(), outside(), inside(), recorded()]
        .into_iter()
        .flatten()
        .collect()
}

pub fn raw(name: &'static str, reason: Reason, frame: Vec<u8>) -> Case {
    Case::new(name, Hook::FromUplink, At::Uplink, reason, frame)
}

/// An inner packet in the usual tunnel.
pub fn inner(name: &'static str, reason: Reason, packet: Ip) -> Case {
    raw(name, reason, tunnel().frame(&packet.bytes()))
}

/// The usual packet in an unusual tunnel.
pub fn outer(name: &'static str, reason: Reason, change: impl FnOnce(&mut Tunnel)) -> Case {
    raw(
        name,
        reason,
        tunnel().but(change).frame(&incoming().bytes()),
    )
}

fn plain() -> Vec<Case> {
    use Reason::*;
    let datagram = Ip::new(REMOTE, BOX, UDP, udp(53, 40000, b"answer"));
    let echo = Ip::new(REMOTE, BOX, ICMP, icmp(8, 5, b"ping"));
    vec![
        inner("TCP", Taken, incoming()),
        inner("UDP", Taken, datagram),
        inner("echo", Taken, echo),
        inner("last hop but one", Taken, incoming().but(|ip| ip.ttl = 2)),
        inner(
            "to a port that is no veth pair",
            Taken,
            incoming().but(|ip| ip.destination = PLAIN_BOX),
        ),
        inner("to a port without a program", Taken, incoming())
            .given(|world| world.endpoint(|box_| box_.flags &= !ENDPOINT_HOOKED)),
        inner("from a peer of the kernel's", PeerKernelOnly, incoming())
            .given(|world| world.peer(|peer| peer.flags = 0)),
        inner("by another device", OtherDevice, incoming())
            .given(|world| world.peer(|peer| peer.ifindex += 1)),
        inner(
            "from the peer's node address",
            Taken,
            incoming().but(|ip| ip.source = [10, 1, 3, 0]),
        ),
        inner(
            "from the peer's VTEP address",
            HostTraffic,
            incoming().but(|ip| ip.source = PEER_VTEP),
        ),
        inner("to a port with something on it", PortKept, incoming())
            .given(|world| world.endpoint(|box_| box_.flags |= ENDPOINT_KERNEL)),
        inner("to a port that is the kernel's", PortKind, incoming())
            .given(|world| world.endpoint(|box_| box_.flags = ENDPOINT_KERNEL)),
        outer("outer TTL 1", Taken, |t| t.outer.ttl = 1),
        outer("outer DSCP", Taken, |t| t.outer.tos = 0xb8),
        // What flannel sends, from a device that has not verified it: the kernel does.
        outer("a UDP checksum", UdpChecksum, |t| t.udp_checksum = 0x1234),
        inner("to a container whose port is gone", NoEndpoint, incoming())
            .given(|world| world.endpoint(|box_| box_.ifindex = 0x7fff_ffff)),
        outer("outer must not be fragmented", Taken, |t| {
            t.outer.fragment = 0x4000
        }),
    ]
}

fn outside() -> Vec<Case> {
    use Reason::*;
    let mut arp = tunnel().frame(&incoming().bytes());
    arp[13] = 6;
    let mut narrow = tunnel().frame(&incoming().bytes());
    narrow[ETH] = 0x44;
    let cut = |len| {
        let mut frame = tunnel().frame(&incoming().bytes());
        frame.truncate(len);
        frame
    };
    vec![
        outer("settings not filled", NotReady, |_| {})
            .given(|world| world.settings(|settings| settings.ready = 0)),
        raw("ARP", NotIpv4, arp),
        outer("to another address", NotOverlay, |t| {
            t.outer.destination = [192, 0, 2, 77]
        }),
        outer("broadcast", NotOverlay, |t| {
            t.outer.destination = [192, 0, 2, 255]
        }),
        outer("no UDP", NotOverlay, |t| t.outer.protocol = TCP),
        outer("another port", NotOverlay, |t| t.port = 4789),
        outer("an answer to the port", NotOverlay, |t| {
            (t.source_port, t.port) = (t.port, 9)
        }),
        raw("cut before the port", NotOverlay, cut(37)),
        raw("cut behind the port", BadHeader, cut(38)),
        raw("cut in the inner header", BadHeader, cut(83)),
        raw("cut in the inner payload", BadHeader, cut(90)),
        outer("first piece", Fragment, |t| t.outer.fragment = 0x2000),
        outer("last piece", Fragment, |t| t.outer.fragment = 0x0010),
        outer("options", IpOptions, |t| t.outer.options = vec![1; 8]),
        raw("a header of 16 bytes", IpOptions, narrow),
        outer("wrong checksum", BadHeader, |t| t.outer.checksum = Some(1)),
        outer("says more than there is", BadHeader, |t| {
            t.outer.total_len = Some(2000)
        }),
        outer("says less than there is", BadHeader, |t| {
            t.outer.total_len = Some(60)
        }),
        outer("UDP says more", BadHeader, |t| t.udp_len = Some(2000)),
        outer("UDP says less", BadHeader, |t| t.udp_len = Some(50)),
        outer("an aggregate", Aggregate, |_| {}).gso(40),
    ]
}

fn inside() -> Vec<Case> {
    use Reason::*;
    let len = u16::try_from(incoming().bytes().len()).unwrap();
    let but = |change: fn(&mut Ip)| incoming().but(change);
    let says = |len| incoming().but(|ip| ip.total_len = Some(len));
    let mut narrow = tunnel().frame(&incoming().bytes());
    narrow[64] = 0x44;
    vec![
        inner(
            "to the bridge",
            HostTraffic,
            but(|ip| ip.destination = BRIDGE),
        ),
        inner(
            "to the node",
            HostTraffic,
            but(|ip| ip.destination = [10, 1, 2, 0]),
        ),
        inner("options", IpOptions, but(|ip| ip.options = vec![1; 4])),
        inner("first piece", Taken, but(|ip| ip.fragment = 0x2000)),
        inner("last piece", Taken, but(|ip| ip.fragment = 0x0010)),
        inner(
            "a piece of a translated pair",
            RecordedFlow,
            but(|ip| ip.fragment = 0x0010),
        )
        .given(|world| world.translate(BOX, TCP)),
        inner("TTL 1", TtlExpiring, but(|ip| ip.ttl = 1)),
        inner("TTL 0", TtlExpiring, but(|ip| ip.ttl = 0)),
        inner("wrong checksum", BadHeader, but(|ip| ip.checksum = Some(1))),
        inner("another version", BadHeader, but(|ip| ip.version = 6)),
        raw("a header of 16 bytes", BadHeader, narrow),
        inner("says more than there is", BadHeader, says(len + 1)),
        inner("says less than there is", BadHeader, says(len - 1)),
        inner("at the bridge's MTU", Taken, incoming())
            .given(|world| world.endpoint(|box_| box_.bridge_mtu = 60)),
        inner("above the bridge's MTU", TooBig, incoming())
            .given(|world| world.endpoint(|box_| box_.bridge_mtu = 59)),
        raw(
            "congestion that it cannot say",
            EcnConflict,
            tunnel().but(|t| t.outer.tos = 3).frame(&incoming().bytes()),
        ),
        inner("fast path off", FastPathOff, incoming())
            .given(|world| world.settings(|settings| settings.flags = 0)),
        inner(
            "to nobody",
            NoEndpoint,
            but(|ip| ip.destination = [10, 1, 2, 99]),
        ),
    ]
}

fn recorded() -> Vec<Case> {
    use Reason::*;
    let datagram = Ip::new(REMOTE, BOX, UDP, udp(53, 40000, b"answer"));
    let echo = Ip::new(REMOTE, BOX, ICMP, icmp(0, 77, b"pong"));
    let asked = Ip::new(BOX, REMOTE, ICMP, icmp(8, 77, b"ping"));
    // A router behind the peer speaks of a packet that our container sent.
    let error = |quoted: &Ip| error_about(quoted, [10, 1, 3, 1], BOX, 3);
    let mut cut = error(&outgoing());
    cut.payload.truncate(8 + 19);
    let tcp_flow: fn(&mut World) = |world| world.record(TCP, 40000, 80);
    let udp_flow: fn(&mut World) = |world| world.record(UDP, 40000, 53);
    let echo_flow: fn(&mut World) = |world| world.record(ICMP, 77, 77);
    vec![
        inner("the record is full", FlowsFull, incoming()).given(World::overflow),
        inner("TCP", RecordedFlow, incoming()).given(tcp_flow),
        inner("UDP", RecordedFlow, datagram.clone()).given(udp_flow),
        inner("echo", RecordedFlow, echo).given(echo_flow),
        inner("error about TCP", RecordedFlow, error(&outgoing())).given(tcp_flow),
        inner("error about an echo", RecordedFlow, error(&asked)).given(echo_flow),
        inner("a cut quotation", BadHeader, cut),
        inner("another protocol", Taken, datagram).given(tcp_flow),
        inner(
            "the flow beside it",
            Taken,
            incoming().but(|ip| ip.payload = tcp(80, 40001, b"x")),
        )
        .given(tcp_flow),
    ]
}
