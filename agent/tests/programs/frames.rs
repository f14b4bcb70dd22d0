//! Frames, built here from the standards and not by the code under test.

/// EtherType of IPv4.
pub const IPV4: u16 = 0x0800;
/// Bytes of an Ethernet header, and of all that the overlay puts around an inner packet.
pub const ETH: usize = 14;
pub const OVERLAY: usize = 20 + 8 + 8 + 14;

pub const ICMP: u8 = 1;
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;
pub const SCTP: u8 = 132;

/// The Internet checksum (RFC 1071) of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u64 = 0;
    for pair in bytes.chunks(2) {
        sum += u64::from(pair[0]) * 256 + u64::from(pair[1]);
    }
    while sum > 0xffff {
        sum = sum % 0x10000 + sum / 0x10000;
    }
    0xffff - u16::try_from(sum).unwrap()
}

/// An IPv4 packet; what is `None` is computed.
#[derive(Clone, Debug)]
pub struct Ip {
    pub version: u8,
    pub tos: u8,
    pub total_len: Option<u16>,
    pub id: u16,
    /// Flags and offset, as they stand in the header.
    pub fragment: u16,
    pub ttl: u8,
    pub protocol: u8,
    pub checksum: Option<u16>,
    pub source: [u8; 4],
    pub destination: [u8; 4],
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Ip {
    pub fn new(source: [u8; 4], destination: [u8; 4], protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            version: 4,
            tos: 0,
            total_len: None,
            id: 0x1234,
            fragment: 0x4000,
            ttl: 64,
            protocol,
            checksum: None,
            source,
            destination,
            options: Vec::new(),
            payload,
        }
    }

    /// The packet with a difference.
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn header_len(&self) -> usize {
        20 + self.options.len()
    }

    pub fn bytes(&self) -> Vec<u8> {
        let words = u8::try_from(self.header_len() / 4).unwrap();
        let real = u16::try_from(self.header_len() + self.payload.len()).unwrap();
        let mut header = vec![self.version << 4 | words, self.tos];
        header.extend(self.total_len.unwrap_or(real).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source);
        header.extend(self.destination);
        header.extend(&self.options);
        let sum = self.checksum.unwrap_or_else(|| checksum(&header));
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header.extend(&self.payload);
        header
    }
}

pub fn ethernet(destination: [u8; 6], source: [u8; 6], kind: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = destination.to_vec();
    frame.extend(source);
    frame.extend(kind.to_be_bytes());
    frame.extend(payload);
    frame
}

pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = source.to_be_bytes().to_vec();
    datagram.extend(destination.to_be_bytes());
    datagram.extend(u16::try_from(8 + payload.len()).unwrap().to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// A segment with the time stamp option, as Linux sends it.
pub fn tcp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut segment = source.to_be_bytes().to_vec();
    segment.extend(destination.to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 2]);
    segment.extend([0x80, 0x18, 0x01, 0xf5, 0xab, 0xcd, 0, 0]);
    segment.extend([1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4]);
    segment.extend(payload);
    segment
}

/// ICMP of a type with an echo's identifier.
pub fn icmp(kind: u8, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend([0, 1]);
    message.extend(payload);
    let sum = checksum(&message);
    message[2..4].copy_from_slice(&sum.to_be_bytes());
    message
}

/// What stands around an inner packet on the wire.
#[derive(Clone, Debug)]
pub struct Tunnel {
    /// Outer MACs, destination first.
    pub outer_macs: ([u8; 6], [u8; 6]),
    /// The outer IPv4 header; its payload is put in.
    pub outer: Ip,
    pub source_port: u16,
    pub port: u16,
    pub udp_len: Option<u16>,
    pub udp_checksum: u16,
    /// The whole VXLAN header.
    pub vxlan: [u8; 8],
    /// Inner MACs, destination first.
    pub inner_macs: ([u8; 6], [u8; 6]),
    pub inner_kind: u16,
}

impl Tunnel {
    /// The tunnel with a difference.
    pub fn but(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    pub fn frame(&self, inner: &[u8]) -> Vec<u8> {
        let (to, from) = self.inner_macs;
        let mut body = self.vxlan.to_vec();
        body.extend(ethernet(to, from, self.inner_kind, inner));
        let mut datagram = udp(self.source_port, self.port, &body);
        if let Some(len) = self.udp_len {
            datagram[4..6].copy_from_slice(&len.to_be_bytes());
        }
        datagram[6..8].copy_from_slice(&self.udp_checksum.to_be_bytes());
        let outer = self.outer.clone().but(|ip| ip.payload = datagram);
        let (to, from) = self.outer_macs;
        ethernet(to, from, IPV4, &outer.bytes())
    }
}
