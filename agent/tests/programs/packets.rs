//! The addresses of the host under test, and the packets that it usually sees.

use crate::frames::{ICMP, IPV4, Ip, TCP, Tunnel, UDP, ethernet, icmp, tcp};

pub const OUR_VTEP: [u8; 4] = [192, 0, 2, 1];
pub const PEER_VTEP: [u8; 4] = [192, 0, 2, 2];
/// Holds a lease too, for 10.1.5.0/24, but is reached by the kernel only.
pub const SLOW_VTEP: [u8; 4] = [192, 0, 2, 5];
pub const BOX: [u8; 4] = [10, 1, 2, 5];
/// A container at a port that is no veth pair, and that has no program.
pub const PLAIN_BOX: [u8; 4] = [10, 1, 2, 6];
pub const BRIDGE: [u8; 4] = [10, 1, 2, 1];
pub const REMOTE: [u8; 4] = [10, 1, 3, 7];
pub const SLOW_REMOTE: [u8; 4] = [10, 1, 5, 7];

pub const BOX_MAC: [u8; 6] = [2, 66, 10, 1, 2, 5];
pub const PLAIN_MAC: [u8; 6] = [2, 66, 10, 1, 2, 6];
pub const BRIDGE_MAC: [u8; 6] = [2, 66, 0, 0, 0, 1];
pub const UPLINK_MAC: [u8; 6] = [2, 1, 0, 0, 0, 1];
pub const ROUTER_MAC: [u8; 6] = [2, 1, 0, 0, 0, 254];
pub const OUR_VTEP_MAC: [u8; 6] = [2, 2, 0, 0, 0, 1];
pub const PEER_VTEP_MAC: [u8; 6] = [2, 2, 0, 0, 0, 2];

pub const PORT: u16 = 8472;
pub const MTU: usize = 1450;
pub const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 32768..=60999;

/// A container's packet to a peer's, at its port.
pub fn outgoing() -> Ip {
    Ip::new(BOX, REMOTE, TCP, tcp(40000, 80, b"request!"))
}

/// Its frame, addressed to the bridge.
pub fn from_box(packet: &Ip) -> Vec<u8> {
    ethernet(BRIDGE_MAC, BOX_MAC, IPV4, &packet.bytes())
}

/// The answer to it.
pub fn incoming() -> Ip {
    Ip::new(REMOTE, BOX, TCP, tcp(80, 40000, b"response"))
}

/// The tunnel as the peer makes it.
pub fn tunnel() -> Tunnel {
    let outer = Ip::new(PEER_VTEP, OUR_VTEP, UDP, Vec::new()).but(|ip| {
        ip.fragment = 0;
        ip.id = 0xbeef;
    });
    Tunnel {
        outer_macs: (UPLINK_MAC, ROUTER_MAC),
        outer,
        source_port: 45678,
        port: PORT,
        udp_len: None,
        udp_checksum: 0,
        vxlan: [8, 0, 0, 0, 0, 0, 1, 0],
        inner_macs: (OUR_VTEP_MAC, PEER_VTEP_MAC),
        inner_kind: IPV4,
    }
}

/// What the kernel makes of the tunnel: the inner packet at the overlay device.
pub fn from_peer(packet: &Ip) -> Vec<u8> {
    ethernet(OUR_VTEP_MAC, PEER_VTEP_MAC, IPV4, &packet.bytes())
}

/// The frame that a container gets of a packet, one hop on.
pub fn to_box(packet: &Ip) -> Vec<u8> {
    let packet = packet.clone().but(|ip| ip.ttl -= 1);
    ethernet(BOX_MAC, BRIDGE_MAC, IPV4, &packet.bytes())
}

/// An ICMP error about a packet, from a router on its way.
pub fn error_about(quoted: &Ip, source: [u8; 4], destination: [u8; 4], kind: u8) -> Ip {
    let mut quote = quoted.bytes();
    quote.truncate(quoted.header_len() + 8);
    let message = icmp(kind, 0, &quote);
    Ip::new(source, destination, ICMP, message)
}
