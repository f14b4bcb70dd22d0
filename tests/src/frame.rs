//! Frames from the wire, taken apart into the fields that two implementations must agree on.

use std::net::Ipv4Addr;

const ETHERNET: usize = 14;
const UDP: usize = 8;
const VXLAN: usize = 8;
const IPV4: u16 = 0x0800;
const UDP_PROTOCOL: u8 = 17;
const TCP_PROTOCOL: u8 = 6;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ethernet {
    pub destination: [u8; 6],
    pub source: [u8; 6],
    pub kind: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipv4 {
    pub header_length: u8,
    pub tos: u8,
    pub length: u16,
    pub id: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    pub offset: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum_is_right: bool,
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
}

/// A frame of the overlay on the wire between two hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlay {
    pub ethernet: Ethernet,
    pub ip: Ipv4,
    pub source_port: u16,
    pub destination_port: u16,
    pub udp_length: u16,
    pub udp_checksum: u16,
    /// All eight bytes of the VXLAN header.
    pub vxlan: [u8; 8],
    pub inner: Ethernet,
    pub inner_ip: Option<Ipv4>,
    /// Everything behind the inner Ethernet header, as it was on the wire.
    pub inner_bytes: Vec<u8>,
}

impl Overlay {
    /// Nothing for a frame that is not VXLAN on `port`.
    pub fn parse(frame: &[u8], port: u16) -> Option<Self> {
        let ethernet = Ethernet::parse(frame)?;
        let packet = frame.get(ETHERNET..).filter(|_| ethernet.kind == IPV4)?;
        let ip = Ipv4::parse(packet).filter(|ip| ip.protocol == UDP_PROTOCOL && ip.offset == 0)?;
        let udp = packet.get(usize::from(ip.header_length)..)?;
        let destination_port = word(udp, 2).filter(|found| *found == port)?;
        let vxlan = *udp.get(UDP..)?.first_chunk()?;
        let inner_frame = udp.get(UDP + VXLAN..)?;
        let inner = Ethernet::parse(inner_frame)?;
        let inner_bytes = inner_frame.get(ETHERNET..)?.to_vec();
        let inner_ip = if inner.kind == IPV4 {
            Ipv4::parse(&inner_bytes)
        } else {
            None
        };
        Some(Self {
            ethernet,
            ip,
            source_port: word(udp, 0)?,
            destination_port,
            udp_length: word(udp, 4)?,
            udp_checksum: word(udp, 6)?,
            vxlan,
            inner,
            inner_ip,
            inner_bytes,
        })
    }

    /// The five values that name the inner flow, for pairing two captures.
    pub fn inner_flow(&self) -> Option<(u8, Ipv4Addr, u16, Ipv4Addr, u16)> {
        let ip = self.inner_ip.as_ref().filter(|ip| ip.offset == 0)?;
        let body = self.inner_bytes.get(usize::from(ip.header_length)..)?;
        if !matches!(ip.protocol, UDP_PROTOCOL | TCP_PROTOCOL) {
            return None;
        }
        Some((
            ip.protocol,
            ip.source,
            word(body, 0)?,
            ip.destination,
            word(body, 2)?,
        ))
    }

    /// The same frame without the fields in which two hosts may differ: addresses of the pair,
    /// the outer id and checksum, and the source port, which depends on a boot-time secret.
    /// What is left must be equal between two implementations.
    pub fn comparable(&self) -> Comparable {
        Comparable {
            outer_kind: self.ethernet.kind,
            header_length: self.ip.header_length,
            tos: self.ip.tos,
            length: self.ip.length,
            dont_fragment: self.ip.dont_fragment,
            more_fragments: self.ip.more_fragments,
            ttl: self.ip.ttl,
            checksum_is_right: self.ip.checksum_is_right,
            destination_port: self.destination_port,
            udp_length: self.udp_length,
            vxlan: self.vxlan,
            inner_kind: self.inner.kind,
            inner_tos: self.inner_ip.as_ref().map(|ip| ip.tos),
            inner_length: self.inner_ip.as_ref().map(|ip| ip.length),
            inner_ttl: self.inner_ip.as_ref().map(|ip| ip.ttl),
            inner_dont_fragment: self.inner_ip.as_ref().map(|ip| ip.dont_fragment),
            inner_checksum_is_right: self.inner_ip.as_ref().map(|ip| ip.checksum_is_right),
        }
    }
}

