//! What the kernel says by netlink, and what comes by a raw socket, as bytes.

use weft::{
    netlink::{clsact, conntrack, fuzzing, kernel, xfrm},
    paths,
};

/// Messages and attributes in general.
pub(crate) fn raw(input: &[u8]) {
    fuzzing::take_apart(input);
}

/// The beginnings of events.
pub(crate) fn events(input: &[u8]) {
    kernel::read_any(input);
}

/// Packets that a raw socket hears.
pub(crate) fn echoes(input: &[u8]) {
    paths::read_any(input);
}

/// Rows about filters.
pub(crate) fn filters(input: &[u8]) {
    clsact::read_any(input);
}

/// Conntrack's messages.
pub(crate) fn conntrack(input: &[u8]) {
    conntrack::read_any(input);
}

/// Policies of IPsec.
pub(crate) fn xfrm(input: &[u8]) {
    xfrm::read_any(input);
}
