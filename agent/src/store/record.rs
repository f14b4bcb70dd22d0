//! What one raw record of the store means, the same for every store.

use super::{
    StoreError,
    etcd::{codec, keys::Keys},
};
use crate::{
    lease::allocate::Taken,
    model::{
        lease::{Lease, LeaseAttrs, LeaseEvent, Rejected, Revision, Snapshot},
        network::NetworkConfig,
    },
};

/// A key and its value as the store has them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// The key.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The store's lease; 0 for none, which makes the record a reservation.
    pub lease: i64,
    /// When it was first written since it was last gone.
    pub created: i64,
    /// When it was last written.
    pub modified: i64,
}

impl Raw {
    /// The key for messages and maps: two keys never have one text. What is no text is written
    /// behind a sign that no key under the prefix begins with.
    #[must_use]
    pub fn key_text(&self) -> String {
        match std::str::from_utf8(&self.key) {
            Ok(text) => text.to_owned(),
            Err(_bytes) => format!(
                "{} {}",
                char::REPLACEMENT_CHARACTER,
                self.key.escape_ascii()
            ),
        }
    }

    /// Reads the record.
    pub fn read(&self, keys: &Keys) -> Result<Lease, Rejected> {
        let name = keys.read(&self.key).map_err(|error| Rejected {
            subnet: error.subnet,
            why: error.to_string(),
        })?;
        let attrs = codec::decode(&self.value).map_err(|error| Rejected {
            subnet: Some(name.subnet),
            why: error.to_string(),
        })?;
        Ok(Lease {
            subnet: name.subnet,
            attrs,
            store_lease: (self.lease != 0).then_some(self.lease),
            created: Revision(self.created),
            modified: Revision(self.modified),
        })
    }

    /// The record as the choice of a subnet sees it; `None` where it names no subnet.
    #[must_use]
    pub fn taken(&self, keys: &Keys) -> Option<Taken> {
        let (subnet, holder) = match self.read(keys) {
            Ok(lease) => (lease.subnet, Some(lease.attrs.public_ip)),
            Err(rejected) => (rejected.subnet?, None),
        };
        let key = self.key_text();
        Some(Taken {
            ours_by_form: key == keys.lease(subnet),
            key,
            subnet,
            holder,
            reserved: self.lease == 0,
        })
    }

    /// The event of the record's writing.
    #[must_use]
    pub fn written(&self, keys: &Keys) -> LeaseEvent {
        match self.read(keys) {
            Ok(lease) if self.key == keys.lease(lease.subnet).as_bytes() => LeaseEvent::Put(lease),
            Ok(lease) => LeaseEvent::PutDual {
                key: self.key_text(),
                lease,
            },
            Err(rejected) => LeaseEvent::Reject {
                key: self.key_text(),
                rejected,
                at: Revision(self.modified),
            },
        }
    }

    /// The event of the record's end.
    #[must_use]
    pub fn gone(&self, keys: &Keys) -> LeaseEvent {
        let subnet = match keys.read(&self.key) {
            Ok(name) => Some(name.subnet),
            // A record that was never a lease must not take one with it.
            Err(_not_a_lease) => None,
        };
        LeaseEvent::Gone {
            key: self.key_text(),
            subnet,
            at: Revision(self.modified),
        }
    }
}

/// Why a key does not, or no longer, hold `lease`; `None` if it does.
#[must_use]
pub fn lost(lease: &Lease, key: &str, found: Option<&Raw>) -> Option<String> {
    let Some(found) = found else {
        return Some(format!("`{key}` was deleted"));
    };
    if found.lease != lease.store_lease.unwrap_or(0) {
        return Some(format!("`{key}` was written by somebody else"));
    }
    match codec::decode(&found.value) {
        Ok(attrs) if attrs == lease.attrs => None,
        Ok(attrs) => Some(format!(
            "`{key}` was overwritten and names {}",
            attrs.public_ip
        )),
        Err(error) => Some(format!("`{key}` was overwritten: {error}")),
    }
}

/// The record that may say `attrs` instead of what we know of `lease`, as it may have done since a
/// write that was not answered. Else why it is not ours.
pub fn to_republish<'a>(
    lease: &Lease,
    attrs: &LeaseAttrs,
    key: &str,
    found: Option<&'a Raw>,
) -> Result<&'a Raw, String> {
    let written = Lease {
        attrs: attrs.clone(),
        ..lease.clone()
    };
    match (lost(lease, key, found), found) {
        (None, Some(raw)) => Ok(raw),
        (_, Some(raw)) if lost(&written, key, found).is_none() => Ok(raw),
        (why, _) => Err(why.unwrap_or_else(|| format!("`{key}` was deleted"))),
    }
}

/// How a subnet stands that is to be taken again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// No record is in the way.
    Free,
    /// Our own record, by address and MAC. One that names no MAC is a reservation for the address.
    Own(&'a Raw),
    /// A record of our address with another MAC.
    Twin(&'a Raw, Lease),
    /// A record of somebody else's.
    Taken(String),
}

/// How the subnet of `lease` stands among all records.
#[must_use]
pub fn find<'a>(keys: &Keys, lease: &Lease, records: &'a [Raw]) -> Found<'a> {
    let key = keys.lease(lease.subnet);
    if let Some(raw) = records.iter().find(|raw| raw.key == key.as_bytes()) {
        return match raw.read(keys) {
            Ok(found) if found.attrs.public_ip != lease.attrs.public_ip => {
                Found::Taken(format!("{} holds `{key}`", found.attrs.public_ip))
            }
            Ok(found) => match found.attrs.vtep_mac() {
                Some(mac) if Some(mac) != lease.attrs.vtep_mac() => Found::Twin(raw, found),
                Some(_) | None => Found::Own(raw),
            },
            Err(rejected) => Found::Taken(format!("`{key}` cannot be read: {}", rejected.why)),
        };
    }
    let mut others = records.iter().filter_map(|raw| raw.taken(keys));
    match others.find(|other| other.subnet.overlaps(lease.subnet)) {
        None => Found::Free,
        Some(other) => Found::Taken(format!("`{}` overlaps {}", other.key, lease.subnet)),
    }
}

/// The network config in the value of its key.
pub fn network(key: String, value: &[u8]) -> Result<NetworkConfig, StoreError> {
    let config = std::str::from_utf8(value)
        .map_err(|error| error.to_string())
        .and_then(|text| NetworkConfig::parse(text).map_err(|error| error.to_string()));
    config.map_err(|why| StoreError::ConfigInvalid { key, why })
}

/// Every record at one revision: what following their writing would lead to.
#[must_use]
pub fn snapshot(keys: &Keys, records: &[Raw], revision: Revision) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for raw in records {
        snapshot.apply(raw.written(keys), |subnet| keys.lease(subnet));
    }
    snapshot.revision = revision;
    snapshot
}

#[cfg(test)]
mod tests;
