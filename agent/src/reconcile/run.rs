//! The loop: look, decide, apply, tell. Events say when to look, never what to do.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use futures::{Stream, StreamExt as _};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{
    desired::{Desired, KernelDefaults, Underlay, View, desired},
    flowkeeper::FlowKeeper,
    leases::StoreNews,
    plan::{Plan, plan, records},
};
use crate::{
    datapath::{Datapath, DatapathOp, DatapathState},
    endpoints::{self, Endpoint, Endpoints},
    model::{
        lease::Snapshot,
        net::{IfIndex, Mac, Subnet},
        network::NetworkConfig,
        peer::Hop,
    },
    netlink::{Netlink, ObservedHost, conntrack::ConntrackEvent},
};

/// A full look even when nothing was heard.
const RESYNC: Duration = Duration::from_secs(5);
/// How soon what failed is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Events that come this close together are answered by one look.
const QUIET: Duration = Duration::from_millis(5);
/// A look may take at most one part in this many of the time.
const SHARE: u32 = 5;

/// What the loop works with, fixed for its life.
pub struct Reconciler<N, D> {
    /// The host.
    pub netlink: N,
    /// Programs and maps; `None` on the kernel path alone.
    pub datapath: Option<D>,
    /// Cluster configuration.
    pub network: NetworkConfig,
    /// Our subnet.
    pub own: Subnet,
    /// MAC of our device.
    pub vtep_mac: Mac,
    /// The underlay.
    pub underlay: Underlay,
    /// Kernel defaults.
    pub kernel: KernelDefaults,
    /// Whether packets may be taken.
    pub fast_path: bool,
    /// The record of the stack's flows.
    pub flows: FlowKeeper,
    /// All leases, as last heard.
    pub leases: Snapshot,
    /// Containers, as last seen.
    pub endpoints: Endpoints,
    /// Ports that could not be hooked.
    pub unhooked: BTreeSet<IfIndex>,
    /// Whether an earlier run's leftovers are removed.
    pub swept: bool,
    /// Operations applied since the start.
    pub operations: u64,
}

/// The outcome of one look, for status.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// A complete pass was made: every known peer was attempted, programs were attached.
    pub complete: bool,
    /// What failed in the last pass.
    pub failures: Vec<String>,
    /// Why the store does not answer, if it does not.
    pub store_down: Option<String>,
    /// Peers.
    pub peers: usize,
    /// Containers.
    pub endpoints: usize,
    /// Leases and records left out, with the reason.
    pub ignored: Vec<(String, String)>,
    /// Programs attached.
    pub attached: usize,
    /// State of the flow record, in words; `Err` when it is not kept.
    pub flows: Option<Result<String, String>>,
    /// Operations since the start.
    pub operations: u64,
}

