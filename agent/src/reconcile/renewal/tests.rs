//! The life of our own lease: a store in memory, and a clock that runs when all wait.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout},
};

use super::*;
use crate::{
    lease::{TTL, keeper::MOST_RETRY},
    model::lease::{Backend, Claim, LeaseAttrs},
    store::memory::MemoryStore,
};

const HOUR: Duration = Duration::from_secs(3600);
const OTHER: &[u8] = br#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
const TWIN: &[u8] = br#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:77"}}"#;

/// Goes with the runtime's clock, which a test can stop, and leaps when told to.
#[derive(Clone)]
struct TestClock {
    began: Instant,
    slept: Arc<AtomicU64>,
}

impl Clock for TestClock {
    fn now(&self) -> Moment {
        let slept = Duration::from_secs(self.slept.load(Ordering::Relaxed));
        Moment(self.began.elapsed() + slept)
    }
}

struct World {
    store: MemoryStore,
    lease: Lease,
    key: String,
    address: watch::Sender<IpAddr>,
    bell: Arc<Notify>,
    outcome: watch::Receiver<OwnLease>,
    began: Instant,
    slept: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl World {
    async fn new() -> Self {
        Self::with(TTL, false).await
    }

    async fn with(ttl: Duration, found_other: bool) -> Self {
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
        let address = watch::Sender::new(lease.attrs.public_ip);
        let (sender, outcome) = watch::channel(OwnLease::Held);
        let (began, slept) = (Instant::now(), Arc::<AtomicU64>::default());
        let renewal = Renewal {
            store: Arc::new(store.clone()),
            clock: TestClock {
                began,
                slept: Arc::clone(&slept),
            },
            lease: lease.clone(),
            found_other,
            ttl,
            margin: HOUR,
            address: address.subscribe(),
            bell: Arc::clone(&bell),
            outcome: sender,
        };
        Self {
            key: store.key_of(lease.subnet),
            store,
            lease,
            address,
            bell,
            outcome,
            began,
            slept,
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

    /// A second node with our address writes our key, as it does when it claims.
    fn written_by_twin(&self) {
        let (_, lease) = self.store.get_raw(&self.key).expect("the key");
        self.store.put_raw(&self.key, TWIN, lease);
        self.bell.notify_one();
    }

    fn value(&self) -> Vec<u8> {
        self.store.get_raw(&self.key).expect("the key").0
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
async fn a_subnet_that_another_took_is_lost_and_nothing_is_written() {
    let mut world = World::new().await;
    let theirs = world.taken_by_another();
    let revision = world.store.snapshot().await.unwrap().revision;
    for _ in 0..3 {
        let outcome = world.next().await;
        assert!(lost(&outcome), "{outcome:?}");
        assert!(!outcome.is_held() && outcome.is_lost());
        assert_eq!(world.store.snapshot().await.unwrap().revision, revision);
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
            OwnLease::Unconfirmed { .. } => break,
            other => panic!("{other:?}"),
        }
    }
    let late = world.began.elapsed().checked_sub(TTL).expect("not before");
    assert!(late <= MOST_RETRY, "{late:?}");
    // The key is still there: when the store answers again, all is well.
    while world.next().await != OwnLease::Held {}
}

#[tokio::test(start_paused = true)]
async fn the_time_of_the_last_word_stays_the_same() {
    let mut world = World::with(Duration::from_secs(15), false).await;
    world.silent(30);
    let mut seen = Vec::new();
    for _ in 0..30 {
        let outcome = world.next().await;
        assert!(outcome.is_held(), "{outcome:?}");
        if let OwnLease::Unconfirmed { since, .. } = outcome {
            seen.push(since);
        }
    }
    seen.dedup();
    assert!(
        matches!(seen.as_slice(), [since] if since.ends_with('Z')),
        "{seen:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_short_ttl_is_renewed_in_time_and_retried_soon() {
    let ttl = Duration::from_secs(15);
    let mut world = World::with(ttl, false).await;
    for nth in 1..=4 {
        assert_eq!(world.next().await, OwnLease::Held);
        let late = world.began.elapsed().abs_diff(nth * ttl / 3);
        assert!(late < Duration::from_millis(10), "{late:?}");
    }
    world.silent(100);
    for _ in 0..20 {
        let before = Instant::now();
        world.next().await;
        assert!(before.elapsed() <= ttl / 3, "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn what_came_due_in_suspend_is_noticed_soon_after() {
    let mut world = World::new().await;
    world.next().await;
    world.slept.store(9 * 3600, Ordering::Relaxed);
    let woken = Instant::now();
    assert_eq!(world.next().await, OwnLease::Held);
    let late = woken.elapsed();
    assert!(late <= SLICE + Duration::from_millis(10), "{late:?}");
    // Once: the next is due in a third of its life.
    world.next().await;
    let late = woken.elapsed().abs_diff(TTL / 3);
    assert!(late < 2 * SLICE, "{late:?}");
    // Longer than the lease lives, and the store has dropped it meanwhile.
    let id = world.lease.store_lease.unwrap();
    world.store.expire(id);
    world.slept.store(100 * 3600, Ordering::Relaxed);
    assert_eq!(world.next().await, OwnLease::Held);
    assert_ne!(world.store.get_raw(&world.key).unwrap().1, id);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_and_a_silent_store_are_no_loss_of_the_subnet() {
    let mut world = World::new().await;
    world.store.delete_raw(&world.key);
    for n in 2..=5 {
        let why = "told to fail".to_owned();
        let endpoints = String::new();
        world
            .store
            .fail_nth(n, StoreError::Unavailable { endpoints, why });
    }
    world.bell.notify_one();
    loop {
        match world.next().await {
            OwnLease::Missing(why) => assert!(why.contains("told to fail"), "{why}"),
            OwnLease::Held => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(world.store.get_raw(&world.key).is_some());
}

fn conflict(outcome: &OwnLease) -> bool {
    matches!(outcome, OwnLease::Conflict(why) if why.contains("02:00:00:00:00:77") && why.contains("--public-ip"))
}

#[tokio::test(start_paused = true)]
async fn a_second_strange_write_ends_our_own() {
    let mut world = World::new().await;
    let ours = world.value();
    world.written_by_twin();
    assert_eq!(world.next().await, OwnLease::Held);
    assert_eq!(world.value(), ours, "one may be a slip");
    world.written_by_twin();
    let outcome = world.next().await;
    assert!(conflict(&outcome), "{outcome:?}");
    assert!(!outcome.is_held() && !outcome.is_lost());
    // It is kept alive, and never written, whatever the other does.
    for _ in 0..3 {
        assert!(conflict(&world.next().await));
        assert_eq!(world.value(), TWIN);
    }
    world.store.put_raw(&world.key, &ours, world.store.grant());
    world.bell.notify_one();
    assert!(conflict(&world.next().await));
    assert!(conflict(&world.next().await));
    // What goes to a third is lost.
    world.taken_by_another();
    assert!(world.next().await.is_lost());
}

#[tokio::test(start_paused = true)]
async fn who_found_another_mac_answers_once_and_stops() {
    let mut world = World::with(TTL, true).await;
    let ours = world.value();
    world.written_by_twin();
    assert!(conflict(&world.next().await));
    assert_eq!(world.value(), ours, "so that the other one hears of it");
    world.written_by_twin();
    assert!(conflict(&world.next().await));
    assert_eq!(world.value(), TWIN);
}

#[tokio::test(start_paused = true)]
async fn our_record_follows_our_address() {
    let mut world = World::new().await;
    let (_, lease) = world.store.get_raw(&world.key).expect("the key");
    world.silent(2);
    world.address.send_replace("192.0.2.8".parse().unwrap());
    // It is written at once, and again until the store has it.
    for _ in 0..3 {
        assert_eq!(world.next().await, OwnLease::Held);
    }
    assert!(
        world.began.elapsed() < Duration::from_secs(5),
        "{:?}",
        world.began.elapsed()
    );
    let (value, same) = world.store.get_raw(&world.key).expect("the key");
    let value = String::from_utf8(value).unwrap();
    assert!(value.contains(r#""PublicIP":"192.0.2.8""#), "{value}");
    assert_eq!(same, lease, "the lease is the same");
    // It is renewed like any other, and taken again under the new address.
    assert_eq!(world.next().await, OwnLease::Held);
    world.store.delete_raw(&world.key);
    world.bell.notify_one();
    assert_eq!(world.next().await, OwnLease::Held);
    let value = String::from_utf8(world.value()).unwrap();
    assert!(value.contains(r#""PublicIP":"192.0.2.8""#), "{value}");
}

#[tokio::test(start_paused = true)]
async fn a_new_address_takes_nothing_from_others() {
    let mut world = World::new().await;
    world.taken_by_another();
    world.address.send_replace("192.0.2.8".parse().unwrap());
    while !lost(&world.next().await) {}
    assert_eq!(world.value(), OTHER);
}

/// Our record as a write leaves it that nobody answered.
fn named(world: &World, address: &str, mac: &str) {
    let (_, lease) = world.store.get_raw(&world.key).expect("the key");
    let value = format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    );
    world.store.put_raw(&world.key, value.as_bytes(), lease);
}

#[tokio::test(start_paused = true)]
async fn our_record_under_an_address_that_we_had_is_ours() {
    let ours = "02:00:00:00:00:01";
    let mut world = World::new().await;
    // It was written, nobody said so, and the address was left again before anybody looked.
    world.silent(1);
    world.address.send_replace("192.0.2.8".parse().unwrap());
    assert_eq!(world.next().await, OwnLease::Held);
    named(&world, "192.0.2.8", ours);
    world.address.send_replace("192.0.2.9".parse().unwrap());
    assert_eq!(world.next().await, OwnLease::Held);
    let value = String::from_utf8(world.value()).unwrap();
    assert!(value.contains(r#""PublicIP":"192.0.2.9""#), "{value}");
    // An older day's data, with another lease.
    named(&world, "192.0.2.1", ours);
    world.bell.notify_one();
    assert_eq!(world.next().await, OwnLease::Held);
    let value = String::from_utf8(world.value()).unwrap();
    assert!(value.contains(r#""PublicIP":"192.0.2.9""#), "{value}");
    // Whoever has our former address now is somebody else.
    named(&world, "192.0.2.8", "02:00:00:00:00:77");
    world.bell.notify_one();
    assert!(lost(&world.next().await));
    let value = String::from_utf8(world.value()).unwrap();
    assert!(value.contains(r#""PublicIP":"192.0.2.8""#), "{value}");
}
