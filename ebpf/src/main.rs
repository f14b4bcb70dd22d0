//! Entry points of the programs.
fn main() {}
