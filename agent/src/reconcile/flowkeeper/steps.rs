//! One look at conntrack and what it changes in the record; a flow's way out of the stack.

use std::collections::{BTreeMap, BTreeSet};

use weft_common::flow::{FlowEntry, FlowKey};

use crate::{
    datapath::{Datapath, DatapathError},
    netlink::{Netlink, NetlinkError, conntrack::Tracked},
    reconcile::flows::{Scope, difference, tuples},
};

/// So many ended flows are asked about one by one; more of them by a full comparison.
pub(super) const MOST_ENDED: usize = 1024;

/// The record in step with conntrack, and what conntrack said.
pub(super) struct Compared {
    pub(super) recorded: BTreeMap<FlowKey, FlowEntry>,
    pub(super) dump: Vec<Tracked>,
}

/// Conntrack's entry first: a flow that is fast must have none. What was on its way through the
/// stack meanwhile may have made another, which a flow that comes back later does not mind (an
/// entry that began in mid-stream forgives), but its record would keep the flow from being fast.
pub(super) async fn take(
    datapath: &mut impl Datapath,
    netlink: &impl Netlink,
    key: &FlowKey,
    tracked: &Tracked,
) -> Result<(), String> {
    let forget = || async {
        let answer = netlink.forget_connection(tracked).await;
        answer.map_err(|error| error.to_string())
    };
    forget().await?;
    datapath.forget_flow(key).map_err(said)?;
    forget().await?;
    Ok(())
}

/// Reads the record first, then conntrack: what is recorded in between is in neither and stays.
/// Ended flows go first, to make room. A call that fails keeps none of the others from being made.
pub(super) async fn compare(
    scope: &Scope,
    datapath: &mut impl Datapath,
    netlink: &impl Netlink,
) -> Result<Compared, String> {
    let mut recorded = datapath.flows().map_err(said)?;
    let dump = netlink
        .connections()
        .await
        .map_err(|error: NetlinkError| error.to_string())?;
    let (record, forget) = difference(scope, &recorded, &dump);
    recorded.retain(|key, _| !forget.contains(key));
    end(scope, datapath, netlink, forget).await?;
    let mut outcome = Ok(());
    for (key, entry) in record {
        outcome = outcome.and(datapath.record_flow(&key, entry));
        recorded.insert(key, entry);
    }
    outcome.and(datapath.tend_pairs()).map_err(said)?;
    Ok(Compared { recorded, dump })
}

/// Ends records, each only if conntrack has no entry of its flow, and takes it back if one began at
/// that very moment.
pub(super) async fn end(
    scope: &Scope,
    datapath: &mut impl Datapath,
    netlink: &impl Netlink,
    keys: BTreeSet<FlowKey>,
) -> Result<(), String> {
    if keys.len() > MOST_ENDED {
        return end_many(scope, datapath, netlink, keys).await;
    }
    for key in keys {
        if living(scope, netlink, &key).await?.is_some() {
            continue;
        }
        datapath.forget_flow(&key).map_err(said)?;
        if let Some(entry) = living(scope, netlink, &key).await? {
            datapath.record_flow(&key, entry).map_err(said)?;
        }
    }
    Ok(())
}

/// The same by two complete looks.
async fn end_many(
    scope: &Scope,
    datapath: &mut impl Datapath,
    netlink: &impl Netlink,
    keys: BTreeSet<FlowKey>,
) -> Result<(), String> {
    let look = || async {
        let dump = netlink
            .connections()
            .await
            .map_err(|error| error.to_string())?;
        let all = dump.iter().flat_map(|tracked| scope.keys(tracked));
        Ok::<BTreeMap<FlowKey, FlowEntry>, String>(all.collect())
    };
    let living = look().await?;
    let ended: Vec<FlowKey> = keys
        .into_iter()
        .filter(|key| !living.contains_key(key))
        .collect();
    for key in &ended {
        datapath.forget_flow(key).map_err(said)?;
    }
    let living = look().await?;
    for key in &ended {
        if let Some(entry) = living.get(key) {
            datapath.record_flow(key, *entry).map_err(said)?;
        }
    }
    Ok(())
}

/// The record that conntrack's entry of the flow asks for, if there is one.
async fn living(
    scope: &Scope,
    netlink: &impl Netlink,
    key: &FlowKey,
) -> Result<Option<FlowEntry>, String> {
    for tuple in tuples(key) {
        let found = netlink
            .connection(key.protocol, &tuple)
            .await
            .map_err(|error| error.to_string())?;
        if let Some(entry) = found.and_then(|tracked| scope.keys(&tracked).get(key).copied()) {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

#[expect(clippy::needless_pass_by_value, reason = "goes into map_err")]
fn said(error: DatapathError) -> String {
    error.to_string()
}
