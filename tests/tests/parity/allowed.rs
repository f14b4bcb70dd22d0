//! Differences that are meant, each with its reason. One that no case meets has had its day.

use std::collections::BTreeSet;

use crate::compare::{Point, What};

struct Entry {
    what: What,
    point: Option<Point>,
    /// Whether hosts must follow connections for it to be met.
    followed: bool,
    /// Of these cases only; of every one without.
    cases: &'static [&'static str],
    why: &'static str,
}

const LIST: &[Entry] = &[
    Entry {
        what: What::OuterId,
        point: None,
        followed: false,
        cases: &[],
        why: "DESIGN.md leaves the outer id free: it varies, and means nothing unless a router \
              takes the packet apart",
    },
    Entry {
        what: What::OuterUdpSum,
        point: None,
        followed: false,
        cases: &[],
        why: "DESIGN.md leaves the outer UDP checksum free: none is allowed on IPv4",
    },
    Entry {
        what: What::OwnId,
        point: None,
        followed: false,
        cases: &[],
        why: "each network namespace numbers the packets that it makes itself by a secret of its own",
    },
    Entry {
        what: What::Invalid,
        point: None,
        followed: true,
        cases: &[],
        why: "what belongs to no connection is dropped where the stack carries it, and what the fast \
              path takes meets no such drop (README, the packet's way)",
    },
    Entry {
        cases: &["a tunnel of its own to the far node"],
        why: "the guard: a container that speaks VXLAN to a node could speak as any other",
        ..GUARD
    },
    Entry {
        cases: &["as the far container", "as somebody outside"],
        why: "the guard: a container's packet into the network must be from its host's subnet",
        ..GUARD
    },
    Entry {
        cases: &["from nobody's node"],
        why: "the guard: a tunnel packet must come from a peer",
        ..GUARD
    },
    Entry {
        cases: &["from another subnet", "from the receiver"],
        why: "the guard: a node may speak for its own lease only",
        ..GUARD
    },
    Entry {
        cases: &["for another subnet", "for the sender", "for outside"],
        why: "the guard: a tunnel packet must be for a container of this host",
        ..GUARD
    },
    Entry {
        cases: &[
            "VLAN 0 twice from a container",
            "VLAN 0 twice outside",
            "VLAN 0 twice inside",
        ],
        why: "the guard: what is behind two tags is not seen by the programs, and taken by the stack",
        ..GUARD
    },
];

/// What the guard drops, on the wire and where it would have gone.
const GUARD: Entry = Entry {
    what: What::Missing,
    point: None,
    followed: false,
    cases: &[],
    why: "",
};

#[derive(Debug, Default)]
pub struct Allowed {
    /// Places of entries, with the case that met them.
    met: BTreeSet<(usize, String)>,
}

impl Allowed {
    /// Whether a difference is meant.
    pub fn meets(&mut self, what: What, point: Point, case: &str) -> bool {
        let meant = |entry: &Entry| {
            entry.what == what
                && entry.point.is_none_or(|at| at == point)
                && (entry.cases.is_empty() || entry.cases.contains(&case))
        };
        let found = LIST.iter().position(meant);
        if let Some(place) = found {
            self.met.insert((place, case.to_owned()));
        }
        found.is_some()
    }

    /// What the list allows and nothing met: an entry, or a case of one.
    pub fn unused(&self, followed: bool) -> Vec<String> {
        let mut unused = Vec::new();
        for (place, entry) in LIST.iter().enumerate() {
            if entry.followed != followed {
                continue;
            }
            let by = |case: &str| self.met.contains(&(place, case.to_owned()));
            let anybody = self.met.iter().any(|(met, _)| *met == place);
            let idle = entry.cases.iter().filter(|case| !by(case));
            let text = |case| {
                format!(
                    "allowed and not met: {:?} of {case}: {}",
                    entry.what, entry.why
                )
            };
            unused.extend(idle.map(|case| text(*case)));
            if entry.cases.is_empty() && !anybody {
                unused.push(text("any case"));
            }
        }
        unused
    }
}
