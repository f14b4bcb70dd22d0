//! Taking a lost subnet again: exactly that one, or none.

use weft::{
    model::lease::{Lease, LeaseAttrs},
    store::{LeaseStore, OnTwin, Retaken, StoreError},
};

use crate::bench::{Bench, CONFIG, attrs, claim, config, key, subnet, value};

/// A node that holds 10.42.9.0/24, and its key.
async fn holder(bench: &impl Bench) -> (Lease, String) {
    let mut wanted = claim(1);
    wanted.previous = Some(subnet("10.42.9.0/24"));
    let node = bench.node();
    let lease = node.claim(&config(CONFIG), &wanted).await.unwrap();
    let key = node.key_of(lease.subnet);
    (lease, key)
}

async fn retake(bench: &impl Bench, lease: &Lease) -> Retaken {
    bench.node().retake(lease, OnTwin::Leave).await.unwrap()
}

fn held(retaken: Retaken) -> Lease {
    match retaken {
        Retaken::Held(lease) => lease,
        other => panic!("{other:?}"),
    }
}

pub async fn a_free_subnet_is_taken_again(bench: &impl Bench) {
    let (lease, key) = holder(bench).await;
    bench.delete(&key).await;
    let error = bench.node().renew(&lease).await.unwrap_err();
    assert!(error.to_string().contains("was deleted"), "{error}");
    let back = held(retake(bench, &lease).await);
    assert_eq!((back.subnet, &back.attrs), (lease.subnet, &lease.attrs));
    assert_ne!(back.store_lease, lease.store_lease);
    let id = back.store_lease.unwrap();
    assert_eq!(bench.get(&key).await, Some((value(1), id)));
    assert_eq!(bench.leases().await, [id]);
    bench.node().renew(&back).await.unwrap();
    // Once more changes nothing.
    assert_eq!(held(retake(bench, &back).await), back);
}

pub async fn a_subnet_that_another_has_is_left(bench: &impl Bench) {
    let (lease, key) = holder(bench).await;
    for theirs in [value(2), "garbage".to_owned()] {
        let id = bench.put(&key, &theirs, true).await;
        let before = bench.leases().await;
        let retaken = retake(bench, &lease).await;
        assert!(
            matches!(&retaken, Retaken::Taken { by } if by.contains("10.42.9.0-24")),
            "{retaken:?}"
        );
        assert_eq!(bench.get(&key).await, Some((theirs, id)));
        assert_eq!(bench.leases().await, before, "nothing was granted");
        assert_eq!(bench.node().snapshot().await.unwrap().revision, {
            bench
                .node()
                .retake(&lease, OnTwin::Overwrite)
                .await
                .unwrap();
            bench.node().snapshot().await.unwrap().revision
        });
    }
}

pub async fn a_record_of_another_length_is_in_the_way(bench: &impl Bench) {
    let (lease, own) = holder(bench).await;
    for name in ["10.42.8.0-22", "10.42.9.128-25", "10.42.9.7-24"] {
        bench.delete(&own).await;
        bench.put(&key(name), &value(2), true).await;
        let retaken = retake(bench, &lease).await;
        assert!(
            matches!(&retaken, Retaken::Taken { by } if by.contains(name)),
            "{retaken:?}"
        );
        assert_eq!(bench.get(&own).await, None);
        bench.delete(&key(name)).await;
    }
    held(retake(bench, &lease).await);
}

pub async fn our_own_record_is_attached_again(bench: &impl Bench) {
    let (lease, key) = holder(bench).await;
    // As a stock agent on this node does at each renewal.
    let other = bench.put(&key, &value(1), true).await;
    let back = held(retake(bench, &lease).await);
    assert_eq!(back.store_lease, Some(other));
    bench.node().renew(&back).await.unwrap();
    // An operator's reservation never gets an end, whether it names a MAC or not.
    for reserved in [value(1), r#"{"PublicIP":"192.0.2.1"}"#.to_owned()] {
        bench.put(&key, &reserved, false).await;
        let back = held(retake(bench, &lease).await);
        assert_eq!(back.store_lease, None);
        assert_eq!(bench.get(&key).await, Some((value(1), 0)));
        bench.node().renew(&back).await.unwrap();
    }
}

pub async fn a_twin_is_told_and_overwritten_only_when_asked(bench: &impl Bench) {
    let (lease, key) = holder(bench).await;
    let twin = LeaseAttrs {
        backend: attrs(77).backend,
        ..attrs(1)
    };
    let theirs = value(1).replace("00:01\"", "00:4d\"");
    bench.put(&key, &theirs, true).await;
    match retake(bench, &lease).await {
        Retaken::Twin(found) => assert_eq!((found.subnet, found.attrs), (lease.subnet, twin)),
        other => panic!("{other:?}"),
    }
    assert_eq!(bench.get(&key).await.unwrap().0, theirs);
    let retaken = bench.node().retake(&lease, OnTwin::Overwrite).await;
    let back = held(retaken.unwrap());
    assert_eq!(back.attrs, lease.attrs);
    assert_eq!(bench.get(&key).await.unwrap().0, value(1));
    bench.node().renew(&back).await.unwrap();
}

pub async fn a_record_follows_a_new_address_if_it_is_ours(bench: &impl Bench) {
    let (lease, key) = holder(bench).await;
    let moved = bench.node().republish(&lease, &attrs(8)).await.unwrap();
    assert_eq!((moved.subnet, &moved.attrs), (lease.subnet, &attrs(8)));
    assert_eq!(moved.store_lease, lease.store_lease, "it lives on");
    let id = lease.store_lease.unwrap();
    assert_eq!(bench.get(&key).await, Some((value(8), id)));
    bench.node().renew(&moved).await.unwrap();
    // Once more, as after a write that was not answered, changes nothing.
    let again = bench.node().republish(&lease, &attrs(8)).await.unwrap();
    assert_eq!(again, moved);

    // What is somebody else's stays, whatever they wrote.
    for (theirs, leased) in [(value(2), true), ("garbage".to_owned(), true)] {
        let id = bench.put(&key, &theirs, leased).await;
        let error = bench.node().republish(&moved, &attrs(9)).await.unwrap_err();
        assert!(matches!(error, StoreError::LeaseLost { .. }), "{error}");
        assert_eq!(bench.get(&key).await, Some((theirs, id)));
    }
    bench.delete(&key).await;
    let error = bench.node().republish(&moved, &attrs(9)).await.unwrap_err();
    assert!(error.to_string().contains("was deleted"), "{error}");
    assert_eq!(bench.get(&key).await, None);
}
