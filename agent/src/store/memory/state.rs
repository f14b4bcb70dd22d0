//! What the store in memory holds, and how it changes.

use std::collections::{BTreeMap, VecDeque};

use futures::channel::mpsc;

use crate::{
    model::lease::LeaseEvent,
    store::{StoreError, etcd::keys::Keys, record::Raw},
};

#[derive(Default)]
pub(super) struct State {
    pub(super) revision: i64,
    pub(super) cluster: u64,
    pub(super) compacted: i64,
    pub(super) records: BTreeMap<Vec<u8>, Raw>,
    pub(super) history: Vec<Change>,
    /// Leases that are alive.
    pub(super) leases: Vec<i64>,
    pub(super) granted: i64,
    pub(super) watchers: Vec<mpsc::UnboundedSender<Result<LeaseEvent, StoreError>>>,
    /// Who wants to know of the network config.
    pub(super) bells: Vec<mpsc::UnboundedSender<Result<(), StoreError>>>,
    /// What the next calls answer: an error, or `None` for what they would.
    pub(super) faults: VecDeque<Option<StoreError>>,
}

#[derive(Clone)]
pub(super) struct Change {
    pub(super) raw: Raw,
    pub(super) deleted: bool,
}

impl State {
    pub(super) fn put(&mut self, keys: &Keys, key: &[u8], value: &[u8], lease: i64) {
        self.revision += 1;
        let before = self.records.get(key);
        let raw = Raw {
            key: key.to_vec(),
            value: value.to_vec(),
            lease,
            created: before.map_or(self.revision, |raw| raw.created),
            modified: self.revision,
        };
        self.records.insert(key.to_vec(), raw.clone());
        let deleted = false;
        self.tell(keys, Change { raw, deleted });
    }

    pub(super) fn delete(&mut self, keys: &Keys, key: &[u8]) {
        if let Some(mut raw) = self.records.remove(key) {
            self.revision += 1;
            raw.modified = self.revision;
            let deleted = true;
            self.tell(keys, Change { raw, deleted });
        }
    }

    fn tell(&mut self, keys: &Keys, change: Change) {
        if change.raw.key == keys.config().as_bytes() {
            self.bells
                .retain(|bell| bell.unbounded_send(Ok(())).is_ok());
        }
        if change.raw.key.starts_with(keys.leases().as_bytes()) {
            self.watchers
                .retain(|watcher| watcher.unbounded_send(Ok(change.event(keys))).is_ok());
            self.history.push(change);
        }
    }

    pub(super) fn grant(&mut self) -> i64 {
        self.granted += 1;
        self.leases.push(self.granted);
        self.granted
    }

    pub(super) fn revoke(&mut self, keys: &Keys, id: i64) {
        self.leases.retain(|&alive| alive != id);
        let attached = self.records.values().filter(|raw| raw.lease == id);
        for key in attached.map(|raw| raw.key.clone()).collect::<Vec<_>>() {
            self.delete(keys, &key);
        }
    }

    pub(super) fn drop_unused(&mut self, keys: &Keys, id: Option<i64>) {
        let used = |id| self.records.values().any(|raw| raw.lease == id);
        if let Some(id) = id.filter(|&id| !used(id)) {
            self.revoke(keys, id);
        }
    }

    pub(super) fn records(&self, keys: &Keys) -> Vec<Raw> {
        let leases = keys.leases();
        self.records
            .values()
            .filter(|raw| raw.key.starts_with(leases.as_bytes()))
            .cloned()
            .collect()
    }
}

impl Change {
    pub(super) fn event(&self, keys: &Keys) -> LeaseEvent {
        if self.deleted {
            self.raw.gone(keys)
        } else {
            self.raw.written(keys)
        }
    }
}
