//! The loop: look, decide, apply, tell. Events say when to look, never what to do.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use ipnet::Ipv4Net;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until},
};

use super::{
    allow::{Allow, Decision},
    desired::{Guard, KernelDefaults},
    leases::StoreNews,
    narrow::Paths,
    pass::Memory,
    pulse::{self, Pulse, Task},
    renewal::OwnLease,
    schedule::{Cost, Schedule},
    seen::Sight,
    underlay::UplinkWatch,
};
use crate::{
    clock,
    datapath::{Attachment, Datapath},
    model::{
        lease::{Lease, Revision},
        net::{Mac, Subnet},
        network::NetworkConfig,
        peer::Peer,
    },
    netlink::{HostChange, Link, LinkKind, Netlink, conntrack::ConntrackEvent},
    policy::RulesRead,
    sysctl::Sysctls,
    uplink::Uplink,
};

/// Ended flows are settled together: a little later costs a detour through the stack, no more.
const SETTLE: Duration = Duration::from_millis(500);

/// Neighbours of more links than this are read with everything else: tables in one go, not by link.
const MOST_TOUCHED: usize = 8;

/// No news for this long, and the store has said all that it has at a revision.
const CALM: Duration = Duration::from_millis(5);

/// What the loop works with.
pub struct Reconciler<N, D> {
    /// The host.
    pub netlink: N,
    /// Programs and maps; `None` on the kernel path alone.
    pub datapath: Option<D>,
    /// Cluster configuration.
    pub network: NetworkConfig,
    /// Our subnet.
    pub own: Subnet,
    /// Whether it still is.
    pub own_lease: watch::Receiver<OwnLease>,
    /// MAC of our device.
    pub vtep_mac: Mac,
    /// The interface that carries the underlay.
    pub uplink: UplinkWatch,
    /// Kernel settings that are kept.
    pub sysctls: Sysctls,
    /// Kernel defaults, as last read.
    pub kernel: KernelDefaults,
    /// Whether packets may be taken.
    pub allow: Allow,
    /// What the guard refuses.
    pub guard: Guard,
    /// Whether ports of bridges have programs of their own.
    pub hook_ports: bool,
    /// What of the cluster configuration may change meanwhile.
    pub networks: watch::Receiver<NetworkConfig>,
    /// How wide the ways to the peers are.
    pub paths: Paths,
    /// Our sign of life.
    pub pulse: Arc<Pulse>,
    /// What was learned.
    pub memory: Memory,
}

/// The outcome of one pass, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A complete pass was made: every known peer was attempted, programs were attached.
    pub complete: bool,
    /// Everything that the store said until then is in place.
    pub applied: Option<Revision>,
    /// What failed in the last pass.
    pub failures: Vec<String>,
    /// Why the store does not answer, if it does not.
    pub store_down: Option<String>,
    /// Peers.
    pub peers: usize,
    /// VTEP addresses of those that the programs reach without encapsulation.
    pub routed: BTreeSet<Ipv4Addr>,
    /// Containers.
    pub endpoints: usize,
    /// Leases and records left out, with the reason.
    pub ignored: Vec<(String, String)>,
    /// Subnets of which bridges still have addresses, and that are not ours any more.
    pub former: Vec<String>,
    /// Those, and our own where it is lost; `None` where the look failed.
    pub lost: Option<BTreeSet<Ipv4Net>>,
    /// Programs attached.
    pub attached: usize,
    /// Programs that are not where they should be.
    pub unattached: Vec<Attachment>,
    /// What is allowed, and why.
    pub allowed: Decision,
    /// Ports whose packets stay with the kernel, and why.
    pub kept_ports: Vec<(String, String)>,
    /// Ports that are wider than the overlay, and how wide.
    pub wide_ports: Vec<(String, u32)>,
    /// The uplink, as last seen.
    pub uplink: Option<Uplink>,
    /// Why the uplink cannot be followed to where it is now.
    pub uplink_wrong: Option<String>,
    /// MTU of the overlay.
    pub overlay_mtu: Option<u32>,
    /// State of the flow record, in words; `Err` when it is not kept.
    pub flows: Option<Result<String, String>>,
    /// Conntrack takes up no TCP connection in mid-stream, or that cannot be read.
    pub strict_tcp: bool,
    /// The subnet is not ours, and that is programmed as far as it goes.
    pub cut_off: bool,
    /// Operations since the start.
    pub operations: u64,
}

