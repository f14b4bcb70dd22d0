//! One pass of the loop: look at the host, decide, apply, and say how it went.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;
use tracing::{debug, info, trace, warn};
use weft_common::{
    endpoint::{ENDPOINT_PROVISIONAL, EndpointEntry},
    stats::Hook,
};

use super::{
    allow::{Obstacles, Place, foreign, kept_ports, wide_ports},
    desired::{Desired, Guard, KernelDefaults, View, desired, kernel_ways},
    flowkeeper::{FlowKeeper, Promotion},
    hops::Hops,
    plan::{Plan, cut, plan, records},
    pulse::Task,
    run::{Reconciler, Report},
    seen::{Seen, Sight},
    takers::takes,
    underlay::Underlay,
};
use crate::{
    datapath::{Attachment, Datapath, DatapathOp, DatapathState},
    endpoints::{self, Endpoint, Endpoints},
    model::{lease::Snapshot, net::IfIndex},
    netlink::{HostOp, Netlink, ObservedHost},
};

/// Making the device and setting it up are rounds of their own, and so is seeing that all is well.
const ROUNDS: usize = 4;
/// How often a kernel before 5.16, which keeps no neighbour fresh by itself, is asked to probe.
const PROBE: Duration = Duration::from_secs(60);

/// How long a container may be known from its ARP alone.
const PROVISIONAL: Duration = Duration::from_secs(2);

/// What the loop remembers from one pass to the next. Empty at the start.
#[derive(Debug, Default)]
pub struct Memory {
    /// All leases, as last heard.
    pub(super) leases: Snapshot,
    /// The record of the stack's flows.
    pub(super) flows: FlowKeeper,
    /// Host and maps, as last seen; `None` when they must be read in full.
    pub(super) seen: Option<Seen>,
    /// Links whose neighbours have changed since.
    pub(super) touched: BTreeSet<IfIndex>,
    /// Containers, as last seen; `None` before the first look.
    endpoints: Option<Endpoints>,
    /// Containers that only a port's program has heard of, and since when.
    pub(super) provisional: BTreeMap<Ipv4Addr, Instant>,
    /// Where programs could not be attached.
    pub(super) unhooked: BTreeSet<(Hook, IfIndex)>,
    hops: Hops,
    /// Whether flows may be taken from the stack, as of the last pass.
    pub(super) promotion: Promotion,
    /// A peer found no room in the maps: the guard does not know it.
    strangers: bool,
    /// When the kernel said that it cannot keep neighbours fresh.
    unmanaged: Option<Instant>,
    /// Whether an earlier run's leftovers are removed.
    swept: bool,
    /// Everything has been attempted at least once since the device was made.
    complete: bool,
    /// The last pass left something for the next.
    pub(super) unfinished: bool,
    /// How long it waited for the kernel to attach programs.
    pub(super) attaching: Duration,
    /// How many it attached.
    pub(super) attached: usize,
    /// Operations applied since the start.
    pub(super) operations: u64,
    /// What failed in the last pass, and has been logged.
    failures: Vec<String>,
}

impl Memory {
    /// A failure is logged when it is new; status has it as long as it lasts, once.
    pub(super) fn complain(&self, failures: &mut Vec<String>, why: String) {
        if failures.contains(&why) {
            return;
        }
        if self.failures.contains(&why) {
            debug!(why, "failed again");
        } else {
            warn!(why, "operation failed: will retry");
        }
        failures.push(why);
    }
}

