//! Following the leases.

use futures::{Stream, StreamExt};
use weft::{
    model::lease::{LeaseEvent, Position, Revision, Snapshot},
    store::{LeaseStore, StoreError},
};

use crate::bench::{Bench, CONFIG, PREFIX, claim, config, key, soon, subnet, value};

type Followed = Result<LeaseEvent, StoreError>;

async fn next(events: &mut (impl Stream<Item = Followed> + Unpin)) -> LeaseEvent {
    let event = soon("an event", events.next()).await;
    event.expect("the watch goes on").unwrap()
}

/// Follows until the snapshot has caught up with what the store says now.
async fn follow<S: LeaseStore>(node: &S, events: &mut S::Events, snapshot: &mut Snapshot) {
    let want = node.snapshot().await.unwrap();
    while (&snapshot.leases, &snapshot.rejected) != (&want.leases, &want.rejected) {
        let event = next(events).await;
        snapshot.apply(event, |subnet| node.key_of(subnet));
    }
}

pub async fn changes_are_followed(bench: &impl Bench) {
    let node = bench.node();
    let start = node.snapshot().await.unwrap().position();
    let mut events = node.watch(start).await.unwrap();
    let lease = bench
        .node()
        .claim(&config(CONFIG), &claim(1))
        .await
        .unwrap();
    assert_eq!(next(&mut events).await, LeaseEvent::Put(lease.clone()));
    bench.put(&node.key_of(lease.subnet), &value(2), true).await;
    let LeaseEvent::Put(changed) = next(&mut events).await else {
        panic!("a lease was written");
    };
    assert_eq!(changed.attrs, crate::bench::attrs(2));
    assert!(changed.modified > lease.modified);
    bench.delete(&node.key_of(lease.subnet)).await;
    let LeaseEvent::Gone { key, subnet, at } = next(&mut events).await else {
        panic!("a lease went");
    };
    assert_eq!(
        (key, subnet),
        (node.key_of(lease.subnet), Some(lease.subnet))
    );
    assert!(at > changed.modified);
}

pub async fn changes_of_the_config_ring(bench: &impl Bench) {
    let node = bench.node();
    let mut bells = node.watch_network().await.unwrap();
    let written = r#"{"Network":"10.99.0.0/16","Backend":{"Type":"vxlan"}}"#;
    // A lease does not ring, or it would be taken for the first of the two.
    bench.put(&key("10.42.1.0-24"), &value(1), true).await;
    bench.put(&format!("{PREFIX}/config"), written, false).await;
    soon("a ring", bells.next()).await.unwrap().unwrap();
    let read = node.network().await.unwrap();
    assert_eq!(read.network.to_string(), "10.99.0.0/16");
    bench.delete(&format!("{PREFIX}/config")).await;
    soon("a ring", bells.next()).await.unwrap().unwrap();
    assert!(matches!(
        node.network().await,
        Err(StoreError::ConfigMissing { .. })
    ));
}

pub async fn an_ipv4_half_is_followed(bench: &impl Bench) {
    let node = bench.node();
    let alone = key("10.42.1.0-24");
    let dual = key("10.42.1.0-24&fd00:42::-64");
    let start = node.snapshot().await.unwrap();
    let mut events = node.watch(start.position()).await.unwrap();
    let mut snapshot = start;
    let holder = |snapshot: &Snapshot| {
        let mut leases = snapshot.leases.values();
        leases.next().map(|lease| lease.attrs.clone())
    };
    for (changed, with, want) in [
        (&dual, Some(2), Some(2)),
        (&alone, Some(1), Some(1)),
        (&dual, None, Some(1)),
        (&dual, Some(3), Some(1)),
        (&alone, None, Some(3)),
        (&dual, None, None),
    ] {
        match with {
            Some(node) => _ = bench.put(changed, &value(node), true).await,
            None => bench.delete(changed).await,
        }
        follow(&node, &mut events, &mut snapshot).await;
        assert_eq!(
            holder(&snapshot),
            want.map(crate::bench::attrs),
            "{changed}: {with:?}"
        );
    }
}