/// See [`Overlay::comparable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparable {
    pub outer_kind: u16,
    pub header_length: u8,
    pub tos: u8,
    pub length: u16,
    pub dont_fragment: bool,
    pub more_fragments: bool,
    pub ttl: u8,
    pub checksum_is_right: bool,
    pub destination_port: u16,
    pub udp_length: u16,
    pub vxlan: [u8; 8],
    pub inner_kind: u16,
    pub inner_tos: Option<u8>,
    pub inner_length: Option<u16>,
    pub inner_ttl: Option<u8>,
    pub inner_dont_fragment: Option<bool>,
    pub inner_checksum_is_right: Option<bool>,
}

impl Ethernet {
    fn parse(frame: &[u8]) -> Option<Self> {
        Some(Self {
            destination: *frame.first_chunk()?,
            source: *frame.get(6..)?.first_chunk()?,
            kind: word(frame, 12)?,
        })
    }
}

impl Ipv4 {
    fn parse(packet: &[u8]) -> Option<Self> {
        let first = *packet.first()?;
        let header_length = (first & 0xf) * 4;
        let header = packet
            .get(..usize::from(header_length))
            .filter(|_| first >> 4 == 4)?;
        let flags = word(header, 6)?;
        Some(Self {
            header_length,
            tos: *header.get(1)?,
            length: word(header, 2)?,
            id: word(header, 4)?,
            dont_fragment: flags & 0x4000 != 0,
            more_fragments: flags & 0x2000 != 0,
            offset: flags & 0x1fff,
            ttl: *header.get(8)?,
            protocol: *header.get(9)?,
            checksum_is_right: sum(header) == 0xffff,
            source: address(header, 12)?,
            destination: address(header, 16)?,
        })
    }
}

/// The one's complement sum; `0xffff` over a header with a right checksum.
fn sum(header: &[u8]) -> u32 {
    let words = header.chunks_exact(2).filter_map(|pair| word(pair, 0));
    let mut sum: u32 = words.map(u32::from).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|pair| u16::from_be_bytes(*pair))
}

fn address(bytes: &[u8], at: usize) -> Option<Ipv4Addr> {
    bytes
        .get(at..)?
        .first_chunk::<4>()
        .map(|four| Ipv4Addr::from(*four))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([
            0x45, 0, 0, 78, 0, 1, 0, 0, 64, 17, 0, 0, 192, 0, 2, 11, 192, 0, 2, 12,
        ]);
        let checksum = !u16::try_from(sum(&frame[14..34])).unwrap();
        frame[24..26].copy_from_slice(&checksum.to_be_bytes());
        frame.extend([0xc0, 0, 0x21, 0x18, 0, 58, 0, 0]);
        frame.extend([8, 0, 0, 0, 0, 0, 1, 0]);
        frame.extend([2, 0, 0, 0, 0, 4, 2, 0, 0, 0, 0, 3, 8, 0]);
        frame.extend([
            0x45, 0, 0, 28, 0, 2, 0x40, 0, 63, 17, 0, 0, 10, 0, 1, 2, 10, 0, 2, 2,
        ]);
        frame.extend([0, 7, 0, 9, 0, 8, 0, 0]);
        frame
    }

    #[test]
    fn an_overlay_frame_is_taken_apart() {
        let overlay = Overlay::parse(&frame(), 8472).unwrap();
        assert!(overlay.ip.checksum_is_right && !overlay.ip.dont_fragment);
        assert_eq!(overlay.vxlan, [8, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(overlay.inner_ip.as_ref().unwrap().ttl, 63);
        let flow = (
            17,
            Ipv4Addr::new(10, 0, 1, 2),
            7,
            Ipv4Addr::new(10, 0, 2, 2),
            9,
        );
        assert_eq!(overlay.inner_flow(), Some(flow));
    }

    #[test]
    fn other_ports_and_short_frames_are_not_ours() {
        assert_eq!(Overlay::parse(&frame(), 4789), None);
        for size in 0..frame().len() - 28 {
            assert_eq!(Overlay::parse(&frame()[..size], 8472), None, "{size}");
        }
    }
}
