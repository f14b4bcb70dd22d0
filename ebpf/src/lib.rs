//! The logic of the programs: everything but the entry points.
//!
//! The packet's way: [`encap`] takes what a container sends to a peer's subnet, [`decap`] what the
//! uplink brings for a container of ours, [`overlay`] what the kernel decapsulated. [`guard`]
//! refuses what no legitimate peer can have sent, and [`record`] notes the flows that the kernel's
//! stack carries, which the three others leave alone. A function here answers with a
//! [`verdict::Verdict`] or with the reason why the packet goes on untouched.
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "lengths are cut to the bits of their field"
)]

pub mod arp;
pub mod decap;
pub mod deliver;
pub mod direct;
pub mod encap;
pub mod flow;
pub mod guard;
pub mod maps;
pub mod overlay;
pub mod packet;
pub mod parse;
pub mod record;
pub mod sample;
pub mod stats;
pub mod verdict;
