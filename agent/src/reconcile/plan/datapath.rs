//! Maps and programs: in an order in which no packet is taken too early, or delivered too late.

use std::collections::BTreeMap;

use ipnet::Ipv4Net;
use weft_common::{
    peer::{PEER_DIRECT, PeerEntry},
    stats::Hook,
};

use crate::datapath::{Attachment, DatapathOp, DatapathState};

/// While the device is `partial`, nothing more is taken: what leaves the stack is recorded there.
pub(super) fn plan(wanted: &DatapathState, seen: &DatapathState, partial: bool) -> Vec<DatapathOp> {
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
    // What is left of a device that went. Of a renamed one the program hangs on, and attaching it
    // under the new name replaces it.
    let renamed = |dead: &&Attachment| {
        let mut all = wanted.attachments.iter();
        all.any(|at| (at.hook, at.link) == (dead.hook, dead.link))
    };
    let dead = seen.dead.iter().filter(|dead| !renamed(dead));
    ops.extend(dead.cloned().map(DatapathOp::Detach));

    // Who may speak, and what is the host's own, before the settings make the guard judge.
    put(&wanted.locals, &seen.locals, &mut ops, DatapathOp::PutLocal);
    put(&wanted.vteps, &seen.vteps, &mut ops, DatapathOp::PutVtep);
    let mut routed = Vec::new();
    for (net, peer) in &wanted.peers {
        let before = seen.peers.get(net);
        if becomes_routed(peer, before) {
            ops.extend(held_back(*net, peer, before));
            routed.push(DatapathOp::PutPeer(*net, *peer));
        } else if before != Some(peer) {
            ops.push(DatapathOp::PutPeer(*net, *peer));
        }
    }
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

    if !partial {
        ops.extend(takers.into_iter().map(DatapathOp::Attach));
        ops.extend(routed);
    }
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

/// Whether the programs may begin to reach a peer without a tunnel. They do so once both directions
/// have their program and what the stack sends is recorded.
fn becomes_routed(peer: &PeerEntry, before: Option<&PeerEntry>) -> bool {
    let is_routed = |peer: &PeerEntry| peer.flags & PEER_DIRECT != 0;
    is_routed(peer) && !before.is_some_and(is_routed)
}

/// A peer that becomes so, until then: as before, or left to the kernel.
fn held_back(net: Ipv4Net, peer: &PeerEntry, before: Option<&PeerEntry>) -> Option<DatapathOp> {
    let node = |peer: &PeerEntry| (peer.vtep_addr, peer.vtep_mac);
    let slow = PeerEntry {
        flags: peer.flags & !PEER_DIRECT,
        ..*peer
    };
    let stays = before.is_some_and(|before| node(before) == node(peer));
    (!stays).then_some(DatapathOp::PutPeer(net, slow))
}

/// Programs that are attached in one pass. The kernel waits for all processors each time, a hundredth
/// of a second or two: what else changes on the host must not wait for hundreds of them.
const SPELL: usize = 32;

/// Cuts off what is too much for one pass, and says whether it did. Whatever has failed before fails
/// at once, and is not counted: nobody else waits for it.
pub fn cut(ops: &mut Vec<DatapathOp>, failed: impl Fn(&Attachment) -> bool) -> bool {
    let mut attaches = ops
        .iter()
        .enumerate()
        .filter(|(_, op)| matches!(op, DatapathOp::Attach(at) if !failed(at)));
    let Some((end, _)) = attaches.nth(SPELL) else {
        return false;
    };
    ops.truncate(end);
    true
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

#[cfg(test)]
mod tests {
    use super::*;

    fn attach(link: u32) -> DatapathOp {
        DatapathOp::Attach(Attachment {
            hook: Hook::FromContainer,
            link: link.try_into().unwrap(),
            name: format!("veth{link}"),
        })
    }

    #[test]
    fn what_a_gone_device_left_is_removed_and_a_renamed_one_is_not_touched() {
        let at = |link, name: &str| Attachment {
            name: name.to_owned(),
            ..match attach(link) {
                DatapathOp::Attach(at) => at,
                other => panic!("{other}"),
            }
        };
        let seen = DatapathState {
            dead: [at(7, "gone"), at(8, "old")].into(),
            ..DatapathState::default()
        };
        let wanted = DatapathState {
            attachments: [at(8, "new")].into(),
            ..DatapathState::default()
        };
        assert_eq!(
            plan(&wanted, &seen, false),
            [
                DatapathOp::Detach(at(7, "gone")),
                DatapathOp::Attach(at(8, "new"))
            ]
        );
    }

    #[test]
    fn a_pass_attaches_so_many_programs_and_no_more() {
        let many = u32::try_from(SPELL).unwrap();
        let others = [DatapathOp::DeletePort(7), DatapathOp::DeletePort(8)];
        let failed = |at: &Attachment| at.link.get() > 100;
        for (attached, failing, left) in [(0, 3, None), (many, 3, None), (many + 5, 3, Some(many))]
        {
            let mut ops = others.to_vec();
            ops.extend((101..101 + failing).map(attach));
            ops.extend((1..=attached).map(attach));
            ops.extend(others.to_vec());
            let before = ops.clone();
            assert_eq!(cut(&mut ops, failed), left.is_some());
            let kept = left.map_or(before.len(), |left| {
                usize::try_from(left + failing).unwrap() + others.len()
            });
            assert_eq!(ops, before[..kept]);
        }
    }
}
