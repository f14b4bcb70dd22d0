//! A peer as the programs need it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The outer packet to this peer may be built by the programs. Without it and [`PEER_DIRECT`] the peer
/// is kernel-only: known to the guard, never a fast destination.
///
/// It holds for both directions: conntrack must see both or neither, and what the host does to
/// tunnel packets from this peer would be skipped as well.
pub const PEER_FAST: u32 = 1;
/// This subnet was ours: whatever bears one of its addresses on this host is dropped. The entry may
/// be that of the peer who has the subnet now.
pub const PEER_LOST: u32 = 2;
/// This peer's packets are routed by the programs as they are, without a tunnel, in both directions:
/// `DirectRouting`. It stands alone, never beside [`PEER_FAST`]: programs that do not know it leave
/// such a peer to the kernel.
pub const PEER_DIRECT: u32 = 4;

/// Value of `PEERS`, keyed by the peer's subnet, and of the guard's question "who may say this".
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PeerEntry {
    /// Network address of the peer's subnet.
    pub subnet: [u8; 4],
    /// Length of the peer's subnet, in bits.
    pub subnet_len: u32,
    /// The peer's VTEP address: outer destination, and the only outer source it may use.
    pub vtep_addr: [u8; 4],
    /// The peer's VTEP MAC: inner destination on the wire.
    pub vtep_mac: [u8; 6],
    /// Padding, zero.
    pub _pad: [u8; 2],
    /// Next hop towards the VTEP address; the VTEP address itself on the same link.
    pub gateway: [u8; 4],
    /// Device that the route to the VTEP address leaves by.
    pub ifindex: u32,
    /// Largest packet of a container that fits the path to this peer, in bytes.
    pub mtu: u32,
    /// `PEER_*` bits.
    pub flags: u32,
}

/// Value of `VTEPS`, keyed by the VTEP address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct VtepEntry {
    /// How many leases name this address.
    pub leases: u32,
    /// Padding, zero.
    pub _pad: u32,
}

// The value's alignment must divide the LPM key's data size (4), or lookups are misaligned.
const _: () = assert!(size_of::<PeerEntry>() == 36 && align_of::<PeerEntry>() == 4);
const _: () = assert!(size_of::<VtepEntry>() == 8);
