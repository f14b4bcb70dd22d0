//! Leases as the store has them.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use super::net::{Mac, Subnet, Vni};

/// A position in the store's history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in the history of one store: another one's revisions say nothing of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Which store, for stores that have a number of their own; else 0.
    pub cluster: u64,
    /// Where in its history.
    pub revision: Revision,
}

/// What a node says of itself in its lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseAttrs {
    /// The address that the node's tunnel packets come from and go to.
    pub public_ip: IpAddr,
    /// How the node is reached.
    pub backend: Backend,
}

/// `BackendType` and `BackendData` of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// A VXLAN tunnel end.
    Vxlan {
        /// The node's VNI. Nodes agree on it by configuration; it is not compared.
        vni: Vni,
        /// MAC of the node's `flannel.<VNI>`.
        vtep_mac: Mac,
    },
    /// Any other backend, by its name: no peer of ours, but its subnet is taken.
    Other(String),
}

/// A node's claim on a subnet, as the store has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// What is claimed.
    pub subnet: Subnet,
    /// Who claims it.
    pub attrs: LeaseAttrs,
    /// The store's lease that keeps the key alive; `None` for a reservation, which has no end.
    pub store_lease: Option<i64>,
    /// When the key was first written since it was last gone: of two leases that overlap, the
    /// older one holds.
    pub created: Revision,
    /// When the key was last written.
    pub modified: Revision,
}

/// A key under the prefix that is no lease that we can read. It never affects another record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The subnet, when at least the key could be read: it is taken, whoever holds it.
    pub subnet: Option<Subnet>,
    /// What is wrong, for the operator.
    pub why: String,
}

/// All leases at one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Where a watch must go on.
    pub revision: Revision,
    /// Which store it came from, for stores that have a number of their own; else 0.
    pub cluster: u64,
    /// Readable leases by subnet, our own included.
    pub leases: BTreeMap<Subnet, Lease>,
    /// Unreadable records by key.
    pub rejected: BTreeMap<String, Rejected>,
    /// Subnets that a key for both families names: every key that holds one, with its lease. The
    /// first one counts, which is the key for IPv4 alone where there is one.
    pub shared: BTreeMap<Subnet, BTreeMap<String, Lease>>,
}

/// One change after a snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseEvent {
    /// A lease was written, under the key of its subnet.
    Put(Lease),
    /// A lease was written, under a key that names an IPv6 subnet as well.
    PutDual {
        /// Its key.
        key: String,
        /// Its IPv4 half.
        lease: Lease,
    },
    /// A record was written that is no lease that we can read.
    Reject {
        /// Its key.
        key: String,
        /// What is wrong with it.
        rejected: Rejected,
        /// When.
        at: Revision,
    },
    /// A key went: its lease or rejected record is no more.
    Gone {
        /// The key that went.
        key: String,
        /// The subnet that the key named, if it named one.
        subnet: Option<Subnet>,
        /// When.
        at: Revision,
    },
}

impl LeaseAttrs {
    /// MAC of the node's tunnel end, if the record names one.
    #[must_use]
    pub const fn vtep_mac(&self) -> Option<Mac> {
        match &self.backend {
            Backend::Vxlan { vni: _, vtep_mac } => Some(*vtep_mac),
            Backend::Other(_) => None,
        }
    }
}

impl LeaseEvent {
    /// When it happened.
    #[must_use]
    pub const fn at(&self) -> Revision {
        match self {
            Self::Put(lease) | Self::PutDual { lease, .. } => lease.modified,
            Self::Reject { at, .. } | Self::Gone { at, .. } => *at,
        }
    }
}

impl Snapshot {
    /// Where a watch must go on.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position {
            cluster: self.cluster,
            revision: self.revision,
        }
    }

    /// Follows one event.
    pub fn apply(&mut self, event: LeaseEvent, key_of: impl Fn(Subnet) -> String) {
        let at = match event {
            LeaseEvent::Put(lease) => {
                let (at, key) = (lease.modified, key_of(lease.subnet));
                self.rejected.remove(&key);
                match self.shared.get_mut(&lease.subnet) {
                    Some(holders) => {
                        let subnet = lease.subnet;
                        holders.insert(key, lease);
                        self.settle(subnet);
                    }
                    None => _ = self.leases.insert(lease.subnet, lease),
                }
                at
            }
            LeaseEvent::PutDual { key, lease } => {
                let (at, subnet) = (lease.modified, lease.subnet);
                self.rejected.remove(&key);
                let alone = self.leases.get(&subnet);
                let holders = self.shared.entry(subnet).or_insert_with(|| {
                    let alone = alone.map(|lease| (key_of(subnet), lease.clone()));
                    alone.into_iter().collect()
                });
                holders.insert(key, lease);
                self.settle(subnet);
                at
            }
            LeaseEvent::Reject { key, rejected, at } => {
                self.forget(&key, rejected.subnet, key_of);
                self.rejected.insert(key, rejected);
                at
            }
            LeaseEvent::Gone { key, subnet, at } => {
                self.forget(&key, subnet, key_of);
                at
            }
        };
        self.revision = self.revision.max(at);
    }

    /// Drops what a key held: a rejected record, or else the lease whose very key it is. A key
    /// that only overlaps a lease (`10.3.1.7-24`) must not take it along.
    fn forget(&mut self, key: &str, subnet: Option<Subnet>, key_of: impl Fn(Subnet) -> String) {
        let was_rejected = self.rejected.remove(key).is_some();
        let Some(subnet) = subnet else {
            return;
        };
        let own = key_of(subnet);
        match self.shared.get_mut(&subnet) {
            Some(holders) => {
                holders.remove(key);
                if holders.keys().all(|other| *other == own) {
                    let alone = self
                        .shared
                        .remove(&subnet)
                        .and_then(|mut all| all.remove(&own));
                    match alone {
                        Some(lease) => _ = self.leases.insert(subnet, lease),
                        None => _ = self.leases.remove(&subnet),
                    }
                } else {
                    self.settle(subnet);
                }
            }
            None if !was_rejected && key == own => _ = self.leases.remove(&subnet),
            None => {}
        }
    }

    /// Of several keys that hold a subnet one counts, and the others are told of.
    fn settle(&mut self, subnet: Subnet) {
        for (place, (key, lease)) in self.shared.get(&subnet).into_iter().flatten().enumerate() {
            if place == 0 {
                self.rejected.remove(key);
                self.leases.insert(subnet, lease.clone());
            } else {
                let why = format!("another key holds {subnet} as well");
                let subnet = Some(subnet);
                self.rejected.insert(key.clone(), Rejected { subnet, why });
            }
        }
    }
}

/// Whether a key is the one of that name, alone or with an IPv6 subnet beside it.
#[must_use]
pub fn names(key: &str, name: &str) -> bool {
    key.strip_prefix(name)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('&'))
}

/// What this node asks of the store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What to publish.
    pub attrs: LeaseAttrs,
    /// The subnet that `subnet.env` named at the last run.
    pub previous: Option<Subnet>,
}
