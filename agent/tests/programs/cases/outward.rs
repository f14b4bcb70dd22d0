//! What containers send: at their ports, and at the bridge for a port without a program.

use weft_common::{
    endpoint::{ENDPOINT_KERNEL, ENDPOINT_PEER},
    settings::FAST_PATH,
    stats::{Hook, Reason},
};

use super::Case;
use crate::{
    frames::{ICMP, IPV4, Ip, SCTP, TCP, UDP, ethernet, icmp, tcp, udp},
    packets::{
        BOX, BOX_MAC, BRIDGE as BRIDGE_ADDRESS, BRIDGE_MAC, MTU, OUR_VTEP, PEER_VTEP, PLAIN_BOX,
        PLAIN_MAC, PORT as TUNNEL_PORT, REMOTE, ROUTER_MAC, SLOW_REMOTE, error_about,
    },
    world::{At, World},
};

/// A container and the hook that its packets meet.
pub struct Sender {
    hook: Hook,
    at: At,
    address: [u8; 4],
    mac: [u8; 6],
    /// The same world, seen from the wrong place.
    elsewhere: At,
    /// Has the stack translate a flow of the sender's.
    translated: fn(&mut World),
    /// Records the sender's flow.
    record: [fn(&mut World); 3],
}

pub const PORT: Sender = Sender {
    hook: Hook::FromContainer,
    at: At::BoxPort,
    address: BOX,
    mac: BOX_MAC,
    elsewhere: At::PlainPort,
    translated: |world| world.translate(BOX, TCP),
    record: [
        |world| world.record_of(BOX, TCP, 40000, 80),
        |world| world.record_of(BOX, UDP, 40000, 53),
        |world| world.record_of(BOX, ICMP, 77, 77),
    ],
};

pub const BRIDGE: Sender = Sender {
    hook: Hook::FromBridge,
    at: At::Bridge,
    address: PLAIN_BOX,
    mac: PLAIN_MAC,
    elsewhere: At::PlainPort,
    translated: |world| world.translate(PLAIN_BOX, TCP),
    record: [
        |world| world.record_of(PLAIN_BOX, TCP, 40000, 80),
        |world| world.record_of(PLAIN_BOX, UDP, 40000, 53),
        |world| world.record_of(PLAIN_BOX, ICMP, 77, 77),
    ],
};

impl Sender {
    fn packet(&self) -> Ip {
        Ip::new(self.address, REMOTE, TCP, tcp(40000, 80, b"request!"))
    }

    fn but(&self, change: impl FnOnce(&mut Ip)) -> Ip {
        self.packet().but(change)
    }

    fn udp(&self) -> Ip {
        Ip::new(self.address, REMOTE, UDP, udp(40000, 53, b"question"))
    }

    fn tunnel_to(&self, destination: [u8; 4]) -> Ip {
        Ip::new(
            self.address,
            destination,
            UDP,
            udp(40000, TUNNEL_PORT, &[8, 0, 0, 0, 0, 0, 1, 0]),
        )
    }

    fn echo(&self) -> Ip {
        Ip::new(self.address, REMOTE, ICMP, icmp(8, 77, b"ping"))
    }

    fn frame(&self, packet: &Ip) -> Vec<u8> {
        ethernet(BRIDGE_MAC, self.mac, IPV4, &packet.bytes())
    }

    fn case(&self, name: &'static str, reason: Reason, packet: Ip) -> Case {
        self.raw(name, reason, self.frame(&packet))
    }

    fn raw(&self, name: &'static str, reason: Reason, frame: Vec<u8>) -> Case {
        Case::new(name, self.hook, self.at, reason, frame)
    }

    /// The container's error about a packet that it got from the peer's.
    fn error(&self, kind: u8, quoted: &Ip) -> Ip {
        error_about(quoted, self.address, REMOTE, kind)
    }
}

pub fn cases(s: &Sender) -> Vec<Case> {
    [plain(s), refused(s), malformed(s), recorded(s)]
        .into_iter()
        .flatten()
        .collect()
}

/// An ARP packet of a container that nobody knows yet.
fn arp(address: [u8; 4], mac: [u8; 6], operation: u8) -> Vec<u8> {
    let mut packet = vec![0, 1, 8, 0, 6, 4, 0, operation];
    packet.extend(mac);
    packet.extend(address);
    packet.extend([0; 6]);
    packet.extend([10, 1, 2, 1]);
    ethernet([255; 6], mac, 0x0806, &packet)
}

