//! Getting a subnet.

use std::collections::BTreeSet;

use futures::future::join_all;
use weft::store::{LeaseStore, StoreError};

use crate::bench::{Bench, CONFIG, PREFIX, attrs, claim, config, key, subnet, value};

pub async fn the_config_is_read_and_checked(bench: &impl Bench) {
    let node = bench.node();
    let place = format!("{PREFIX}/config");
    let error = node.network().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::ConfigMissing { key } if *key == place),
        "{error}"
    );
    bench
        .put(&place, r#"{"Network":"10.42.0.0/29"}"#, false)
        .await;
    let error = node.network().await.unwrap_err();
    assert!(
        matches!(&error, StoreError::ConfigInvalid { why, .. } if why.contains("too small")),
        "{error}"
    );
    bench.put(&place, CONFIG, false).await;
    assert_eq!(node.network().await.unwrap(), config(CONFIG));
}

pub async fn a_fresh_claim_writes_flannels_bytes(bench: &impl Bench) {
    let node = bench.node();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    let net = lease.subnet.v4().unwrap();
    assert_eq!(net.prefix_len(), 24);
    let name = format!("{}-24", net.addr());
    assert_eq!(node.key_of(lease.subnet), key(&name));
    let stored = bench.get(&key(&name)).await.unwrap();
    assert_eq!(stored, (value(1), lease.store_lease.unwrap()));
    assert_eq!(lease.attrs, attrs(1));
    let snapshot = node.snapshot().await.unwrap();
    assert_eq!(snapshot.leases.into_values().collect::<Vec<_>>(), [lease]);
    assert_eq!(bench.leases().await.len(), 1);
}

pub async fn our_own_lease_is_found_again(bench: &impl Bench) {
    let first = bench
        .node()
        .claim(&config(CONFIG), &claim(1))
        .await
        .unwrap();
    bench
        .node()
        .claim(&config(CONFIG), &claim(2))
        .await
        .unwrap();
    let mut again = claim(1);
    again.previous = Some(subnet("10.42.200.0/24"));
    let second = bench.node().claim(&config(CONFIG), &again).await.unwrap();
    // The same in every part, so nothing was written and no peer had anything to do.
    assert_eq!(second, first);
    assert_eq!(bench.leases().await.len(), 2);
}

pub async fn our_own_lease_follows_our_attributes(bench: &impl Bench) {
    let id = bench.put(&key("10.42.9.0-24"), &value(1), true).await;
    let mut changed = claim(1);
    changed.attrs.backend = attrs(77).backend;
    let lease = bench.node().claim(&config(CONFIG), &changed).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.42.9.0/24"));
    assert_eq!(lease.store_lease, Some(id));
    let (stored, attached) = bench.get(&key("10.42.9.0-24")).await.unwrap();
    assert_eq!(stored, value(1).replace("00:01\"", "00:4d\""));
    assert_eq!(attached, id);
    let snapshot = bench.node().snapshot().await.unwrap();
    assert_eq!(snapshot.leases.get(&lease.subnet), Some(&lease));
}

pub async fn our_own_lease_that_does_not_fit_is_replaced(bench: &impl Bench) {
    for name in ["10.41.9.0-24", "10.42.9.0-25", "10.42.9.0-24&fd00::-64"] {
        bench.put(&key(name), &value(1), true).await;
    }
    bench.put(&key("10.42.8.0-24"), &value(2), true).await;
    let mut claim = claim(1);
    claim.previous = Some(subnet("10.42.9.0/24"));
    let lease = bench.node().claim(&config(CONFIG), &claim).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.42.9.0/24"));
    for name in ["10.41.9.0-24", "10.42.9.0-25", "10.42.9.0-24&fd00::-64"] {
        assert_eq!(bench.get(&key(name)).await, None, "{name}");
    }
    assert!(bench.get(&key("10.42.8.0-24")).await.is_some());
    assert_eq!(bench.get(&key("10.42.9.0-24")).await.unwrap().0, value(1));
}

pub async fn the_previous_subnet_is_honoured(bench: &impl Bench) {
    let mut one = claim(1);
    one.previous = Some(subnet("10.42.200.0/24"));
    let lease = bench.node().claim(&config(CONFIG), &one).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.42.200.0/24"));
    let mut two = claim(2);
    two.previous = one.previous;
    let other = bench.node().claim(&config(CONFIG), &two).await.unwrap();
    assert!(!other.subnet.overlaps(lease.subnet));
}