/// Everything that can wake the loop.
enum Wake {
    Store(StoreNews),
    Host(HostChange),
    /// Nothing on the host changed, but what is wanted there did.
    Wanted,
    Flow(ConntrackEvent),
    Settle,
    Claim,
    Timer,
}

impl<N: Netlink, D: Datapath> Reconciler<N, D> {
    /// Runs until the store's follower is gone or the future is dropped. What is programmed stays.
    pub async fn run(
        mut self,
        mut news: mpsc::Receiver<StoreNews>,
        mut changes: N::Changes,
        mut conntrack: impl Stream<Item = ConntrackEvent> + Unpin,
        own_key: impl Fn(Subnet) -> String,
        report: watch::Sender<Report>,
        own_changed: impl Fn(),
    ) {
        let mut settle_at: Option<Instant> = None;
        let mut known = false;
        let mut store_down = None;
        let mut schedule = Schedule::new();
        // What is in place, once no more of it has come: a transaction comes in pieces.
        let mut claim: Option<(Instant, Revision)> = None;
        let mut rules = self.allow.rules.clone();
        let mut own_lease = self.own_lease.clone();
        let mut networks = self.networks.clone();
        let mut narrow = self.paths.narrow.clone();
        loop {
            self.pulse.beat(Task::Reconcile);
            let (at, sight) = schedule.next();
            let wake = tokio::select! {
                // News first: what has come is looked at together.
                biased;
                heard = news.recv() => match heard {
                    Some(heard) => Wake::Store(heard),
                    None => return,
                },
                Ok(()) = own_lease.changed() => Wake::Wanted,
                Ok(()) = narrow.changed() => Wake::Wanted,
                new = network_changed(&mut networks) => {
                    self.network = new;
                    Wake::Wanted
                }
                () = sleep_until(settle_at.unwrap_or(at)), if settle_at.is_some() => Wake::Settle,
                () = sleep_until(claim.map_or(at, |(at, _)| at)), if claim.is_some() => Wake::Claim,
                () = sleep_until(at) => Wake::Timer,
                Some(change) = changes.next() => Wake::Host(change),
                () = rules_changed(&mut rules) => Wake::Wanted,
                Some(event) = conntrack.next() => Wake::Flow(event),
                () = sleep(pulse::EVERY) => continue,
            };
            match wake {
                Wake::Store(StoreNews::Snapshot(snapshot)) => {
                    if !self.is_ours(snapshot.leases.get(&self.own)) {
                        own_changed();
                    }
                    self.memory.leases = snapshot;
                    claim = None;
                    store_down = None;
                    // The first is looked at until nothing is left to do: somebody waits for it.
                    let first = !std::mem::replace(&mut known, true);
                    schedule.due(if first { Sight::Full } else { Sight::Near });
                }
                Wake::Store(StoreNews::Event(event)) => {
                    let leases = &mut self.memory.leases;
                    let before = leases.leases.get(&self.own).cloned();
                    leases.apply(event, &own_key);
                    claim = None;
                    if leases.leases.get(&self.own) != before.as_ref() {
                        own_changed();
                    }
                    schedule.due(Sight::Near);
                }
                Wake::Store(StoreNews::Down(why)) => {
                    store_down = Some(why.clone());
                    report.send_modify(|report| report.store_down = Some(why));
                }
                Wake::Store(StoreNews::Back) => {
                    store_down = None;
                    report.send_modify(|report| report.store_down = None);
                }
                Wake::Flow(event) => {
                    if self.datapath.is_some() {
                        self.memory.flows.heard(&event);
                        settle_at.get_or_insert(Instant::now() + SETTLE);
                    }
                }
                Wake::Settle => {
                    settle_at = None;
                    if let Some(datapath) = &mut self.datapath {
                        self.memory.flows.settle(datapath, &self.netlink).await;
                    }
                }
                Wake::Claim => {
                    let applied = claim.take().map(|(_, revision)| revision);
                    report.send_modify(|report| report.applied = applied);
                }
                Wake::Host(change) => {
                    if let Some(sight) = self.concerns(change) {
                        schedule.due(sight);
                    }
                }
                Wake::Wanted => schedule.due(Sight::Near),
                // Nothing is decided before the leases have been read once in full: what is not
                // among them would be removed.
                Wake::Timer if !known => schedule.wait(),
                Wake::Timer if sight == Sight::Tick => {
                    let mut now = report.borrow().clone();
                    let due = self.tick(&mut now).await;
                    // Whoever keeps files by it looks at them, changed or not.
                    report.send_replace(now);
                    schedule.ticked();
                    if let Some(sight) = due {
                        schedule.due(sight);
                    }
                }
                Wake::Timer => {
                    let (began, worked) = (Instant::now(), clock::worked());
                    let mut now = self.pass(sight).await;
                    now.store_down.clone_from(&store_down);
                    claim = now
                        .applied
                        .take()
                        .map(|revision| (Instant::now() + CALM, revision));
                    // What was in place still is, where nothing failed.
                    now.applied = claim.and(report.borrow().applied);
                    // While programs are attached we sleep.
                    let took = began.elapsed().saturating_sub(self.memory.attaching);
                    let busy = clock::worked().saturating_sub(worked).min(took);
                    let cost = Cost { took, busy };
                    schedule.looked(sight, cost, now.peers, now.failures.is_empty());
                    if self.memory.attached > 0 {
                        schedule.due(Sight::Near);
                    }
                    if let Some(at) = self.uplink.due() {
                        schedule.no_later(at);
                    }
                    report.send_replace(now);
                }
            }
        }
    }

