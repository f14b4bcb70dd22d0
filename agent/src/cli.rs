//! What can be typed: flags, environment and verbs. Nothing here does anything.
