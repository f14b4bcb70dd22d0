//! Which counters of our pair must move, as text: `A out taken; B in taken*2`.
//!
//! The host, the hook by its short name (below), the reason, and how often. Nothing else may move
//! but what the hosts say to each other and to the store at any time.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, bail};
use weft_tests::dump::Counters;

/// Host, hook and reason, with the number of packets.
pub type Counts = BTreeMap<(char, String, String), u64>;

const HOOKS: [(&str, &str); 6] = [
    ("out", "from_container"),
    ("bridge", "from_bridge"),
    ("in", "from_uplink"),
    ("over", "from_overlay"),
    ("to", "to_container"),
    ("by", "to_overlay"),
];

/// Neighbour discovery, and the store's connection.
const NOISE: [(&str, &str); 9] = [
    ("out", "not_ipv4"),
    ("out", "provisional_endpoint"),
    ("bridge", "not_ipv4"),
    ("in", "not_ipv4"),
    ("in", "not_overlay"),
    ("over", "not_ipv4"),
    ("to", "not_ipv4"),
    ("by", "not_ipv4"),
    ("out", "other"),
];

pub fn parse(text: &str) -> Result<Counts> {
    let mut counts = Counts::new();
    for part in text
        .split(';')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (place, count) = part.split_once('*').unwrap_or((part, "1"));
        let words: Vec<&str> = place.split_whitespace().collect();
        let [host @ ("A" | "B"), hook, reason] = words.as_slice() else {
            bail!("{part:?} is not HOST HOOK REASON")
        };
        if !HOOKS.iter().any(|(short, _)| short == hook) {
            bail!("{part:?} names no hook");
        }
        let host = host.chars().next().context("a host")?;
        let key = (host, (*hook).to_owned(), (*reason).to_owned());
        *counts.entry(key).or_default() += count.parse::<u64>().context("a number")?;
    }
    Ok(counts)
}

/// Whether all of it is taken by programs.
pub fn is_fast(counts: &Counts) -> bool {
    let fast = ["taken", "taken_aggregate", "aggregate"];
    let all = counts
        .keys()
        .all(|(_, _, reason)| fast.contains(&reason.as_str()));
    all && !counts.is_empty()
}

/// What of it is taken where the bridges' programs do what the ports' would: the rest goes other ways.
pub fn at_bridges(counts: &Counts) -> Counts {
    let mut taken = Counts::new();
    for ((host, hook, reason), count) in counts {
        if reason.starts_with("taken") {
            let hook = if hook == "out" { "bridge" } else { hook };
            *taken
                .entry((*host, hook.to_owned(), reason.clone()))
                .or_default() += count;
        }
    }
    taken
}

/// What of it there is without tunnels: aggregates are delivered where they come in. What the
/// uplink's recorder sees is as much as hosts say to each other.
pub fn without_tunnels(counts: &Counts) -> Counts {
    let mut found = Counts::new();
    for ((host, hook, reason), count) in counts {
        let hook = match (hook.as_str(), reason.as_str()) {
            ("by", _) | ("in", "aggregate") => continue,
            ("over", "taken_aggregate") => "in",
            (hook, _) => hook,
        };
        let key = (*host, hook.to_owned(), reason.clone());
        *found.entry(key).or_default() += count;
    }
    found
}

/// What moved, without the noise.
pub fn moved(before: &[Counters; 2], after: &[Counters; 2]) -> Counts {
    let mut counts = Counts::new();
    for (host, (before, after)) in ['A', 'B'].into_iter().zip(before.iter().zip(after)) {
        for counter in &after.counters {
            let same = |old: &&weft_tests::dump::Counter| {
                (&old.hook, &old.reason) == (&counter.hook, &counter.reason)
            };
            let old = before
                .counters
                .iter()
                .find(same)
                .map_or(0, |old| old.packets);
            let hook = HOOKS.iter().find(|(_, name)| *name == counter.hook);
            let hook = hook.map_or(counter.hook.as_str(), |(short, _)| short);
            let more = counter.packets - old;
            if more > 0 && !NOISE.contains(&(hook, counter.reason.as_str())) {
                counts.insert((host, hook.to_owned(), counter.reason.clone()), more);
            }
        }
    }
    counts
}

/// As [`parse`] reads it.
pub fn text(counts: &Counts) -> String {
    let part = |((host, hook, reason), count): (&(char, String, String), &u64)| match count {
        1 => format!("{host} {hook} {reason}"),
        count => format!("{host} {hook} {reason}*{count}"),
    };
    counts.iter().map(part).collect::<Vec<_>>().join("; ")
}

/// `counts` without those of `less`; what is missing there shows as an error.
pub fn without(mut counts: Counts, less: &Counts) -> Result<Counts> {
    for (key, count) in less {
        let left = counts.remove(key).unwrap_or(0).checked_sub(*count);
        let left = left.with_context(|| format!("{key:?} moved less than {count}"))?;
        if left > 0 {
            counts.insert(key.clone(), left);
        }
    }
    Ok(counts)
}
