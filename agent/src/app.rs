//! The composition root: picks implementations, runs the loop, owns the order of shutdown.
