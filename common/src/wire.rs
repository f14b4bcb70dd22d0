//! The overlay on the wire: sizes, constants and the arithmetic of the outer headers.
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are cut to the 16 bits of their field"
)]

use zerocopy::{Immutable, IntoBytes};

/// Ethernet header.
pub const ETH_LEN: usize = 14;
/// IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// UDP header.
pub const UDP_LEN: usize = 8;
/// VXLAN header (RFC 7348 section 5).
pub const VXLAN_LEN: usize = 8;
/// What the overlay adds to a packet on an IPv4 underlay: outer IPv4, UDP, VXLAN, inner Ethernet.
pub const OVERHEAD: usize = IPV4_LEN + UDP_LEN + VXLAN_LEN + ETH_LEN;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// IP protocol numbers.
pub const PROTO_ICMP: u8 = 1;
/// TCP.
pub const PROTO_TCP: u8 = 6;
/// UDP.
pub const PROTO_UDP: u8 = 17;
/// DCCP: ports where UDP has them.
pub const PROTO_DCCP: u8 = 33;
/// SCTP: ports where UDP has them.
pub const PROTO_SCTP: u8 = 132;
/// UDP-Lite: ports where UDP has them.
pub const PROTO_UDPLITE: u8 = 136;
/// The VXLAN flag that says the VNI is valid.
pub const VXLAN_FLAG_VNI: u8 = 0x08;
/// The kernel's default UDP port for VXLAN, and so flannel's.
pub const DEFAULT_PORT: u16 = 8472;
/// "More fragments" and the fragment offset.
pub const FRAGMENT_BITS: u16 = 0x3fff;

/// What the outer headers of one packet depend on. Addresses and MACs are in network order.
#[derive(Clone, Copy, Debug)]
pub struct Outer {
    /// Our VTEP address.
    pub source: [u8; 4],
    /// The peer's VTEP address.
    pub destination: [u8; 4],
    /// Source port, host order.
    pub source_port: u16,
    /// Destination port, network order.
    pub port: [u8; 2],
    /// Network identifier.
    pub vni: u32,
    /// Our VTEP MAC.
    pub source_mac: [u8; 6],
    /// The peer's VTEP MAC.
    pub destination_mac: [u8; 6],
    /// Length of the inner IP packet, in bytes. Only its low 16 bits reach the headers.
    pub inner_len: u32,
    /// TOS byte of the inner packet.
    pub inner_tos: u8,
    /// TTL of the outer packet.
    pub ttl: u8,
    /// Identification of the outer packet.
    pub id: u16,
}

/// The outer ECN bits for an inner TOS byte, DSCP zero: the kernel's `INET_ECN_encapsulate` over a
/// TOS of 0 (CE inside becomes ECT(0) outside).
#[must_use]
#[inline(always)]
pub const fn outer_tos(inner_tos: u8) -> u8 {
    match inner_tos & 3 {
        3 => 2,
        ecn => ecn,
    }
}

/// What decapsulation makes of the inner TOS byte (the kernel's `INET_ECN_decapsulate`).
/// `None`: outer CE over an inner packet that is not ECN-capable, which the kernel drops.
#[must_use]
#[inline(always)]
pub const fn merged_tos(outer_tos: u8, inner_tos: u8) -> Option<u8> {
    match (outer_tos & 3, inner_tos & 3) {
        (3, 0) => None,
        (3, _) => Some(inner_tos | 3),
        (1, 2) => Some((inner_tos & !3) | 1),
        _ => Some(inner_tos),
    }
}

/// The kernel's source port for a flow hash over an inclusive range, `udp_flow_src_port`.
#[must_use]
#[inline(always)]
pub const fn source_port(hash: u32, min: u32, max: u32) -> u16 {
    let mixed = hash ^ (hash << 16);
    let span = max.wrapping_sub(min);
    let port = (((mixed as u64) * (span as u64)) >> 32) as u32 + min;
    (port & 0xffff) as u16
}

/// Folds a sum of 16-bit words to the one's complement checksum.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) as u16)
}

/// Checksum of an option-less IPv4 header, zero over one whose own holds. Header and checksum are in
/// network order: the sum does not mind (RFC 1071, section 2).
#[must_use]
#[inline(always)]
pub fn ipv4_checksum(header: &[u32; IPV4_LEN / 4]) -> u16 {
    let mut sum = 0u64;
    for word in header {
        sum += *word as u64;
    }
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    fold(((sum & 0xffff) + (sum >> 16)) as u32)
}

/// What is written in one go behind the outer Ethernet header: the outer headers and the inner
/// Ethernet header, then the inner IPv4 header as far as the TTL and the checksum, and two bytes of the
/// source address that end on a word. All in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, Immutable)]
#[repr(C)]
pub struct Encapsulation {
    ip: [u32; IPV4_LEN / 4],
    ports: [u16; 2],
    udp_len_and_checksum: [u16; 2],
    vxlan: [u32; 2],
    macs: [[u16; 3]; 2],
    ethertype: u16,
    inner: [u16; INNER_WORDS],
}

/// 16-bit words of the inner IPv4 header in an [`Encapsulation`].
pub const INNER_WORDS: usize = 7;
const _: () = assert!(size_of::<Encapsulation>() == OVERHEAD + INNER_WORDS * 2);