pub async fn a_reservation_is_used_and_stays_one(bench: &impl Bench) {
    let name = key("10.42.77.0-24");
    bench
        .put(&name, r#"{ "PublicIP": "192.0.2.1" }"#, false)
        .await;
    let node = bench.node();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.42.77.0/24"));
    assert_eq!(lease.store_lease, None);
    assert_eq!(bench.get(&name).await, Some((value(1), 0)));
    node.renew(&lease).await.unwrap();
    assert_eq!(node.claim(&config(CONFIG), &claim(1)).await.unwrap(), lease);
    assert_eq!(bench.get(&name).await, Some((value(1), 0)));
    assert!(
        bench.leases().await.is_empty(),
        "nothing was granted for it"
    );
}

pub async fn concurrent_claims_never_overlap(bench: &impl Bench) {
    // A /28 has three subnets of four addresses to hand out; one is taken by a longer record.
    let small = config(r#"{"Network":"10.42.0.0/28","Backend":{"Type":"vxlan"}}"#);
    bench.put(&key("10.42.0.4-31"), &value(99), true).await;
    let nodes: Vec<_> = (1..=3).map(|last| (bench.node(), claim(last))).collect();
    let claims = nodes.iter().map(|(node, claim)| node.claim(&small, claim));
    let (mut got, mut refused) = (BTreeSet::new(), 0);
    for result in join_all(claims).await {
        match result {
            Ok(lease) => assert!(got.insert(lease.subnet), "two have {}", lease.subnet),
            Err(StoreError::NoFreeSubnet { .. }) => refused += 1,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(
        got,
        BTreeSet::from([subnet("10.42.0.8/30"), subnet("10.42.0.12/30")])
    );
    assert_eq!(refused, 1);
    assert_eq!(bench.leases().await.len(), 3, "no lease is left over");
}

pub async fn concurrent_claims_of_two_lengths_never_overlap(bench: &impl Bench) {
    // As while the config is being changed: some nodes have read the old one.
    let backend = r#""Backend":{"Type":"vxlan"}"#;
    let wide = config(&format!(
        r#"{{"Network":"10.42.0.0/26","SubnetLen":28,{backend}}}"#
    ));
    let narrow = config(&format!(
        r#"{{"Network":"10.42.0.0/26","SubnetLen":30,"SubnetMin":"10.42.0.48",{backend}}}"#
    ));
    bench.put(&key("10.42.0.16-28"), &value(98), true).await;
    bench.put(&key("10.42.0.32-28"), &value(99), true).await;
    for _ in 0..10 {
        let nodes = [
            (bench.node(), &wide, claim(1)),
            (bench.node(), &narrow, claim(2)),
        ];
        let claims = nodes
            .iter()
            .map(|(node, config, claim)| node.claim(config, claim));
        let results = join_all(claims).await;
        let leases: Vec<_> = results.iter().flatten().collect();
        assert_eq!(
            leases.len(),
            1,
            "only one of the two can have it: {results:?}"
        );
        for lease in leases {
            bench.node().release(lease).await.unwrap();
        }
    }
}

pub async fn unreadable_records_keep_their_subnet(bench: &impl Bench) {
    let small = config(r#"{"Network":"10.42.0.0/28","Backend":{"Type":"vxlan"}}"#);
    bench.put(&key("10.42.0.4-30"), "garbage", true).await;
    bench.put(&key("10.42.0.9-30"), &value(9), true).await;
    bench.put(&key("what is this"), &value(8), true).await;
    let lease = bench.node().claim(&small, &claim(1)).await.unwrap();
    assert_eq!(lease.subnet, subnet("10.42.0.12/30"));
    let error = bench.node().claim(&small, &claim(2)).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("between 10.42.0.4/30 and 10.42.0.12/30"),
        "{error}"
    );
}

pub async fn an_unusable_address_is_refused(bench: &impl Bench) {
    let mut bad = claim(1);
    for ip in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "fd00::1"] {
        bad.attrs.public_ip = ip.parse().unwrap();
        let error = bench.node().claim(&config(CONFIG), &bad).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused { .. }), "{ip}: {error}");
    }
    assert!(bench.node().snapshot().await.unwrap().leases.is_empty());
    assert!(bench.leases().await.is_empty());
}
