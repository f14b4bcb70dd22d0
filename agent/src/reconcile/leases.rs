//! Follows the store: a snapshot, then its changes, then a snapshot again whenever the changes
//! break off, and at intervals. Runs as a task of its own, so that a slow store stalls nothing.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, warn};

use crate::{
    model::lease::{LeaseEvent, Snapshot},
    store::{LeaseStore, StoreError},
};

/// A full look now and then, whatever the watch said: insurance against lost events.
const RELIST: Duration = Duration::from_secs(300);
const FIRST_RETRY: Duration = Duration::from_millis(100);
const MOST_RETRY: Duration = Duration::from_secs(5);

/// What the loop hears of the store.
#[derive(Debug)]
pub enum StoreNews {
    /// All leases: what is not among them is no more.
    Snapshot(Snapshot),
    /// One change after it.
    Event(LeaseEvent),
    /// The store does not answer; what is known stays.
    Down(String),
}

/// Follows until the receiver is gone.
pub async fn follow<S: LeaseStore>(store: Arc<S>, news: mpsc::Sender<StoreNews>) {
    let mut retry = FIRST_RETRY;
    let mut known = false;
    loop {
        match follow_once(&*store, &news, &mut known, &mut retry).await {
            Ok(()) => {}
            Err(StoreError::Compacted(revision)) => {
                debug!(%revision, "watch fell behind a compaction: reading all leases again");
            }
            Err(error) => {
                warn!(%error, retry_ms = retry.as_millis(), "cannot follow the leases: will retry");
                if news.send(StoreNews::Down(error.to_string())).await.is_err() {
                    return;
                }
                sleep(retry).await;
                retry = (retry * 2).min(MOST_RETRY);
            }
        }
        if news.is_closed() {
            return;
        }
    }
}

/// One snapshot and what follows it. Ends when a new snapshot is due.
async fn follow_once<S: LeaseStore>(
    store: &S,
    news: &mpsc::Sender<StoreNews>,
    known: &mut bool,
    retry: &mut Duration,
) -> Result<(), StoreError> {
    let mut snapshot = store.snapshot().await?;
    if snapshot.leases.is_empty() && *known {
        // No lease at all, not even ours, where there were some: look twice before believing it.
        sleep(MOST_RETRY).await;
        snapshot = store.snapshot().await?;
    }
    *known |= !snapshot.leases.is_empty();
    let revision = snapshot.revision;
    let mut events = store.watch(revision).await?;
    if news.send(StoreNews::Snapshot(snapshot)).await.is_err() {
        return Ok(());
    }
    *retry = FIRST_RETRY;
    let until = Instant::now() + RELIST;
    while let Ok(Some(event)) = timeout_at(until, events.next()).await {
        if news.send(StoreNews::Event(event?)).await.is_err() {
            return Ok(());
        }
    }
    Ok(())
}
