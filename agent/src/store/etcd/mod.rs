//! Leases in etcd v3.

mod again;
mod bells;
mod claim;
pub mod codec;
mod config;
mod credentials;
mod failure;
#[cfg(feature = "fakes")]
pub mod fuzzing;
mod health;
pub mod keys;
mod link;
mod retake;
mod rotation;
mod validity;
mod watch;

use std::{sync::Arc, time::Duration};

use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use tokio::time::Instant;

pub use self::{
    config::{EtcdConfig, Tuning},
    health::Health,
    watch::Events,
};
use self::{failure::Failure, keys::Keys, link::Link};
use crate::{
    model::{
        lease::{Claim, Lease, LeaseAttrs, Position, Revision, Snapshot},
        net::Subnet,
        network::NetworkConfig,
    },
    store::{
        Bells, LeaseStore, OnTwin, Retaken, StoreError,
        record::{self, Raw},
    },
};

/// The longest answer that is read: every lease of the largest network takes about half of it.
const MAX_ANSWER: usize = 64 << 20;
/// Time between two looks at the files of certificates and password.
const LOOK_AT_FILES: Duration = Duration::from_secs(1);
/// How often a write is tried again when others write at the same time.
const ATTEMPTS: u32 = 16;

/// Leases in etcd. Connects at the first call, and never waits without a limit.
pub struct EtcdStore {
    keys: Keys,
    link: Arc<Link>,
}

/// Every record under the prefix at one revision.
struct Listing {
    records: Vec<Raw>,
    revision: i64,
    cluster: u64,
}

impl EtcdStore {
    /// A store; nothing is sent yet.
    pub fn new(config: EtcdConfig) -> Result<Self, StoreError> {
        Self::with_tuning(config, Tuning::default())
    }

    /// A store with other time limits than the usual ones, for tests.
    pub fn with_tuning(config: EtcdConfig, tuning: Tuning) -> Result<Self, StoreError> {
        let config = config.completed();
        let config = config.map_err(|why| StoreError::Refused { why })?;
        let keys = Keys::new(&config.prefix);
        let link = Link::new(config, keys.clone(), tuning);
        Ok(Self { keys, link })
    }

    /// How the way to the store is, and every change of it.
    #[must_use]
    pub fn health(&self) -> tokio::sync::watch::Receiver<Health> {
        self.link.health()
    }

    /// Connections from an address that this host has no more are dead, and nobody says so: the next
    /// call makes one of its own.
    pub fn moved(&self) {
        self.link.renew();
    }

    /// Looks every second whether certificates or the password have changed, asks now and then
    /// whether we are let in and whether members that are left alone answer again, and tells how the
    /// way is. Runs until it is dropped.
    pub async fn keep_way(&self) {
        tokio::join!(self.look_around(), self.link.ask_again());
    }

    async fn look_around(&self) {
        let mut asked = Instant::now();
        loop {
            tokio::time::sleep(LOOK_AT_FILES).await;
            // What is wrong is told by the next call where nothing was read before.
            drop(self.link.look_at_files());
            self.link.publish();
            if asked.elapsed() >= self.link.tuning().knock() {
                asked = Instant::now();
                self.link.accessed(self.knock().await);
            }
        }
    }

    /// A watch goes on whatever becomes of our user, its role or a certificate: who is not let in
    /// any more would learn of it when the lease is to be renewed, hours later.
    async fn knock(&self) -> Result<(), String> {
        let asked = watch::ask(&self.link, &self.keys.leases()).await;
        asked.map(drop).map_err(|error| error.to_string())
    }

    async fn get(&self, key: &str) -> Result<Option<Raw>, StoreError> {
        let got = self.link.call(|client| async move {
            let mut kv = client.kv_client();
            kv.get(key, None).await
        });
        let mut got = got.await.map_err(|failure| self.link.error(failure))?;
        Ok(got.take_kvs().first().map(raw))
    }

