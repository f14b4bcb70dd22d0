//! Follows the network config. What can change while the agent runs does; what cannot is told,
//! and the agent goes on with what it was started with. Runs as a task of its own.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info, warn};

use crate::{
    model::network::NetworkConfig,
    store::{LeaseStore, StoreError, backoff::Backoff},
};

/// A look now and then, whatever the watch said: insurance against lost events.
const RELOOK: Duration = Duration::from_secs(300);
/// What lived for longer than this was no attempt that failed: the next wait is a short one again.
const LONG: Duration = Duration::from_secs(30);

/// How the config stands to what the agent runs with, in words; `Err` when a restart is needed.
pub type ConfigState = Result<String, String>;

/// Everything that the task needs.
pub struct Follower<S> {
    /// The store.
    pub store: Arc<S>,
    /// What the agent was started with.
    pub started: NetworkConfig,
    /// What it goes on with.
    pub live: watch::Sender<NetworkConfig>,
    /// For the status.
    pub state: watch::Sender<ConfigState>,
}

impl<S: LeaseStore> Follower<S> {
    /// What holds before anything was read again.
    pub fn state_at_start() -> ConfigState {
        Ok("as it was read at the start".to_owned())
    }

    /// Follows until it is dropped. A store that does not answer changes nothing, and the lease's
    /// follower tells of it.
    pub async fn run(self) {
        let mut backoff = Backoff::default();
        loop {
            let began = Instant::now();
            if let Err(error) = self.follow().await {
                debug!(%error, "cannot follow the network config: will retry");
            }
            if began.elapsed() > LONG {
                backoff.reset();
            }
            let pause = backoff.next(&mut rand::rng());
            sleep(pause).await;
        }
    }

    /// From one opening of the watch to its end.
    async fn follow(&self) -> Result<(), StoreError> {
        let mut bells = self.store.watch_network().await?;
        let until = Instant::now() + RELOOK;
        loop {
            self.look().await?;
            match timeout_at(until, bells.next()).await {
                Ok(Some(rung)) => rung?,
                Ok(None) | Err(_) => return Ok(()),
            }
        }
    }

    async fn look(&self) -> Result<(), StoreError> {
        let state = match self.store.network().await {
            Ok(new) => self.judge(&new),
            Err(error @ (StoreError::ConfigMissing { .. } | StoreError::ConfigInvalid { .. })) => {
                Err(format!("not followed: {error}"))
            }
            Err(error) => return Err(error),
        };
        self.state.send_if_modified(|before| {
            let changed = *before != state;
            if changed {
                match &state {
                    Ok(detail) => info!(detail, "network config"),
                    Err(why) => warn!(why, "network config: going on with that of the start"),
                }
                *before = state;
            }
            changed
        });
        Ok(())
    }

    fn judge(&self, new: &NetworkConfig) -> ConfigState {
        let change = self.started.changed_to(new);
        let followed = change.live != self.started;
        self.live.send_if_modified(|live| {
            let changed = *live != change.live;
            *live = change.live;
            changed
        });
        match change.restart.as_slice() {
            [] if followed => Ok("changed since the start, and followed".to_owned()),
            [] => Self::state_at_start(),
            differences => Err(format!("restart needed: {}", differences.join("; "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::memory::MemoryStore;

    const KEY: &str = "/x/config";

    fn text(members: &str) -> String {
        format!(r#"{{"Network":"10.3.0.0/16","Backend":{{"Type":"vxlan"{members}}}}}"#)
    }

    struct World {
        store: MemoryStore,
        live: watch::Receiver<NetworkConfig>,
        state: watch::Receiver<ConfigState>,
        started: NetworkConfig,
    }

    impl World {
        async fn new() -> Self {
            let store = MemoryStore::with_config("/x", &text(""));
            let started = store.network().await.unwrap();
            let (live, followed) = watch::channel(started.clone());
            let (state, told) = watch::channel(Follower::<MemoryStore>::state_at_start());
            let follower = Follower {
                store: Arc::new(store.clone()),
                started: started.clone(),
                live,
                state,
            };
            tokio::spawn(follower.run());
            sleep(Duration::from_millis(1)).await;
            Self {
                store,
                live: followed,
                state: told,
                started,
            }
        }

        /// What is said of this text.
        async fn after(&mut self, text: &str) -> ConfigState {
            self.store.put_raw(KEY, text.as_bytes(), 0);
            self.state.changed().await.unwrap();
            self.state.borrow_and_update().clone()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_can_be_followed_is() {
        let mut world = World::new().await;
        let state = world.after(&text(r#","DirectRouting":true"#)).await;
        assert!(state.unwrap().contains("followed"));
        assert!(world.live.borrow().direct_routing);
        let state = world.after(&text("")).await;
        assert_eq!(state, Follower::<MemoryStore>::state_at_start());
        assert_eq!(*world.live.borrow(), world.started);
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_is_told_and_never_adopted() {
        let mut world = World::new().await;
        for (value, told) in [
            (
                text(r#","VNI":9"#),
                "restart needed: Backend.VNI 1 is now 9",
            ),
            ("garbage".to_owned(), "not a JSON object"),
            (text("").replace("vxlan", "host-gw"), "host-gw"),
        ] {
            let why = world.after(&value).await.unwrap_err();
            assert!(why.contains(told), "{why}");
            assert_eq!(*world.live.borrow(), world.started);
        }
        world.store.delete_raw(KEY);
        world.state.changed().await.unwrap();
        let why = world.state.borrow_and_update().clone().unwrap_err();
        assert!(why.contains("is not in the store"), "{why}");
        assert!(world.after(&text("")).await.is_ok());
        assert!(!world.live.has_changed().unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_asked_again() {
        let mut world = World::new().await;
        for nth in 1..=3 {
            world.store.fail_nth(
                nth,
                StoreError::Unavailable {
                    endpoints: "memory".to_owned(),
                    why: "told to".to_owned(),
                },
            );
        }
        assert!(world.after(&text(r#","VNI":9"#)).await.is_err());
    }
}
