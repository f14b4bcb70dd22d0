//! Many nodes that start at once.

use std::collections::BTreeSet;

use futures::future::join_all;
use weft::store::StoreError;

use crate::{
    bench::{Bench, claim, config},
    etcd::Etcd,
    history::assert_never_overlapped,
};

/// As a rack that gets its power back, twice: the second time each finds its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn twenty_nodes_start_at_once_for_sixteen_subnets() {
    use weft::store::LeaseStore as _;
    let etcd = Etcd::start().await;
    let range = r#"{"Network":"10.42.0.0/16","SubnetMin":"10.42.16.0","SubnetMax":"10.42.31.0","Backend":{"Type":"vxlan"}}"#;
    let range = config(range);
    for _ in 0..2 {
        let tasks = (1..=20).map(|last| {
            let (node, range) = (etcd.node(), range.clone());
            tokio::spawn(async move { node.claim(&range, &claim(last)).await })
        });
        let (mut taken, mut without) = (BTreeSet::new(), 0);
        for outcome in join_all(tasks).await {
            match outcome.unwrap() {
                Ok(lease) => assert!(taken.insert(lease.subnet), "two have {}", lease.subnet),
                Err(StoreError::NoFreeSubnet { .. }) => without += 1,
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!((taken.len(), without), (16, 4));
        assert_eq!(etcd.leases().await.len(), 16, "leases without a key");
        assert_eq!(assert_never_overlapped(&etcd.node()).await, 16);
    }
}
