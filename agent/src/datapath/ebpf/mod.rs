//! The real data path: aya programs, pinned maps and links.
