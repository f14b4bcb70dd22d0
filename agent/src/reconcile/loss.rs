//! Whether the store has lost its data, and which peers are kept all the same. Pure: the clock is
//! passed in.
//!
//! Leases that end one by one are nodes that are gone. Leases that are all gone at once, with our
//! own, or because the store is another one or was thrown back, are a loss of data: those nodes
//! still run and write their leases again. Until they have had time to, their peers stay.
//!
//! A start does not know what happened before it: a peer that the run before left and the store does
//! not have may be gone, or lost. It stays for as long. So does everything from one round of the
//! agent to the next.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::model::{
    lease::{Lease, LeaseEvent, Revision, Snapshot, names},
    net::Subnet,
};

pub mod earlier;
mod kept;

use self::kept::{Kept, KeptLeases};

/// So many peers that are gone at once may be chance; more, and most of all, are not.
const FEW: usize = 1;

/// What has been told of the leases, and what is kept although the store has it no more.
#[derive(Debug)]
pub struct Ledger {
    /// Our own subnet; none before the first round.
    own: Option<Subnet>,
    grace: Duration,
    /// What the loop believes, kept leases included.
    believed: BTreeMap<Subnet, Lease>,
    /// Leases that are kept. They are believed.
    kept: KeptLeases,
    cluster: u64,
    seen: Option<Revision>,
}

/// A ledger that outlives those who write in it, one after the other.
#[derive(Clone, Debug)]
pub struct SharedLedger(Arc<Mutex<Ledger>>);

impl SharedLedger {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(grace: Duration) -> Self {
        Self(Arc::new(Mutex::new(Ledger::new(grace))))
    }

    /// For one look, or one entry.
    pub fn open(&self) -> MutexGuard<'_, Ledger> {
        // No entry can be left half written: nothing in between panics.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ledger {
    /// Nothing is known yet.
    #[must_use]
    pub const fn new(grace: Duration) -> Self {
        Self {
            own: None,
            grace,
            believed: BTreeMap::new(),
            kept: KeptLeases::new(),
            cluster: 0,
            seen: None,
        }
    }

    /// A round begins, with this subnet of ours. What is known from the round before stays; the first
    /// one knows what an earlier run left.
    pub fn begin(&mut self, own: Subnet, earlier: impl IntoIterator<Item = Lease>) {
        self.own = Some(own);
        if self.seen.is_none() {
            let believed = earlier.into_iter().map(|lease| (lease.subnet, lease));
            self.believed = believed.collect();
        }
        self.kept.retain(|kept, _| !kept.overlaps(own));
        self.believed.retain(|known, _| !known.overlaps(own));
    }

