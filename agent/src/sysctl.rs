//! The kernel's switches that the agent reads or turns.
