//! Desired state, the plan that leads there, and the loop that applies it.

pub mod desired;
pub mod flows;
pub mod plan;
