//! The version of the layout, the names of maps and programs, and their capacities.

/// Bumped with any change of a shared type, a map or a counter's number. Part of the pin path.
pub const ABI_VERSION: u32 = 1;

/// Peers by their subnet, longest prefix first.
pub const PEERS: &str = "PEERS";
/// Every peer's VTEP address: who may send us tunnel packets at all.
pub const VTEPS: &str = "VTEPS";
/// Local containers by address.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// The host's own addresses inside its subnet (`.0`, the bridges'): never endpoints.
pub const LOCALS: &str = "LOCALS";
/// Flows that the kernel's stack carries for a container.
pub const FLOWS: &str = "FLOWS";
/// One entry of [`crate::settings::DatapathSettings`].
pub const SETTINGS: &str = "SETTINGS";
/// One entry of [`crate::flow::FlowState`].
pub const FLOW_STATE: &str = "FLOW_STATE";
/// Counters for each CPU, indexed by [`crate::stats::index`].
pub const COUNTERS: &str = "COUNTERS";

/// Every map that is pinned, in the order of the list above.
pub const MAPS: [&str; 8] = [
    PEERS, VTEPS, ENDPOINTS, LOCALS, FLOWS, SETTINGS, FLOW_STATE, COUNTERS,
];

/// Most peers that the maps hold. Peers beyond it stay on the kernel path.
pub const MAX_PEERS: u32 = 16_384;
/// Most containers of one host.
pub const MAX_ENDPOINTS: u32 = 16_384;
/// Most of the host's own addresses inside its subnet.
pub const MAX_LOCALS: u32 = 256;
/// Recorded flows, when the agent does not say otherwise (it sizes the map by conntrack's table).
pub const DEFAULT_FLOWS: u32 = 262_144;
