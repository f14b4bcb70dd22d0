//! Desired state, the plan that leads there, and the loop that applies it.
