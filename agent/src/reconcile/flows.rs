//! Conntrack's entries as keys of the flow record, and the difference between the two. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use weft_common::flow::{FLOW_NATED, FLOW_SEEN, FlowEntry, FlowKey};

use crate::netlink::conntrack::{Tracked, Tuple};

/// Whose flows are recorded: those between a container of ours and the rest of the overlay.
#[derive(Clone, Debug)]
pub struct Scope {
    /// Our subnet.
    pub own: Ipv4Net,
    /// The whole overlay.
    pub network: Ipv4Net,
    /// The host's own addresses: no containers.
    pub locals: BTreeSet<Ipv4Addr>,
}

impl Scope {
    fn is_container(&self, address: Ipv4Addr) -> bool {
        self.own.contains(&address) && !self.locals.contains(&address)
    }

    fn is_remote(&self, address: Ipv4Addr) -> bool {
        self.network.contains(&address) && !self.own.contains(&address)
    }

    /// The records that belong to a conntrack entry. NAT may show the container in only one of the
    /// entry's two directions.
    #[must_use]
    pub fn keys(&self, tracked: &Tracked) -> BTreeMap<FlowKey, FlowEntry> {
        let why = if tracked.natted {
            FLOW_NATED
        } else {
            FLOW_SEEN
        };
        [tracked.original, tracked.reply]
            .into_iter()
            .filter_map(|tuple| self.key(tracked.protocol, &tuple))
            .map(|key| (key, FlowEntry { why }))
            .collect()
    }

    fn key(&self, protocol: u8, tuple: &Tuple) -> Option<FlowKey> {
        let Tuple {
            source,
            destination,
            source_port,
            destination_port,
        } = *tuple;
        let (local, remote, local_port, remote_port) =
            if self.is_container(source) && self.is_remote(destination) {
                (source, destination, source_port, destination_port)
            } else if self.is_container(destination) && self.is_remote(source) {
                (destination, source, destination_port, source_port)
            } else {
                return None;
            };
        Some(FlowKey {
            local: local.octets(),
            remote: remote.octets(),
            local_port: local_port.to_be_bytes(),
            remote_port: remote_port.to_be_bytes(),
            protocol,
            _pad: [0; 3],
        })
    }
}

/// The two tuples by which conntrack knows the flow of a record, whoever began it: one of them is a
/// direction of its entry, with NAT as without.
#[must_use]
pub fn tuples(key: &FlowKey) -> [Tuple; 2] {
    let out = Tuple {
        source: key.local.into(),
        destination: key.remote.into(),
        source_port: u16::from_be_bytes(key.local_port),
        destination_port: u16::from_be_bytes(key.remote_port),
    };
    let back = Tuple {
        source: out.destination,
        destination: out.source,
        source_port: out.destination_port,
        destination_port: out.source_port,
    };
    [out, back]
}

