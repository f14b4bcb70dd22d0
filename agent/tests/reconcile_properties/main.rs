//! Properties of the pure core: whatever the leases, the host and the failures, the plans lead to
//! the wanted state, and touch nothing that is not ours.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "all of this is test code, which the lints see only inside of test functions"
)]

mod convergence;
mod endpoints;
mod flows;
mod garbage;
mod ignored;
mod rounds;
mod snapshot;
mod world;
