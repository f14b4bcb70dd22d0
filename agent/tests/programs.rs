//! The programs on made-up packets (`BPF_PROG_TEST_RUN`): frames and maps in; frames, answers and
//! counters out. Needs root, and touches no network.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this file is tests, which clippy sees only of functions marked so"
)]

#[path = "netns/mod.rs"]
mod netns;

#[path = "programs/cases/mod.rs"]
mod cases;
#[path = "programs/cost.rs"]
mod cost;
#[path = "programs/frames.rs"]
mod frames;
#[path = "programs/lengths.rs"]
mod lengths;
#[path = "programs/packets.rs"]
mod packets;
#[path = "programs/random.rs"]
mod random;
#[path = "programs/routed.rs"]
mod routed;
#[path = "programs/stages.rs"]
mod stages;
#[path = "programs/tagged.rs"]
mod tagged;
#[path = "programs/way_in.rs"]
mod way_in;
#[path = "programs/way_out.rs"]
mod way_out;
#[path = "programs/world.rs"]
mod world;