impl<N: Netlink, D: Datapath> Reconciler<N, D> {
    /// Looks, and applies what follows, until there is nothing to do or something fails.
    pub(super) async fn pass(&mut self, sight: Sight) -> Report {
        if sight == Sight::Full {
            self.memory.seen = None;
        }
        let mut failures = Vec::new();
        let mut report = Report::default();
        (self.memory.attaching, self.memory.attached) = (Duration::ZERO, 0);
        self.memory.unfinished = false;
        let first = !self.memory.complete;
        for _round in 0..ROUNDS {
            failures.clear();
            let mut plan = match self.look(&mut report).await {
                Ok(seen) => seen,
                Err(why) => {
                    self.memory.complain(&mut failures, why);
                    self.memory.seen = None;
                    break;
                }
            };
            let unhooked = &self.memory.unhooked;
            let failed = |at: &Attachment| unhooked.contains(&(at.hook, at.link));
            self.memory.unfinished = cut(&mut plan.datapath, failed);
            let began = Instant::now();
            self.apply_to_datapath(&plan.admit, &mut failures).await;
            let admitted = began.elapsed();
            self.apply_to_host(&plan.host, &mut failures).await;
            let programmed = began.elapsed() - admitted;
            trace!(target: "weft::pace", ?admitted, ?programmed, ops = plan.host.len(), "applied");
            let blocked = !failures.is_empty();
            self.apply_to_datapath(&plan.datapath, &mut failures).await;
            if self.memory.unfinished {
                break;
            }
            self.memory.complete = !plan.partial;
            // What a near look led to is known without another one, but for what was attached: later on
            // that has time, at first it is waited for.
            let known = sight == Sight::Near && (self.memory.attached == 0 || !first);
            let followed = known && self.memory.seen.is_some();
            if plan.is_empty()
                || (followed && failures.is_empty())
                || blocked
                || (!plan.partial && !failures.is_empty())
            {
                break;
            }
        }
        self.keep_forwarding(&mut failures);
        if let Some(datapath) = &mut self.datapath {
            if failures.is_empty() && !self.memory.unfinished && !self.memory.swept {
                match datapath.sweep() {
                    Ok(swept) => {
                        if swept > 0 {
                            info!(
                                swept,
                                "removed an earlier run's programs that have no place"
                            );
                        }
                        self.memory.swept = true;
                    }
                    Err(error) => self.memory.complain(&mut failures, error.to_string()),
                }
            }
            match datapath.keep_pins() {
                Ok(0) => {}
                Ok(kept) => {
                    warn!(kept, "maps had lost their pins: pinned again");
                    self.memory.operations += kept as u64;
                }
                Err(error) => self.memory.complain(&mut failures, error.to_string()),
            }
            report.strict_tcp = !self.sysctls.picks_up_tcp().unwrap_or(false);
            let settled = report.allowed.harmless && !self.memory.unfinished;
            let promotion = if settled && !report.strict_tcp {
                Promotion::Allowed
            } else {
                Promotion::Forbidden
            };
            self.memory.promotion = promotion;
            let flows = &mut self.memory.flows;
            flows.tend(datapath, &self.netlink, promotion).await;
            report.flows = Some(self.memory.flows.state());
        }
        if !failures.is_empty() {
            self.memory.seen = None;
        }
        report.complete = self.memory.complete;
        report.applied = (report.complete && failures.is_empty() && !self.memory.unfinished)
            .then_some(self.memory.leases.revision);
        report.operations = self.memory.operations;
        self.memory.failures.clone_from(&failures);
        report.failures = failures;
        report
    }

    /// Observes, and computes what should be and what to do.
    async fn look(&mut self, report: &mut Report) -> Result<Plan, String> {
        let began = Instant::now();
        let seen = self.see().await?;
        self.pulse.beat(Task::Reconcile);
        let saw = began.elapsed();
        let plan = self.weigh(&seen.host, seen.maps.as_ref(), report).await;
        trace!(target: "weft::pace", ?saw, weighed = ?(began.elapsed() - saw), "looked");
        self.memory.seen = Some(seen);
        Ok(plan)
    }

