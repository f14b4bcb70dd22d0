//! Keeps the record of the stack's flows in step with conntrack.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    time::Duration,
};

use ipnet::Ipv4Net;
use tokio::time::Instant;
use tracing::{debug, warn};

use weft_common::{
    flow::{FlowEntry, FlowKey},
    stats::Reason,
};

use super::flows::{Scope, difference, tuples};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{net::Subnet, network::NetworkConfig},
    netlink::{Netlink, NetlinkError, conntrack::ConntrackEvent},
};

/// A complete comparison now and then: conntrack entries made while nobody listened end without an
/// event.
const EVERY: Duration = Duration::from_secs(30);

/// So many ended flows are asked about one by one; more of them by a full comparison.
const MOST_ENDED: usize = 1024;

/// The record's keeper.
#[derive(Debug, Default)]
pub struct FlowKeeper {
    scope: Option<Scope>,
    /// When a full comparison was last tried; `None` when one is due.
    tried: Option<Instant>,
    /// A full comparison succeeded: before that nothing may be taken.
    synced: bool,
    recorded: usize,
    failure: Option<String>,
    /// Flows whose conntrack entry has ended, to be settled.
    ended: BTreeSet<FlowKey>,
}

impl FlowKeeper {
    /// Says whose flows are recorded.
    pub fn scope(
        &mut self,
        network: &NetworkConfig,
        own: Subnet,
        locals: impl Iterator<Item = Ipv4Addr>,
    ) {
        let locals: BTreeSet<Ipv4Addr> = locals.collect();
        let own: Option<Ipv4Net> = own.v4();
        self.scope = own.map(|own| Scope {
            own,
            network: network.network,
            locals,
        });
    }

    /// A conntrack entry ended, or events were lost.
    pub fn heard(&mut self, event: &ConntrackEvent) {
        match event {
            ConntrackEvent::Overrun => {
                debug!("conntrack events were lost: comparing in full");
                self.tried = None;
            }
            ConntrackEvent::Destroyed(tracked) => {
                let Some(scope) = &self.scope else { return };
                self.ended.extend(scope.keys(tracked).into_keys());
                if self.ended.len() > MOST_ENDED {
                    self.ended.clear();
                    self.tried = None;
                }
            }
        }
    }

    /// Whether ended flows wait for [`Self::settle`].
    pub fn is_unsettled(&self) -> bool {
        !self.ended.is_empty()
    }

    /// What follows must wait for a full comparison: a recorder began to work only now.
    pub fn distrust(&mut self) {
        self.synced = false;
    }

    /// Ends the records of flows that conntrack has ended. One of the same tuple may have begun
    /// since, even with the very packet that ended the old one: conntrack is asked.
    pub async fn settle(&mut self, datapath: &mut impl Datapath, netlink: &impl Netlink) {
        let Some(scope) = self.scope.clone() else {
            return;
        };
        let ended = std::mem::take(&mut self.ended);
        if let Err(why) = end(&scope, datapath, netlink, ended).await {
            warn!(why, "records were not ended: will compare in full");
            self.tried = None;
        }
    }

    /// Compares in full if that is due, and makes room when the record overflowed.
    pub async fn tend(&mut self, datapath: &mut impl Datapath, netlink: &impl Netlink) {
        let full = datapath.flows_full(false).unwrap_or(false);
        let lost = lost(datapath);
        if full || self.tried.is_none_or(|at| at.elapsed() >= EVERY) {
            self.sync(datapath, netlink).await;
            if full && self.failure.is_none() {
                self.reopen(datapath, lost);
            }
        }
    }

    /// Lets packets be taken again after an overflow, unless another flow was lost meanwhile.
    fn reopen(&mut self, datapath: &mut impl Datapath, before: u64) {
        warn!("the record of the stack's flows overflowed: everything went to the stack");
        if lost(datapath) != before {
            return;
        }
        if let Err(error) = datapath.flows_full(true) {
            self.failure = Some(error.to_string());
        }
    }

    /// Compares in full if that has never succeeded. `Err` means that flows of the stack may be
    /// missing in the record.
    pub async fn ensure_synced(
        &mut self,
        datapath: &mut impl Datapath,
        netlink: &impl Netlink,
    ) -> Result<(), String> {
        if !self.synced {
            self.sync(datapath, netlink).await;
        }
        match &self.failure {
            Some(why) if !self.synced => Err(why.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// In words, for status.
    pub fn state(&self) -> Result<String, String> {
        match &self.failure {
            None => Ok(format!("{} flows stay with the stack", self.recorded)),
            Some(why) => Err(why.clone()),
        }
    }

    async fn sync(&mut self, datapath: &mut impl Datapath, netlink: &impl Netlink) {
        let Some(scope) = &self.scope else { return };
        self.tried = Some(Instant::now());
        self.failure = match compare(scope, datapath, netlink).await {
            Ok(recorded) => {
                self.recorded = recorded;
                self.synced = true;
                None
            }
            Err(why) => {
                if self.failure.as_ref() != Some(&why) {
                    warn!(
                        why,
                        "the record of the stack's flows is not in step with conntrack"
                    );
                }
                Some(why)
            }
        };
    }
}

/// Reads the record first, then conntrack: what is recorded in between is in neither and stays.
/// Ended flows go first, to make room. A call that fails keeps none of the others from being made.
async fn compare(
    scope: &Scope,
    datapath: &mut impl Datapath,
    netlink: &impl Netlink,
) -> Result<usize, String> {
    let before = datapath.flows().map_err(said)?;
    let dump = netlink
        .connections()
        .await
        .map_err(|error: NetlinkError| error.to_string())?;
    let (record, forget) = difference(scope, &before, &dump);
    let ended = forget.len();
    end(scope, datapath, netlink, forget).await?;
    let mut outcome = Ok(());
    let new = record
        .keys()
        .filter(|key| !before.contains_key(key))
        .count();
    for (key, entry) in record {
        outcome = outcome.and(datapath.record_flow(&key, entry));
    }
    outcome.and(datapath.tend_pairs()).map_err(said)?;
    Ok(before.len() - ended + new)
}

/// Ends records, each only if conntrack has no entry of its flow, and takes it back if one began at
/// that very moment.
async fn end(
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

/// Flows that found no room in the record, so far.
fn lost(datapath: &impl Datapath) -> u64 {
    let counters = datapath.counters().unwrap_or_default();
    let failed = counters
        .iter()
        .filter(|((_, reason), _)| *reason == Reason::RecordFailed);
    failed.map(|(_, count)| count.packets).sum()
}

#[expect(clippy::needless_pass_by_value, reason = "goes into map_err")]
fn said(error: DatapathError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
