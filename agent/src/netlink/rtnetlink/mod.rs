//! The kernel's side of the netlink seam.