    /// Computes what should be and what to do.
    async fn weigh(
        &mut self,
        host: &ObservedHost,
        seen: Option<&DatapathState>,
        report: &mut Report,
    ) -> Plan {
        report.uplink_wrong = self.uplink.look(host, &self.netlink).await.err();
        self.follow_defaults();
        let underlay = Underlay::new(&self.uplink.uplink, &self.network);
        self.follow_endpoints(host, seen, underlay.link);
        let provisional = self.follow_provisional(seen);
        let memory = &mut self.memory;
        let own = self.own;
        let holds = !self.own_lease.borrow().is_lost();
        let others = memory
            .leases
            .leases
            .values()
            .filter(|lease| lease.subnet != own);
        let wanted: BTreeSet<IpAddr> = others.map(|lease| lease.attrs.public_ip).collect();
        let device = self.network.vni.device();
        memory
            .hops
            .refresh(&self.netlink, host, &device, &wanted)
            .await;
        memory
            .unhooked
            .retain(|(_, link)| host.links.contains_key(link));
        let none = Endpoints::new();
        let foreign = foreign(host, seen);
        let place = Place {
            network: &self.network,
            own,
            underlay: &underlay,
            device: &device,
        };
        let narrow = self.paths.narrow.borrow().clone();
        let leases = &memory.leases;
        let obstacles = Obstacles::of(host, &foreign, leases, &device, underlay.link);
        let allowed = self
            .allow
            .decide(place.scene(&wanted, host), host, obstacles)
            .clone();
        let desired = desired(&View {
            network: &self.network,
            own,
            holds,
            underlay,
            vtep_mac: self.vtep_mac,
            leases: &memory.leases,
            host,
            hops: memory.hops.reached(),
            narrow: &narrow,
            endpoints: memory.endpoints.as_ref().unwrap_or(&none),
            unhooked: &memory.unhooked,
            kernel: self.kernel,
            fast_path: allowed.fast,
            kernel_only: &allowed.kernel_only,
            foreign: &foreign,
            // A guard that does not know every peer would drop what one of them sends.
            guard: if memory.strangers {
                Guard::Flannel
            } else {
                self.guard
            },
            hook_ports: self.hook_ports,
            provisional: &provisional,
        });
        self.paths.ask(&desired.ways);
        report.kept_ports = kept_ports(host, &desired.datapath.attachments, &foreign);
        let overlay_mtu = underlay.overlay_mtu();
        report.wide_ports = wide_ports(host, &desired.datapath.attachments, overlay_mtu);
        report.allowed = allowed;
        // For the status; what the programs may take follows from the ways themselves.
        for (vtep, why) in kernel_ways(
            memory.hops.reached(),
            host,
            &device,
            self.network.direct_routing,
            &desired.routed,
            &desired.lost,
        ) {
            report.allowed.kernel_only.entry(vtep).or_insert(why);
        }
        let locals = desired.datapath.locals.keys().copied();
        memory.flows.scope(&self.network, own, locals);
        let mut plan = plan(&desired, host, seen);
        if memory.unmanaged.is_some_and(|at| at.elapsed() < PROBE) {
            plan.host.retain(|op| !manages(op));
        }
        report.uplink = Some(self.uplink.uplink.clone());
        report.overlay_mtu = Some(overlay_mtu);
        if let Some(seen) = seen {
            let wanted = &desired.datapath.attachments;
            report.unattached = wanted.difference(&seen.attachments).cloned().collect();
            report.attached = wanted.len() - report.unattached.len();
        }
        report.peers = desired.peers.len();
        report.routed.clone_from(&desired.routed);
        report.endpoints = desired.datapath.endpoints.len();
        report.ignored = self.ignored(&desired);
        let former = desired.lost.iter().filter(|_| holds);
        report.former = former.map(ToString::to_string).collect();
        report.lost = Some(desired.lost.clone());
        report.cut_off = desired.cut_off;
        // Whoever finds no room now is a stranger until the next look.
        self.memory.strangers = false;
        plan
    }

    fn follow_endpoints(
        &mut self,
        host: &ObservedHost,
        seen: Option<&DatapathState>,
        uplink: IfIndex,
    ) {
        let Some(own) = self.own.v4() else { return };
        // At the start: a table read from the kernel lacks the entries that have aged.
        let before = self.memory.endpoints.take().unwrap_or_else(|| {
            seen.iter()
                .flat_map(|seen| &seen.endpoints)
                .filter(|(_, entry)| !is_provisional(entry))
                .filter_map(|(address, entry)| Some((*address, Endpoint::from_entry(entry)?)))
                .collect()
        });
        let bridges = endpoints::bridges(host, own, uplink);
        let now = endpoints::join(&before, host, own, &bridges);
        if now != before {
            debug!(before = before.len(), now = now.len(), "endpoints changed");
        }
        self.memory.endpoints = Some(now);
    }

    /// Entries that a port's program made stay for a moment: the kernel's tables follow. What they
    /// confirm is an endpoint like any other, what they do not confirm goes.
    fn follow_provisional(
        &mut self,
        seen: Option<&DatapathState>,
    ) -> BTreeMap<Ipv4Addr, EndpointEntry> {
        let memory = &mut self.memory;
        let known = |address| {
            memory
                .endpoints
                .as_ref()
                .is_some_and(|all| all.contains_key(address))
        };
        let entered: BTreeMap<Ipv4Addr, EndpointEntry> = seen
            .iter()
            .flat_map(|seen| &seen.endpoints)
            .filter(|(address, entry)| is_provisional(entry) && !known(address))
            .map(|(address, entry)| (*address, *entry))
            .collect();
        memory
            .provisional
            .retain(|address, _| entered.contains_key(address));
        let now = Instant::now();
        entered
            .into_iter()
            .filter(|(address, _)| {
                let since = *memory.provisional.entry(*address).or_insert(now);
                now.duration_since(since) < PROVISIONAL
            })
            .collect()
    }

