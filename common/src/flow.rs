//! The record of the flows that the kernel's stack carries for a container.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Conntrack was seen on the flow, without NAT.
pub const FLOW_SEEN: u32 = 1;
/// Conntrack translates the flow: it can never be fast.
pub const FLOW_NATED: u32 = 2;

/// Key of `FLOWS`: the flow as the container-side packet shows it.
#[repr(C, align(4))]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct FlowKey {
    /// The container's address.
    pub local: [u8; 4],
    /// The other side's address.
    pub remote: [u8; 4],
    /// The container's port; an ICMP echo's identifier; zero where the protocol has none.
    pub local_port: [u8; 2],
    /// The other side's port; an ICMP echo's identifier; zero where the protocol has none.
    pub remote_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Padding, zero.
    pub _pad: [u8; 3],
}

/// Value of `FLOWS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowEntry {
    /// [`FLOW_SEEN`] or [`FLOW_NATED`].
    pub why: u32,
}

/// Key of `NATED_PAIRS`: a later fragment has no ports, so fragments go by their addresses.
#[repr(C, align(4))]
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    FromBytes,
    IntoBytes,
    Immutable,
    KnownLayout,
)]
pub struct PairKey {
    /// The container's address.
    pub local: [u8; 4],
    /// The other side's address.
    pub remote: [u8; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// Padding, zero.
    pub _pad: [u8; 3],
}

impl FlowKey {
    /// The pair that the flow is between.
    #[must_use]
    #[inline(always)]
    pub fn pair(&self) -> PairKey {
        let [local, remote, _, protocol]: [u32; 4] = zerocopy::transmute!(*self);
        zerocopy::transmute!([local, remote, protocol])
    }
}

/// Value of `NATED_PAIRS`: that the entry is there says it all.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct PairEntry {
    /// Always 1.
    pub nated: u32,
    #[cfg(feature = "other-layout")]
    other: u32,
}

impl PairEntry {
    /// The only value.
    pub const NATED: Self = Self {
        nated: 1,
        #[cfg(feature = "other-layout")]
        other: 0,
    };
}

/// The one entry of `FLOW_STATE`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
pub struct FlowState {
    /// Not zero while `FLOWS` had no room for a flow: everything goes to the stack until the agent
    /// has made room and cleared it.
    pub full: u32,
}

const _: () = assert!(size_of::<FlowKey>() == 16 && align_of::<FlowKey>() == 4);
const _: () = assert!(size_of::<FlowEntry>() == 4);
const _: () = assert!(size_of::<PairKey>() == 12 && align_of::<PairKey>() == 4);
#[cfg(not(feature = "other-layout"))]
const _: () = assert!(size_of::<PairEntry>() == 4);
const _: () = assert!(size_of::<FlowState>() == 4);
