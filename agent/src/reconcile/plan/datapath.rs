//! Maps and programs: in an order in which no packet is taken too early, or delivered too late.

use std::collections::BTreeMap;

use weft_common::{peer::PeerEntry, stats::Hook};

use crate::datapath::{DatapathOp, DatapathState};

pub(super) fn plan(wanted: &DatapathState, seen: &DatapathState) -> Vec<DatapathOp> {
    let mut ops = Vec::new();
    // An endpoint that is gone must not be delivered to for one packet more than needed.
    gone(
        &wanted.endpoints,
        &seen.endpoints,
        &mut ops,
        DatapathOp::DeleteEndpoint,
    );
    gone(&wanted.peers, &seen.peers, &mut ops, DatapathOp::DeletePeer);
    gone(&wanted.vteps, &seen.vteps, &mut ops, DatapathOp::DeleteVtep);

    gone(&wanted.ports, &seen.ports, &mut ops, DatapathOp::DeletePort);

    // Who may speak, and what is the host's own, before the settings make the guard judge.
    put(&wanted.locals, &seen.locals, &mut ops, DatapathOp::PutLocal);
    put(&wanted.vteps, &seen.vteps, &mut ops, DatapathOp::PutVtep);
    put(&wanted.peers, &seen.peers, &mut ops, DatapathOp::PutPeer);
    if let Some(settings) = wanted.settings
        && wanted.settings != seen.settings
    {
        ops.push(DatapathOp::PutSettings(settings));
    }
    let (recorders, takers): (Vec<_>, Vec<_>) = wanted
        .attachments
        .difference(&seen.attachments)
        .cloned()
        .partition(|at| records(at.hook));
    ops.extend(recorders.into_iter().map(DatapathOp::Attach));
    put(
        &wanted.endpoints,
        &seen.endpoints,
        &mut ops,
        DatapathOp::PutEndpoint,
    );
    put(&wanted.ports, &seen.ports, &mut ops, DatapathOp::PutPort);
    gone(
        &wanted.locals,
        &seen.locals,
        &mut ops,
        DatapathOp::DeleteLocal,
    );

    ops.extend(takers.into_iter().map(DatapathOp::Attach));
    let mut detach: Vec<_> = seen
        .attachments
        .difference(&wanted.attachments)
        // A renamed device: attaching anew has replaced it.
        .filter(|at| {
            !wanted
                .attachments
                .iter()
                .any(|new| (new.hook, new.link) == (at.hook, at.link))
        })
        .cloned()
        .collect();
    detach.sort_by_key(|at| records(at.hook));
    ops.extend(detach.into_iter().map(DatapathOp::Detach));
    ops
}

/// Peers that are new, without the flag that makes them fast.
pub(super) fn admit(wanted: &DatapathState, seen: &DatapathState) -> Vec<DatapathOp> {
    let vteps = wanted
        .vteps
        .iter()
        .filter(|(vtep, _)| !seen.vteps.contains_key(vtep));
    let peers = wanted
        .peers
        .iter()
        .filter(|(net, _)| !seen.peers.contains_key(net));
    vteps
        .map(|(vtep, leases)| DatapathOp::PutVtep(*vtep, *leases))
        .chain(peers.map(|(net, peer)| {
            let slow = PeerEntry { flags: 0, ..*peer };
            DatapathOp::PutPeer(*net, slow)
        }))
        .collect()
}

/// Whether a program only notes the stack's flows. Those are attached before the ones that take
/// packets, and detached after them.
#[must_use]
pub const fn records(hook: Hook) -> bool {
    match hook {
        Hook::ToContainer | Hook::ToOverlay => true,
        Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => false,
    }
}

fn gone<K: Ord + Copy, V>(
    wanted: &BTreeMap<K, V>,
    seen: &BTreeMap<K, V>,
    ops: &mut Vec<DatapathOp>,
    op: impl Fn(K) -> DatapathOp,
) {
    ops.extend(
        seen.keys()
            .filter(|key| !wanted.contains_key(key))
            .map(|key| op(*key)),
    );
}

fn put<K: Ord + Copy, V: Copy + PartialEq>(
    wanted: &BTreeMap<K, V>,
    seen: &BTreeMap<K, V>,
    ops: &mut Vec<DatapathOp>,
    op: impl Fn(K, V) -> DatapathOp,
) {
    let changed = wanted
        .iter()
        .filter(|(key, value)| seen.get(key) != Some(value));
    ops.extend(changed.map(|(key, value)| op(*key, *value)));
}