    /// What must be looked at after a change of the host, if anything. Neighbours matter on our
    /// device and on bridges.
    fn concerns(&mut self, change: HostChange) -> Option<Sight> {
        let (HostChange::Neighbours(links), Some(seen)) = (change, &self.memory.seen) else {
            return Some(Sight::Full);
        };
        let device = self.network.vni.device();
        for link in links {
            match seen.host.links.get(&link) {
                None => return Some(Sight::Full),
                Some(known) if known.name == device => return Some(Sight::Full),
                Some(known) if known.master.is_some() || is_bridge(known) => {
                    self.memory.touched.insert(link);
                }
                Some(_) => {}
            }
        }
        match self.memory.touched.len() {
            0 => None,
            1..=MOST_TOUCHED => Some(Sight::Near),
            _ => Some(Sight::Full),
        }
    }

    /// Whether the record of our subnet says what we published.
    fn is_ours(&self, found: Option<&Lease>) -> bool {
        let address = IpAddr::V4(self.uplink.uplink.public_ip);
        found
            .and_then(Peer::from_lease)
            .is_some_and(|own| own.vtep_addr == address && own.vtep_mac == self.vtep_mac)
    }
}

fn is_bridge(link: &Link) -> bool {
    matches!(link.kind, LinkKind::Bridge { .. })
}

/// Waits for a change of the host's rules; for ever where nobody reads them.
async fn rules_changed(rules: &mut Option<watch::Receiver<Arc<RulesRead>>>) {
    if let Some(told) = rules
        && told.changed().await.is_ok()
    {
        return;
    }
    *rules = None;
    std::future::pending().await
}

/// Waits for another cluster configuration; for ever where nobody follows it.
async fn network_changed(networks: &mut watch::Receiver<NetworkConfig>) -> NetworkConfig {
    if networks.changed().await.is_err() {
        std::future::pending().await
    }
    networks.borrow_and_update().clone()
}

#[cfg(test)]
mod tests;
