//! Keeping a subnet, losing it, giving it back.

use weft::{
    model::lease::Lease,
    store::{LeaseStore, StoreError},
};

use crate::bench::{Bench, CONFIG, claim, config, value};

async fn claimed(node: &impl LeaseStore) -> (Lease, String) {
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    let key = node.key_of(lease.subnet);
    (lease, key)
}

async fn lost(node: &impl LeaseStore, lease: &Lease, want: &str) {
    match node.renew(lease).await.unwrap_err() {
        StoreError::LeaseLost { subnet, why } => {
            assert_eq!(subnet, lease.subnet);
            assert!(why.contains(want), "{why}");
        }
        error => panic!("{error}"),
    }
}

pub async fn a_lease_is_renewed(bench: &impl Bench) {
    let node = bench.node();
    let (lease, key) = claimed(&node).await;
    node.renew(&lease).await.unwrap();
    node.renew(&lease).await.unwrap();
    assert_eq!(
        bench.get(&key).await,
        Some((value(1), lease.store_lease.unwrap()))
    );
    assert_eq!(node.snapshot().await.unwrap().leases[&lease.subnet], lease);
}

pub async fn a_deleted_lease_is_lost(bench: &impl Bench) {
    let node = bench.node();
    let (lease, key) = claimed(&node).await;
    bench.delete(&key).await;
    lost(&node, &lease, "was deleted").await;
    assert!(
        bench.leases().await.is_empty(),
        "the lease without a key is given back"
    );
    // The next claim gets it back, as the last run's subnet.
    let mut again = claim(1);
    again.previous = Some(lease.subnet);
    let back = node.claim(&config(CONFIG), &again).await.unwrap();
    assert_eq!(back.subnet, lease.subnet);
    node.renew(&back).await.unwrap();
    lost(&node, &lease, "somebody else").await;
}

pub async fn an_overwritten_lease_is_lost(bench: &impl Bench) {
    let node = bench.node();
    let (lease, key) = claimed(&node).await;
    let other = bench.put(&key, &value(2), true).await;
    lost(&node, &lease, "somebody else").await;
    assert_eq!(
        bench.get(&key).await,
        Some((value(2), other)),
        "the other one keeps it"
    );
    let (next, _) = claimed(&node).await;
    assert!(!next.subnet.overlaps(lease.subnet));
    bench.put(&node.key_of(next.subnet), "garbage", true).await;
    lost(&node, &next, "somebody else").await;
}

pub async fn a_lease_attached_elsewhere_is_lost(bench: &impl Bench) {
    let node = bench.node();
    let (lease, key) = claimed(&node).await;
    // As a stock agent on this node does at each renewal.
    let other = bench.put(&key, &value(1), true).await;
    lost(&node, &lease, "somebody else").await;
    let (next, _) = claimed(&node).await;
    assert_eq!((next.subnet, next.store_lease), (lease.subnet, Some(other)));
    node.renew(&next).await.unwrap();
    // And a lease that turns into a reservation is one from then on.
    bench.put(&key, &value(1), false).await;
    lost(&node, &next, "somebody else").await;
    let (reserved, _) = claimed(&node).await;
    assert_eq!(
        (reserved.subnet, reserved.store_lease),
        (lease.subnet, None)
    );
}

pub async fn a_lease_is_released_if_it_is_ours(bench: &impl Bench) {
    let node = bench.node();
    let (lease, key) = claimed(&node).await;
    node.release(&lease).await.unwrap();
    assert_eq!(bench.get(&key).await, None);
    assert!(bench.leases().await.is_empty());
    node.release(&lease).await.unwrap();

    let (lease, key) = claimed(&node).await;
    let other = bench.put(&key, &value(2), true).await;
    node.release(&lease).await.unwrap();
    assert_eq!(bench.get(&key).await, Some((value(2), other)));
    assert_eq!(bench.leases().await, [other]);
}

pub async fn a_reservation_is_not_released(bench: &impl Bench) {
    let node = bench.node();
    bench
        .put(&crate::bench::key("10.42.7.0-24"), &value(1), false)
        .await;
    let (lease, key) = claimed(&node).await;
    node.release(&lease).await.unwrap();
    assert_eq!(bench.get(&key).await, Some((value(1), 0)));
}
