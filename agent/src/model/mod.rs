//! The domain: what a network, a lease and a peer are. No I/O, no clock, no async.

pub mod json;
pub mod lease;
pub mod net;
pub mod network;
pub mod peer;
