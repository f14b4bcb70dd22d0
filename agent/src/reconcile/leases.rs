//! Follows the store: a snapshot, then its changes. A watch that breaks off is taken up where it
//! was; a snapshot is read again at intervals, and when the changes in between cannot be had. Runs
//! as a task of its own, so that a slow store stalls nothing.

use std::{sync::Arc, time::Duration};

use futures::{FutureExt as _, StreamExt as _};
use rand::Rng as _;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{debug, info, warn};

use super::{loss::SharedLedger, pulse};
use crate::{
    model::lease::{LeaseEvent, Position, Snapshot},
    store::{
        LeaseStore, StoreError,
        backoff::{Backoff, MOST},
    },
};

/// A full look now and then, whatever the watch said: insurance against lost events.
pub const RELIST: Duration = Duration::from_secs(300);
/// What should not be believed at once is read again after this long.
const SECOND_LOOK: Duration = Duration::from_secs(1);
/// No pause is longer while the store does not answer: once it does, its news must come soon. One that
/// answers and ends the watch is asked less and less, for it is asked for all leases.
const PAUSE: Duration = Duration::from_secs(1);
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
    /// It answers again, and what is known is what it has.
    Back,
}

/// How the store is followed.
#[derive(Debug)]
pub struct Following {
    /// What is known of the leases; it goes on when this follower ends.
    pub ledger: SharedLedger,
    /// About how long between two full looks.
    pub relist: Duration,
    /// How many peers are kept that a loss of the store's data took away.
    pub kept: watch::Sender<usize>,
}

/// Follows until the receiver is gone.
pub async fn follow<S: LeaseStore>(store: Arc<S>, how: Following, news: mpsc::Sender<StoreNews>) {
    let mut follower = Follower {
        store,
        how,
        news,
        next: None,
        due: Instant::now(),
        down: false,
    };
    // Each counts its own: what the store says after an outage is not one more failure of it.
    let (mut silent, mut ending) = (Backoff::default(), Backoff::default());
    loop {
        let began = Instant::now();
        let Err(ended) = follower.once().await;
        if began.elapsed() > LONG {
            silent.reset();
            ending.reset();
        }
        let mut answers = true;
        match ended {
            Ended::Unheard => return,
            Ended::Due => continue,
            Ended::Early => debug!("watch was closed: opening it again"),
            Ended::Failed(StoreError::Compacted(revision)) => {
                debug!(%revision, "watch cannot go on: reading all leases again");
                follower.next = None;
            }
            Ended::Failed(error) => {
                // Once is enough: the status has what it is now.
                if follower.down {
                    debug!(%error, "still cannot follow the leases");
                } else {
                    warn!(%error, "cannot follow the leases: will retry");
                }
                follower.down = true;
                answers = false;
                let down = StoreNews::Down(error.to_string());
                if follower.say(down).await.is_err() {
                    return;
                }
            }
        }
        let pause = if answers {
            ending.next_within(MOST, &mut rand::rng())
        } else {
            silent.next_within(PAUSE, &mut rand::rng())
        };
        if follower.wait(pause).await.is_err() {
            return;
        }
    }
}

struct Follower<S> {
    store: Arc<S>,
    how: Following,
    news: mpsc::Sender<StoreNews>,
    /// The last change that was told of; `None` when a snapshot must be read.
    next: Option<Position>,
    /// When a snapshot is to be read again anyway.
    due: Instant,
    /// The loop believes that the store does not answer.
    down: bool,
}