impl Encapsulation {
    /// The outer headers `o` in front of an inner IPv4 header that begins with `inner`.
    #[must_use]
    #[inline(always)]
    pub fn new(o: &Outer, inner: [u16; INNER_WORDS]) -> Self {
        let [ip_high, ip_low] = ((o.inner_len + OVERHEAD as u32) as u16).to_be_bytes();
        let udp_len = (o.inner_len + (OVERHEAD - IPV4_LEN) as u32) as u16;
        let [id_high, id_low] = o.id.to_be_bytes();
        let mut ip = [
            [0x45, outer_tos(o.inner_tos), ip_high, ip_low],
            [id_high, id_low, 0, 0],
            [o.ttl, PROTO_UDP, 0, 0],
            o.source,
            o.destination,
        ]
        .map(u32::from_ne_bytes);
        let [a, b] = ipv4_checksum(&ip).to_ne_bytes();
        ip[2] = u32::from_ne_bytes([o.ttl, PROTO_UDP, a, b]);
        Self {
            ip,
            ports: [o.source_port.to_be(), u16::from_ne_bytes(o.port)],
            // The UDP checksum stays zero: allowed on IPv4, and accepted by every receiver.
            udp_len_and_checksum: [udp_len.to_be(), 0],
            vxlan: [
                u32::from_ne_bytes([VXLAN_FLAG_VNI, 0, 0, 0]),
                (o.vni << 8).to_be(),
            ],
            macs: [o.destination_mac, o.source_mac]
                .map(|[a, b, c, d, e, f]| [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)),
            ethertype: ETHERTYPE_IPV4.to_be(),
            inner,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ecn_out_follows_the_kernel() {
        for (inner, outer) in [(0, 0), (1, 1), (2, 2), (3, 2)] {
            assert_eq!(outer_tos(inner), outer);
            assert_eq!(outer_tos(0xb8 | inner), outer, "DSCP must not leak");
        }
    }

    #[test]
    fn ecn_in_follows_the_kernel() {
        // Rows: outer; columns: inner 0..3 (include/net/inet_ecn.h, __INET_ECN_decapsulate).
        let table: [[Option<u8>; 4]; 4] = [
            [Some(0), Some(1), Some(2), Some(3)],
            [Some(0), Some(1), Some(1), Some(3)],
            [Some(0), Some(1), Some(2), Some(3)],
            [None, Some(3), Some(3), Some(3)],
        ];
        for (outer, row) in (0u8..).zip(table) {
            for (inner, want) in (0u8..).zip(row) {
                assert_eq!(
                    merged_tos(outer, inner),
                    want,
                    "outer {outer} inner {inner}"
                );
                assert_eq!(merged_tos(outer, 0x28 | inner), want.map(|t| t | 0x28));
            }
        }
    }

    #[test]
    fn source_ports_stay_in_range() {
        for hash in [0, 1, 0xffff, 0x1234_5678, u32::MAX] {
            let port = u32::from(source_port(hash, 32768, 60999));
            assert!((32768..=60999).contains(&port), "{hash:#x} gave {port}");
        }
    }

    /// By the book: 16 bits at a time, in host order.
    fn checksum(header: &[u8; IPV4_LEN]) -> u16 {
        let (words, _) = header.as_chunks::<2>();
        fold(
            words
                .iter()
                .map(|word| u32::from(u16::from_be_bytes(*word)))
                .sum(),
        )
    }

    #[test]
    fn checksums_of_long_words_are_those_of_short_ones() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        for _ in 0..10_000 {
            let header: [u8; IPV4_LEN] = core::array::from_fn(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                // Ones, where carries are, are more frequent than chance has them.
                if seed.is_multiple_of(3) {
                    0xff
                } else {
                    seed as u8
                }
            });
            let words = zerocopy::transmute!(header);
            assert_eq!(
                u16::from_be(ipv4_checksum(&words)),
                checksum(&header),
                "{header:?}"
            );
        }
    }

    #[test]
    fn outer_headers_are_what_flannel_sends() {
        let inner = core::array::from_fn(|at| at as u16);
        let outer = Outer {
            source: [192, 0, 2, 1],
            destination: [192, 0, 2, 2],
            source_port: 40000,
            port: 8472u16.to_be_bytes(),
            vni: 1,
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            inner_len: 84,
            inner_tos: 0xb8,
            ttl: 64,
            id: 0x0102,
        };
        let encapsulation = Encapsulation::new(&outer, inner);
        let b = encapsulation.as_bytes();
        let ip: [u8; 20] = b[..20].try_into().unwrap();
        assert_eq!(checksum(&ip), 0);
        assert_eq!(&b[..4], &[0x45, 0, 0, 134]);
        assert_eq!(&b[6..10], &[0, 0, 64, 17]);
        assert_eq!(&b[20..28], &[0x9c, 0x40, 0x21, 0x18, 0, 114, 0, 0]);
        assert_eq!(&b[28..36], &[8, 0, 0, 0, 0, 0, 1, 0]);
        assert_eq!(&b[36..50], &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0]);
        assert_eq!(&b[50..], inner.as_bytes());
    }
}