    async fn apply_to_host(&mut self, ops: &[HostOp], failures: &mut Vec<String>) {
        // Thousands of changes take longer than a sign of life may: each spell of them gives one.
        let pulse = Arc::clone(&self.pulse);
        let changes = self.netlink.apply_all(ops);
        let answers = pulse.of(Task::Reconcile, changes).await;
        self.pulse.beat(Task::Reconcile);
        for (op, answer) in ops.iter().zip(answers) {
            debug!(%op, failed = answer.is_err(), "applied");
            let follows = |seen: &mut Seen| answer.is_ok() && seen.follow(op);
            self.memory.seen.take_if(|seen| !follows(seen));
            if let Err(error) = &answer
                && manages(op)
                && error.source.raw_os_error() == Some(libc::EOPNOTSUPP)
            {
                if self.memory.unmanaged.replace(Instant::now()).is_none() {
                    info!(%error, "neighbours are probed now and then instead");
                }
                continue;
            }
            self.memory.operations += 1;
            if let Err(error) = answer {
                self.memory.complain(failures, error.to_string());
            }
        }
    }

    async fn apply_to_datapath(&mut self, ops: &[DatapathOp], failures: &mut Vec<String>) {
        let Some(datapath) = &mut self.datapath else {
            return;
        };
        let memory = &mut self.memory;
        let uplink = self.uplink.uplink.link;
        let mut synced = true;
        for op in ops {
            self.pulse.beat(Task::Reconcile);
            if takes(op) {
                // Flows that the stack has must be known before anything is taken from it.
                if !synced || memory.lacks(op, uplink) {
                    continue;
                }
                if let Err(why) = memory.flows.ensure_synced(datapath, &self.netlink).await {
                    synced = false;
                    memory.complain(failures, format!("programs are not attached: {why}"));
                    continue;
                }
            }
            debug!(%op, "apply");
            memory.operations += 1;
            let began = Instant::now();
            let answer = datapath.apply(op);
            if let DatapathOp::Attach(at) = op {
                memory.attaching += began.elapsed();
                memory.attached += usize::from(answer.is_ok());
                let place = (at.hook, at.link);
                if answer.is_ok() && records(at.hook) {
                    // What the stack has carried there until now is known to conntrack alone.
                    memory.flows.distrust();
                }
                match &answer {
                    Ok(()) => _ = memory.unhooked.remove(&place),
                    Err(_) => _ = memory.unhooked.insert(place),
                }
            }
            let names_peer = matches!(op, DatapathOp::PutPeer(..) | DatapathOp::PutVtep(..));
            match answer {
                Ok(()) => {
                    if let Some(seen) = &mut memory.seen {
                        seen.follow_maps(op);
                    }
                }
                Err(error) => {
                    memory.strangers |= names_peer;
                    memory.complain(failures, error.to_string());
                }
            }
        }
    }

    /// Without forwarding no packet of a container leaves the host, or comes in. What the overlay
    /// brings for a subnet that is somebody else's must not: with programs or without.
    pub(super) fn keep_forwarding(&mut self, failures: &mut Vec<String>) {
        let device = self.network.vni.device();
        let holds = !self.own_lease.borrow().is_lost();
        if let Err(error) = self.sysctls.forward_from(&device, holds) {
            self.memory.complain(failures, error.to_string());
        }
        match self.sysctls.enable_forwarding() {
            Ok(false) => {}
            Ok(true) => {
                warn!("net.ipv4.ip_forward was turned off by somebody: turned on again");
                self.memory.operations += 1;
            }
            Err(error) => self.memory.complain(failures, error.to_string()),
        }
    }

    /// The kernel's tunnels go by these settings from one packet to the next. No event tells of a
    /// change; what cannot be read stays as it was.
    pub(super) fn follow_defaults(&mut self) {
        let KernelDefaults { ports, ttl } = self.kernel;
        self.kernel = KernelDefaults {
            ports: self.sysctls.local_port_range().unwrap_or(ports),
            ttl: self.sysctls.default_ttl().unwrap_or(ttl),
        };
    }

    fn ignored(&self, desired: &Desired) -> Vec<(String, String)> {
        let leases = desired.ignored.iter();
        let records = self.memory.leases.rejected.iter();
        leases
            .map(|(subnet, why)| (subnet.to_string(), (*why).to_owned()))
            .chain(records.map(|(key, rejected)| (key.clone(), rejected.why.clone())))
            .collect()
    }
}

fn is_provisional(entry: &EndpointEntry) -> bool {
    entry.flags & ENDPOINT_PROVISIONAL != 0
}

fn manages(op: &HostOp) -> bool {
    matches!(op, HostOp::ManageNeighbour { managed: true, .. })
}