/// The port's, and what only it meets.
pub fn port_cases() -> Vec<Case> {
    use Reason::*;
    const NEW: [u8; 6] = [2, 66, 10, 1, 2, 77];
    let case = |name, reason, frame| PORT.raw(name, reason, frame);
    let mut lying = arp([10, 1, 2, 78], NEW, 1);
    lying[6] ^= 4;
    let mut other_kind = arp([10, 1, 2, 78], NEW, 1);
    other_kind[15] = 6;
    let mut cases = cases(&PORT);
    cases.extend([
        case(
            "a new container asks",
            Provisional,
            arp([10, 1, 2, 77], NEW, 1),
        ),
        case(
            "a new container answers",
            Provisional,
            arp([10, 1, 2, 76], NEW, 2),
        ),
        case("a known one asks", NotIpv4, arp(BOX, NEW, 1)),
        case("as the bridge", NotIpv4, arp(BRIDGE_ADDRESS, NEW, 1)),
        case("outside our subnet", NotIpv4, arp([10, 1, 3, 9], NEW, 1)),
        case("to be offered an address", NotIpv4, arp([0; 4], NEW, 1)),
        case("with another's MAC", NotIpv4, lying),
        case("on other hardware", NotIpv4, other_kind),
        case(
            "with another operation",
            NotIpv4,
            arp([10, 1, 2, 78], NEW, 8),
        ),
        case(
            "of a group",
            NotIpv4,
            arp([10, 1, 2, 78], [1, 0, 94, 0, 0, 1], 1),
        ),
        case("the fast path off", NotIpv4, arp([10, 1, 2, 78], NEW, 1))
            .given(|world| world.settings(|settings| settings.flags = 0)),
        case(
            "at a port that is none of ours",
            NotIpv4,
            arp([10, 1, 2, 78], NEW, 1),
        )
        .at(At::PlainPort),
    ]);
    cases
}

/// The bridge's, and what only it meets.
pub fn bridge_cases() -> Vec<Case> {
    let mut cases = cases(&BRIDGE);
    let judged = Case::new(
        "what a port's program has judged",
        BRIDGE.hook,
        BRIDGE.at,
        Reason::PortPassed,
        PORT.frame(&PORT.packet()),
    );
    cases.push(judged);
    cases
}

/// `packet` with another size of its payload, so that it is `len` bytes.
fn sized(packet: Ip, len: usize) -> Ip {
    packet.but(|ip| ip.payload = udp(40000, 53, &vec![7; len - 28]))
}

fn plain(s: &Sender) -> Vec<Case> {
    use Reason::*;
    let sctp = Ip::new(s.address, REMOTE, SCTP, vec![1; 20]);
    let other = Ip::new(s.address, REMOTE, 99, Vec::new());
    let stamp = s.echo().but(|ip| ip.payload = icmp(13, 0, &[0; 12]));
    vec![
        s.case("TCP", Taken, s.packet()),
        s.case("UDP", Taken, s.udp()),
        s.case("echo", Taken, s.echo()),
        s.case("SCTP", Taken, sctp),
        s.case("a protocol without ports, and no payload", Taken, other),
        s.case("ICMP that is no echo and no error", Taken, stamp),
        s.case("last hop but one", Taken, s.but(|ip| ip.ttl = 2)),
        s.case("may be fragmented", Taken, s.but(|ip| ip.fragment = 0)),
        s.case("one below the MTU", Taken, sized(s.udp(), MTU - 1)),
        s.case("at the MTU", Taken, sized(s.udp(), MTU)),
    ]
}

