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
mod tags;
mod transports;

use crate::{
    case::{Case, ROUND, echo, out},
    place::flow,
};

pub use narrow::{TOLD, told};

/// One that takes the fast path both ways.
pub fn usual() -> Case {
    out("a ping", &echo(flow()), ROUND)
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
