//! From bytes to the few facts that the programs decide by.

use weft_common::{
    stats::Reason,
    wire::{ETH_LEN, FRAGMENT_BITS, IPV4_LEN, PROTO_TCP, PROTO_UDP, fold, ipv4_sum},
};

use crate::packet::Packet;

/// Ethernet and IPv4 header together.
pub const HEADERS: usize = ETH_LEN + IPV4_LEN;
/// IPv4 as the kernel writes it into the context.
const IPV4_PROTOCOL: u16 = 0x0800u16.to_be();

/// An Ethernet frame that carries IPv4: the first bytes, and views of them.
pub struct Frame {
    /// The bytes.
    pub bytes: [u8; HEADERS],
}

impl Frame {
    /// Reads the headers at the start of the packet. A tag is not among them: it travels beside
    /// the packet, and the stack may take what carries one ([`require_untagged`]).
    #[inline(always)]
    pub fn read(packet: &Packet<'_>) -> Result<Self, Reason> {
        if packet.protocol() != IPV4_PROTOCOL {
            return Err(Reason::NotIpv4);
        }
        let bytes = packet.read::<HEADERS>(0).ok_or(Reason::BadHeader)?;
        Ok(Self { bytes })
    }

    /// Destination MAC.
    #[inline(always)]
    pub fn destination_mac(&self) -> [u8; 6] {
        let b = &self.bytes;
        [b[0], b[1], b[2], b[3], b[4], b[5]]
    }

    /// Source MAC.
    #[inline(always)]
    pub fn source_mac(&self) -> [u8; 6] {
        let b = &self.bytes;
        [b[6], b[7], b[8], b[9], b[10], b[11]]
    }

    /// The IPv4 header.
    #[inline(always)]
    pub fn ip(&self) -> Ipv4 {
        let mut bytes = [0u8; IPV4_LEN];
        bytes.copy_from_slice(&self.bytes[ETH_LEN..]);
        Ipv4 { bytes }
    }
}

/// Whether the packet carries a tag more than the one that travels beside it.
#[inline(always)]
pub fn is_tagged_twice(packet: &Packet<'_>) -> bool {
    const TAG: u16 = 0x8100u16.to_be();
    const SERVICE_TAG: u16 = 0x88a8u16.to_be();
    matches!(packet.protocol(), TAG | SERVICE_TAG)
}

/// Whether what is inside goes unseen by a program and is taken by the stack all the same: it takes
/// off tags of VLAN 0 one after the other.
#[inline(always)]
pub fn is_hidden(packet: &Packet<'_>) -> bool {
    is_tagged_twice(packet) && packet.has_vlan() && packet.vlan_id() == 0
}

/// Refuses what carries a VLAN tag: the fast path would lose it.
#[inline(always)]
pub fn require_untagged(packet: &Packet<'_>) -> Result<(), Reason> {
    if packet.has_vlan() {
        return Err(Reason::Vlan);
    }
    Ok(())
}

/// An IPv4 header without its options.
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// The bytes.
    pub bytes: [u8; IPV4_LEN],
}

impl Ipv4 {
    /// Version and header length.
    #[inline(always)]
    pub fn version_ihl(&self) -> u8 {
        self.bytes[0]
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub fn tos(&self) -> u8 {
        self.bytes[1]
    }

    /// Length that the header states.
    #[inline(always)]
    pub fn total_len(&self) -> u32 {
        u32::from(u16::from_be_bytes([self.bytes[2], self.bytes[3]]))
    }

    /// Whether this is a piece of a larger packet, and not its first.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & 0x1fff != 0
    }

    /// Whether this is a piece of a larger packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        u16::from_be_bytes([self.bytes[6], self.bytes[7]]) & FRAGMENT_BITS != 0
    }

    /// Bytes of the header, options included.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl() & 0xf) * 4
    }

    /// Hops left.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.bytes[8]
    }

    /// Transport protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.bytes[9]
    }

    /// Source address.
    #[inline(always)]
    pub fn source(&self) -> [u8; 4] {
        let b = &self.bytes;
        [b[12], b[13], b[14], b[15]]
    }

    /// Destination address.
    #[inline(always)]
    pub fn destination(&self) -> [u8; 4] {
        let b = &self.bytes;
        [b[16], b[17], b[18], b[19]]
    }

    /// Whether the header's checksum holds.
    #[inline(always)]
    pub fn checksum_holds(&self) -> bool {
        fold(ipv4_sum(&self.bytes)) == 0
    }

    /// Refuses what the fast path does not carry: options, an expiring TTL, a header that does not
    /// describe the `available` bytes behind it.
    #[inline(always)]
    pub fn require_plain(&self, available: u32) -> Result<(), Reason> {
        if self.version_ihl() != 0x45 {
            return Err(
                if self.version_ihl() >> 4 == 4 && self.version_ihl() & 0xf > 5 {
                    Reason::IpOptions
                } else {
                    Reason::BadHeader
                },
            );
        }
        if self.ttl() <= 1 {
            return Err(Reason::TtlExpiring);
        }
        if self.total_len() != available || !self.checksum_holds() {
            return Err(Reason::BadHeader);
        }
        Ok(())
    }

    /// The header after one routed hop, with this TOS byte.
    #[inline(always)]
    pub fn forwarded(&self, tos: u8) -> Self {
        let mut bytes = self.bytes;
        bytes[1] = tos;
        bytes[8] = bytes[8].wrapping_sub(1);
        bytes[10] = 0;
        bytes[11] = 0;
        let checksum = fold(ipv4_sum(&bytes)).to_be_bytes();
        bytes[10] = checksum[0];
        bytes[11] = checksum[1];
        Self { bytes }
    }
}

/// Length of the largest IP packet that will cross a wire: the packet itself, or one segment of an
/// aggregate. `None` for an aggregate whose header lengths we do not know.
#[inline(always)]
pub fn segment_len(packet: &Packet<'_>, ip: &Ipv4, transport: usize) -> Option<u32> {
    let gso_size = packet.gso_size();
    if gso_size == 0 {
        return Some(ip.total_len());
    }
    let header = match ip.protocol() {
        PROTO_TCP => u32::from(packet.read::<1>(transport + 12)?[0] >> 4) * 4,
        PROTO_UDP => 8,
        _ => return None,
    };
    Some(gso_size + IPV4_LEN as u32 + header)
}