fn refused(s: &Sender) -> Vec<Case> {
    use Reason::*;
    let to = |to| s.but(|ip| ip.destination = to);
    let from = |from| s.but(|ip| ip.source = from);
    let macs = |to, from| ethernet(to, from, IPV4, &s.packet().bytes());
    let kind = |kind| ethernet(BRIDGE_MAC, s.mac, kind, &s.packet().bytes());
    vec![
        s.case("settings not filled", NotReady, s.packet())
            .given(|world| world.settings(|settings| settings.ready = 0)),
        s.raw("ARP", NotIpv4, kind(0x0806)),
        s.raw("IPv6", NotIpv4, kind(0x86dd)),
        s.raw("a tag in the frame", NotIpv4, kind(0x8100)),
        s.case("to the Internet", NotOverlay, to([203, 0, 113, 8])),
        s.case("to a subnet without a lease", NotOverlay, to([10, 1, 4, 7])),
        s.case("to a neighbour", NotOverlay, to([10, 1, 2, 9])),
        s.case("broadcast", NotOverlay, to([255; 4])),
        s.raw("to another MAC", OtherMac, macs(ROUTER_MAC, s.mac)),
        s.raw("to all MACs", OtherMac, macs([255; 6], s.mac)),
        s.case("one above the MTU", TooBig, sized(s.udp(), MTU + 1)),
        s.case("above a smaller MTU", TooBig, sized(s.udp(), 1401))
            .given(|world| world.settings(|settings| settings.mtu = 1400)),
        s.case("above the peer's MTU", TooBig, sized(s.udp(), 1301))
            .given(|world| world.peer(|peer| peer.mtu = 1300)),
        s.case("segments above the MTU", TooBig, s.packet())
            .gso(1399),
        s.case("segments at the MTU", HelperRefused, s.packet())
            .gso(1398),
        s.case("datagrams above the MTU", TooBig, s.udp()).gso(1423),
        s.case("datagrams at the MTU", HelperRefused, s.udp())
            .gso(1422),
        s.case("pings put together", OtherAggregate, s.echo())
            .gso(100),
        s.case("from the bridge", HostTraffic, from([10, 1, 2, 1])),
        s.case(
            "from a peer's subnet",
            DropForeignSource,
            from([10, 1, 3, 8]),
        ),
        s.case("from elsewhere", DropForeignSource, from([203, 0, 113, 8])),
        s.case("to nobody's subnet from elsewhere", DropForeignSource, {
            from([203, 0, 113, 8]).but(|ip| ip.destination = [10, 1, 99, 8])
        }),
        s.case(
            "from elsewhere, the guard off",
            ForeignSource,
            from([203, 0, 113, 8]),
        )
        .given(|world| world.settings(|settings| settings.flags = FAST_PATH)),
        s.case(
            "a tunnel to the bridge",
            DropContainerTunnel,
            s.tunnel_to(BRIDGE_ADDRESS),
        ),
        s.case(
            "a tunnel to our VTEP",
            DropContainerTunnel,
            s.tunnel_to(OUR_VTEP),
        ),
        s.case(
            "a tunnel to a peer",
            DropContainerTunnel,
            s.tunnel_to(PEER_VTEP),
        ),
        s.case("with options", DropContainerTunnel, {
            s.tunnel_to(PEER_VTEP).but(|ip| ip.options = vec![1; 8])
        }),
        s.case("its first piece", DropContainerTunnel, {
            s.tunnel_to(BRIDGE_ADDRESS).but(|ip| ip.fragment = 0x2000)
        }),
        s.case(
            "a tunnel to all of the wire",
            DropContainerTunnel,
            s.tunnel_to([192, 0, 2, 255]),
        ),
        s.case(
            "a tunnel to all hosts",
            DropContainerTunnel,
            s.tunnel_to([224, 0, 0, 1]),
        ),
        s.case("the guard off", Unguarded, s.tunnel_to(BRIDGE_ADDRESS))
            .given(|world| world.settings(|settings| settings.flags = FAST_PATH)),
        s.case(
            "a tunnel to elsewhere",
            NotOverlay,
            s.tunnel_to([203, 0, 113, 8]),
        ),
        s.case("a tunnel to another container", Taken, s.tunnel_to(REMOTE)),
        s.case("fast path off", FastPathOff, s.packet())
            .given(|world| world.settings(|settings| settings.flags = 0)),
        s.case("peer of the kernel", PeerKernelOnly, to(SLOW_REMOTE)),
        s.case("peer not fast", PeerKernelOnly, s.packet())
            .given(|world| world.peer(|peer| peer.flags = 0)),
        s.case(
            "an unknown container",
            NoSourceEndpoint,
            from([10, 1, 2, 99]),
        ),
        s.raw(
            "another's MAC",
            WrongPort,
            macs(BRIDGE_MAC, [2, 9, 9, 9, 9, 9]),
        ),
        s.case("a port with something on it", PortKept, s.packet())
            .given(|world| world.flag_endpoints(ENDPOINT_KERNEL | ENDPOINT_PEER)),
        s.case("a port that is the kernel's", PortKind, s.packet())
            .given(|world| world.flag_endpoints(ENDPOINT_KERNEL)),
        s.case("another port", WrongPort, s.packet())
            .at(s.elsewhere),
        s.case("the uplink", WrongPort, s.packet()).at(At::Uplink),
        s.case("the record is full", FlowsFull, s.packet())
            .given(World::overflow),
    ]
}

