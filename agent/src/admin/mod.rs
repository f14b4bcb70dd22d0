//! What the agent tells of itself: status, health, and dumps of the pinned maps.

pub mod dump;
pub mod health;
pub mod socket;
pub mod status;
