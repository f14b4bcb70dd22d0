//! What the agent tells of itself: status, and dumps of the pinned maps.
