//! What the kernel answers by netlink, as bytes.

use weft::netlink::{clsact, conntrack, fuzzing, xfrm};

/// Messages and attributes in general.
pub(crate) fn raw(input: &[u8]) {
    fuzzing::take_apart(input);
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
