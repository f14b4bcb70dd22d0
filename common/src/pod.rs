//! The promise to aya that the shared types are plain bytes.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use crate::{endpoint, flow, peer, refusal, settings, stats};

// SAFETY (all): zerocopy's derives on each type prove that it has no padding and that every bit
// pattern is a value, which is what `Pod` asks.
macro_rules! pod {
    ($($t:ty),+ $(,)?) => {$(
        // SAFETY: see above.
        unsafe impl aya::Pod for $t {}
    )+};
}

pod!(
    endpoint::EndpointEntry,
    endpoint::LocalEntry,
    endpoint::PortEntry,
    flow::FlowEntry,
    flow::FlowKey,
    flow::FlowState,
    flow::PairEntry,
    flow::PairKey,
    peer::PeerEntry,
    peer::VtepEntry,
    refusal::Refusal,
    settings::ConntrackOffsets,
    settings::DatapathSettings,
    stats::Count,
);