pub async fn a_bad_record_touches_no_other(bench: &impl Bench) {
    let node = bench.node();
    for last in 1..=3 {
        bench
            .put(&key(&format!("10.42.{last}.0-24")), &value(last), true)
            .await;
    }
    let mut snapshot = node.snapshot().await.unwrap();
    let before = snapshot.leases.clone();
    let mut events = node.watch(snapshot.position()).await.unwrap();
    let bad = [
        ("garbage", value(9)),
        ("10.42.1.7-24", value(9)),
        ("10.42.1.0-24hi", value(9)),
        ("10.42.1.0-24&x", value(9)),
        ("0.0.0.0-0", value(9)),
        ("10.42.9.0-24", String::new()),
        ("10.42.8.0-24", "[]".to_owned()),
        ("10.42.7.0-24", "x".repeat(1 << 20)),
        ("10.42.6.0-24", r#"{"PublicIP":"127.0.0.1"}"#.to_owned()),
    ];
    for (name, value) in &bad {
        bench.put(&key(name), value, false).await;
    }
    follow(&node, &mut events, &mut snapshot).await;
    assert_eq!(snapshot.leases, before);
    assert_eq!(snapshot.rejected.len(), bad.len());
    for (name, _) in &bad {
        assert!(snapshot.rejected.contains_key(&key(name)), "{name}");
        bench.delete(&key(name)).await;
    }
    follow(&node, &mut events, &mut snapshot).await;
    assert_eq!(snapshot.leases, before);
    assert!(snapshot.rejected.is_empty());
    // A lease that turns bad is gone alone, and comes back.
    bench.put(&key("10.42.2.0-24"), "{}", false).await;
    follow(&node, &mut events, &mut snapshot).await;
    assert_eq!((snapshot.leases.len(), snapshot.rejected.len()), (2, 1));
    bench.put(&key("10.42.2.0-24"), &value(2), false).await;
    follow(&node, &mut events, &mut snapshot).await;
    assert_eq!((snapshot.leases.len(), snapshot.rejected.len()), (3, 0));
}

pub async fn siblings_of_the_prefix_are_not_ours(bench: &impl Bench) {
    let node = bench.node();
    let start = node.snapshot().await.unwrap().position();
    let mut events = node.watch(start).await.unwrap();
    bench
        .put(
            &format!("{PREFIX}/subnets-old/10.42.1.0-24"),
            &value(1),
            false,
        )
        .await;
    bench.put(&format!("{PREFIX}/config"), CONFIG, false).await;
    bench.put(&key("10.42.2.0-24"), &value(2), false).await;
    let LeaseEvent::Put(lease) = next(&mut events).await else {
        panic!("a lease was written");
    };
    assert_eq!(lease.subnet, subnet("10.42.2.0/24"));
    assert_eq!(node.snapshot().await.unwrap().leases.len(), 1);
}

pub async fn a_compacted_start_is_told(bench: &impl Bench) {
    let node = bench.node();
    let start = node.snapshot().await.unwrap().position();
    for last in 1..=3 {
        bench
            .put(&key(&format!("10.42.{last}.0-24")), &value(last), false)
            .await;
    }
    bench.compact().await;
    // The error may come at once or as the first event.
    let error = match node.watch(start).await {
        Err(error) => error,
        Ok(mut events) => {
            let first = soon("the end of the watch", events.next()).await;
            let error = first.expect("an error comes first").unwrap_err();
            assert!(soon("the end", events.next()).await.is_none());
            error
        }
    };
    assert!(
        matches!(error, StoreError::Compacted(at) if at > start.revision),
        "{error}"
    );
    let snapshot = node.snapshot().await.unwrap();
    assert_eq!(snapshot.leases.len(), 3);
    assert!(node.watch(snapshot.position()).await.is_ok());
}

pub async fn a_future_start_is_told(bench: &impl Bench) {
    let node = bench.node();
    bench.put(&key("10.42.1.0-24"), &value(1), false).await;
    let now = node.snapshot().await.unwrap().position();
    // As after the store was restored from a backup.
    let ahead = Position {
        revision: Revision(now.revision.0 + 1_000),
        ..now
    };
    let ahead = node.watch(ahead).await;
    let error = ahead.err().expect("the store is not that far");
    assert!(matches!(error, StoreError::Compacted(_)), "{error}");
}

/// As after the store's data was lost: what we know is of the store before, and that something else
/// of ours has read the new one already must not hide it.
pub async fn a_start_in_another_store_is_told(bench: &impl Bench) {
    let node = bench.node();
    bench.put(&key("10.42.1.0-24"), &value(1), false).await;
    let start = node.snapshot().await.unwrap().position();
    bench.put(&key("10.42.2.0-24"), &value(2), false).await;
    let elsewhere = Position {
        cluster: start.cluster + 1,
        ..start
    };
    let error = node.watch(elsewhere).await.err();
    let error = error.expect("another store's place is none here");
    assert!(matches!(error, StoreError::Compacted(_)), "{error}");
    assert!(node.watch(start).await.is_ok());
}

pub async fn a_watch_goes_on_where_the_snapshot_ends(bench: &impl Bench) {
    let node = bench.node();
    bench.put(&key("10.42.1.0-24"), &value(1), false).await;
    let snapshot = node.snapshot().await.unwrap();
    for last in 2..=40 {
        bench
            .put(&key(&format!("10.42.{last}.0-24")), &value(last), false)
            .await;
    }
    let mut events = node.watch(snapshot.position()).await.unwrap();
    for last in 2..=40 {
        let LeaseEvent::Put(lease) = next(&mut events).await else {
            panic!("only writes happened");
        };
        assert_eq!(lease.subnet, subnet(&format!("10.42.{last}.0/24")));
    }
}
