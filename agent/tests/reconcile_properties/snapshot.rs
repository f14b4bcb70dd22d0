//! Following events: their order among keys, replays and duplicates are no matter.

use proptest::{collection::vec, prelude::*, sample::select};
use weft::{
    model::lease::{LeaseEvent, Snapshot},
    store::{etcd::keys::Keys, record::Raw},
};

const NAMES: [&str; 7] = [
    "10.3.1.0-24",
    "10.3.2.0-24&fd00::-64",
    "10.3.3.0-24",
    "10.3.3.7-24",
    "10.3.4.0-24hi",
    "10.3.4.0-24",
    "rubbish",
];
const VALUES: [&str; 3] = [
    r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#,
    r#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#,
    "[]",
];

type Change = (&'static str, Option<&'static str>);

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let value = prop_oneof![3 => select(VALUES.to_vec()).prop_map(Some), 1 => Just(None)];
    vec((select(NAMES.to_vec()), value), 0..30)
}

fn events(keys: &Keys, changes: &[Change]) -> Vec<(&'static str, LeaseEvent)> {
    let revisions = 1..;
    let events = changes
        .iter()
        .zip(revisions)
        .map(|((name, value), modified)| {
            let raw = Raw {
                key: format!("{}{name}", keys.leases()).into_bytes(),
                value: value.unwrap_or_default().as_bytes().to_vec(),
                lease: 7,
                created: 1,
                modified,
            };
            let event = match value {
                Some(_) => raw.written(keys),
                None => raw.gone(keys),
            };
            (*name, event)
        });
    events.collect()
}

#[expect(
    single_use_lifetimes,
    reason = "an anonymous lifetime in `impl Trait` is not stable"
)]
fn follow<'event>(keys: &Keys, events: impl IntoIterator<Item = &'event LeaseEvent>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for event in events {
        snapshot.apply(event.clone(), |subnet| keys.lease(subnet));
    }
    snapshot
}

proptest! {
    #[test]
    fn the_order_among_keys_is_no_matter(
        changes in changes(),
        order in Just(NAMES.to_vec()).prop_shuffle(),
    ) {
        let keys = Keys::new("/x");
        let events = events(&keys, &changes);
        let mut sorted = events.clone();
        // Each key's own events stay in their order.
        sorted.sort_by_key(|(name, _)| order.iter().position(|other| other == name));
        let told = follow(&keys, events.iter().map(|(_, event)| event));
        prop_assert_eq!(follow(&keys, sorted.iter().map(|(_, event)| event)), told);
    }

    #[test]
    fn replays_and_duplicates_change_nothing(changes in changes(), from in 0usize..30) {
        let keys = Keys::new("/x");
        let events: Vec<LeaseEvent> =
            events(&keys, &changes).into_iter().map(|(_, event)| event).collect();
        let told = follow(&keys, &events);
        let twice = events.iter().flat_map(|event| [event, event]);
        prop_assert_eq!(follow(&keys, twice), told.clone());
        let replayed = events.iter().chain(events.iter().skip(from));
        prop_assert_eq!(follow(&keys, replayed), told);
    }

    /// What was followed is what a snapshot says.
    #[test]
    fn following_and_reading_agree(changes in changes()) {
        let keys = Keys::new("/x");
        let events = events(&keys, &changes);
        let told = follow(&keys, events.iter().map(|(_, event)| event));
        let mut leases = 0;
        let mut rejected = 0;
        for name in NAMES {
            match events.iter().rfind(|(other, _)| *other == name) {
                Some((_, LeaseEvent::Put(_) | LeaseEvent::PutDual { .. })) => leases += 1,
                Some((_, LeaseEvent::Reject { .. })) => rejected += 1,
                Some((_, LeaseEvent::Gone { .. })) | None => {}
            }
        }
        prop_assert_eq!((told.leases.len(), told.rejected.len()), (leases, rejected));
    }
}
