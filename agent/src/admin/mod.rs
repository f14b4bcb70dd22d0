//! What the agent tells of itself: status, and dumps of the pinned maps.

pub mod dump;
pub mod socket;
pub mod status;
