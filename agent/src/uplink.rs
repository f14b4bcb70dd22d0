//! Which interface carries the underlay. Pure.
