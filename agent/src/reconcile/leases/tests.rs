//! What the follower tells, and when: a store in memory, and a clock that runs when all wait.

use tokio::{task::JoinHandle, time::timeout};

use super::*;
use crate::{
    model::lease::Revision,
    store::{etcd::keys::Keys, memory::MemoryStore},
};

const PREFIX: &str = "/x";
const VALUE: &[u8] = br#"{"PublicIP":"192.0.2.2","PublicIPv6":null}"#;
const PATIENCE: Duration = Duration::from_secs(3600);

struct Follower {
    store: MemoryStore,
    news: mpsc::Receiver<StoreNews>,
    task: JoinHandle<()>,
}

impl Follower {
    fn new(names: &[&str]) -> Self {
        let store = MemoryStore::new(PREFIX);
        for name in names {
            store.put_raw(&key(name), VALUE, 0);
        }
        let (sender, news) = mpsc::channel(8);
        let task = tokio::spawn(follow(Arc::new(store.clone()), sender));
        Self { store, news, task }
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
async fn a_store_that_does_not_answer_is_asked_less_and_less() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    follower.silent(7);
    follower.store.end_watches(|| Some(unavailable()));
    let mut waits = Vec::new();
    for _ in 0..8 {
        let told = follower.next().await;
        assert!(matches!(told, StoreNews::Down(_)), "{told:?}");
        waits.push(Instant::now());
    }
    assert_eq!(follower.snapshot().await, 1);
    waits.push(Instant::now());
    let waits: Vec<u128> = waits
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).as_millis())
        .collect();
    for (got, want) in waits
        .iter()
        .zip([100, 200, 400, 800, 1600, 3200, 5000, 5000])
    {
        assert!(got.abs_diff(want) <= 5, "{waits:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_answer_after_a_full_one_is_read_twice() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);

    // The key is back before the second look: nothing was ever lost.
    follower.store.end_watches(|| None);
    follower.store.delete_raw(&key("10.3.1.0-24"));
    tokio::time::advance(Duration::from_secs(1)).await;
    follower.store.put_raw(&key("10.3.1.0-24"), VALUE, 0);
    assert_eq!(follower.snapshot().await, 1);

    // It stays away: believed, but not at once.
    follower.store.end_watches(|| None);
    follower.store.delete_raw(&key("10.3.1.0-24"));
    let gone = Instant::now();
    assert_eq!(follower.snapshot().await, 0);
    assert!(gone.elapsed() >= MOST_RETRY, "{:?}", gone.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_is_believed_at_once_at_the_start() {
    let began = Instant::now();
    let mut follower = Follower::new(&[]);
    assert_eq!(follower.snapshot().await, 0);
    assert!(began.elapsed() < FIRST_RETRY);
}

#[tokio::test(start_paused = true)]
async fn all_is_read_again_at_intervals() {
    let mut follower = Follower::new(&["10.3.1.0-24"]);
    assert_eq!(follower.snapshot().await, 1);
    let began = Instant::now();
    assert_eq!(follower.snapshot().await, 1);
    assert!(began.elapsed().abs_diff(RELIST) <= Duration::from_millis(5));
}

/// A proxy that closes every watch must not make each node read all leases in a loop.
#[tokio::test(start_paused = true)]
async fn a_watch_that_ends_at_once_is_opened_less_and_less() {
    for error in [|| None, || Some(StoreError::Compacted(Revision(1)))] {
        let mut follower = Follower::new(&["10.3.1.0-24"]);
        let began = Instant::now();
        let mut reads = 0;
        while began.elapsed() < Duration::from_secs(60) && reads < 1000 {
            assert_eq!(follower.snapshot().await, 1);
            reads += 1;
            follower.store.end_watches(error);
        }
        assert!(reads <= 20, "{reads} reads in a minute");
        // One that lives for a while makes it quick again.
        assert_eq!(follower.snapshot().await, 1);
        tokio::time::sleep(Duration::from_secs(60)).await;
        follower.store.end_watches(error);
        let broken = Instant::now();
        assert_eq!(follower.snapshot().await, 1);
        assert!(broken.elapsed() <= FIRST_RETRY, "{:?}", broken.elapsed());
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