    async fn list(&self) -> Result<Listing, StoreError> {
        let prefix = &self.keys.leases();
        let got = self.link.call(|client| async move {
            let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER);
            kv.get(prefix.as_str(), Some(GetOptions::new().with_prefix()))
                .await
        });
        let got = got.await.map_err(|failure| self.link.error(failure))?;
        let header = got.header();
        Ok(Listing {
            records: got.kvs().iter().map(raw).collect(),
            revision: header.map_or(0, etcd_client::ResponseHeader::revision),
            cluster: header.map_or(0, etcd_client::ResponseHeader::cluster_id),
        })
    }

    /// One short exchange that sets the lease's time back to its full length.
    async fn keep_alive(&self, id: i64) -> Result<(), Failure> {
        let kept = self.link.call(|client| async move {
            // The crate's keeper sends one request and reads one answer when it is opened.
            client.lease_client().keep_alive(id).await.map(|_stream| ())
        });
        kept.await
    }

    /// Gives a lease back that holds no key. That it stays until its end would do little harm,
    /// so a failure is only told.
    async fn drop_lease(&self, id: i64) {
        let revoked = self
            .link
            .once(|client| async move { client.lease_client().revoke(id).await });
        match revoked.await {
            Ok(_) | Err(Failure::LeaseGone) => {}
            Err(failure) => {
                let error = self.link.error(failure);
                tracing::debug!(id, %error, "unused lease not revoked");
            }
        }
    }

    /// Deletes a key if it still is as it was read. `false` if it is not.
    async fn delete(&self, found: &Raw) -> Result<bool, StoreError> {
        let done = self.link.once(|client| async move {
            let same = Compare::mod_revision(found.key.clone(), CompareOp::Equal, found.modified);
            let txn = Txn::new()
                .when([same])
                .and_then([TxnOp::delete(found.key.clone(), None)]);
            client.kv_client().txn(txn).await
        });
        let done = done.await.map_err(|failure| self.link.error(failure))?;
        Ok(done.succeeded())
    }
}

impl LeaseStore for EtcdStore {
    type Events = Events;

    async fn network(&self) -> Result<NetworkConfig, StoreError> {
        let key = self.keys.config();
        let Some(found) = self.get(&key).await? else {
            return Err(StoreError::ConfigMissing { key });
        };
        record::network(key, &found.value)
    }

    async fn watch_network(&self) -> Result<Bells, StoreError> {
        bells::open(&self.link, &self.keys.config()).await
    }

    async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let list = self.list().await?;
        let revision = Revision(list.revision);
        Ok(Snapshot {
            cluster: list.cluster,
            ..record::snapshot(&self.keys, &list.records, revision)
        })
    }

    async fn watch(&self, after: Position) -> Result<Events, StoreError> {
        watch::open(&self.link, &self.keys, after).await
    }

    async fn claim(&self, config: &NetworkConfig, claim: &Claim) -> Result<Lease, StoreError> {
        // Granted at most once, and given back unless a key is attached to it in the end.
        let mut spare = None;
        let claimed = self.try_claim(config, claim, &mut spare).await;
        if let Some(id) = spare {
            self.drop_lease(id).await;
        }
        claimed
    }

    async fn renew(&self, lease: &Lease) -> Result<(), StoreError> {
        let subnet = lease.subnet;
        let key = self.keys.lease(subnet);
        let found = self.get(&key).await?;
        if let Some(why) = record::lost(lease, &key, found.as_ref()) {
            let attached = found.map(|found| found.lease);
            if let Some(id) = lease.store_lease.filter(|&id| attached != Some(id)) {
                self.drop_lease(id).await;
            }
            return Err(StoreError::LeaseLost { subnet, why });
        }
        let Some(id) = lease.store_lease else {
            return Ok(());
        };
        self.keep_alive(id).await.map_err(|failure| match failure {
            Failure::LeaseGone => StoreError::LeaseLost {
                subnet,
                why: "it was not renewed in time".to_owned(),
            },
            other @ (Failure::Unavailable(_)
            | Failure::Silent
            | Failure::Token(_)
            | Failure::Refused(_)) => self.link.error(other),
        })
    }

    async fn retake(&self, lease: &Lease, on_twin: OnTwin) -> Result<Retaken, StoreError> {
        let mut spare = None;
        let retaken = self.try_retake(lease, on_twin, &mut spare).await;
        if let Some(id) = spare {
            self.drop_lease(id).await;
        }
        retaken
    }

    async fn republish(&self, lease: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        let mut spare = None;
        let republished = self.try_republish(lease, attrs, &mut spare).await;
        if let Some(id) = spare {
            self.drop_lease(id).await;
        }
        republished
    }

    async fn release(&self, lease: &Lease) -> Result<(), StoreError> {
        // A reservation is the operator's, who made it to outlive the node.
        let Some(id) = lease.store_lease else {
            return Ok(());
        };
        let key = self.keys.lease(lease.subnet);
        for _ in 0..ATTEMPTS {
            match self.get(&key).await? {
                Some(found) if record::lost(lease, &key, Some(&found)).is_none() => {
                    if !self.delete(&found).await? {
                        continue;
                    }
                }
                // Somebody wrote into our key and kept our lease: revoking would delete it.
                Some(found) if found.lease == id => return Ok(()),
                Some(_) | None => {}
            }
            self.drop_lease(id).await;
            return Ok(());
        }
        Err(self.busy())
    }

    fn key_of(&self, subnet: Subnet) -> String {
        self.keys.lease(subnet)
    }
}

fn raw(kv: &KeyValue) -> Raw {
    Raw {
        key: kv.key().to_vec(),
        value: kv.value().to_vec(),
        lease: kv.lease(),
        created: kv.create_revision(),
        modified: kv.mod_revision(),
    }
}
