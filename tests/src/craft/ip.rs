//! IPv4 packets: options, fragments, and checksums that are right, zero or wrong on purpose.

use std::net::Ipv4Addr;

use super::{ICMP, SCTP, TCP, UDP, put, sum, word};

pub const NO_FRAGMENT: u16 = 0x4000;
pub const MORE_FRAGMENTS: u16 = 0x2000;

/// What stands in the field of a checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sum {
    Right,
    /// For UDP this says that there is none.
    Zero,
    Wrong,
    /// The sum of the pseudo header: the device, or whoever needs it, does the rest.
    Partial,
}

/// A packet; what is `None` is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub source: Ipv4Addr,
    pub destination: Ipv4Addr,
    /// A multiple of four bytes.
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
    /// What [`Ip::sum`] was last told of the transport's checksum.
    pub(super) partial: bool,
}

impl Ip {
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        Self {
            version: 4,
            tos: 0,
            total_len: None,
            id: 0x1234,
            fragment: NO_FRAGMENT,
            ttl: 64,
            protocol,
            checksum: None,
            source,
            destination,
            options: Vec::new(),
            payload,
            partial: false,
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

    pub fn len(&self) -> usize {
        self.header_len() + self.payload.len()
    }

    /// Never: there is always a header.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub fn bytes(&self) -> Vec<u8> {
        let words = u8::try_from(self.header_len() / 4).unwrap_or(15).min(15);
        // A longer aggregate states what fits.
        let real = u16::try_from(self.len()).unwrap_or(u16::MAX);
        let mut header = vec![self.version << 4 | words, self.tos];
        header.extend(self.total_len.unwrap_or(real).to_be_bytes());
        header.extend(self.id.to_be_bytes());
        header.extend(self.fragment.to_be_bytes());
        header.extend([self.ttl, self.protocol, 0, 0]);
        header.extend(self.source.octets());
        header.extend(self.destination.octets());
        header.extend(&self.options);
        let sum = self.checksum.unwrap_or_else(|| sum::internet(&header));
        put(&mut header, 10, &sum.to_be_bytes());
        header.extend(&self.payload);
        header
    }

    /// The header's checksum.
    pub fn header_sum(mut self, choice: Sum) -> Self {
        self.checksum = match choice {
            Sum::Right | Sum::Partial => None,
            Sum::Zero => Some(0),
            Sum::Wrong => {
                let right = word(&self.clone().header_sum(Sum::Right).bytes(), 10);
                right.map(|sum| sum ^ 0x5555)
            }
        };
        self
    }

    /// The transport's checksum, over what the packet holds now.
    pub fn sum(mut self, choice: Sum) -> Self {
        self.partial = choice == Sum::Partial;
        let Some(at) = self.sum_offset() else {
            return self;
        };
        if self.protocol == SCTP {
            put(&mut self.payload, at, &[0; 4]);
            let right = sum::crc32c(&self.payload);
            let value = match choice {
                Sum::Right | Sum::Partial => right,
                Sum::Zero => 0,
                Sum::Wrong => right ^ 0x5555_5555,
            };
            put(&mut self.payload, at, &value.to_le_bytes());
            return self;
        }
        put(&mut self.payload, at, &[0; 2]);
        let pseudo = self.pseudo_header();
        let mut right = sum::internet_of(&[&pseudo, &self.payload]);
        if right == 0 && self.protocol == UDP {
            right = 0xffff;
        }
        let value = match choice {
            Sum::Right => right,
            Sum::Zero => 0,
            Sum::Wrong => right ^ 0x5555,
            Sum::Partial => !sum::internet(&pseudo),
        };
        put(&mut self.payload, at, &value.to_be_bytes());
        self
    }

    /// Where the transport has its checksum.
    pub fn sum_offset(&self) -> Option<usize> {
        match self.protocol {
            TCP => Some(16),
            UDP => Some(6),
            ICMP => Some(2),
            SCTP => Some(8),
            _ => None,
        }
    }

    /// Nothing for a protocol whose checksum does not cover it.
    fn pseudo_header(&self) -> Vec<u8> {
        if !matches!(self.protocol, TCP | UDP) {
            return Vec::new();
        }
        let mut pseudo = self.source.octets().to_vec();
        pseudo.extend(self.destination.octets());
        pseudo.extend([0, self.protocol]);
        let len = u16::try_from(self.payload.len()).unwrap_or(u16::MAX);
        pseudo.extend(len.to_be_bytes());
        pseudo
    }

    /// The packet in pieces, each with at most `size` bytes of payload (a multiple of eight), in
    /// their order.
    pub fn fragments(&self, size: usize) -> Vec<Self> {
        let size = (size & !7).max(8);
        let count = self.payload.len().div_ceil(size);
        let pieces = self.payload.chunks(size).enumerate();
        let piece = |(number, bytes): (usize, &[u8])| {
            let more = if number + 1 < count {
                MORE_FRAGMENTS
            } else {
                0
            };
            let offset = u16::try_from(number * size / 8).unwrap_or(0x1fff);
            self.clone().but(|ip| {
                ip.fragment = more | offset;
                ip.payload = bytes.to_vec();
            })
        };
        pieces.map(piece).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::craft::{Flow, payload};

    fn flow() -> Flow {
        Flow {
            source: "10.1.2.5:40000".parse().unwrap(),
            destination: "10.1.3.7:53".parse().unwrap(),
        }
    }

    #[test]
    fn sums_hold_or_do_not() {
        let packet = flow().udp(&payload(33));
        let holds = |ip: &Ip| sum::internet_of(&[&ip.pseudo_header(), &ip.payload]) == 0;
        assert!(holds(&packet));
        assert!(!holds(&packet.clone().sum(Sum::Wrong)));
        assert_eq!(
            word(&packet.clone().sum(Sum::Zero).payload, 6),
            Some(0),
            "zero stays zero"
        );
        assert_eq!(sum::internet(&packet.bytes()[..20]), 0);
        assert_ne!(
            sum::internet(&packet.header_sum(Sum::Wrong).bytes()[..20]),
            0
        );
    }

    #[test]
    fn a_partial_sum_is_completed_by_summing_on() {
        let packet = flow().udp(&payload(100)).sum(Sum::Partial);
        let rest = sum::internet(&packet.payload);
        let right = packet.clone().sum(Sum::Right);
        assert_eq!(Some(rest), word(&right.payload, 6));
    }

    #[test]
    fn pieces_make_the_whole() {
        let packet = flow().udp(&payload(4000));
        let pieces = packet.fragments(1424);
        assert_eq!(pieces.len(), 3);
        let whole: Vec<u8> = pieces.iter().flat_map(|ip| ip.payload.clone()).collect();
        assert_eq!(whole, packet.payload);
        let fields: Vec<u16> = pieces.iter().map(|ip| ip.fragment).collect();
        assert_eq!(fields, [0x2000, 0x2000 | 178, 356]);
    }
}
