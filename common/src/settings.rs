//! What the programs must know about this host.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The guard drops tunnel packets of senders that are no peer.
pub const GUARD_PEERS: u32 = 2;
/// The guard drops whatever no legitimate peer or container can have sent.
pub const GUARD_STRICT: u32 = 4;
/// Some peers may be reached without a tunnel, and reach us so: what comes in by the wire from an
/// address of the overlay is then a matter of the programs.
pub const DIRECT_ROUTING: u32 = 8;
/// Packets may be taken. Without it the programs guard and count, and leave every packet alone.
pub const FAST_PATH: u32 = 1;

/// The one entry of `SETTINGS`: may change while the programs run.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct DatapathSettings {
    /// Network address of this host's subnet.
    pub subnet: [u8; 4],
    /// Netmask of this host's subnet.
    pub subnet_mask: [u8; 4],
    /// Network address of the whole overlay.
    pub network: [u8; 4],
    /// Netmask of the whole overlay.
    pub network_mask: [u8; 4],
    /// This host's VTEP address.
    pub vtep_addr: [u8; 4],
    /// This host's VTEP MAC.
    pub vtep_mac: [u8; 6],
    /// UDP port of the overlay, in network order.
    pub port: [u8; 2],
    /// VXLAN network identifier, 24 bits used.
    pub vni: u32,
    /// MTU of the overlay, in bytes of IP packet.
    pub mtu: u32,
    /// First source port that the kernel may choose (`ip_local_port_range`).
    pub port_min: u32,
    /// Last source port that the kernel may choose.
    pub port_max: u32,
    /// TTL of the outer packet (`ip_default_ttl`).
    pub ttl: u32,
    /// `FAST_PATH`, `DIRECT_ROUTING` and `GUARD_*` bits. Zero in a map that nobody filled: the programs then do nothing.
    pub flags: u32,
    /// Not zero once the agent has filled the entry: the guard judges nothing before.
    pub ready: u32,
}

/// Constants patched in at load time: where conntrack hangs on a packet, from the kernel's BTF.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct ConntrackOffsets {
    /// Offset of `_nfct` in `struct sk_buff`, in bytes.
    pub skb_nfct: u32,
    /// Offset of `status` in `struct nf_conn`, in bytes.
    pub status: u32,
    /// Not zero when the two above are known.
    pub known: u32,
}

const _: () = assert!(size_of::<DatapathSettings>() == 56 && align_of::<DatapathSettings>() == 4);
const _: () = assert!(size_of::<ConntrackOffsets>() == 12);
