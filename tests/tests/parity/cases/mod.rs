//! The table, by what it is about.

mod addresses;
mod aggregates;
mod ecn;
mod errors;
mod fragments;
mod hops;
mod inner;
mod inward;
mod narrow;
mod options;
mod sizes;
mod small;
mod tags;
mod transports;

use std::net::Ipv4Addr;

use crate::{
    case::{Case, REFUSED, ROUND, all as all_of, echo, out},
    place::{flow, inside, to},
};

pub use narrow::{TOLD, told};
pub use small::{too_wide, wide};

/// While the far bridge is small.
pub fn small() -> Vec<Case> {
    small::cases()
}

/// One that takes the fast path both ways.
pub fn usual() -> Case {
    out("a ping", &echo(flow()), ROUND)
}

/// Where a rule or a route of the first host lets nobody go.
pub const BARRED: Ipv4Addr = inside(1, 66);

pub fn unreachable(by: &str) -> Case {
    let counts = all_of(&["A out peer_kernel_only", REFUSED]);
    out(
        &format!("a ping against a {by}"),
        &echo(to(BARRED)),
        &counts,
    )
}

/// Once the path is known to be narrow.
pub fn narrow() -> Vec<Case> {
    narrow::cases()
}

pub fn all() -> Vec<Case> {
    [
        sizes::cases(),
        hops::cases(),
        options::cases(),
        ecn::cases(),
        fragments::cases(),
        addresses::cases(),
        errors::cases(),
        transports::cases(),
        tags::cases(),
        inward::cases(),
        inner::cases(),
        aggregates::cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}
