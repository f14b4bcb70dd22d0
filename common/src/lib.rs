//! The ABI between the agent and the eBPF programs: map names, keys, values, counters and the
//! arithmetic of the headers that both halves (and the tests) use.
//!
//! Rule: every type here is `#[repr(C)]`, has no hidden padding and accepts every bit pattern.
//! Byte arrays are in network order, integers in host order. Any change of a type, a map name or
//! a counter's number bumps [`abi::ABI_VERSION`].
#![no_std]

pub mod abi;
pub mod endpoint;
pub mod flow;
pub mod peer;
#[cfg(feature = "user")]
mod pod;
pub mod refusal;
pub mod settings;
pub mod stats;
pub mod wire;
