//! What other nodes and operators write into the store.

use weft::{
    model::{lease::Snapshot, network::NetworkConfig},
    store::{
        etcd::{codec, keys::Keys},
        record::{self, Raw},
    },
};

const PREFIX: &str = "/x";

/// The network config: what is accepted makes sense.
pub(crate) fn config(input: &[u8]) {
    let Ok(config) = record::network("/x/config".to_owned(), input) else {
        return;
    };
    let NetworkConfig {
        network,
        subnet_len,
        subnet_min,
        subnet_max,
        ..
    } = config;
    assert!(subnet_min <= subnet_max, "{config:?}");
    for end in [subnet_min, subnet_max] {
        assert!(network.contains(&end.v4().expect("IPv4")), "{config:?}");
        assert_eq!(end.net().prefix_len(), subnet_len, "{config:?}");
    }
}

/// A lease's key: one subnet has one key.
pub(crate) fn key(input: &[u8]) {
    let keys = Keys::new(PREFIX);
    drop(keys.read(input));
    let whole = [keys.leases().as_bytes(), input].concat();
    if let Ok(name) = keys.read(&whole)
        && !name.dual_stack
    {
        assert_eq!(keys.lease(name.subnet).as_bytes(), whole);
    }
}

/// A lease's value: what was read is written as it was understood.
pub(crate) fn value(input: &[u8]) {
    if let Ok(attrs) = codec::decode(input) {
        let written = codec::encode(&attrs).expect("what was read can be written");
        assert_eq!(codec::decode(&written), Ok(attrs));
    }
}

/// Records that come and go: events lead where a listing leads, and every record counts once.
pub(crate) fn records(input: &[u8]) {
    let keys = Keys::new(PREFIX);
    let mut store = std::collections::BTreeMap::new();
    let mut followed = Snapshot::default();
    for (at, part) in (1..).zip(input.split(|byte| *byte == b'\n').take(32)) {
        let (name, value) = match part.iter().position(|byte| *byte == b' ') {
            Some(space) => part.split_at(space),
            None => (part, &[][..]),
        };
        let record = Raw {
            key: [keys.leases().as_bytes(), name].concat(),
            value: value.to_vec(),
            lease: at,
            modified: at,
            ..Raw::default()
        };
        let event = if value.is_empty() {
            if store.remove(&record.key).is_none() {
                continue;
            }
            record.gone(&keys)
        } else {
            store.insert(record.key.clone(), record.clone());
            record.written(&keys)
        };
        followed.apply(event, |subnet| keys.lease(subnet));
    }
    let all: Vec<Raw> = store.into_values().collect();
    let listed = record::snapshot(&keys, &all, followed.revision);
    assert_eq!(all.len(), listed.leases.len() + listed.rejected.len());
    // A key for one family and one for both may name one subnet: which of the two counts depends
    // on what was there first.
    let both = all.iter().any(|raw| raw.key.contains(&b'&'));
    assert!(both || followed == listed, "{followed:?} {listed:?}");
}
