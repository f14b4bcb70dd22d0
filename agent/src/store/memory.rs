//! Leases in memory, for tests of pure logic. Held to the same contract as etcd.

mod state;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, channel::mpsc, stream};

use self::state::State;
use super::{
    Bells, LeaseStore, OnTwin, Retaken, StoreError,
    etcd::{codec, keys::Keys},
    record::{self, Found},
};
use crate::{
    lease::allocate::{self, Take, Taken},
    model::{
        lease::{Claim, Lease, LeaseAttrs, LeaseEvent, Position, Revision, Snapshot},
        net::Subnet,
        network::NetworkConfig,
    },
};

/// A store that all its clones share.
#[derive(Clone)]
pub struct MemoryStore {
    keys: Keys,
    state: Arc<Mutex<State>>,
}

impl MemoryStore {
    /// An empty store.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        Self {
            keys: Keys::new(prefix),
            state: Arc::default(),
        }
    }

    /// A store with a network config.
    #[must_use]
    pub fn with_config(prefix: &str, config: &str) -> Self {
        let store = Self::new(prefix);
        store.put_raw(&store.keys.config(), config.as_bytes(), 0);
        store
    }

    /// Writes any key as a stranger would; a `lease` of 0 is none.
    pub fn put_raw(&self, key: &str, value: &[u8], lease: i64) -> Revision {
        let mut state = self.state();
        state.put(&self.keys, key.as_bytes(), value, lease);
        Revision(state.revision)
    }

    /// Deletes any key.
    pub fn delete_raw(&self, key: &str) {
        self.state().delete(&self.keys, key.as_bytes());
    }

    /// Value and lease of a key.
    #[must_use]
    pub fn get_raw(&self, key: &str) -> Option<(Vec<u8>, i64)> {
        let state = self.state();
        let found = state.records.get(key.as_bytes())?;
        Some((found.value.clone(), found.lease))
    }

    /// A new lease.
    pub fn grant(&self) -> i64 {
        self.state().grant()
    }

    /// Leases that are alive.
    #[must_use]
    pub fn leases(&self) -> Vec<i64> {
        self.state().leases.clone()
    }

    /// Ends a lease and deletes what is attached to it, as time does in a real store.
    pub fn expire(&self, id: i64) {
        self.state().revoke(&self.keys, id);
    }

    /// Forgets the history up to now.
    pub fn compact(&self) {
        let mut state = self.state();
        state.compacted = state.revision;
        let now = state.revision;
        state.history.retain(|change| change.raw.modified >= now);
    }

    /// Loses everything, as a store does whose data is gone or older than what we saw: its history
    /// begins anew. Watches end.
    pub fn lose_all(&self, cluster: u64) {
        *self.state() = State {
            cluster,
            ..State::default()
        };
    }

    /// Ends every watch, with an error or as a server does that closes the stream.
    pub fn end_watches(&self, error: impl Fn() -> Option<StoreError>) {
        for watcher in self.state().watchers.drain(..) {
            if let Some(error) = error() {
                // A watcher that has gone does not mind.
                drop(watcher.unbounded_send(Err(error)));
            }
        }
    }

    /// Makes the n-th call of the trait from now on fail; the next one is the first.
    pub fn fail_nth(&self, n: usize, error: StoreError) {
        let faults = &mut self.state().faults;
        while faults.len() < n {
            faults.push_back(None);
        }
        if let Some(fault) = n.checked_sub(1).and_then(|index| faults.get_mut(index)) {
            *fault = Some(error);
        }
    }

    /// The state, for a call that may be meant to fail.
    fn call(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = self.state();
        match state.faults.pop_front().flatten() {
            Some(error) => Err(error),
            None => Ok(state),
        }
    }

    /// Writes a record of ours, unless it says so already.
    fn write(
        &self,
        state: &mut State,
        key: &str,
        value: &[u8],
        lease: i64,
    ) -> Result<Lease, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let known = state.records.get(key.as_bytes());
        if known.is_none_or(|raw| raw.value != value) {
            state.put(&self.keys, key.as_bytes(), value, lease);
        }
        match state.records.get(key.as_bytes()) {
            Some(raw) => raw
                .read(&self.keys)
                .map_err(|rejected| refused(rejected.why)),
            None => Err(refused(format!("`{key}` was not written"))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LeaseStore for MemoryStore {
    type Events = Pin<Box<dyn Stream<Item = Result<LeaseEvent, StoreError>> + Send>>;

    async fn network(&self) -> Result<NetworkConfig, StoreError> {
        let key = self.keys.config();
        match self.call()?.records.get(key.as_bytes()) {
            Some(found) => record::network(key, &found.value),
            None => Err(StoreError::ConfigMissing { key }),
        }
    }

    async fn watch_network(&self) -> Result<Bells, StoreError> {
        let (sender, receiver) = mpsc::unbounded();
        self.call()?.bells.push(sender);
        Ok(futures::StreamExt::boxed(receiver))
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let state = self.call()?;
        let records = state.records(&self.keys);
        let revision = Revision(state.revision);
        Ok(Snapshot {
            cluster: state.cluster,
            ..record::snapshot(&self.keys, &records, revision)
        })
    }

    async fn watch(&self, after: Position) -> Result<Self::Events, StoreError> {
        let mut state = self.call()?;
        let Position { cluster, revision } = after;
        let other = cluster != 0 && cluster != state.cluster;
        if revision.0 + 1 < state.compacted {
            return Err(StoreError::Compacted(Revision(state.compacted)));
        }
        if other || revision.0 > state.revision {
            return Err(StoreError::Compacted(Revision(state.revision)));
        }
        let known: Vec<_> = state
            .history
            .iter()
            .filter(|change| change.raw.modified > revision.0)
            .map(|change| Ok(change.event(&self.keys)))
            .collect();
        // Without a bound: the other side is a test, and a store never waits for a watcher.
        let (sender, receiver) = mpsc::unbounded();
        state.watchers.push(sender);
        let known = stream::iter(known);
        // As with etcd, nothing follows an error.
        let events = futures::StreamExt::scan(
            futures::StreamExt::chain(known, receiver),
            false,
            |over, next| {
                let next = (!*over).then_some(next);
                *over = matches!(next, Some(Err(_)));
                std::future::ready(next)
            },
        );
        Ok(Box::pin(events))
    }

    async fn claim(&self, config: &NetworkConfig, claim: &Claim) -> Result<Lease, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let value = codec::encode(&claim.attrs).map_err(|error| refused(error.to_string()))?;
        let mut state = self.call()?;
        let records = state.records(&self.keys);
        let taken: Vec<Taken> = records
            .iter()
            .filter_map(|raw| raw.taken(&self.keys))
            .collect();
        let choice = allocate::choose(config, claim, &taken, &mut rand::rng());
        let Some(take) = choice.take else {
            return Err(StoreError::NoFreeSubnet {
                min: config.subnet_min,
                max: config.subnet_max,
            });
        };
        for key in &choice.stale {
            state.delete(&self.keys, key.as_bytes());
        }
        let (key, lease) = match take {
            Take::Own(key) => {
                let own = state.records.get(key.as_bytes()).map_or(0, |raw| raw.lease);
                (key, own)
            }
            Take::Free(subnet) => (self.keys.lease(subnet), state.grant()),
        };
        self.write(&mut state, &key, &value, lease)
    }

    async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut state = self.call()?;
        let key = self.keys.lease(lease.subnet);
        let why = record::lost(lease, &key, state.records.get(key.as_bytes()));
        let Some(why) = why else {
            return Ok(());
        };
        state.drop_unused(&self.keys, lease.store_lease);
        Err(StoreError::LeaseLost {
            subnet: lease.subnet,
            why,
        })
    }

    async fn retake(&self, lease: &Lease, on_twin: OnTwin) -> Result<Retaken, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let value = codec::encode(&lease.attrs).map_err(|error| refused(error.to_string()))?;
        let mut state = self.call()?;
        let records = state.records(&self.keys);
        let id = match record::find(&self.keys, lease, &records) {
            Found::Taken(by) => return Ok(Retaken::Taken { by }),
            Found::Twin(_, twin) if on_twin == OnTwin::Leave => return Ok(Retaken::Twin(twin)),
            Found::Twin(raw, _) | Found::Own(raw) => raw.lease,
            Found::Free => state.grant(),
        };
        let key = self.keys.lease(lease.subnet);
        self.write(&mut state, &key, &value, id).map(Retaken::Held)
    }

    async fn republish(&self, lease: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let value = codec::encode(attrs).map_err(|error| refused(error.to_string()))?;
        let mut state = self.call()?;
        let key = self.keys.lease(lease.subnet);
        let found = state.records.get(key.as_bytes());
        let subnet = lease.subnet;
        let id = record::to_republish(lease, attrs, &key, found)
            .map(|raw| raw.lease)
            .map_err(|why| StoreError::LeaseLost { subnet, why })?;
        self.write(&mut state, &key, &value, id)
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        let mut state = self.call()?;
        let key = self.keys.lease(lease.subnet);
        let lost = record::lost(lease, &key, state.records.get(key.as_bytes()));
        if lost.is_none() && lease.store_lease.is_some() {
            state.delete(&self.keys, key.as_bytes());
        }
        state.drop_unused(&self.keys, lease.store_lease);
        Ok(())
    }

    fn key_of(&self, subnet: Subnet) -> String {
        self.keys.lease(subnet)
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn down() -> StoreError {
        StoreError::Unavailable {
            endpoints: "memory".to_owned(),
            why: "told to".to_owned(),
        }
    }

    #[tokio::test]
    async fn calls_fail_as_they_are_told_to() {
        let store = MemoryStore::new("/x");
        store.fail_nth(2, down());
        store.fail_nth(3, down());
        for fails in [false, true, true, false] {
            assert_eq!(store.snapshot().await.is_err(), fails);
        }
    }

    #[tokio::test]
    async fn watches_end_as_they_are_told_to() {
        let store = MemoryStore::new("/x");
        let mut events = store.watch(Position::default()).await.unwrap();
        store.end_watches(|| Some(down()));
        assert!(events.next().await.unwrap().is_err());
        assert!(events.next().await.is_none());
        let mut events = store.watch(Position::default()).await.unwrap();
        store.end_watches(|| None);
        assert!(events.next().await.is_none());
    }

    #[tokio::test]
    async fn a_lease_that_expires_takes_its_key_along() {
        let store = MemoryStore::new("/x");
        let id = store.grant();
        store.put_raw("/x/subnets/10.3.1.0-24", b"{}", id);
        store.expire(id);
        assert_eq!(store.get_raw("/x/subnets/10.3.1.0-24"), None);
        assert!(store.leases().is_empty());
    }
}
