//! What must have been true at every revision.

use std::collections::BTreeMap;

use futures::StreamExt;
use weft::{
    model::{
        lease::{LeaseEvent, Position, Revision, Snapshot},
        net::Subnet,
    },
    store::LeaseStore,
};

use crate::bench::soon;

fn revision(event: &LeaseEvent) -> Revision {
    match event {
        LeaseEvent::Put(lease) | LeaseEvent::PutDual { lease, .. } => lease.modified,
        LeaseEvent::Reject { at, .. } | LeaseEvent::Gone { at, .. } => *at,
    }
}

/// Every address that some record takes, by what takes it.
fn taken(snapshot: &Snapshot) -> BTreeMap<String, Subnet> {
    let leases = snapshot.leases.keys();
    let leases = leases.map(|subnet| (subnet.to_string(), *subnet));
    let rejected = snapshot.rejected.iter();
    let rejected = rejected.filter_map(|(key, record)| Some((key.clone(), record.subnet?)));
    leases.chain(rejected).collect()
}

pub fn assert_apart(snapshot: &Snapshot) {
    let all: Vec<_> = taken(snapshot).into_iter().collect();
    for (index, (name, subnet)) in all.iter().enumerate() {
        for (other, theirs) in &all[index + 1..] {
            assert!(
                !subnet.overlaps(*theirs),
                "{name} and {other} overlap at revision {}",
                snapshot.revision
            );
        }
    }
}

/// Replays all that was ever written and fails where two live records overlapped. Answers with how
/// many changes there were.
pub async fn assert_never_overlapped(store: &impl LeaseStore) -> usize {
    let now = store.snapshot().await.unwrap();
    let mut events = store.watch(Position::default()).await.unwrap();
    let mut state = Snapshot {
        cluster: now.cluster,
        ..Snapshot::default()
    };
    let mut changes = 0;
    while state != now {
        let event = soon("the history", events.next()).await.unwrap().unwrap();
        // A transaction is one revision: what it deletes goes as what it writes comes.
        if revision(&event) > state.revision {
            assert_apart(&state);
        }
        state.apply(event, |subnet| store.key_of(subnet));
        changes += 1;
        if state.leases == now.leases && state.rejected == now.rejected {
            state.revision = now.revision;
        }
    }
    assert_apart(&now);
    changes
}
