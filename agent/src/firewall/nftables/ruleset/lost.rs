//! The table that drops what bears an address of a subnet that was ours.

use super::{Chain, Table};
use crate::firewall::{
    Lost,
    lost::{COMMENT, Match},
    nftables::words::{
        Is::In,
        Rule,
        Word::{Count, Destination, Drop, Input, Output, Return, Source},
    },
};

const MANGLE: (i64, &str) = (-150, "mangle");

pub(in crate::firewall::nftables) fn lost_name(vni: u32) -> String {
    format!("weft-lost-{vni}")
}

impl Table {
    /// A table of one network alone, so that it can go as a whole.
    pub(in crate::firewall::nftables) fn of_lost(lost: &Lost) -> Self {
        let rules: Vec<Rule> = lost.matches().into_iter().map(rule).collect();
        let chain = |name: &'static str| Chain {
            name,
            comment: Some(COMMENT),
            kind: "filter",
            hook: name,
            priority: MANGLE,
            rules: rules.clone(),
        };
        Self {
            name: lost_name(lost.vni),
            comment: None,
            chains: ["forward", "input", "output"].map(chain).into(),
        }
    }
}

fn rule(seen: Match) -> Rule {
    let verdict = if seen.drops {
        vec![Count, Drop]
    } else {
        vec![Return]
    };
    let conditions = [
        seen.source.map(|net| Source(In, net)),
        seen.destination.map(|net| Destination(In, net)),
        seen.input.map(Input),
        seen.output.map(Output),
    ];
    Rule(conditions.into_iter().flatten().chain(verdict).collect())
}
