//! A load generator: request and response, connections, packets and streams between two places, in
//! slices so short that several networks can be measured in turn and drift together.
//!
//! A server waits on a TCP port. A client asks it for a slice, both run it, and the client has the
//! sample. Nothing is started or looked up while a slice runs.

pub mod client;
mod control;
mod load;
mod place;
pub mod server;
pub mod slice;
pub mod worker;

/// Where a server waits unless it is told otherwise.
pub const PORT: u16 = 7471;
