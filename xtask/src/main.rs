//! `cargo xtask`: set-up, run, demo, test, lint, tidy, ci.

fn main() {}
