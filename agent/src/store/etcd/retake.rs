//! Taking one subnet again, and no other; saying something else of it.

use super::{ATTEMPTS, EtcdStore, claim::pause, codec};
use crate::{
    model::lease::{Lease, LeaseAttrs},
    store::{
        OnTwin, Retaken, StoreError,
        record::{self, Found},
    },
};

impl EtcdStore {
    /// Lists, judges, writes; again where somebody else wrote in between. A lease that was granted
    /// and holds no key is left in `spare`.
    pub(super) async fn try_retake(
        &self,
        lease: &Lease,
        on_twin: OnTwin,
        spare: &mut Option<i64>,
    ) -> Result<Retaken, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let value = codec::encode(&lease.attrs).map_err(|error| refused(error.to_string()))?;
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let list = self.list().await?;
            let held = match record::find(&self.keys, lease, &list.records) {
                Found::Taken(by) => return Ok(Retaken::Taken { by }),
                Found::Twin(_, twin) if on_twin == OnTwin::Leave => {
                    return Ok(Retaken::Twin(twin));
                }
                Found::Twin(raw, _) | Found::Own(raw) => {
                    self.reuse(raw, &value, &[], spare).await?
                }
                Found::Free => {
                    self.take(lease.subnet, &value, list.revision, &[], spare)
                        .await?
                }
            };
            if let Some(raw) = held {
                let read = raw.read(&self.keys);
                return read
                    .map(Retaken::Held)
                    .map_err(|rejected| refused(rejected.why));
            }
        }
        Err(self.busy())
    }

    /// Reads, judges, writes; again where somebody else wrote in between. `spare` as above: the
    /// lease of the record may be over, or have been granted for another time.
    pub(super) async fn try_republish(
        &self,
        lease: &Lease,
        attrs: &LeaseAttrs,
        spare: &mut Option<i64>,
    ) -> Result<Lease, StoreError> {
        let refused = |why| StoreError::Refused { why };
        let value = codec::encode(attrs).map_err(|error| refused(error.to_string()))?;
        let key = self.keys.lease(lease.subnet);
        for attempt in 0..ATTEMPTS {
            pause(attempt).await;
            let found = self.get(&key).await?;
            let raw = record::to_republish(lease, attrs, &key, found.as_ref()).map_err(|why| {
                StoreError::LeaseLost {
                    subnet: lease.subnet,
                    why,
                }
            })?;
            if let Some(raw) = self.reuse(raw, &value, &[], spare).await? {
                let read = raw.read(&self.keys);
                return read.map_err(|rejected| refused(rejected.why));
            }
        }
        Err(self.busy())
    }
}
