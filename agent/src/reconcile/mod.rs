//! Desired state, the plan that leads there, and the loop that applies it.

pub mod allow;
pub mod desired;
pub mod flowkeeper;
pub mod flows;
pub mod hops;
pub mod leases;
pub mod look;
pub mod loss;
pub mod narrow;
pub mod network;
pub mod pass;
pub mod plan;
pub mod promote;
pub mod pulse;
pub mod renewal;
pub mod run;
pub mod schedule;
pub mod seen;
mod takers;
pub mod underlay;