fn malformed(s: &Sender) -> Vec<Case> {
    use Reason::*;
    let len = u16::try_from(s.packet().bytes().len()).unwrap();
    let says = |len| s.but(|ip| ip.total_len = Some(len));
    let piece = |bits| s.but(|ip| ip.fragment = bits);
    let short = |protocol, len| Ip::new(s.address, REMOTE, protocol, vec![3; len]);
    let mut narrow = s.frame(&s.packet());
    narrow[14] = 0x44;
    let mut padded = s.frame(&s.packet());
    padded.push(0);
    let options = |len: usize| s.but(|ip| ip.options = vec![1; len]);
    vec![
        s.case("one option word", IpOptions, options(4)),
        s.case("all the options", IpOptions, options(40)),
        s.case("first piece", Taken, piece(0x2000)),
        s.case("middle piece", Taken, piece(0x2001)),
        s.case("last piece", Taken, piece(0x1fff)),
        s.case("a piece of a translated pair", RecordedFlow, piece(0x2001))
            .given(s.translated),
        s.case(
            "a piece of another protocol",
            Taken,
            s.udp().but(|ip| ip.fragment = 0x2001),
        )
        .given(s.translated),
        s.case("TTL 1", TtlExpiring, s.but(|ip| ip.ttl = 1)),
        s.case("TTL 0", TtlExpiring, s.but(|ip| ip.ttl = 0)),
        s.case(
            "wrong checksum",
            BadHeader,
            s.but(|ip| ip.checksum = Some(1)),
        ),
        s.case("says more than there is", BadHeader, says(len + 1)),
        s.case("says less than there is", BadHeader, says(len - 1)),
        s.case("says nothing", BadHeader, says(0)),
        s.raw("padding", BadHeader, padded),
        s.case("another version", BadHeader, s.but(|ip| ip.version = 6)),
        s.raw("a header of 16 bytes", BadHeader, narrow),
        s.case("half of the ports", BadHeader, short(TCP, 3)),
        s.case("no ports", BadHeader, short(UDP, 0)),
        s.case("half an echo", BadHeader, short(ICMP, 7)),
    ]
}

fn recorded(s: &Sender) -> Vec<Case> {
    use Reason::*;
    let [tcp_flow, udp_flow, echo_flow] = s.record;
    let answer = |protocol, payload| Ip::new(REMOTE, s.address, protocol, payload);
    let about_tcp = answer(TCP, tcp(80, 40000, b"response"));
    let about_udp = answer(UDP, udp(53, 40000, b"answer"));
    let about_echo = answer(ICMP, icmp(8, 77, b"ping"));
    let next = s.but(|ip| ip.payload = tcp(40001, 80, b"request!"));
    let reply = s.echo().but(|ip| ip.payload = icmp(0, 77, b"pong"));
    let mut cut = s.error(3, &about_udp);
    cut.payload.truncate(8 + 19);
    let mut without_ports = s.error(3, &about_udp);
    without_ports.payload.truncate(8 + 20 + 3);
    let optioned = about_udp.clone().but(|ip| ip.options = vec![1; 4]);
    let mut cases = vec![
        s.case("TCP", RecordedFlow, s.packet()).given(tcp_flow),
        s.case("UDP", RecordedFlow, s.udp()).given(udp_flow),
        s.case("echo", RecordedFlow, s.echo()).given(echo_flow),
        s.case("echo reply", RecordedFlow, reply).given(echo_flow),
        s.case("the flow beside it", Taken, next).given(tcp_flow),
        s.case("another protocol", Taken, s.udp()).given(tcp_flow),
        s.case("error about an echo", RecordedFlow, s.error(3, &about_echo))
            .given(echo_flow),
        s.case("error about another", Taken, s.error(3, &about_udp))
            .given(tcp_flow),
        s.case("a cut quotation", BadHeader, cut),
        s.case("a quotation without ports", BadHeader, without_ports),
        s.case("a quotation with options", BadHeader, s.error(3, &optioned)),
    ];
    for kind in [3, 4, 11, 12] {
        let error = s.error(kind, &about_tcp);
        cases.push(
            s.case("error about TCP", RecordedFlow, error)
                .given(tcp_flow),
        );
        let error = s.error(kind, &about_udp);
        cases.push(
            s.case("error about UDP", RecordedFlow, error)
                .given(udp_flow),
        );
    }
    cases
}
