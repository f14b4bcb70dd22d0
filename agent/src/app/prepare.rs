//! What must be known before the loop can start: config, uplink, device, lease, programs.

use std::{net::IpAddr, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};
use tracing::{debug, info, warn};

use super::Failure;
use weft_common::abi::DEFAULT_FLOWS;

use crate::{
    cli::{DatapathChoice, FastPathChoice},
    config::Config,
    datapath::{
        Datapath,
        ebpf::{EbpfDatapath, leftovers, pins::PinDir},
    },
    model::{
        lease::{Backend, Claim, Lease, LeaseAttrs},
        net::{Mac, Subnet},
        network::NetworkConfig,
    },
    netlink::{LinkKind, Netlink, ObservedHost, nftables, xfrm},
    policy,
    reconcile::{
        allow::Allow,
        desired::KernelDefaults,
        loss::earlier,
        underlay::{Underlay, with_route},
    },
    store::{LeaseStore, StoreError},
    sysctl::Sysctls,
    uplink::{self, Uplink},
};

const RETRY: Duration = Duration::from_secs(1);
/// The same complaint is logged again after this long.
const REMIND: Duration = Duration::from_secs(30);
/// Flows that the record holds at least.
const LEAST_FLOWS: u32 = 65_536;

/// Asks the store until it answers, telling why it waits.
pub async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    limit: Option<Duration>,
    what: &str,
    tell: impl Fn(&str),
    mut ask: impl FnMut() -> F,
) -> Result<T, Failure> {
    let began = Instant::now();
    let mut said: Option<(String, Instant)> = None;
    loop {
        let error = match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error @ StoreError::NoFreeSubnet { .. }) => {
                return Err(Failure::Store(error.to_string()));
            }
            Err(error) => error.to_string(),
        };
        if limit.is_some_and(|limit| began.elapsed() >= limit) {
            return Err(Failure::Store(format!("{what}: gave up waiting: {error}")));
        }
        let fresh = said
            .as_ref()
            .is_none_or(|(text, at)| *text != error || at.elapsed() >= REMIND);
        if fresh {
            warn!("{what}: waiting: {error}");
            tell(&error);
            said = Some((error, Instant::now()));
        }
        sleep(RETRY).await;
    }
}

/// The uplink, by the flags and what is there.
pub async fn uplink(config: &Config, netlink: &impl Netlink) -> Result<Uplink, Failure> {
    let failed = |error: crate::netlink::NetlinkError| Failure::Bug(error.to_string());
    let host = netlink.observe().await.map_err(failed)?;
    let request = with_route(&config.uplink, config.can_reach, netlink)
        .await
        .map_err(failed)?
        .ok_or_else(|| {
            let target = config.can_reach.map(|target| target.to_string());
            let target = target.unwrap_or_default();
            Failure::Usage(format!("--iface-can-reach {target}: no route leads there"))
        })?;
    uplink::choose(&host, &request).map_err(|error| Failure::Usage(error.to_string()))
}

/// The record of our address, if there is one. That it cannot be read now is no reason not to start.
pub async fn own_record(store: &impl LeaseStore, underlay: &Underlay) -> Option<Lease> {
    let own = IpAddr::V4(underlay.public_ip);
    let snapshot = store.snapshot().await.ok()?;
    let mut leases = snapshot.leases.into_values();
    leases.find(|lease| lease.attrs.public_ip == own)
}

/// The MAC of our device: the one that is there, else the one that our record names, if the last
/// run on this host had that subnet; else a new one. A copy of this host must not publish our MAC,
/// or nobody could tell the two apart.
pub fn vtep_mac(
    host: &ObservedHost,
    found: Option<&Lease>,
    previous: Option<Subnet>,
    network: &NetworkConfig,
) -> Mac {
    let name = network.vni.device();
    let there = host
        .link_named(&name)
        .filter(|link| matches!(link.kind, LinkKind::Vxlan(_)));
    let named = || {
        let ours = found.filter(|lease| previous == Some(lease.subnet));
        ours.and_then(|lease| lease.attrs.vtep_mac())
    };
    there
        .and_then(|link| link.mac)
        .or_else(named)
        .unwrap_or_else(|| Mac::random(&mut rand::rng()))
}

