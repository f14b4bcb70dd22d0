//! The life of our own lease: a store in memory, and a clock that runs when all wait.

use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    lease::keeper::MOST_RETRY,
    model::lease::{Backend, LeaseAttrs},
    store::memory::MemoryStore,
};

const HOUR: Duration = Duration::from_secs(3600);
const OTHER: &[u8] = br#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;

struct World {
    store: MemoryStore,
    lease: Lease,
    key: String,
    bell: Arc<Notify>,
    outcome: watch::Receiver<OwnLease>,
    began: Instant,
    task: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        let config = r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let store = MemoryStore::with_config("/x", config);
        let network = store.network().await.unwrap();
        let claim = Claim {
            attrs: LeaseAttrs {
                public_ip: "192.0.2.1".parse().unwrap(),
                backend: Backend::Vxlan {
                    vni: network.vni,
                    vtep_mac: "02:00:00:00:00:01".parse().unwrap(),
                },
            },
            previous: None,
        };
        let lease = store.claim(&network, &claim).await.unwrap();
        let bell = Arc::new(Notify::new());
        let (sender, outcome) = watch::channel(OwnLease::Held);
        let renewal = Renewal {
            store: Arc::new(store.clone()),
            network,
            claim,
            lease: lease.clone(),
            margin: HOUR,
            bell: Arc::clone(&bell),
            outcome: sender,
        };
        Self {
            key: store.key_of(lease.subnet),
            store,
            lease,
            bell,
            outcome,
            began: Instant::now(),
            task: tokio::spawn(renewal.run()),
        }
    }

    /// The outcome of the next attempt.
    async fn next(&mut self) -> OwnLease {
        timeout(10 * HOUR, self.outcome.changed())
            .await
            .expect("nothing was tried for ten hours")
            .expect("the task ended");
        self.outcome.borrow_and_update().clone()
    }

    fn silent(&self, calls: usize) {
        for n in 1..=calls {
            let error = StoreError::Unavailable {
                endpoints: "http://192.0.2.9:2379".to_owned(),
                why: "told to fail".to_owned(),
            };
            self.store.fail_nth(n, error);
        }
    }

    /// Somebody else writes our key, with a lease of its own.
    fn taken_by_another(&self) -> i64 {
        self.store.delete_raw(&self.key);
        let theirs = self.store.grant();
        self.store.put_raw(&self.key, OTHER, theirs);
        self.bell.notify_one();
        theirs
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn lost(outcome: &OwnLease) -> bool {
    matches!(outcome, OwnLease::Lost(why) if why.contains("restart"))
}

#[tokio::test(start_paused = true)]
async fn it_is_renewed_every_third_of_its_life() {
    let mut world = World::new().await;
    for nth in 1..=4 {
        assert_eq!(world.next().await, OwnLease::Held);
        let late = world.began.elapsed().abs_diff(nth * TTL / 3);
        assert!(late < Duration::from_secs(1), "{:?}", world.began.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_bell_makes_it_look_at_once() {
    let mut world = World::new().await;
    world.bell.notify_one();
    assert_eq!(world.next().await, OwnLease::Held);
    assert!(world.began.elapsed() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_taken_again() {
    let mut world = World::new().await;
    let first = world.lease.store_lease;
    world.store.expire(first.unwrap());
    world.bell.notify_one();
    assert_eq!(world.next().await, OwnLease::Held);
    let (_, lease) = world.store.get_raw(&world.key).expect("the same key");
    assert_ne!(Some(lease), first);
    assert_eq!(world.store.leases(), [lease]);
    // The new one is the one that is renewed.
    assert_eq!(world.next().await, OwnLease::Held);
    assert_eq!(world.store.get_raw(&world.key).unwrap().1, lease);
}

#[tokio::test(start_paused = true)]
async fn a_subnet_that_another_took_is_lost_and_no_other_is_kept() {
    let mut world = World::new().await;
    let theirs = world.taken_by_another();
    for _ in 0..3 {
        let outcome = world.next().await;
        assert!(lost(&outcome), "{outcome:?}");
        let snapshot = world.store.snapshot().await.unwrap();
        assert_eq!(snapshot.leases.len(), 1, "{snapshot:?}");
        assert_eq!(world.store.leases(), [theirs]);
    }
    // Once it is free, it is ours again.
    world.store.expire(theirs);
    assert_eq!(world.next().await, OwnLease::Held);
    assert!(world.store.get_raw(&world.key).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_not_held_because_the_store_falls_silent() {
    let mut world = World::new().await;
    world.taken_by_another();
    assert!(lost(&world.next().await));
    world.silent(5);
    for _ in 0..5 {
        let outcome = world.next().await;
        assert!(lost(&outcome), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_store_is_no_loss_but_no_certainty_for_ever() {
    let mut world = World::new().await;
    world.silent(5000);
    loop {
        match world.next().await {
            OwnLease::Held => assert!(world.began.elapsed() < TTL),
            OwnLease::Unconfirmed(_) => break,
            OwnLease::Lost(why) => panic!("{why}"),
        }
    }
    let late = world.began.elapsed().checked_sub(TTL).expect("not before");
    assert!(late <= MOST_RETRY, "{late:?}");
    // The key is still there: when the store answers again, all is well.
    while world.next().await != OwnLease::Held {}
}
