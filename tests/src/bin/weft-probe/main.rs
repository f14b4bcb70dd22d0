//! `weft-probe`: the measuring programs that run inside a container's namespace.

fn main() {}