/// What we publish and ask for.
pub fn claim(
    network: &NetworkConfig,
    underlay: &Underlay,
    mac: Mac,
    previous: Option<Subnet>,
) -> Claim {
    Claim {
        attrs: LeaseAttrs {
            public_ip: IpAddr::V4(underlay.public_ip),
            backend: Backend::Vxlan {
                vni: network.vni,
                vtep_mac: mac,
            },
        },
        previous,
    }
}

/// What the programs copy from the kernel.
pub fn kernel_defaults(sysctls: &Sysctls) -> Result<KernelDefaults, Failure> {
    let failed = |error: crate::sysctl::SysctlError| Failure::Privilege(error.to_string());
    Ok(KernelDefaults {
        ports: sysctls.local_port_range().map_err(failed)?,
        ttl: sysctls.default_ttl().map_err(failed)?,
    })
}

/// Where conntrack is a module, whoever asks it something first loads it. Its types and the size of
/// its table are known only then.
pub async fn load_conntrack(config: &Config, netlink: &impl Netlink) {
    if config.datapath != DatapathChoice::Kernel
        && let Err(error) = netlink.connections().await
    {
        debug!(%error, "conntrack does not answer");
    }
}

/// What moves the packets, and why.
pub struct Movers {
    /// Programs, unless the kernel works alone.
    pub datapath: Option<EbpfDatapath>,
    /// Whether they take packets when no rule speaks against it.
    pub fast_path: bool,
    /// Why it is so.
    pub why: String,
    /// Whether the host's packet filter has a say.
    pub filtered: bool,
}

/// Loads the programs as far as they are wanted and can be had.
pub fn movers(
    config: &Config,
    network: &NetworkConfig,
    underlay: &Underlay,
    sysctls: &Sysctls,
) -> Result<Movers, Failure> {
    let kernel = |why: String| Movers {
        datapath: None,
        fast_path: false,
        why,
        filtered: false,
    };
    if config.datapath == DatapathChoice::Kernel {
        return Ok(kernel("--datapath=kernel".to_owned()));
    }
    let flows = sysctls
        .conntrack_max()
        .ok()
        .flatten()
        .unwrap_or(DEFAULT_FLOWS)
        .max(LEAST_FLOWS);
    match EbpfDatapath::open_by(network.vni, flows, config.attach) {
        Ok(datapath) => {
            let (fast_path, why) = fast_path(config.fast_path, network, underlay);
            info!(
                fast_path,
                why,
                attached_by = %datapath.way(),
                because = datapath.way_because,
                reads_conntrack = datapath.reads_conntrack,
                "programs loaded"
            );
            Ok(Movers {
                datapath: Some(datapath),
                fast_path,
                why,
                filtered: config.fast_path == FastPathChoice::Auto,
            })
        }
        Err(error) if config.datapath == DatapathChoice::Ebpf => {
            discard_maps(network);
            Err(Failure::Privilege(format!("--datapath=ebpf: {error}")))
        }
        Err(error) => {
            warn!(%error, "the programs cannot be loaded: the kernel moves every packet");
            Ok(kernel(format!("the programs cannot be loaded: {error}")))
        }
    }
}

/// The peers that an earlier run, or an earlier round, left in the programs' map.
pub fn earlier_peers(datapath: Option<&impl Datapath>, network: &NetworkConfig) -> Vec<Lease> {
    let left = match datapath.map(Datapath::observe) {
        Some(Ok(state)) => state.peers,
        Some(Err(error)) => {
            warn!(%error, "peers of an earlier run are not known: whom the store has lost goes at once");
            return Vec::new();
        }
        None => return Vec::new(),
    };
    earlier::leases(&left, network)
}

