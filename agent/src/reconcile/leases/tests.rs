//! What the follower tells, and when: a store in memory, and a clock that runs when all wait.

use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::model::lease::Revision;
use crate::reconcile::pulse::{Pulse, Task};
use crate::store::{backoff::FIRST, etcd::keys::Keys, memory::MemoryStore};

const PREFIX: &str = "/x";
const VALUE: &[u8] = br#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
const GRACE: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(3600);

struct Follower {
    store: MemoryStore,
    news: mpsc::Receiver<StoreNews>,
    kept: watch::Receiver<usize>,
    task: JoinHandle<()>,
}

impl Follower {
    fn new(names: &[&str]) -> Self {
        Self::of(MemoryStore::new(PREFIX), names)
    }

    fn of(store: MemoryStore, names: &[&str]) -> Self {
        for name in names {
            put(&store, name);
        }
        let (sender, news) = mpsc::channel(8);
        let (kept, told) = watch::channel(0);
        let own: ipnet::IpNet = "10.3.1.0/24".parse().unwrap();
        let ledger = SharedLedger::new(GRACE);
        ledger.open().begin(own.try_into().unwrap(), []);
        let how = Following {
            ledger,
            relist: RELIST,
            kept,
        };
        let task = tokio::spawn(follow(Arc::new(store.clone()), how, sender));
        Self {
            store,
            news,
            kept: told,
            task,
        }
    }

    async fn next(&mut self) -> StoreNews {
        timeout(PATIENCE, self.news.recv())
            .await
            .expect("nothing was told for an hour")
            .expect("the follower ended")
    }

    /// Waits for a snapshot, which must be next, and answers with the number of leases in it.
    async fn snapshot(&mut self) -> usize {
        match self.next().await {
            StoreNews::Snapshot(snapshot) => snapshot.leases.len(),
            other => panic!("{other:?}"),
        }
    }

    async fn event(&mut self) -> LeaseEvent {
        match self.next().await {
            StoreNews::Event(event) => event,
            other => panic!("{other:?}"),
        }
    }

    fn compacted(&self) {
        self.store
            .end_watches(|| Some(StoreError::Compacted(Revision(1))));
    }

    fn silent(&self, calls: usize) {
        for n in 1..=calls {
            self.store.fail_nth(n, unavailable());
        }
    }
}

/// Each node has an address of its own, by the third part of its subnet.
fn put(store: &MemoryStore, name: &str) {
    let node = name.split('.').nth(2).unwrap_or("2");
    let value = format!(r#"{{"PublicIP":"192.0.2.{node}","PublicIPv6":null}}"#);
    store.put_raw(&key(name), value.as_bytes(), 0);
}

fn key(name: &str) -> String {
    format!("{}{name}", Keys::new(PREFIX).leases())
}

fn unavailable() -> StoreError {
    StoreError::Unavailable {
        endpoints: "http://192.0.2.9:2379".to_owned(),
        why: "told to fail".to_owned(),
    }
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_comes_first_and_then_each_change() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    follower.store.put_raw(&key("10.3.2.0-24"), VALUE, 0);
    assert!(matches!(follower.event().await, LeaseEvent::Put(_)));
    follower.store.put_raw(&key("rubbish"), VALUE, 0);
    assert!(matches!(follower.event().await, LeaseEvent::Reject { .. }));
    follower.store.delete_raw(&key("10.3.2.0-24"));
    assert!(matches!(follower.event().await, LeaseEvent::Gone { .. }));
}

#[tokio::test(start_paused = true)]
async fn after_a_compaction_all_is_read_again_without_alarm() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    follower.compacted();
    assert_eq!(follower.snapshot().await, 1);
    follower.store.put_raw(&key("10.3.2.0-24"), VALUE, 0);
    assert!(matches!(follower.event().await, LeaseEvent::Put(_)));
}

