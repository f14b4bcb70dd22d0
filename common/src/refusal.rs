//! Samples of dropped packets, for the log.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// At most one sample in this time, for each CPU. Counters are always exact.
pub const EVERY_NS: u64 = 250_000_000;

/// One dropped packet, in the ring `REFUSALS`.
#[repr(C)]
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout,
)]
pub struct Refusal {
    /// Number of the hook (`stats::Hook`).
    pub hook: u32,
    /// Number of the reason (`stats::Reason`).
    pub reason: u32,
    /// Device that the packet was at.
    pub ifindex: u32,
    /// Source MAC of the frame.
    pub mac: [u8; 6],
    /// Padding, zero.
    pub _pad: [u8; 2],
    /// Addresses of the frame's own IPv4 header.
    pub source: [u8; 4],
    /// See `source`.
    pub destination: [u8; 4],
    /// Addresses of the packet inside the tunnel; zero where there is none.
    pub inner_source: [u8; 4],
    /// See `inner_source`.
    pub inner_destination: [u8; 4],
}

const _: () = assert!(size_of::<Refusal>() == 36 && align_of::<Refusal>() == 4);
