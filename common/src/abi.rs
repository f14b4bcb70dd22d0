//! The version of the layout, the names of maps and programs, and their capacities.

/// Bumped with any change of a shared type, a map or a counter's number. Part of the pin path.
pub const ABI_VERSION: u32 = 3;

/// Peers by their subnet, longest prefix first.
pub const PEERS: &str = "PEERS";
/// Every peer's VTEP address: who may send us tunnel packets at all.
pub const VTEPS: &str = "VTEPS";
/// Local containers by address.
pub const ENDPOINTS: &str = "ENDPOINTS";
/// The host's own addresses: never endpoints, and where its VXLAN socket listens.
pub const LOCALS: &str = "LOCALS";
/// Ports of our bridges: what a provisional endpoint is made from.
pub const PORTS: &str = "PORTS";
/// Flows that the kernel's stack carries for a container.
pub const FLOWS: &str = "FLOWS";
/// Pairs of addresses between which the stack translates a flow: their fragments are its own.
pub const NATED_PAIRS: &str = "NATED_PAIRS";
/// One entry of [`crate::settings::DatapathSettings`].
pub const SETTINGS: &str = "SETTINGS";
/// One entry of [`crate::flow::FlowState`].
pub const FLOW_STATE: &str = "FLOW_STATE";
/// Counters for each CPU, indexed by [`crate::stats::index`].
pub const COUNTERS: &str = "COUNTERS";

/// Samples of what was dropped, for the log.
pub const REFUSALS: &str = "REFUSALS";

/// Every map that is pinned.
pub const MAPS: [&str; 11] = [
    PEERS,
    VTEPS,
    ENDPOINTS,
    LOCALS,
    PORTS,
    FLOWS,
    NATED_PAIRS,
    SETTINGS,
    FLOW_STATE,
    COUNTERS,
    REFUSALS,
];

/// The version in the pin path: a build with the test's other layout stays out of the real one's.
pub const LAYOUT: u32 = ABI_VERSION
    + if cfg!(feature = "other-layout") {
        1000
    } else {
        0
    };

/// Most peers that the maps hold. Peers beyond it stay on the kernel path.
pub const MAX_PEERS: u32 = if cfg!(feature = "other-layout") {
    64
} else {
    16_384
};
/// Most containers of one host.
pub const MAX_ENDPOINTS: u32 = 16_384;
/// Most of the host's own addresses.
pub const MAX_LOCALS: u32 = 4096;
/// Most ports of our bridges.
pub const MAX_PORTS: u32 = 16_384;
/// Most pairs of addresses with a translated flow.
pub const MAX_PAIRS: u32 = 65_536;
/// Bytes of the ring of samples: a power of two, and whole pages.
pub const REFUSALS_LEN: u32 = 16_384;
/// Recorded flows, when the agent does not say otherwise (it sizes the map by conntrack's table).
pub const DEFAULT_FLOWS: u32 = 262_144;