fn fast_path(
    choice: FastPathChoice,
    network: &NetworkConfig,
    underlay: &Underlay,
) -> (bool, String) {
    let ruled_out = if network.gbp {
        Some("the network config asks for GBP, which only the kernel carries")
    } else if network.learning {
        Some("the network config asks for Learning, which only the kernel does")
    } else {
        None
    };
    match (choice, ruled_out) {
        (FastPathChoice::Off, _) => (false, "--fast-path=off".to_owned()),
        (_, Some(why)) => (false, why.to_owned()),
        (_, None) if !underlay.ethernet => (
            true,
            "the uplink has no Ethernet headers: only what leaves it is fast".to_owned(),
        ),
        (FastPathChoice::On, None) => (true, "--fast-path=on".to_owned()),
        (FastPathChoice::Auto, None) => (true, "nothing speaks against it".to_owned()),
    }
}

/// What decides whether packets are taken. The rules are read once before anything starts: a
/// restart must not take flows off the fast path for a moment, because they would not come back.
pub async fn allow(movers: &Movers, tasks: &mut JoinSet<()>) -> Allow {
    let mut allow = Allow::new(movers.fast_path, movers.why.clone());
    if !movers.fast_path {
        return allow;
    }
    let changed = rule_changes();
    let (told, rules) = watch::channel(Arc::new(policy::read::rules().await));
    tasks.spawn(async move { policy::watch::keep(changed, told).await });
    allow.filtered = movers.filtered;
    allow.rules = Some(rules);
    allow
}

/// Wake-ups of everything that tells of changed rules. What does not is read at intervals.
fn rule_changes() -> BoxStream<'static, ()> {
    let nothing = || futures::stream::pending().boxed();
    let filter = nftables::changes().map_or_else(
        |error| {
            debug!(%error, "changes of rules are looked for at intervals");
            nothing()
        },
        futures::StreamExt::boxed,
    );
    let ipsec = match xfrm::changes() {
        Ok(Some(events)) => events.boxed(),
        Ok(None) => nothing(),
        Err(error) => {
            debug!(%error, "changes of IPsec policies are looked for at intervals");
            nothing()
        }
    };
    futures::stream::select(filter, ipsec).boxed()
}

/// On the kernel path alone, what an earlier run attached is taken off.
pub fn detach_leftovers(network: &NetworkConfig) {
    match leftovers::remove(network.vni) {
        Ok(true) => info!("removed the programs of an earlier run"),
        Ok(false) => {}
        Err(error) => warn!(%error, "programs of an earlier run were not removed"),
    }
}

/// When the agent cannot go on, maps that no attached program uses are not left behind.
pub fn discard_maps(network: &NetworkConfig) {
    if !leftovers::are_there(network.vni)
        && let Err(error) = PinDir::new(network.vni).remove()
    {
        warn!(%error, "pinned maps were not removed");
    }
}

/// Maps that nothing uses before a subnet is claimed. They go when the agent ends until then, asked
/// to or not.
pub struct UnusedMaps<'a>(Option<&'a NetworkConfig>);

impl<'a> UnusedMaps<'a> {
    /// Those of a network.
    pub const fn of(network: &'a NetworkConfig) -> Self {
        Self(Some(network))
    }

    /// They stay.
    pub fn are_used(mut self) {
        self.0 = None;
    }
}

impl Drop for UnusedMaps<'_> {
    fn drop(&mut self) {
        if let Some(network) = self.0 {
            discard_maps(network);
        }
    }
}

/// Claims a subnet, waiting for the store as long as needed.
pub async fn lease(
    config: &Config,
    store: &impl LeaseStore,
    network: &NetworkConfig,
    claim: &Claim,
    tell: impl Fn(&str),
) -> Result<Lease, Failure> {
    let lease = patiently(config.store_wait, "claim a subnet", tell, || {
        store.claim(network, claim)
    })
    .await?;
    info!(subnet = %lease.subnet, reservation = lease.store_lease.is_none(), "subnet leased");
    Ok(lease)
}

#[cfg(test)]
mod tests;