/// Everything that can wake the loop.
enum Wake {
    Store(StoreNews),
    Host,
    Flow(ConntrackEvent),
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
        let mut known = false;
        let mut store_down = None;
        let mut dirty = true;
        let mut not_before = Instant::now();
        let mut next = Instant::now();
        loop {
            let at = if dirty { not_before } else { next };
            let wake = tokio::select! {
                heard = news.recv() => match heard {
                    Some(heard) => Wake::Store(heard),
                    None => return,
                },
                Some(_) = changes.next() => Wake::Host,
                Some(event) = conntrack.next() => Wake::Flow(event),
                () = sleep_until(at) => Wake::Timer,
            };
            match wake {
                Wake::Store(StoreNews::Snapshot(snapshot)) => {
                    if snapshot.leases.get(&self.own).is_none_or(|lease| {
                        lease.attrs.public_ip != IpAddr::V4(self.underlay.address)
                    }) {
                        own_changed();
                    }
                    self.leases = snapshot;
                    known = true;
                    store_down = None;
                }
                Wake::Store(StoreNews::Event(event)) => {
                    let before = self.leases.leases.get(&self.own).cloned();
                    self.leases.apply(event, &own_key);
                    if self.leases.leases.get(&self.own) != before.as_ref() {
                        own_changed();
                    }
                }
                Wake::Store(StoreNews::Down(why)) => {
                    store_down = Some(why.clone());
                    report.send_modify(|report| report.store_down = Some(why));
                    continue;
                }
                Wake::Flow(event) => {
                    if let Some(datapath) = &mut self.datapath {
                        self.flows.heard(datapath, &event);
                    }
                    continue;
                }
                Wake::Host => {}
                Wake::Timer => {
                    // Nothing is decided before the leases have been read once in full: what is
                    // not among them would be removed.
                    if known {
                        let began = Instant::now();
                        let mut now = self.pass().await;
                        now.store_down.clone_from(&store_down);
                        next = Instant::now()
                            + if now.failures.is_empty() {
                                RESYNC
                            } else {
                                RETRY
                            };
                        not_before = Instant::now() + began.elapsed() * SHARE;
                        dirty = false;
                        report.send_replace(now);
                    } else {
                        next = Instant::now() + RESYNC;
                        dirty = false;
                    }
                    continue;
                }
            }
            dirty = true;
            not_before = not_before.max(Instant::now() + QUIET);
        }
    }

    /// One look and what follows from it.
    async fn pass(&mut self) -> Report {
        let mut failures = Vec::new();
        let mut report = Report {
            operations: self.operations,
            ..Report::default()
        };
        // Making the device and setting it up are rounds of their own.
        for _round in 0..4 {
            failures.clear();
            let (desired, plan) = match self.look().await {
                Ok(seen) => seen,
                Err(why) => {
                    failures.push(why);
                    break;
                }
            };
            report.peers = desired.peers.len();
            report.endpoints = desired.datapath.endpoints.len();
            report.attached = desired.datapath.attachments.len();
            report.ignored = self.ignored(&desired);
            if plan.is_empty() {
                break;
            }
            self.apply(&plan, &mut failures).await;
            report.complete = true;
            if !failures.is_empty() {
                break;
            }
        }
        report.complete |= failures.is_empty();
        if let Some(datapath) = &mut self.datapath {
            if failures.is_empty() && !self.swept {
                match datapath.sweep() {
                    Ok(0) => self.swept = true,
                    Ok(swept) => {
                        info!(
                            swept,
                            "removed programs of an earlier run that have no place now"
                        );
                        self.swept = true;
                    }
                    Err(error) => failures.push(error.to_string()),
                }
            }
            self.flows.tend(datapath, &self.netlink).await;
            report.flows = Some(self.flows.state());
        }
        report.operations = self.operations;
        report.failures = failures;
        report
    }

    /// Observes, and computes what should be and what to do.
    async fn look(&mut self) -> Result<(Desired, Plan), String> {
        let host = self
            .netlink
            .observe()
            .await
            .map_err(|error| error.to_string())?;
        let seen = match &self.datapath {
            Some(datapath) => Some(datapath.observe().map_err(|error| error.to_string())?),
            None => None,
        };
        self.follow_endpoints(&host, seen.as_ref());
        let hops = self.hops().await;
        let view = View {
            network: &self.network,
            own: self.own,
            underlay: self.underlay,
            vtep_mac: self.vtep_mac,
            leases: &self.leases,
            host: &host,
            hops: &hops,
            endpoints: &self.endpoints,
            unhooked: &self.unhooked,
            kernel: self.kernel,
            fast_path: self.fast_path,
        };
        let desired = desired(&view);
        self.flows.scope(
            &self.network,
            self.own,
            desired.datapath.locals.keys().copied(),
        );
        let plan = plan(&desired, &host, seen.as_ref());
        Ok((desired, plan))
    }

    fn follow_endpoints(&mut self, host: &ObservedHost, seen: Option<&DatapathState>) {
        let Some(own) = self.own.v4() else { return };
        if self.endpoints.is_empty()
            && let Some(seen) = seen
        {
            // After a start: a table read from the kernel lacks the entries that have aged.
            self.endpoints = seen
                .endpoints
                .iter()
                .filter_map(|(address, entry)| Some((*address, Endpoint::from_entry(entry)?)))
                .collect();
        }
        let bridges = endpoints::bridges(host, own, self.underlay.link);
        let now = endpoints::join(&self.endpoints, host, own, &bridges);
        if now != self.endpoints {
            debug!(
                before = self.endpoints.len(),
                now = now.len(),
                "endpoints changed"
            );
            self.endpoints = now;
        }
    }

    /// How each peer's VTEP address is reached.
    async fn hops(&self) -> BTreeMap<IpAddr, Hop> {
        let mut hops = BTreeMap::new();
        for lease in self.leases.leases.values() {
            let address = lease.attrs.public_ip;
            if lease.subnet == self.own || hops.contains_key(&address) {
                continue;
            }
            match self.netlink.route_to(address).await {
                Ok(Some((hop, _))) => _ = hops.insert(address, hop),
                Ok(None) => debug!(%address, "no route to a peer"),
                Err(error) => debug!(%address, %error, "route to a peer is not known"),
            }
        }
        hops
    }

    async fn apply(&mut self, plan: &Plan, failures: &mut Vec<String>) {
        for op in &plan.host {
            debug!(%op, "apply");
            self.operations += 1;
            if let Err(error) = self.netlink.apply(op).await {
                warn!(%error, "host operation failed: will retry");
                failures.push(error.to_string());
            }
        }
        for op in &plan.datapath {
            let Some(datapath) = &mut self.datapath else {
                return;
            };
            if let DatapathOp::Attach(at) = op
                && !records(at.hook)
            {
                // Flows that conntrack already follows must be recorded before anything is taken.
                self.flows.ensure_synced(datapath, &self.netlink).await;
            }
            debug!(%op, "apply");
            self.operations += 1;
            let answer = datapath.apply(op);
            if let DatapathOp::Attach(at) = op {
                match &answer {
                    Ok(()) => _ = self.unhooked.remove(&at.link),
                    Err(_) => _ = self.unhooked.insert(at.link),
                }
            }
            if let Err(error) = answer {
                warn!(%error, "data path operation failed: will retry");
                failures.push(error.to_string());
            }
        }
    }

    fn ignored(&self, desired: &Desired) -> Vec<(String, String)> {
        let leases = desired.ignored.iter();
        let records = self.leases.rejected.iter();
        leases
            .map(|(subnet, why)| (subnet.to_string(), (*why).to_owned()))
            .chain(records.map(|(key, rejected)| (key.clone(), rejected.why.clone())))
            .collect()
    }
}