#[tokio::test(start_paused = true)]
async fn a_broken_watch_goes_on_where_it_was() {
    for error in [|| None, || Some(unavailable())] {
        let mut follower = Follower::new(&["10.3.1.0-24"]);
        assert_eq!(follower.snapshot().await, 1);
        put(&follower.store, "10.3.2.0-24");
        assert!(matches!(follower.event().await, LeaseEvent::Put(_)));
        follower.store.end_watches(error);
        put(&follower.store, "10.3.3.0-24");
        follower.store.delete_raw(&key("10.3.2.0-24"));
        if error().is_some() {
            assert!(matches!(follower.next().await, StoreNews::Down(_)));
            assert!(matches!(follower.next().await, StoreNews::Back));
        }
        // No snapshot, and nothing twice.
        assert!(matches!(follower.event().await, LeaseEvent::Put(_)));
        assert!(matches!(follower.event().await, LeaseEvent::Gone { .. }));
        put(&follower.store, "10.3.4.0-24");
        assert!(matches!(follower.event().await, LeaseEvent::Put(_)));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_compacted_meanwhile_is_read_again() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    follower.store.end_watches(|| None);
    put(&follower.store, "10.3.2.0-24");
    put(&follower.store, "10.3.3.0-24");
    follower.store.compact();
    assert_eq!(follower.snapshot().await, 3);
}

/// The outage made the pauses long; that it was also a long one for the store's history does not
/// add to them.
#[tokio::test(start_paused = true)]
async fn what_was_compacted_during_an_outage_is_read_at_once() {
    for _ in 0..10 {
        let mut follower = Follower::new(&["10.3.1.0-24"]);
        assert_eq!(follower.snapshot().await, 1);
        follower.silent(40);
        follower.store.end_watches(|| Some(unavailable()));
        put(&follower.store, "10.3.2.0-24");
        put(&follower.store, "10.3.3.0-24");
        follower.store.compact();
        for _ in 0..41 {
            assert!(matches!(follower.next().await, StoreNews::Down(_)));
        }
        let answers = Instant::now();
        assert_eq!(follower.snapshot().await, 3);
        let took = answers.elapsed();
        assert!(took <= PAUSE + FIRST + Duration::from_millis(5), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_is_asked_less_and_less() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    follower.silent(40);
    follower.store.end_watches(|| Some(unavailable()));
    let mut waits = Vec::new();
    for _ in 0..41 {
        let told = follower.next().await;
        assert!(matches!(told, StoreNews::Down(_)), "{told:?}");
        waits.push(Instant::now());
    }
    assert!(matches!(follower.next().await, StoreNews::Back));
    let waits: Vec<_> = waits.windows(2).map(|pair| pair[1] - pair[0]).collect();
    for (n, wait) in waits.iter().enumerate() {
        let most = (FIRST * (1 << n.min(10))).min(PAUSE);
        assert!(*wait <= most + Duration::from_millis(5), "{waits:?}");
    }
    // Thirty-six waits of half a second on average.
    let all: Duration = waits.iter().sum();
    assert!(all > Duration::from_secs(10), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_listing_that_loses_much_is_read_twice() {
    let mut follower = Follower::new(&["10.3.1.0-24", "10.3.2.0-24"]);
    assert_eq!(follower.snapshot().await, 2);
    // Gone, and back before the second look: nothing was ever lost.
    follower.store.lose_all(0);
    follower.store.end_watches(|| None);
    sleep(SECOND_LOOK / 2).await;
    put(&follower.store, "10.3.1.0-24");
    put(&follower.store, "10.3.2.0-24");
    assert_eq!(follower.snapshot().await, 2);
    assert_eq!(*follower.kept.borrow(), 0);
}

#[tokio::test(start_paused = true)]
async fn peers_outlive_a_loss_of_the_stores_data() {
    for cluster in [0, 9] {
        let mut follower = Follower::new(&["10.3.1.0-24", "10.3.2.0-24", "10.3.3.0-24"]);
        assert_eq!(follower.snapshot().await, 3);
        follower.store.lose_all(cluster);
        follower.store.end_watches(|| None);
        let lost = Instant::now();
        // Ours is not among them: it is to be written again.
        assert_eq!(follower.snapshot().await, 2);
        assert!(
            lost.elapsed() < Duration::from_secs(2),
            "{:?}",
            lost.elapsed()
        );
        assert_eq!(*follower.kept.borrow(), 2);
        put(&follower.store, "10.3.1.0-24");
        put(&follower.store, "10.3.2.0-24");
        for _ in 0..2 {
            assert!(matches!(follower.event().await, LeaseEvent::Put(_)));
        }
        assert_eq!(*follower.kept.borrow(), 1);
        let LeaseEvent::Gone { key: gone, .. } = follower.event().await else {
            panic!("the one that did not come back goes");
        };
        assert_eq!(gone, key("10.3.3.0-24"));
        assert!(lost.elapsed() >= GRACE, "{:?}", lost.elapsed());
        assert_eq!(*follower.kept.borrow(), 0);
    }
}

/// The other store is further than the lost one was: by their numbers alone the watch could go on.
#[tokio::test(start_paused = true)]
async fn a_watch_is_never_taken_up_in_another_store() {
    let store = MemoryStore::new(PREFIX);
    store.lose_all(3);
    let mut follower = Follower::of(store, &["10.3.1.0-24", "10.3.2.0-24", "10.3.3.0-24"]);
    assert_eq!(follower.snapshot().await, 3);
    follower.store.lose_all(4);
    for _ in 0..10 {
        put(&follower.store, "10.3.1.0-24");
    }
    // Its renewal reads the new store before it does.
    assert_eq!(follower.store.snapshot().await.unwrap().leases.len(), 1);
    follower.store.end_watches(|| None);
    assert_eq!(follower.snapshot().await, 3);
    assert_eq!(*follower.kept.borrow(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_after_a_full_one_is_read_twice() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);

    // The key is back before the second look: nothing was ever lost.
    follower.compacted();
    follower.store.delete_raw(&key("10.3.1.0-24"));
    follower.store.compact();
    sleep(SECOND_LOOK / 2).await;
    put(&follower.store, "10.3.1.0-24");
    assert_eq!(follower.snapshot().await, 1);

    // It stays away: believed, but not at once.
    follower.compacted();
    follower.store.delete_raw(&key("10.3.1.0-24"));
    let gone = Instant::now();
    assert_eq!(follower.snapshot().await, 0);
    assert!(gone.elapsed() >= SECOND_LOOK, "{:?}", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_is_believed_at_once_at_the_start() {
    let began = Instant::now();
    let mut follower = Follower::new(&[]);
    assert_eq!(follower.snapshot().await, 0);
    assert!(began.elapsed() < FIRST);
}

#[tokio::test(start_paused = true)]
async fn all_is_read_again_at_intervals() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    let mut waits = Vec::new();
    for _ in 0..10 {
        let began = Instant::now();
        assert_eq!(follower.snapshot().await, 1);
        waits.push(began.elapsed());
    }
    let slack = Duration::from_millis(5);
    for wait in &waits {
        assert!(wait.abs_diff(RELIST) <= RELIST / 10 + slack, "{waits:?}");
    }
    assert!(waits.iter().max() > waits.iter().min(), "no jitter");
}

/// A proxy that closes every watch must not make each node read all leases in a loop.
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_opened_less_and_less() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    let mut reads = 0;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(60) && reads < 1000 {
        assert_eq!(follower.snapshot().await, 1);
        reads += 1;
        follower.compacted();
    }
    assert!(reads <= 60, "{reads} reads in a minute");
    // One that lives for a while makes it quick again.
    assert_eq!(follower.snapshot().await, 1);
    sleep(Duration::from_secs(60)).await;
    follower.compacted();
    let broken = Instant::now();
    assert_eq!(follower.snapshot().await, 1);
    assert!(broken.elapsed() <= FIRST, "{:?}", broken.elapsed());
}

/// The waits are longer than a task may be silent.
#[tokio::test(start_paused = true)]
async fn it_gives_signs_of_life_while_it_waits() {
    let (store, pulse) = (MemoryStore::new(PREFIX), Arc::new(Pulse::default()));
    let (sender, mut news) = mpsc::channel(8);
    let how = Following {
        ledger: SharedLedger::new(GRACE),
        relist: RELIST,
        kept: watch::Sender::new(0),
    };
    let follower = follow(Arc::new(store.clone()), how, sender);
    tokio::spawn(Arc::clone(&pulse).of(Task::Store, follower));
    for _ in 0..1000 {
        while news.try_recv().is_ok() {
            store.end_watches(|| Some(StoreError::Compacted(Revision(1))));
        }
        sleep(Duration::from_millis(250)).await;
        assert_eq!(pulse.hung(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_listener() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    drop(follower.news);
    timeout(PATIENCE, follower.task)
        .await
        .expect("it goes on for nobody")
        .expect("it panicked");
}