/// Why a watch is over.
enum Ended {
    /// A full look is due.
    Due,
    /// The store closed it.
    Early,
    /// The store, or the way to it, failed.
    Failed(StoreError),
    /// Nobody listens any more.
    Unheard,
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

impl<S: LeaseStore> Follower<S> {
    /// A snapshot where one is needed, and what follows it.
    async fn once(&mut self) -> Result<std::convert::Infallible, Ended> {
        let position = self.next.filter(|_| Instant::now() < self.due);
        let (mut events, listed) = match position {
            Some(position) => (self.store.watch(position).await?, None),
            None => {
                let listed = self.list().await?;
                let events = self.store.watch(listed.position()).await?;
                (events, Some(listed))
            }
        };
        match listed {
            Some(listed) => {
                self.next = Some(listed.position());
                // Not all nodes of a fleet at once.
                let spread = rand::rng().random_range(0.9..1.1);
                self.due = Instant::now() + self.how.relist.mul_f64(spread);
                let believed = self
                    .how
                    .ledger
                    .open()
                    .listed(listed, Instant::now().into_std());
                self.tell_kept();
                self.down = false;
                self.say(StoreNews::Snapshot(believed)).await?;
            }
            None if self.down => {
                self.down = false;
                self.say(StoreNews::Back).await?;
            }
            None => {}
        }
        loop {
            // Coming round now and then is the sign of life.
            let until = self.until().min(Instant::now() + pulse::EVERY);
            let first = match timeout_at(until, events.next()).await {
                Ok(Some(first)) => first?,
                Ok(None) => return Err(Ended::Early),
                Err(_elapsed) => {
                    self.end_of_grace().await?;
                    if Instant::now() >= self.due {
                        return Err(Ended::Due);
                    }
                    continue;
                }
            };
            self.take(first, &mut events).await?;
        }
    }

    /// Tells of a change and of all that came with it: what one revision changed comes together.
    async fn take(&mut self, first: LeaseEvent, events: &mut S::Events) -> Result<(), Ended> {
        let mut changes = vec![first];
        let over = loop {
            match events.next().now_or_never() {
                Some(Some(Ok(next))) => changes.push(next),
                Some(Some(Err(error))) => break Some(Ended::Failed(error)),
                Some(None) => break Some(Ended::Early),
                None => break None,
            }
        };
        let last = changes.last().map(LeaseEvent::at);
        let key_of = |subnet| self.store.key_of(subnet);
        let now = Instant::now().into_std();
        let told = self.how.ledger.open().changed(changes, key_of, now);
        self.tell_kept();
        for change in told {
            self.say(StoreNews::Event(change)).await?;
        }
        // Not before all of it is told, and never back.
        if let Some((position, last)) = self.next.as_mut().zip(last) {
            position.revision = position.revision.max(last);
        }
        over.map_or(Ok(()), Err)
    }

    /// A snapshot that can be believed.
    async fn list(&self) -> Result<Snapshot, StoreError> {
        let listed = self.store.snapshot().await?;
        let doubt = self.how.ledger.open().doubt(&listed);
        let Some(why) = doubt else {
            return Ok(listed);
        };
        warn!(why, revision = %listed.revision, "reading all leases a second time");
        sleep(SECOND_LOOK).await;
        self.store.snapshot().await
    }

    /// Waits before the next attempt, and lets go meanwhile of peers whose grace is over.
    async fn wait(&mut self, time: Duration) -> Result<(), Ended> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            // Coming round now and then is the sign of life.
            sleep_until(end.min(Instant::now() + pulse::EVERY)).await;
        }
        // What the store does not say for itself is not decided without it.
        if self.down {
            Ok(())
        } else {
            self.end_of_grace().await
        }
    }

    async fn end_of_grace(&mut self) -> Result<(), Ended> {
        let key_of = |subnet| self.store.key_of(subnet);
        let over = self
            .how
            .ledger
            .open()
            .end(key_of, Instant::now().into_std());
        if !over.is_empty() {
            info!(
                peers = over.len(),
                "kept peers did not come back: removing them"
            );
        }
        self.tell_kept();
        for change in over {
            self.say(StoreNews::Event(change)).await?;
        }
        Ok(())
    }

    fn until(&self) -> Instant {
        let grace = self.how.ledger.open().next_end().map(Instant::from_std);
        grace.map_or(self.due, |end| end.min(self.due))
    }

    fn tell_kept(&self) {
        let (kept, grace) = {
            let ledger = self.how.ledger.open();
            (ledger.kept(), ledger.grace())
        };
        self.how.kept.send_if_modified(|told| {
            if kept > *told {
                warn!(
                    peers = kept,
                    grace_s = grace.as_secs(),
                    "the store has leases no more, all at once or since the last run: their peers are kept for a while"
                );
            }
            let changed = *told != kept;
            *told = kept;
            changed
        });
    }

    async fn say(&self, news: StoreNews) -> Result<(), Ended> {
        let said = self.news.send(news).await;
        said.map_err(|_nobody| Ended::Unheard)
    }
}

#[cfg(test)]
mod tests;
