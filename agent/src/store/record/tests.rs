//! Readings of good and bad records, and events that must lead where a listing leads.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"{"PublicIP":"192.0.2.1","PublicIPv6":null}"#;

fn raw(name: &str, value: &str) -> Raw {
    Raw {
        key: format!("/x/subnets/{name}").into_bytes(),
        value: value.as_bytes().to_vec(),
        lease: 7,
        created: 2,
        modified: 3,
    }
}

#[test]
fn a_bad_record_touches_no_other() {
    let keys = Keys::new("/x");
    let records = [
        raw("10.3.1.0-24", GOOD),
        raw("10.3.1.0-24&fd00::-64", GOOD),
        raw("10.3.1.5-24", GOOD),
        raw("10.3.2.0-24", "[]"),
        raw("10.3.3.0-24&fd00::-64", GOOD),
        raw("garbage", GOOD),
    ];
    let snapshot = snapshot(&keys, &records, Revision(9));
    let subnets: Vec<String> = snapshot.leases.keys().map(ToString::to_string).collect();
    assert_eq!(subnets, ["10.3.1.0/24", "10.3.3.0/24"]);
    assert_eq!(snapshot.rejected.len(), 4);
    assert_eq!(
        snapshot.leases.values().next().unwrap().store_lease,
        Some(7)
    );
    let taken: Vec<Taken> = records.iter().filter_map(|r| r.taken(&keys)).collect();
    assert_eq!(taken.len(), 5);
    assert!(taken[0].ours_by_form && !taken[1].ours_by_form && !taken[2].ours_by_form);
}

/// Found by the fuzz target `records`.
#[test]
fn keys_that_are_no_text_are_counted_each() {
    let keys = Keys::new("/x");
    let records: Vec<Raw> = [0x80, 0x90]
        .into_iter()
        .map(|byte| Raw {
            key: [b"/x/subnets/".as_slice(), &[byte]].concat(),
            ..raw("", GOOD)
        })
        .collect();
    let mut followed = snapshot(&keys, &records, Revision(9));
    assert_eq!(followed.rejected.len(), 2);
    followed.apply(records[0].gone(&keys), |subnet| keys.lease(subnet));
    assert_eq!(followed.rejected.len(), 1);
}

#[test]
fn a_bad_record_comes_and_goes_beside_a_lease() {
    let keys = Keys::new("/x");
    let good = raw("10.3.1.0-24", GOOD);
    let start = snapshot(&keys, std::slice::from_ref(&good), Revision(3));
    for name in [
        "10.3.1.5-24",
        "10.3.1.0-24&x",
        "10.3.1.0-24hi",
        "10.3.0.0-16",
    ] {
        let bad = raw(name, "{}");
        let mut followed = start.clone();
        followed.apply(bad.written(&keys), |subnet| keys.lease(subnet));
        assert_eq!(
            (followed.leases.len(), followed.rejected.len()),
            (1, 1),
            "{name}"
        );
        followed.apply(bad.gone(&keys), |subnet| keys.lease(subnet));
        assert_eq!(followed, start, "{name}");
    }
}

#[test]
fn a_lease_that_turns_bad_is_one_no_more() {
    let keys = Keys::new("/x");
    for name in ["10.3.1.0-24", "10.3.1.0-24&fd00::-64"] {
        let good = raw(name, GOOD);
        let mut followed = snapshot(&keys, std::slice::from_ref(&good), Revision(3));
        followed.apply(raw(name, "{}").written(&keys), |subnet| keys.lease(subnet));
        assert_eq!(
            (followed.leases.len(), followed.rejected.len()),
            (0, 1),
            "{name}"
        );
        followed.apply(good.gone(&keys), |subnet| keys.lease(subnet));
        assert_eq!(
            (followed.leases.len(), followed.rejected.len()),
            (0, 0),
            "{name}"
        );
        followed.apply(good.written(&keys), |subnet| keys.lease(subnet));
        assert_eq!(
            (followed.leases.len(), followed.rejected.len()),
            (1, 0),
            "{name}"
        );
    }
}

#[test]
fn a_key_for_both_families_comes_and_goes_beside_the_one_for_ipv4() {
    let keys = Keys::new("/x");
    let alone = raw("10.3.1.0-24", GOOD);
    let dual = raw("10.3.1.0-24&fd00::-64", r#"{"PublicIP":"192.0.2.2"}"#);
    let start = snapshot(&keys, std::slice::from_ref(&alone), Revision(3));
    let mut followed = start.clone();
    followed.apply(dual.written(&keys), |subnet| keys.lease(subnet));
    // The one for IPv4 alone counts, whichever was written last, and the other is told of.
    assert_eq!(followed.leases, start.leases);
    assert_eq!(followed.rejected.len(), 1);
    let both = followed.clone();
    // The end of one leaves the other.
    followed.apply(dual.gone(&keys), |subnet| keys.lease(subnet));
    assert_eq!(followed, start);
    let mut followed = both;
    followed.apply(alone.gone(&keys), |subnet| keys.lease(subnet));
    let left = followed.leases.values().next().expect("a lease is left");
    assert_eq!(left.attrs.public_ip.to_string(), "192.0.2.2");
    assert!(followed.rejected.is_empty());
    followed.apply(dual.gone(&keys), |subnet| keys.lease(subnet));
    assert!(followed.leases.is_empty() && followed.shared.is_empty());
}

proptest! {
    /// Whoever follows every event knows what a new listing would say.
    #[test]
    fn events_lead_where_a_listing_leads(
        start in 0_usize..20,
        steps in prop::collection::vec((0_usize..11, 0_usize..5), 1..60),
    ) {
        let names = [
            "10.3.1.0-24", "10.3.2.0-24", "10.3.1.7-24", "10.3.0.0-16", "10.3.1.0-24hi",
            "10.3.2.0-24&x", "10.3.3.0-24&fd00::-64", "garbage", "0.0.0.0-0",
            "10.3.2.0-24&fd00::-64", "10.3.2.0-24&fd00:1::-64",
        ];
        let values = [GOOD, r#"{"PublicIP":"192.0.2.2"}"#, "{}", r#"{"PublicIP":"127.0.0.1"}"#];
        let keys = Keys::new("/x");
        let mut store: BTreeMap<Vec<u8>, Raw> = BTreeMap::new();
        let mut followed = Snapshot::default();
        for (at, (name, value)) in steps.into_iter().enumerate() {
            let mut record = raw(names[name], values.get(value).copied().unwrap_or_default());
            record.modified = i64::try_from(at).unwrap() + 1;
            // The fifth value is none: the key is deleted.
            let event = if value == values.len() {
                if store.remove(&record.key).is_none() {
                    continue;
                }
                record.gone(&keys)
            } else {
                store.insert(record.key.clone(), record.clone());
                record.written(&keys)
            };
            let now = Revision(record.modified);
            let records: Vec<Raw> = store.values().cloned().collect();
            let listed = snapshot(&keys, &records, now);
            if at < start {
                followed = listed;
            } else {
                followed.apply(event, |subnet| keys.lease(subnet));
                prop_assert_eq!(&followed, &listed);
            }
        }
    }
}
