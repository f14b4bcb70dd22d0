//! The promise to aya that the shared types are plain bytes.
#![expect(unsafe_code, reason = "aya::Pod is an unsafe trait")]

use crate::{endpoint, flow, peer, settings, stats};

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
    flow::FlowEntry,
    flow::FlowKey,
    flow::FlowState,
    peer::PeerEntry,
    peer::VtepEntry,
    settings::ConntrackOffsets,
    settings::DatapathSettings,
    stats::Count,
);
