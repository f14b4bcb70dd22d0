//! Keeps the record of the stack's flows in step with conntrack.

mod steps;

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use ipnet::Ipv4Net;
use tokio::time::Instant;
use tracing::{debug, warn};

use weft_common::{flow::FlowKey, stats::Reason};

use self::steps::{Compared, MOST_ENDED, compare, end, take};
use super::{flows::Scope, promote::promotable};
use crate::{
    datapath::Datapath,
    model::{net::Subnet, network::NetworkConfig},
    netlink::{Netlink, conntrack::ConntrackEvent},
};

/// A complete comparison now and then: conntrack entries made while nobody listened end without an
/// event.
const EVERY: Duration = Duration::from_secs(30);

/// So many flows are promoted in one go: each costs three system calls or four.
const MOST_PROMOTED: usize = 1024;

/// Whether flows may be taken from the stack at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Promotion {
    /// No rule of the host minds what conntrack says of a packet, but for what it calls invalid, and
    /// conntrack takes up a connection in mid-stream: a promoted flow may come back to the stack.
    Allowed,
    /// Somewhere a flow that conntrack has forgotten would be stopped.
    #[default]
    Forbidden,
}

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
    /// Flows that were promoted and had come back to the stack by the next comparison: something
    /// in them is not for the fast path.
    returned: BTreeSet<FlowKey>,
    /// Flows promoted at the last comparison.
    promoted: BTreeSet<FlowKey>,
    /// Flows may be promoted since an earlier look.
    promotes: bool,
    /// Promoted since the start.
    promotions: u64,
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
        self.tried = None;
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

    /// Compares in full if that is due, takes from the stack what it need not carry, and makes room
    /// when the record overflowed.
    pub async fn tend(
        &mut self,
        datapath: &mut impl Datapath,
        netlink: &impl Netlink,
        promotion: Promotion,
    ) {
        let full = datapath.flows_full(false).unwrap_or(false);
        let lost = lost(datapath);
        let promotes = promotion == Promotion::Allowed;
        let first = promotes && !std::mem::replace(&mut self.promotes, promotes);
        if full || first || self.tried.is_none_or(|at| at.elapsed() >= EVERY) {
            let compared = self.sync(datapath, netlink).await;
            // While the record overflows nothing is taken: conntrack would forget for nothing.
            if promotes
                && !full
                && let Some(compared) = compared
            {
                self.promote(datapath, netlink, compared).await;
            }
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
            _ = self.sync(datapath, netlink).await;
        }
        match &self.failure {
            Some(why) if !self.synced => Err(why.clone()),
            Some(_) | None => Ok(()),
        }
    }

    /// In words, for status.
    pub fn state(&self) -> Result<String, String> {
        match &self.failure {
            None if self.promotions == 0 => {
                Ok(format!("{} flows stay with the stack", self.recorded))
            }
            None => Ok(format!(
                "{} flows stay with the stack, {} were taken from it",
                self.recorded, self.promotions
            )),
            Some(why) => Err(why.clone()),
        }
    }

    async fn sync(
        &mut self,
        datapath: &mut impl Datapath,
        netlink: &impl Netlink,
    ) -> Option<Compared> {
        let scope = self.scope.as_ref()?;
        self.tried = Some(Instant::now());
        match compare(scope, datapath, netlink).await {
            Ok(compared) => {
                self.recorded = compared.recorded.len();
                self.synced = true;
                self.failure = None;
                Some(compared)
            }
            Err(why) => {
                if self.failure.as_ref() != Some(&why) {
                    warn!(
                        why,
                        "the record of the stack's flows is not in step with conntrack"
                    );
                }
                self.failure = Some(why);
                None
            }
        }
    }

    /// Takes flows from the stack that it neither translates nor needs.
    async fn promote(
        &mut self,
        datapath: &mut impl Datapath,
        netlink: &impl Netlink,
        compared: Compared,
    ) {
        let Compared { recorded, dump } = compared;
        self.returned.append(&mut self.promoted);
        self.returned.retain(|key| recorded.contains_key(key));
        let Some(scope) = &self.scope else { return };
        let programs = match datapath.observe() {
            Ok(programs) => programs,
            Err(error) => {
                debug!(%error, "no flow is promoted");
                return;
            }
        };
        let found = promotable(scope, &programs, &recorded, &dump);
        let fit = found
            .into_iter()
            .filter(|(key, _)| !self.returned.contains(key));
        for (key, tracked) in fit {
            if self.promoted.len() == MOST_PROMOTED {
                // The rest at the next look.
                self.tried = None;
                break;
            }
            match take(datapath, netlink, &key, &tracked).await {
                Ok(()) => _ = self.promoted.insert(key),
                Err(why) => {
                    warn!(why, "flows are not promoted");
                    break;
                }
            }
        }
        if !self.promoted.is_empty() {
            let flows = self.promoted.len();
            debug!(flows, "taken from the stack");
            self.recorded = self.recorded.saturating_sub(flows);
            self.promotions += u64::try_from(flows).unwrap_or(u64::MAX);
        }
    }
}

/// Flows that found no room in the record, so far.
fn lost(datapath: &impl Datapath) -> u64 {
    let counters = datapath.counters().unwrap_or_default();
    let failed = counters
        .iter()
        .filter(|((_, reason), _)| *reason == Reason::RecordFailed);
    failed.map(|(_, count)| count.packets).sum()
}

#[cfg(test)]
mod tests;
