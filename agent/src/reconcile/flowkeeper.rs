//! Keeps the record of the stack's flows in step with conntrack.

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::flows::{Scope, difference};
use crate::{
    datapath::{Datapath, DatapathError},
    model::{net::Subnet, network::NetworkConfig},
    netlink::{Netlink, NetlinkError, conntrack::ConntrackEvent},
};

/// A complete comparison now and then: conntrack entries made while nobody listened end without an
/// event.
const EVERY: Duration = Duration::from_secs(30);

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
    pub fn heard(&mut self, datapath: &mut impl Datapath, event: &ConntrackEvent) {
        match event {
            ConntrackEvent::Overrun => {
                debug!("conntrack events were lost: comparing in full");
                self.tried = None;
            }
            ConntrackEvent::Destroyed(tracked) => {
                let Some(scope) = &self.scope else { return };
                for key in scope.keys(tracked).keys() {
                    if let Err(error) = datapath.forget_flow(key) {
                        warn!(%error, "a flow's record was not ended: will compare in full");
                        self.tried = None;
                    }
                }
            }
        }
    }

    /// Compares in full if that is due, and makes room when the record overflowed.
    pub async fn tend(&mut self, datapath: &mut impl Datapath, netlink: &impl Netlink) {
        let full = datapath.flows_full(false).unwrap_or(false);
        if full || self.tried.is_none_or(|at| at.elapsed() >= EVERY) {
            self.sync(datapath, netlink).await;
            if full && self.failure.is_none() {
                warn!("the record of the stack's flows overflowed: everything went to the stack");
                if let Err(error) = datapath.flows_full(true) {
                    self.failure = Some(error.to_string());
                }
            }
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
    let mut outcome = Ok(());
    for key in &forget {
        outcome = outcome.and(datapath.forget_flow(key));
    }
    let new = record
        .keys()
        .filter(|key| !before.contains_key(key))
        .count();
    for (key, entry) in record {
        outcome = outcome.and(datapath.record_flow(&key, entry));
    }
    outcome.and(datapath.tend_pairs()).map_err(said)?;
    Ok(before.len() - forget.len() + new)
}

#[expect(clippy::needless_pass_by_value, reason = "goes into map_err")]
fn said(error: DatapathError) -> String {
    error.to_string()
}

#[cfg(test)]
mod tests;
