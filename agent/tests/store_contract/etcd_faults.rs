//! What only a real server can do to us: be dead, frozen, deaf to the cluster, or forbid.

use std::time::{Duration, Instant};

use futures::StreamExt;
use weft::store::{
    LeaseStore, StoreError,
    etcd::{EtcdStore, Tuning},
};

use crate::{
    bench::{Bench, CONFIG, PREFIX, claim, config, key, soon, value},
    etcd::{self, Etcd, dead, tuning},
};

fn store(endpoints: &[&str]) -> EtcdStore {
    EtcdStore::new(etcd::config(endpoints)).unwrap()
}

/// Every call of the trait must say so within the limit.
async fn unavailable(node: &EtcdStore, limit: Duration) {
    let began = Instant::now();
    let error = node.snapshot().await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        began.elapsed() < limit,
        "{error} after {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let error = node.claim(&config(CONFIG), &claim(1)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        began.elapsed() < limit,
        "{error} after {:?}",
        began.elapsed()
    );
    let began = Instant::now();
    let error = node
        .watch(weft::model::lease::Position::default())
        .await
        .err()
        .unwrap();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        began.elapsed() < limit,
        "{error} after {:?}",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_dead_endpoint_is_told_at_once() {
    let node = store(&[&dead()]);
    unavailable(&node, Duration::from_secs(2)).await;
    let error = node.network().await.unwrap_err().to_string();
    assert!(error.contains("refused"), "{error}");
}

#[tokio::test]
async fn the_second_endpoint_is_used_when_the_first_is_dead() {
    let etcd = Etcd::start().await;
    let node = store(&[&dead(), &etcd.endpoint]);
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    for _ in 0..50 {
        node.renew(&lease).await.unwrap();
    }
}

#[tokio::test]
async fn a_frozen_server_is_told_in_time_and_found_again() {
    let etcd = Etcd::start().await;
    let node = etcd.node();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    etcd.freeze();
    unavailable(&node, Duration::from_millis(3_500)).await;
    etcd.thaw();
    soon("the server to answer again", async {
        while node.renew(&lease).await.is_err() {}
    })
    .await;
}

#[tokio::test]
async fn a_frozen_server_is_left_for_the_next() {
    let (first, second) = (Etcd::start().await, Etcd::start().await);
    second.put(&format!("{PREFIX}/config"), CONFIG, false).await;
    let node = store(&[&first.endpoint, &second.endpoint]);
    node.snapshot().await.unwrap();
    let health = node.health();
    assert_eq!(health.borrow().left_alone, []);
    first.freeze();
    let began = Instant::now();
    node.network().await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(3_500));
    {
        let health = health.borrow();
        assert_eq!(health.endpoint, second.endpoint);
        let frozen = (first.endpoint.clone(), "it does not answer".to_owned());
        assert_eq!(health.left_alone, [frozen]);
    }
    // It stays with the second, and a failure of that one does not lead back at once: the next
    // call finds the second again, because the first is in quarantine.
    for _ in 0..20 {
        let began = Instant::now();
        node.network().await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(1_500));
    }
    // Frozen it stays alone; thawed it does not, long before its quarantine is over.
    let mut changes = health.clone();
    let back = changes.wait_for(|health| health.left_alone.is_empty());
    let kept = async { node.keep_way().await };
    let asked = async {
        let early = tokio::time::timeout(Duration::from_secs(5), back).await;
        assert!(early.is_err(), "it is frozen");
        first.thaw();
        let mut changes = health.clone();
        let back = changes.wait_for(|health| health.left_alone.is_empty());
        soon("the first to be left alone no more", back)
            .await
            .unwrap();
        assert_eq!(
            health.borrow().endpoint,
            second.endpoint,
            "no reason to go back"
        );
    };
    tokio::select! {
        () = kept => {}
        () = asked => {}
    }
}

