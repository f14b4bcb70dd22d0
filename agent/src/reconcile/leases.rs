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
/// What lived for longer than this was no attempt that failed: the next wait is a short one again.
const LONG: Duration = Duration::from_secs(30);

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
        let began = Instant::now();
        let outcome = follow_once(&*store, &news, &mut known).await;
        if news.is_closed() {
            return;
        }
        if began.elapsed() > LONG {
            retry = FIRST_RETRY;
        }
        match outcome {
            Ok(Ended::Due) => continue,
            Ok(Ended::Early) => debug!("watch was closed: reading all leases again"),
            Err(StoreError::Compacted(revision)) => {
                debug!(%revision, "watch fell behind a compaction: reading all leases again");
            }
            Err(error) => {
                warn!(%error, retry_ms = retry.as_millis(), "cannot follow the leases: will retry");
                if news.send(StoreNews::Down(error.to_string())).await.is_err() {
                    return;
                }
            }
        }
        sleep(retry).await;
        retry = (retry * 2).min(MOST_RETRY);
    }
}

/// Why a new snapshot is to be read.
enum Ended {
    /// It is time.
    Due,
    /// The watch was closed.
    Early,
}

/// One snapshot and what follows it.
async fn follow_once<S: LeaseStore>(
    store: &S,
    news: &mpsc::Sender<StoreNews>,
    known: &mut bool,
) -> Result<Ended, StoreError> {
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
        return Ok(Ended::Early);
    }
    let until = Instant::now() + RELIST;
    loop {
        match timeout_at(until, events.next()).await {
            Ok(Some(event)) => {
                if news.send(StoreNews::Event(event?)).await.is_err() {
                    return Ok(Ended::Early);
                }
            }
            Ok(None) => return Ok(Ended::Early),
            Err(_elapsed) => return Ok(Ended::Due),
        }
    }
}

#[cfg(test)]
mod tests;