/// What a complete look at conntrack changes. `before` must have been read before the dump: what
/// was recorded since is in neither and stays.
#[must_use]
pub fn difference(
    scope: &Scope,
    before: &BTreeMap<FlowKey, FlowEntry>,
    dump: &[Tracked],
) -> (BTreeMap<FlowKey, FlowEntry>, BTreeSet<FlowKey>) {
    let mut live: BTreeMap<FlowKey, FlowEntry> = BTreeMap::new();
    for (key, entry) in dump.iter().flat_map(|tracked| scope.keys(tracked)) {
        let known = live.entry(key).or_insert(entry);
        known.why = known.why.max(entry.why);
    }
    let ended = before
        .keys()
        .filter(|key| !live.contains_key(key))
        .copied()
        .collect();
    live.retain(|key, entry| before.get(key).is_none_or(|known| known.why < entry.why));
    (live, ended)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: &str, source_port: u16, destination: &str, destination_port: u16) -> Tuple {
        Tuple {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            source_port,
            destination_port,
        }
    }

    fn tracked(original: Tuple, reply: Tuple, natted: bool) -> Tracked {
        Tracked {
            protocol: 6,
            original,
            reply,
            natted,
            settled: false,
        }
    }

    fn scope() -> Scope {
        Scope {
            own: "10.1.2.0/24".parse().unwrap(),
            network: "10.1.0.0/16".parse().unwrap(),
            locals: ["10.1.2.0", "10.1.2.1"]
                .map(|text| text.parse().unwrap())
                .into(),
        }
    }

    fn only(tracked: &Tracked) -> Option<(FlowKey, u32)> {
        let keys = scope().keys(tracked);
        assert!(keys.len() <= 1, "{keys:?}");
        keys.into_iter().next().map(|(key, entry)| (key, entry.why))
    }

    fn key(local: [u8; 4], local_port: u16, remote: [u8; 4], remote_port: u16) -> FlowKey {
        FlowKey {
            local,
            remote,
            local_port: local_port.to_be_bytes(),
            remote_port: remote_port.to_be_bytes(),
            protocol: 6,
            _pad: [0; 3],
        }
    }

    #[test]
    fn a_plain_flow_has_one_key_whoever_began_it() {
        let want = key([10, 1, 2, 7], 80, [10, 1, 3, 9], 4000);
        let there = tuple("10.1.3.9", 4000, "10.1.2.7", 80);
        let back = tuple("10.1.2.7", 80, "10.1.3.9", 4000);
        assert_eq!(only(&tracked(there, back, false)), Some((want, FLOW_SEEN)));
        assert_eq!(only(&tracked(back, there, false)), Some((want, FLOW_SEEN)));
    }

    #[test]
    fn a_service_address_is_keyed_by_what_the_container_hears_back_from() {
        let original = tuple("10.1.2.7", 4000, "172.20.0.1", 80);
        let reply = tuple("10.1.3.9", 8080, "10.1.2.7", 4000);
        let want = key([10, 1, 2, 7], 4000, [10, 1, 3, 9], 8080);
        assert_eq!(
            only(&tracked(original, reply, true)),
            Some((want, FLOW_NATED))
        );
    }

    #[test]
    fn a_published_port_is_keyed_by_the_container_behind_it() {
        let original = tuple("10.1.3.9", 4000, "10.1.2.1", 8080);
        let reply = tuple("10.1.2.7", 80, "10.1.3.9", 4000);
        let want = key([10, 1, 2, 7], 80, [10, 1, 3, 9], 4000);
        assert_eq!(
            only(&tracked(original, reply, true)),
            Some((want, FLOW_NATED))
        );
    }

    #[test]
    fn host_traffic_and_other_networks_have_no_key() {
        let host = tracked(
            tuple("10.1.2.0", 4000, "10.1.3.9", 80),
            tuple("10.1.3.9", 80, "10.1.2.0", 4000),
            false,
        );
        assert_eq!(only(&host), None);
        let outside = tracked(
            tuple("10.1.2.7", 4000, "192.0.2.9", 80),
            tuple("192.0.2.9", 80, "192.0.2.1", 4000),
            true,
        );
        assert_eq!(only(&outside), None);
    }

    #[test]
    fn the_difference_adds_what_is_missing_and_ends_what_is_over() {
        let seen = tracked(
            tuple("10.1.2.7", 1, "10.1.3.9", 2),
            tuple("10.1.3.9", 2, "10.1.2.7", 1),
            false,
        );
        let nated = tracked(
            tuple("10.1.2.7", 3, "10.1.3.9", 4),
            tuple("10.1.3.9", 4, "10.1.2.7", 3),
            true,
        );
        let over = key([10, 1, 2, 8], 5, [10, 1, 3, 9], 6);
        let weaker = key([10, 1, 2, 7], 3, [10, 1, 3, 9], 4);
        let before = BTreeMap::from([
            (over, FlowEntry { why: FLOW_NATED }),
            (weaker, FlowEntry { why: FLOW_SEEN }),
        ]);
        let (record, forget) = difference(&scope(), &before, &[seen, nated]);
        assert_eq!(forget, BTreeSet::from([over]));
        let missing = key([10, 1, 2, 7], 1, [10, 1, 3, 9], 2);
        assert_eq!(
            record,
            BTreeMap::from([
                (missing, FlowEntry { why: FLOW_SEEN }),
                (weaker, FlowEntry { why: FLOW_NATED }),
            ])
        );
    }
}
