//! Who speaks to whom, and what: UDP, TCP, ICMP and SCTP.

use std::net::SocketAddrV4;

use super::{ICMP, Ip, SCTP, Sum, TCP, UDP};

/// The ends of a flow. ICMP takes the source's port as its identifier.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub source: SocketAddrV4,
    pub destination: SocketAddrV4,
}

/// A TCP segment's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    pub sequence: u32,
    pub acknowledgement: u32,
    pub flags: u8,
    pub window: u16,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
}

impl Segment {
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;

    /// Data as Linux sends it, with the time stamp option.
    pub fn data() -> Self {
        Self {
            sequence: 1,
            acknowledgement: 2,
            flags: Self::PSH | Self::ACK,
            window: 501,
            options: vec![1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4],
        }
    }

    fn header(&self, flow: &Flow) -> Vec<u8> {
        let mut header = flow.ports();
        header.extend(self.sequence.to_be_bytes());
        header.extend(self.acknowledgement.to_be_bytes());
        let words = u8::try_from(5 + self.options.len() / 4)
            .unwrap_or(15)
            .min(15);
        header.extend([words << 4, self.flags]);
        header.extend(self.window.to_be_bytes());
        header.extend([0; 4]);
        header.extend(&self.options);
        header
    }
}

impl Flow {
    /// The other direction.
    pub fn back(self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
        }
    }

    fn ports(&self) -> Vec<u8> {
        let mut ports = self.source.port().to_be_bytes().to_vec();
        ports.extend(self.destination.port().to_be_bytes());
        ports
    }

    /// Any protocol; the checksum is the payload's business.
    pub fn ip(&self, protocol: u8, payload: Vec<u8>) -> Ip {
        Ip::new(*self.source.ip(), *self.destination.ip(), protocol, payload)
    }

    pub fn udp(&self, payload: &[u8]) -> Ip {
        let mut datagram = self.ports();
        // A longer aggregate states what fits.
        let len = u16::try_from(8 + payload.len()).unwrap_or(u16::MAX);
        datagram.extend(len.to_be_bytes());
        datagram.extend([0; 2]);
        datagram.extend(payload);
        self.ip(UDP, datagram).sum(Sum::Right)
    }

    pub fn tcp(&self, segment: &Segment, payload: &[u8]) -> Ip {
        let mut bytes = segment.header(self);
        bytes.extend(payload);
        self.ip(TCP, bytes).sum(Sum::Right)
    }

    /// A message of any type; `rest` is the second word of its header.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], payload: &[u8]) -> Ip {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend(payload);
        self.ip(ICMP, message).sum(Sum::Right)
    }

    /// An echo request.
    pub fn echo(&self, sequence: u16, payload: &[u8]) -> Ip {
        let [a, b] = self.source.port().to_be_bytes();
        let [c, d] = sequence.to_be_bytes();
        self.icmp(8, 0, [a, b, c, d], payload)
    }

    /// An ICMP error about a packet, which it quotes by its header and `quoted` bytes more.
    pub fn error(&self, kind: u8, code: u8, rest: [u8; 4], about: &Ip, quoted: usize) -> Ip {
        let mut quote = about.bytes();
        quote.truncate(about.header_len() + quoted);
        self.icmp(kind, code, rest, &quote)
    }

    /// A DATA chunk with a verification tag.
    pub fn sctp(&self, payload: &[u8]) -> Ip {
        let mut packet = self.ports();
        packet.extend([0x5a; 4]);
        packet.extend([0; 4]);
        let len = u16::try_from(16 + payload.len()).unwrap_or(u16::MAX);
        packet.extend([0, 3]);
        packet.extend(len.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet.extend(payload);
        packet.resize(packet.len().next_multiple_of(4), 0);
        self.ip(SCTP, packet).sum(Sum::Right)
    }
}
