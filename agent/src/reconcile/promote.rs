//! Which of the stack's flows may leave it: those that it neither translates nor needs. Pure.

use std::{collections::BTreeMap, net::Ipv4Addr};

use ipnet::Ipv4Net;
use weft_common::{
    endpoint::{ENDPOINT_KERNEL, ENDPOINT_PROVISIONAL},
    flow::{FLOW_SEEN, FlowEntry, FlowKey},
    peer::{PEER_DIRECT, PEER_FAST, PeerEntry},
    settings::FAST_PATH,
    stats::Hook,
};

use super::flows::Scope;
use crate::{datapath::DatapathState, netlink::conntrack::Tracked};

/// The recorded flows that the programs would take both ways if conntrack forgot them, with
/// conntrack's entry. `recorded` must be in step with `dump`.
#[must_use]
pub fn promotable(
    scope: &Scope,
    programs: &DatapathState,
    recorded: &BTreeMap<FlowKey, FlowEntry>,
    dump: &[Tracked],
) -> Vec<(FlowKey, Tracked)> {
    let takes = programs
        .settings
        .is_some_and(|settings| settings.flags & FAST_PATH != 0);
    // Without it what comes in would be the stack's, whatever goes out.
    let brings = programs
        .attachments
        .iter()
        .any(|at| at.hook == Hook::FromOverlay);
    if !takes || !brings {
        return Vec::new();
    }
    let settled = dump.iter().filter(|tracked| tracked.settled);
    settled
        .filter_map(|tracked| {
            let mut keys = scope.keys(tracked).into_keys();
            let (Some(key), None) = (keys.next(), keys.next()) else {
                return None;
            };
            let seen = recorded.get(&key)?.why == FLOW_SEEN;
            (seen && is_endpoint(programs, key.local.into()) && is_fast(programs, key.remote))
                .then_some((key, *tracked))
        })
        .collect()
}

fn is_endpoint(programs: &DatapathState, local: Ipv4Addr) -> bool {
    let found = programs.endpoints.get(&local);
    found.is_some_and(|entry| entry.flags & (ENDPOINT_PROVISIONAL | ENDPOINT_KERNEL) == 0)
}

fn is_fast(programs: &DatapathState, remote: [u8; 4]) -> bool {
    let peer = peer_of(&programs.peers, remote.into());
    peer.is_some_and(|peer| peer.flags & (PEER_FAST | PEER_DIRECT) != 0)
}

/// The longest prefix wins, as in the programs' map.
fn peer_of(peers: &BTreeMap<Ipv4Net, PeerEntry>, remote: Ipv4Addr) -> Option<&PeerEntry> {
    (0..=32)
        .rev()
        .filter_map(|length| Ipv4Net::new(remote, length).ok())
        .find_map(|net| peers.get(&net.trunc()))
}

#[cfg(test)]
mod tests;