#[tokio::test]
async fn a_watch_notices_that_its_server_is_frozen() {
    let etcd = Etcd::start().await;
    let node = EtcdStore::with_tuning(etcd.config(), tuning(Duration::from_millis(500))).unwrap();
    let start = node.snapshot().await.unwrap().position();
    let mut events = node.watch(start).await.unwrap();
    // Four times the patience: signs of life are asked for and come.
    let quiet = tokio::time::timeout(Duration::from_secs(2), events.next()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    etcd.put(&key("10.42.1.0-24"), &value(1), false).await;
    assert!(soon("an event", events.next()).await.unwrap().is_ok());
    etcd.freeze();
    let began = Instant::now();
    let error = soon("the end of the watch", events.next())
        .await
        .unwrap()
        .unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}",
        began.elapsed()
    );
    assert!(events.next().await.is_none());
}

#[tokio::test]
async fn a_watch_ends_with_its_server() {
    let etcd = Etcd::start().await;
    let node = etcd.node();
    let start = node.snapshot().await.unwrap().position();
    let mut events = node.watch(start).await.unwrap();
    drop(etcd);
    match soon("the end of the watch", events.next()).await {
        None | Some(Err(StoreError::Unavailable { .. })) => {}
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_lease_runs_for_the_given_time_and_is_lost_after_it() {
    let etcd = Etcd::start().await;
    let short = Tuning {
        ttl: Duration::from_secs(2),
        ..Tuning::default()
    };
    let node = EtcdStore::with_tuning(etcd.config(), short).unwrap();
    let lease = node.claim(&config(CONFIG), &claim(1)).await.unwrap();
    let mut client = etcd.client().await;
    let known = client
        .lease_time_to_live(lease.store_lease.unwrap(), None)
        .await
        .unwrap();
    assert_eq!(known.granted_ttl(), 2);
    soon("the lease to end", async {
        while etcd.get(&node.key_of(lease.subnet)).await.is_some() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    let error = node.renew(&lease).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseLost { .. }), "{error}");
}

#[tokio::test]
async fn a_lease_for_another_time_is_replaced() {
    let etcd = Etcd::start().await;
    let mut client = etcd.client().await;
    for granted in [600, 90_000] {
        let id = client.lease_grant(granted, None).await.unwrap().id();
        let options = etcd_client::PutOptions::new().with_lease(id);
        client
            .put(key("10.42.3.0-24"), value(1), Some(options))
            .await
            .unwrap();
        let lease = etcd.node().claim(&config(CONFIG), &claim(1)).await.unwrap();
        assert_eq!(lease.subnet, crate::bench::subnet("10.42.3.0/24"));
        let fresh = lease.store_lease.unwrap();
        assert_ne!(fresh, id);
        let known = client.lease_time_to_live(fresh, None).await.unwrap();
        assert_eq!(known.granted_ttl(), 86_400);
        assert_eq!(
            etcd.get(&key("10.42.3.0-24")).await,
            Some((value(1), fresh))
        );
    }
}

#[tokio::test]
async fn sixty_nodes_start_at_once_and_ten_find_nothing() {
    let etcd = Etcd::start().await;
    let range = r#"{"Network":"10.42.0.0/16","SubnetMin":"10.42.16.0","SubnetMax":"10.42.65.0","Backend":{"Type":"vxlan"}}"#;
    let range = config(range);
    let nodes: Vec<_> = (1..=60).map(|last| (etcd.node(), claim(last))).collect();
    let claims = nodes.iter().map(|(node, claim)| node.claim(&range, claim));
    let results = futures::future::join_all(claims).await;
    let mut taken: Vec<_> = results.iter().flatten().map(|lease| lease.subnet).collect();
    taken.sort_unstable();
    taken.dedup();
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert!(matches!(error, StoreError::NoFreeSubnet { .. }), "{error}");
    }
    assert_eq!(taken.len(), 50);
    assert_eq!(etcd.leases().await.len(), 50);
}
