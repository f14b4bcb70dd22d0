//! A local container as the programs need it.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// The port is one end of a veth pair whose other end is in another network namespace: a packet
/// may be put there by peer redirect. Without it the port is sent to by plain redirect, and
/// aggregates stay with the kernel.
pub const ENDPOINT_PEER: u32 = 1;
/// The port has our programs. Without it the bridge's hook may take what came in by this port.
pub const ENDPOINT_HOOKED: u32 = 2;
/// A port's program entered the endpoint when it saw the container's ARP; the agent has not
/// confirmed it yet.
pub const ENDPOINT_PROVISIONAL: u32 = 4;
/// Packets from and to this port are the kernel's: the port is of a kind that cannot be delivered
/// to past the stack, or something on it (shaping, another program) would be skipped.
pub const ENDPOINT_KERNEL: u32 = 8;

/// Value of `ENDPOINTS`, keyed by the container's address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct EndpointEntry {
    /// The bridge port that leads to the container.
    pub ifindex: u32,
    /// The container's MAC.
    pub mac: [u8; 6],
    /// MAC of the bridge: the container's next hop, and the source of what we deliver.
    pub bridge_mac: [u8; 6],
    /// MTU of the bridge, in bytes of IP packet.
    pub bridge_mtu: u32,
    /// The bridge that the port belongs to.
    pub bridge: u32,
    /// `ENDPOINT_*` bits.
    pub flags: u32,
}

/// Value of `PORTS`, keyed by the port's number.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PortEntry {
    /// The bridge that the port belongs to.
    pub bridge: u32,
    /// MAC of the bridge.
    pub bridge_mac: [u8; 6],
    /// Padding, zero.
    pub _pad: [u8; 2],
    /// MTU of the bridge, in bytes of IP packet.
    pub bridge_mtu: u32,
    /// `ENDPOINT_*` bits of what is behind the port.
    pub flags: u32,
}

/// Value of `LOCALS`, keyed by the address.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct LocalEntry {
    /// The device that owns the address.
    pub ifindex: u32,
}

const _: () = assert!(size_of::<EndpointEntry>() == 28 && align_of::<EndpointEntry>() == 4);
const _: () = assert!(size_of::<LocalEntry>() == 4);
const _: () = assert!(size_of::<PortEntry>() == 20 && align_of::<PortEntry>() == 4);
