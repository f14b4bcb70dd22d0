//! Following the leases.

use std::{collections::VecDeque, pin::Pin, sync::Arc};

use etcd_client::{
    Event, GetOptions, GetResponse, ResponseHeader, WatchOptions, WatchResponse, WatchStream,
};
use futures::{Stream, stream};
use tokio::time::timeout;

use super::{
    MAX_ANSWER,
    failure::{Failure, is_broken, is_stale},
    keys::Keys,
    link::Link,
    raw,
    rotation::Fault,
};
use crate::{
    model::lease::{LeaseEvent, Position, Revision},
    store::StoreError,
};

/// Changes of leases.
pub type Events = Pin<Box<dyn Stream<Item = Result<LeaseEvent, StoreError>> + Send>>;

/// A watch that the server has confirmed.
struct Watch {
    link: Arc<Link>,
    keys: Keys,
    stream: WatchStream,
    /// Whose turn it was when the watch was opened.
    turn: usize,
    queue: VecDeque<LeaseEvent>,
    /// A sign of life was asked for and has not come.
    asked: bool,
    ended: bool,
}

/// Opens a watch and waits for the server to confirm it.
pub(super) async fn open(
    link: &Arc<Link>,
    keys: &Keys,
    after: Position,
) -> Result<Events, StoreError> {
    let prefix = &keys.leases();
    ask_first(link, prefix, after).await?;
    let opened = link.call(|client| async move {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(after.revision.0 + 1);
        let mut watches = client.watch_client().max_decoding_message_size(MAX_ANSWER);
        let mut stream = watches.watch(prefix.as_str(), Some(options)).await?;
        let first = stream.message().await?;
        Ok((stream, first))
    });
    let (stream, first) = opened.await.map_err(|failure| link.error(failure))?;
    // Only now: the call may have gone through several endpoints.
    let turn = link.turn();
    let mut watch = Watch {
        link: Arc::clone(link),
        keys: keys.clone(),
        stream,
        turn,
        queue: VecDeque::new(),
        asked: false,
        ended: false,
    };
    match first {
        Some(first) => {
            watch.take(&first)?;
            // A store that was restored from a backup would answer with nothing, or with events
            // that we know, until it has caught up with the revision that we ask for.
            ensure_there(first.header(), after)?;
        }
        None => return Err(watch.failed("the watch ended at once")),
    }
    Ok(Box::pin(stream::unfold(watch, |mut watch| async move {
        let next = watch.next().await?;
        Some((next, watch))
    })))
}

/// One small call before the watch. A watch is opened with whatever token there is, and it is only
/// told afterwards that this one has run out; a call gets a new one. And what is to be followed
/// must still be there: the same store, and not thrown back.
async fn ask_first(link: &Arc<Link>, prefix: &str, after: Position) -> Result<(), StoreError> {
    ensure_there(ask(link, prefix).await?.header(), after)
}

/// The smallest call that asks for what the leases' readers need.
pub(super) async fn ask(link: &Link, prefix: &str) -> Result<GetResponse, StoreError> {
    let asked = link.call(|client| async move {
        let one = GetOptions::new()
            .with_prefix()
            .with_limit(1)
            .with_keys_only();
        client.kv_client().get(prefix, Some(one)).await
    });
    asked.await.map_err(|failure| link.error(failure))
}

/// Fails if who answers has no such place in its history. That the agent has read this store
/// meanwhile, for another reason, does not count: the place may be one of the store before.
fn ensure_there(header: Option<&ResponseHeader>, after: Position) -> Result<(), StoreError> {
    let Some(header) = header else {
        return Ok(());
    };
    let now = Revision(header.revision());
    let other = after.cluster != 0 && header.cluster_id() != after.cluster;
    if other || now < after.revision {
        return Err(StoreError::Compacted(now));
    }
    Ok(())
}

impl Watch {
    async fn next(&mut self) -> Option<Result<LeaseEvent, StoreError>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Some(Ok(event));
            }
            if self.ended {
                return None;
            }
            let error = match timeout(self.link.tuning().silence, self.stream.message()).await {
                Ok(Ok(Some(response))) => {
                    self.asked = false;
                    match self.take(&response) {
                        Ok(()) => continue,
                        Err(error) => error,
                    }
                }
                Ok(Ok(None)) => return None,
                Ok(Err(error)) => match self.link.judge(&error) {
                    Failure::Unavailable(why) if is_broken(&why) => self.leave(Fault::Broken, &why),
                    Failure::Unavailable(why) => self.failed(&why),
                    Failure::Token(why) => self.without_token(&why),
                    Failure::Silent => self.leave(Fault::Silent, "it does not answer"),
                    other @ (Failure::Refused(_) | Failure::LeaseGone) => self.link.error(other),
                },
                Err(_elapsed) if self.asked => {
                    self.leave(Fault::Silent, "the watch shows no sign of life")
                }
                Err(_elapsed) => {
                    self.asked = true;
                    match self.stream.request_progress().await {
                        Ok(()) => continue,
                        Err(error) => self.failed(&error.to_string()),
                    }
                }
            };
            self.ended = true;
            return Some(Err(error));
        }
    }

    /// Queues what a response says, or says why the watch is over.
    fn take(&mut self, response: &WatchResponse) -> Result<(), StoreError> {
        // A start before the compaction comes back as cancelled with no reason but this number.
        if response.compact_revision() != 0 {
            return Err(StoreError::Compacted(Revision(response.compact_revision())));
        }
        if response.canceled() {
            let why = response.cancel_reason();
            return Err(if why.to_ascii_lowercase().contains("permission") {
                self.link.error(self.link.denied(why))
            } else if is_stale(why) {
                self.without_token(why)
            } else {
                self.failed(&format!("the watch was cancelled: {why}"))
            });
        }
        let events = response.events().iter();
        self.queue
            .extend(events.filter_map(|event| read(&self.keys, event)));
        Ok(())
    }

    /// Gives the endpoint up for the next one: whatever ails the watch may ail calls too.
    fn failed(&self, why: &str) -> StoreError {
        self.leave(Fault::Useless, why)
    }

    fn leave(&self, fault: Fault, why: &str) -> StoreError {
        self.link.leave(self.turn, fault, why);
        self.link.error(Failure::Unavailable(why.to_owned()))
    }

    /// The endpoint is as good as before: the next call asks it for a new token.
    fn without_token(&self, why: &str) -> StoreError {
        self.link.renew();
        self.link.error(Failure::Unavailable(why.to_owned()))
    }
}

/// The client's own accessor of the kind panics on one that it does not know. A key that is
/// there has a version of 1 or more, and a key that went has none.
fn read(keys: &Keys, event: &Event) -> Option<LeaseEvent> {
    let kv = event.kv()?;
    let record = raw(kv);
    Some(match kv.version() {
        0 => record.gone(keys),
        _ => record.written(keys),
    })
}
