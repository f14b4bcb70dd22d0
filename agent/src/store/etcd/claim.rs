//! Taking a subnet by compare-and-swap.

use std::time::Duration;

use etcd_client::{Compare, CompareOp, PutOptions, Txn, TxnOp};
use rand::Rng;

use super::{ATTEMPTS, EtcdStore, Listing, codec, failure::Failure};
use crate::{
    lease::allocate::{self, Take, Taken},
    model::{
        lease::{Claim, Lease},
        net::Subnet,
        network::NetworkConfig,
    },
    store::{StoreError, record::Raw},
};

/// A transaction of etcd holds 128 operations at most. More stale records of one node than this
/// are a fault of their own; the rest goes the next time.
const MOST_STALE: usize = 60;

/// A write that happens only if nothing came between.
struct Swap {
    when: Vec<Compare>,
    /// Our own records that no longer fit.
    stale: Vec<TxnOp>,
    put: Option<Put>,
}

struct Put {
    key: Vec<u8>,
    value: Vec<u8>,
    /// 0 for none.
    lease: i64,
}

impl EtcdStore {
    /// Lists, chooses, writes; again where somebody else wrote in between. A lease that was
    /// granted and holds no key is left in `spare`.
    pub(super) async fn try_claim(
        &self,
        config: &NetworkConfig,
        claim: &Claim,
        spare: &mut Option<i64>,
    ) -> Result<Lease, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let value = codec::encode(&claim.attrs).map_err(|error| refused(error.to_string()))?;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let list = self.list().await?;
            let taken: Vec<Taken> = list
                .records
                .iter()
                .filter_map(|raw| raw.taken(&self.keys))
                .collect();
            let choice = allocate::choose(config, claim, &taken, &mut rand::rng());
            let stale: Vec<&Raw> = list.named(&choice.stale).take(MOST_STALE).collect();
            for raw in &stale {
                tracing::warn!(
                    key = raw.key_text(),
                    "own lease does not fit the network config"
                );
            }
            let held = match choice.take {
                None => {
                    return Err(StoreError::NoFreeSubnet {
                        min: config.subnet_min,
                        max: config.subnet_max,
                    });
                }
                Some(Take::Own(key)) => match list.named(&[key]).next() {
                    Some(own) => self.reuse(own, &value, &stale, spare).await?,
                    None => None,
                },
                Some(Take::Free(subnet)) => {
                    self.take(subnet, &value, list.revision, &stale, spare)
                        .await?
                }
            };
            if let Some(raw) = held {
                return raw
                    .read(&self.keys)
                    .map_err(|rejected| refused(rejected.why));
            }
        }
        Err(self.busy())
    }

    /// Others wrote each time that we tried.
    pub(super) fn busy(&self) -> StoreError {
        let why = format!("others wrote at the same time, {ATTEMPTS} times in a row");
        self.link.error(Failure::Unavailable(why))
    }

    /// Makes our own record say `value`, and keeps its lease where that will do. `None` if the
    /// record changed in between.
    pub(super) async fn reuse(
        &self,
        own: &Raw,
        value: &[u8],
        stale: &[&Raw],
        spare: &mut Option<i64>,
    ) -> Result<Option<Raw>, StoreError> {
        let lease = match own.lease {
            // A reservation must never get an end.
            0 => 0,
            id if self.adopt(id).await? => id,
            _ => self.spare(spare).await?,
        };
        let same = lease == own.lease && own.value == value;
        if same && stale.is_empty() {
            return Ok(Some(own.clone()));
        }
        let unchanged =
            |raw: &Raw| Compare::mod_revision(raw.key.clone(), CompareOp::Equal, raw.modified);
        let swap = Swap {
            when: stale
                .iter()
                .map(|raw| unchanged(raw))
                .chain([unchanged(own)])
                .collect(),
            stale: deletions(stale),
            put: (!same).then(|| Put {
                key: own.key.clone(),
                value: value.to_vec(),
                lease,
            }),
        };
        let Some(modified) = self.swap(swap, spare).await? else {
            return Ok(None);
        };
        Ok(Some(Raw {
            key: own.key.clone(),
            value: value.to_vec(),
            lease,
            created: own.created,
            modified: if same { own.modified } else { modified },
        }))
    }

    /// Writes a new record, if no record at all was written since the list was read: a compare
    /// of the one key would let two subnets of different lengths overlap.
    pub(super) async fn take(
        &self,
        subnet: Subnet,
        value: &[u8],
        revision: i64,
        stale: &[&Raw],
        spare: &mut Option<i64>,
    ) -> Result<Option<Raw>, StoreError> {
        let key = self.keys.lease(subnet).into_bytes();
        let lease = self.spare(spare).await?;
        let range = Compare::mod_revision(self.keys.leases(), CompareOp::Less, revision + 1);
        let swap = Swap {
            when: vec![
                range.with_prefix(),
                Compare::create_revision(key.clone(), CompareOp::Equal, 0),
            ],
            stale: deletions(stale),
            put: Some(Put {
                key: key.clone(),
                value: value.to_vec(),
                lease,
            }),
        };
        let written = self.swap(swap, spare).await?;
        Ok(written.map(|modified| Raw {
            key,
            value: value.to_vec(),
            lease,
            created: modified,
            modified,
        }))
    }

    /// Writes if the conditions hold, and says at which revision.
    async fn swap(&self, swap: Swap, spare: &mut Option<i64>) -> Result<Option<i64>, StoreError> {
        let Swap { when, stale, put } = &swap;
        let done = self.link.once(|client| async move {
            let mut then = stale.clone();
            then.extend(put.as_ref().map(Put::operation));
            let txn = Txn::new().when(when.clone()).and_then(then);
            client.kv_client().txn(txn).await
        });
        let lease = put.as_ref().map(|put| put.lease);
        let modified = match (done.await, put) {
            (Ok(done), _) if !done.succeeded() => return Ok(None),
            (Ok(done), _) => done
                .header()
                .map_or(0, etcd_client::ResponseHeader::revision),
            // The lease ended before it was used.
            (Err(Failure::LeaseGone), _) => {
                spare.take_if(|id| Some(*id) == lease);
                return Ok(None);
            }
            // It may have been written all the same. Only reading tells, and the lease's number
            // tells it from anybody else's record.
            (Err(Failure::Unavailable(why)), Some(put)) => {
                let key = String::from_utf8_lossy(&put.key);
                match self.get(&key).await? {
                    Some(found) if found.lease == put.lease && found.value == put.value => {
                        found.modified
                    }
                    Some(_) | None => return Err(self.link.error(Failure::Unavailable(why))),
                }
            }
            (Err(failure), _) => return Err(self.link.error(failure)),
        };
        spare.take_if(|id| Some(*id) == lease);
        Ok(Some(modified))
    }

    /// Keeps the lease of a record of ours alive. `false` if it is over, or was granted for another
    /// time than ours: a shorter one would end before we renew it, a longer one outlive us.
    async fn adopt(&self, id: i64) -> Result<bool, StoreError> {
        let known = self
            .link
            .call(|client| async move { client.lease_client().time_to_live(id, None).await });
        match known.await {
            Ok(known) if known.ttl() <= 0 || known.granted_ttl() != self.ttl() => return Ok(false),
            Ok(_) => {}
            Err(Failure::LeaseGone) => return Ok(false),
            Err(failure) => return Err(self.link.error(failure)),
        }
        match self.keep_alive(id).await {
            Ok(()) => Ok(true),
            Err(Failure::LeaseGone) => Ok(false),
            Err(failure) => Err(self.link.error(failure)),
        }
    }

    /// The lease to attach the next record to.
    async fn spare(&self, spare: &mut Option<i64>) -> Result<i64, StoreError> {
        if let Some(id) = *spare {
            return Ok(id);
        }
        let ttl = self.ttl();
        let granted = self
            .link
            .call(|client| async move { client.lease_client().grant(ttl, None).await });
        let granted = granted.await.map_err(|failure| self.link.error(failure))?;
        *spare = Some(granted.id());
        Ok(granted.id())
    }

    fn ttl(&self) -> i64 {
        i64::try_from(self.link.tuning().ttl.as_secs()).unwrap_or(i64::MAX)
    }
}

impl Listing {
    fn named<'a>(&'a self, keys: &'a [String]) -> impl Iterator<Item = &'a Raw> {
        self.records
            .iter()
            .filter(|raw| keys.iter().any(|key| key.as_bytes() == raw.key))
    }
}

impl Put {
    fn operation(&self) -> TxnOp {
        let options = PutOptions::new().with_lease(self.lease);
        TxnOp::put(self.key.clone(), self.value.clone(), Some(options))
    }
}

fn deletions(stale: &[&Raw]) -> Vec<TxnOp> {
    stale
        .iter()
        .map(|raw| TxnOp::delete(raw.key.clone(), None))
        .collect()
}

/// Waits up to twice as long each time, and never the same time as the others that ran into each
/// other: a hundred nodes that start at once must all get through.
pub(super) async fn pause(attempt: u32) {
    if attempt > 0 {
        let most = 20_u64 << attempt.min(7);
        let millis = rand::rng().random_range(1..=most);
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }
}
