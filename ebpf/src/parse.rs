//! From bytes to the few facts that the programs decide by.

use weft_common::{
    stats::Reason,
    wire::{ETH_LEN, FRAGMENT_BITS, IPV4_LEN, PROTO_TCP, PROTO_UDP, ipv4_checksum},
};
use zerocopy::FromBytes;

use crate::packet::Packet;

/// Ethernet and IPv4 header together.
pub const HEADERS: usize = ETH_LEN + IPV4_LEN;
/// IPv4 as the kernel writes it into the context.
const IPV4_PROTOCOL: u16 = 0x0800u16.to_be();

/// A MAC as three words of network order.
pub type Mac = [u16; 3];

/// The words of a MAC.
#[inline(always)]
pub fn mac(bytes: &[u8; 6]) -> Mac {
    let [a, b, c, d, e, f] = *bytes;
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

/// An Ethernet frame that carries IPv4: its headers, as words of network order. A byte at a time
/// would cost an instruction each.
#[derive(FromBytes)]
#[repr(C)]
pub struct Frame {
    _gap: u16,
    /// Destination MAC.
    pub destination_mac: Mac,
    /// Source MAC.
    pub source_mac: Mac,
    _ethertype: u16,
    /// The IPv4 header.
    pub ip: Ipv4,
}

impl Frame {
    /// Reads the headers at the start of the packet. A tag is not among them: it travels beside
    /// the packet, and the stack may take what carries one ([`require_untagged`]).
    #[inline(always)]
    pub fn read(packet: &Packet<'_>) -> Result<Self, Reason> {
        if packet.protocol() != IPV4_PROTOCOL {
            return Err(Reason::NotIpv4);
        }
        packet.read_behind::<Self, 2>(0).ok_or(Reason::BadHeader)
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

/// An IPv4 header without its options, as words of network order.
#[derive(Clone, Copy, FromBytes)]
#[repr(C)]
pub struct Ipv4 {
    words: [u32; IPV4_LEN / 4],
}

impl Ipv4 {
    /// Version and header length.
    #[inline(always)]
    pub fn version_ihl(&self) -> u8 {
        self.words[0].to_ne_bytes()[0]
    }

    /// DSCP and ECN.
    #[inline(always)]
    pub fn tos(&self) -> u8 {
        self.words[0].to_ne_bytes()[1]
    }

    /// Length that the header states.
    #[inline(always)]
    pub fn total_len(&self) -> u32 {
        u32::from_be(self.words[0]) & 0xffff
    }

    /// Whether this is a piece of a larger packet, and not its first.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        u32::from_be(self.words[1]) & 0x1fff != 0
    }

    /// Whether this is a piece of a larger packet.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        u32::from_be(self.words[1]) & u32::from(FRAGMENT_BITS) != 0
    }

    /// Bytes of the header, options included.
    #[inline(always)]
    pub fn header_len(&self) -> usize {
        usize::from(self.version_ihl() & 0xf) * 4
    }

    /// Hops left.
    #[inline(always)]
    pub fn ttl(&self) -> u8 {
        self.words[2].to_ne_bytes()[0]
    }

    /// Transport protocol.
    #[inline(always)]
    pub fn protocol(&self) -> u8 {
        self.words[2].to_ne_bytes()[1]
    }

    /// Source address.
    #[inline(always)]
    pub fn source(&self) -> [u8; 4] {
        self.words[3].to_ne_bytes()
    }

    /// Destination address.
    #[inline(always)]
    pub fn destination(&self) -> [u8; 4] {
        self.words[4].to_ne_bytes()
    }

    /// Whether the header's checksum holds.
    #[inline(always)]
    pub fn checksum_holds(&self) -> bool {
        ipv4_checksum(&self.words) == 0
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

    /// The header after one routed hop, with this TOS byte, as 16-bit words. What comes behind the
    /// sixth, the addresses, is as it was.
    #[inline(always)]
    pub fn forwarded(&self, tos: u8) -> [u16; IPV4_LEN / 2] {
        let mut words = self.words;
        let [version_ihl, _, high, low] = words[0].to_ne_bytes();
        words[0] = u32::from_ne_bytes([version_ihl, tos, high, low]);
        let [ttl, protocol, _, _] = words[2].to_ne_bytes();
        let counted = [ttl.wrapping_sub(1), protocol];
        words[2] = u32::from_ne_bytes([counted[0], counted[1], 0, 0]);
        let [a, b] = ipv4_checksum(&words).to_ne_bytes();
        words[2] = u32::from_ne_bytes([counted[0], counted[1], a, b]);
        zerocopy::transmute!(words)
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
        PROTO_TCP => u32::from(packet.read::<u8>(transport + 12)? >> 4) * 4,
        PROTO_UDP => 8,
        _ => return None,
    };
    Some(gso_size + IPV4_LEN as u32 + header)
}
