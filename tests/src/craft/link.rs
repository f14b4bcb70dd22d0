//! Ethernet frames, their tags, and VXLAN around them.

use super::{Aggregate, Flow, IPV4, Ip, Offload, Partial, Sum, word};

pub type Mac = [u8; 6];

/// Who hands a frame to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    pub source: Mac,
    pub destination: Mac,
}

impl Link {
    /// The other direction.
    pub fn back(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }

    fn header(&self, kind: u16) -> Vec<u8> {
        let mut header = self.destination.to_vec();
        header.extend(self.source);
        header.extend(kind.to_be_bytes());
        header
    }

    /// A frame of any kind.
    pub fn frame(&self, kind: u16, payload: &[u8]) -> Frame {
        let mut bytes = self.header(kind);
        bytes.extend(payload);
        Frame {
            bytes,
            offload: Offload::default(),
        }
    }

    pub fn ip(&self, packet: &Ip) -> Frame {
        let mut frame = self.frame(IPV4, &packet.bytes());
        if packet.partial {
            let start = u16::try_from(14 + packet.header_len()).unwrap_or(u16::MAX);
            let offset = packet
                .sum_offset()
                .and_then(|offset| u16::try_from(offset).ok());
            frame.offload.partial = offset.map(|offset| Partial { start, offset });
        }
        frame
    }
}

/// What the probe sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub bytes: Vec<u8>,
    pub offload: Offload,
}

impl Frame {
    /// The frame with a difference.
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The frame with a VLAN tag of this EtherType in front of all others.
    pub fn tagged(mut self, tag: u16, vlan: u16) -> Self {
        let [a, b] = tag.to_be_bytes();
        let [c, d] = vlan.to_be_bytes();
        self.bytes.splice(12..12, [a, b, c, d]);
        self
    }

    /// Many segments in one, each with `size` bytes of payload. The packet's sum must be partial.
    pub fn aggregate(mut self, kind: Aggregate, size: u16) -> Self {
        let header = self.offload.partial.map_or(0, |partial| {
            let transport = usize::from(partial.start);
            let len = match kind {
                Aggregate::Udp => 8,
                Aggregate::Tcp4 | Aggregate::Tcp6 => {
                    let words = word(&self.bytes, transport + 12).unwrap_or(0x5000) >> 12;
                    words * 4
                }
            };
            partial.start + len
        });
        self.offload.aggregate = Some((kind, size));
        self.offload.header = header;
        self
    }

    /// As the probe reads it.
    pub fn line(&self) -> String {
        use std::fmt::Write as _;
        let mut line = self.offload.to_string();
        line.reserve(2 * self.bytes.len());
        for byte in &self.bytes {
            // Writing to a string does not fail.
            let _ = write!(line, "{byte:02x}");
        }
        line
    }
}

/// What stands around an inner frame on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    pub link: Link,
    /// The outer header; its payload is put in.
    pub outer: Ip,
    pub source_port: u16,
    pub port: u16,
    pub sum: Sum,
    /// The whole VXLAN header.
    pub vxlan: [u8; 8],
    pub inner: Link,
}

impl Tunnel {
    /// As the kernel makes it for VNI 1: no DF, TTL 64, no UDP checksum. The flow is between VTEPs.
    pub fn new(link: Link, vteps: Flow, inner: Link) -> Self {
        let outer = vteps.ip(super::UDP, Vec::new()).but(|ip| ip.fragment = 0);
        Self {
            link,
            outer,
            source_port: vteps.source.port(),
            port: vteps.destination.port(),
            sum: Sum::Zero,
            vxlan: [8, 0, 0, 0, 0, 0, 1, 0],
            inner,
        }
    }

    /// The tunnel with a difference.
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn ip(&self, packet: &Ip) -> Frame {
        self.frame(&self.inner.ip(packet).bytes)
    }

    /// The outer packet around any inner frame.
    pub fn packet(&self, inner: &[u8]) -> Ip {
        let mut body = self.vxlan.to_vec();
        body.extend(inner);
        let mut datagram = self.source_port.to_be_bytes().to_vec();
        datagram.extend(self.port.to_be_bytes());
        let len = u16::try_from(8 + body.len()).unwrap_or(u16::MAX);
        datagram.extend(len.to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(body);
        self.outer
            .clone()
            .but(|ip| ip.payload = datagram)
            .sum(self.sum)
    }

    pub fn frame(&self, inner: &[u8]) -> Frame {
        self.link.ip(&self.packet(inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        craft::{Segment, TAG, parse_line, payload},
        frame::Overlay,
    };

    const LINK: Link = Link {
        source: [2, 0, 0, 0, 0, 1],
        destination: [2, 0, 0, 0, 0, 2],
    };

    fn flow(source: &str, destination: &str) -> Flow {
        Flow {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
        }
    }

    #[test]
    fn a_tunnel_is_read_back() {
        let packet = flow("10.1.2.5:40000", "10.1.3.7:53").udp(b"question");
        let vteps = flow("192.0.2.1:40001", "192.0.2.2:8472");
        let frame = Tunnel::new(LINK, vteps, LINK).ip(&packet);
        let overlay = Overlay::parse(&frame.bytes, 8472).unwrap();
        assert!(overlay.ip.checksum_is_right && !overlay.ip.dont_fragment);
        assert_eq!(overlay.udp_checksum, 0);
        assert_eq!(overlay.inner_bytes, packet.bytes());
    }

    #[test]
    fn an_aggregate_says_how_to_cut_it() {
        let packet = flow("10.1.2.5:40000", "10.1.3.7:80").tcp(&Segment::data(), &payload(4000));
        let frame = LINK.ip(&packet.sum(Sum::Partial));
        let frame = frame.aggregate(Aggregate::Tcp4, 1398);
        let line = frame.line();
        assert!(line.starts_with("gso=tcp4:1398 csum=34+16 header=66 "));
        assert_eq!(parse_line(&line).unwrap(), frame);
    }

    #[test]
    fn a_tag_stands_behind_the_addresses() {
        let frame = LINK.frame(IPV4, &[0x45]).tagged(TAG, 7);
        assert_eq!(frame.bytes[10..], [0, 1, 0x81, 0, 0, 7, 8, 0, 0x45]);
    }
}