    /// How long lost peers stay.
    #[must_use]
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// Why a listing should not be believed before it has been read twice.
    #[must_use]
    pub fn doubt(&self, listed: &Snapshot) -> Option<&'static str> {
        let seen = self.seen?;
        let missing = self.missing(listed).count();
        let alive = self.believed.len().saturating_sub(self.kept.len());
        if self.cluster != listed.cluster {
            Some("the store is another one")
        } else if listed.revision < seen {
            Some("the store has been thrown back")
        } else if alive > 0 && listed.leases.is_empty() {
            Some("the store has no lease any more")
        } else if self.own.is_some_and(|own| {
            self.believed.contains_key(&own) && !listed.leases.contains_key(&own)
        }) {
            Some("the store has lost our own lease")
        } else if missing > FEW && missing * 2 > alive {
            Some("the store has lost most leases")
        } else {
            None
        }
    }

    /// Takes a listing in, and answers with what is to be believed: what it says, and what is kept.
    pub fn listed(&mut self, mut listed: Snapshot, now: Instant) -> Snapshot {
        if self.seen.is_none() || self.doubt(&listed).is_some() {
            let until = now + self.grace;
            let lost: Vec<Subnet> = self.missing(&listed).collect();
            for lease in lost.iter().filter_map(|subnet| self.believed.get(subnet)) {
                self.kept.keep(lease, until);
            }
        }
        self.kept.retain(|_, kept| kept.until > now);
        self.kept.give_way(&listed.leases);
        // From here on they are told by the name of their subnet, whatever their keys were.
        self.kept.forget_keys();
        let kept = self.kept.iter();
        let kept = kept.filter_map(|(subnet, _)| self.believed.get(&subnet));
        listed
            .leases
            .extend(kept.map(|lease| (lease.subnet, lease.clone())));
        self.believed.clone_from(&listed.leases);
        self.cluster = listed.cluster;
        self.seen = Some(listed.revision);
        listed
    }

    /// Takes changes in, in their order, and answers with those to be told. Changes of one
    /// revision must come together.
    pub fn changed(
        &mut self,
        changes: Vec<LeaseEvent>,
        key_of: impl Fn(Subnet) -> String,
        now: Instant,
    ) -> Vec<LeaseEvent> {
        let mut told = Vec::with_capacity(changes.len());
        for batch in changes.chunk_by(|one, next| one.at() == next.at()) {
            let lost = self.lost_at_once(batch);
            for change in batch {
                self.change(change, &lost, &key_of, now, &mut told);
            }
        }
        told
    }

    /// When the first kept lease's time is over.
    #[must_use]
    pub fn next_end(&self) -> Option<Instant> {
        self.kept.iter().map(|(_, kept)| kept.until).min()
    }

    /// Lets go of what was kept long enough.
    pub fn end(&mut self, key_of: impl Fn(Subnet) -> String, now: Instant) -> Vec<LeaseEvent> {
        let over = self.kept.iter().filter(|(_, kept)| kept.until <= now);
        let over: Vec<Subnet> = over.map(|(subnet, _)| subnet).collect();
        over.into_iter()
            .flat_map(|subnet| self.let_go(subnet, &key_of))
            .collect()
    }

    /// How many leases are kept.
    #[must_use]
    pub fn kept(&self) -> usize {
        self.kept.len()
    }

    /// Peers that were believed and are not listed.
    fn missing<'a>(&'a self, listed: &'a Snapshot) -> impl Iterator<Item = Subnet> + 'a {
        self.believed.keys().copied().filter(|subnet| {
            !self.is_own(*subnet)
                && !self.kept.contains(*subnet)
                && !listed.leases.contains_key(subnet)
        })
    }

    /// The peers that one revision took away, if it took more than one node away.
    fn lost_at_once(&self, batch: &[LeaseEvent]) -> BTreeSet<Subnet> {
        let mut lost = BTreeMap::new();
        let mut back = BTreeSet::new();
        for change in batch {
            match change {
                LeaseEvent::Put(lease) | LeaseEvent::PutDual { lease, .. } => {
                    back.insert(lease.attrs.public_ip);
                }
                LeaseEvent::Gone {
                    subnet: Some(subnet),
                    ..
                } => {
                    if let Some(lease) = self.believed.get(subnet) {
                        lost.insert(*subnet, lease.attrs.public_ip);
                    }
                }
                LeaseEvent::Gone { subnet: None, .. } | LeaseEvent::Reject { .. } => {}
            }
        }
        // A node that replaces its own record takes the old one away.
        lost.retain(|_, address| !back.contains(address));
        let nodes: BTreeSet<IpAddr> = lost.values().copied().collect();
        if nodes.len() <= FEW {
            return BTreeSet::new();
        }
        lost.into_keys()
            .filter(|subnet| !self.is_own(*subnet))
            .collect()
    }

    fn is_own(&self, subnet: Subnet) -> bool {
        self.own == Some(subnet)
    }

    fn change(
        &mut self,
        change: &LeaseEvent,
        lost: &BTreeSet<Subnet>,
        key_of: &impl Fn(Subnet) -> String,
        now: Instant,
        told: &mut Vec<LeaseEvent>,
    ) {
        self.seen = self.seen.max(Some(change.at()));
        match change {
            LeaseEvent::Gone {
                key,
                subnet: Some(subnet),
                ..
            } if names(key, &key_of(*subnet)) => {
                if lost.contains(subnet)
                    && let Some(lease) = self.believed.get(subnet)
                {
                    let kept = self.kept.keep(lease, now + self.grace);
                    kept.keys.push(key.clone());
                    return;
                }
                self.kept.remove(*subnet);
                self.believed.remove(subnet);
            }
            LeaseEvent::Put(lease) | LeaseEvent::PutDual { lease, .. } => {
                // Under another key it may come back; the old one is then gone after all.
                let key = match change {
                    LeaseEvent::PutDual { key, .. } => key.clone(),
                    _ => key_of(lease.subnet),
                };
                let ended = self.let_go(lease.subnet, key_of).into_iter();
                told.extend(ended.filter(
                    |event| matches!(event, LeaseEvent::Gone { key: ended, .. } if *ended != key),
                ));
                for subnet in self.kept.contradicted_by(lease) {
                    told.extend(self.let_go(subnet, key_of));
                }
                self.believed.insert(lease.subnet, lease.clone());
            }
            LeaseEvent::Reject { key, rejected, .. } => {
                let named = |subnet: &Subnet| names(key, &key_of(*subnet));
                if let Some(subnet) = rejected.subnet.filter(named) {
                    self.kept.remove(subnet);
                    self.believed.remove(&subnet);
                }
            }
            LeaseEvent::Gone { .. } => {}
        }
        told.push(change.clone());
    }

    fn let_go(&mut self, subnet: Subnet, key_of: &impl Fn(Subnet) -> String) -> Vec<LeaseEvent> {
        let Some(Kept { mut keys, .. }) = self.kept.remove(subnet) else {
            return Vec::new();
        };
        self.believed.remove(&subnet);
        if keys.is_empty() {
            keys.push(key_of(subnet));
        }
        let at = self.seen.unwrap_or_default();
        let gone = |key| LeaseEvent::Gone {
            key,
            subnet: Some(subnet),
            at,
        };
        keys.into_iter().map(gone).collect()
    }
}

#[cfg(test)]
mod tests;
