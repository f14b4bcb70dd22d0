//! The `weft` binary: parse, run, say how it went.

fn main() {}
