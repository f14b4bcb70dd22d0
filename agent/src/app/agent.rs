//! `weft run`, from the first look to the signal that ends it.

use std::{net::IpAddr, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use super::{
    Failure,
    firewall::{self, RulesState},
    lock,
    prepare::{self, Movers},
    report::{Told, status},
};
use crate::{
    admin::{
        socket,
        status::{Component, Mode, SCHEMA, Status},
    },
    config::Config,
    datapath::ebpf::EbpfDatapath,
    endpoints::Endpoints,
    firewall::FirewallConfig,
    model::{lease::Lease, net::Mtu, network::NetworkConfig},
    netlink::{Netlink as _, conntrack, rtnetlink::Rtnetlink},
    outputs::subnet_env::SubnetEnv,
    reconcile::{
        desired::Underlay,
        flowkeeper::FlowKeeper,
        leases::{self, StoreNews},
        renewal::{OwnLease, Renewal},
        run::{Reconciler, Report},
    },
    store::{LeaseStore as _, etcd::EtcdStore},
    sysctl::Sysctls,
};

/// Events that may wait for the loop: more than one batch of a busy store.
const NEWS: usize = 64;

/// Runs until SIGINT or SIGTERM. The data path stays when the agent goes.
pub async fn run(config: Config) -> Result<(), Failure> {
    let mut tasks = JoinSet::new();
    let (told, listener) = listen(&config)?;
    tasks.spawn(socket::serve(listener, told.subscribe()));
    let outcome = tokio::select! {
        outcome = serve(&config, &told, &mut tasks) => outcome,
        () = asked_to_stop() => {
            info!("asked to stop: the data path stays as it is");
            Ok(())
        }
    };
    tasks.shutdown().await;
    if let Err(error) = std::fs::remove_file(&config.socket) {
        warn!(%error, socket = %config.socket.display(), "socket not removed");
    }
    outcome
}

fn listen(config: &Config) -> Result<(watch::Sender<Status>, tokio::net::UnixListener), Failure> {
    if socket::ask(&config.socket).is_ok_and(|other| other.pid != std::process::id()) {
        return Err(Failure::Usage(format!(
            "another agent answers at {}: for a second network pass another --socket",
            config.socket.display()
        )));
    }
    let listener = socket::bind(&config.socket).map_err(|error| {
        Failure::Usage(format!("--socket {}: {error}", config.socket.display()))
    })?;
    let ground = Status {
        schema: SCHEMA.to_owned(),
        pid: std::process::id(),
        components: vec![Component::bad("start", "reading the network config")],
        ..Status::default()
    };
    Ok((watch::Sender::new(ground), listener))
}

async fn asked_to_stop() {
    let wait = |kind| async move {
        match signal(kind) {
            Ok(mut signal) => _ = signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = wait(SignalKind::interrupt()) => {}
        () = wait(SignalKind::terminate()) => {}
    }
}

async fn serve(
    config: &Config,
    told: &watch::Sender<Status>,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let privileged = |error: &dyn std::fmt::Display| Failure::Privilege(error.to_string());
    let sysctls = Sysctls::host();
    let netlink = Rtnetlink::new().map_err(|error| privileged(&error))?;
    // What the command line says about this host is judged before anything is waited for.
    let uplink = prepare::uplink(config, &netlink).await?;
    let store = EtcdStore::new(config.etcd.clone())
        .map(Arc::new)
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let waiting = |why: &str| {
        told.send_modify(|status| status.components = vec![Component::bad("store", why)]);
    };
    let network = prepare::patiently(
        config.store_wait,
        "read the network config",
        waiting,
        || store.network(),
    )
    .await?;
    let _lock = lock::take(network.vni).map_err(Failure::Usage)?;

    let underlay = prepare::underlay(&uplink, &network);
    let host = netlink
        .observe()
        .await
        .map_err(|error| privileged(&error))?;
    let vtep_mac = prepare::vtep_mac(&host, &*store, &network, &underlay).await;
    let kernel = prepare::kernel_defaults(&sysctls)?;
    let movers = prepare::movers(config, &network, &underlay, &sysctls)?;
    let claim = prepare::claim(&network, &underlay, vtep_mac, &config.subnet_file);
    let lease = prepare::lease(config, &*store, &network, &claim, waiting).await?;
    if sysctls
        .enable_forwarding()
        .map_err(|error| privileged(&error))?
    {
        info!("turned net.ipv4.ip_forward on");
    }

    let ground = ground(&network, &lease, &underlay, &movers, &uplink.name, vtep_mac);
    told.send_replace(Status {
        components: vec![Component::bad("start", "programming")],
        ..ground.clone()
    });
    let Movers {
        datapath,
        fast_path,
        why: _,
    } = movers;
    if datapath.is_none() {
        prepare::detach_leftovers(&network);
    }

    let (news, heard) = mpsc::channel::<StoreNews>(NEWS);
    tasks.spawn(leases::follow(Arc::clone(&store), news));
    let bell = Arc::new(Notify::new());
    let (outcome, own_lease) = watch::channel(OwnLease::Held);
    let renewal = Renewal {
        store: Arc::clone(&store),
        network: network.clone(),
        claim,
        lease: lease.clone(),
        margin: config.renew_margin,
        bell: Arc::clone(&bell),
        outcome,
    };
    tasks.spawn(renewal.run());
    let rules = spawn_firewall(config, &network, &lease, tasks);

    let changes = netlink
        .changes()
        .await
        .map_err(|error| privileged(&error))?;
    let events = conntrack_events(datapath.is_some());
    let (report, reported) = watch::channel(Report::default());
    let env = subnet_file(config, &network, &lease, &underlay)?;
    tasks.spawn(tell(
        told.clone(),
        ground,
        config.subnet_file.clone(),
        env,
        reported,
        own_lease,
        rules,
    ));

    let reconciler = Reconciler::<Rtnetlink, EbpfDatapath> {
        netlink,
        datapath,
        network,
        own: lease.subnet,
        vtep_mac,
        underlay,
        kernel,
        fast_path,
        flows: FlowKeeper::default(),
        leases: crate::model::lease::Snapshot::default(),
        endpoints: Endpoints::new(),
        unhooked: std::collections::BTreeSet::new(),
        swept: false,
        operations: 0,
    };
    let key_of = move |subnet| store.key_of(subnet);
    reconciler
        .run(heard, changes, events, key_of, report, move || {
            bell.notify_one()
        })
        .await;
    Err(Failure::Bug("the store's follower ended".to_owned()))
}

/// Conntrack's ends of flows. Where they cannot be had there is nothing to keep apart.
fn conntrack_events(
    wanted: bool,
) -> futures::stream::BoxStream<'static, conntrack::ConntrackEvent> {
    use futures::StreamExt as _;
    if !wanted {
        return futures::stream::pending().boxed();
    }
    match conntrack::destroyed() {
        Ok(events) => events.chain(futures::stream::pending()).boxed(),
        Err(error) => {
            warn!(%error, "conntrack's events cannot be had: its table is compared at intervals");
            futures::stream::pending().boxed()
        }
    }
}

fn ground(
    network: &NetworkConfig,
    lease: &Lease,
    underlay: &Underlay,
    movers: &Movers,
    uplink: &str,
    vtep_mac: crate::model::net::Mac,
) -> Status {
    let named = |yes: bool, name: &str, other: &str| if yes { name } else { other }.to_owned();
    Status {
        schema: SCHEMA.to_owned(),
        pid: std::process::id(),
        mode: Mode {
            datapath: named(movers.datapath.is_some(), "ebpf", "kernel"),
            fast_path: named(movers.fast_path, "on", "off"),
            why: movers.why.clone(),
        },
        network: Some(network.network.to_string()),
        subnet: Some(lease.subnet.to_string()),
        vni: Some(network.vni.get()),
        vtep: Some(IpAddr::V4(underlay.address).to_string()),
        mac: Some(vtep_mac.to_string()),
        uplink: Some(uplink.to_owned()),
        mtu: Some(underlay.overlay_mtu()),
        ..Status::default()
    }
}

fn spawn_firewall(
    config: &Config,
    network: &NetworkConfig,
    lease: &Lease,
    tasks: &mut JoinSet<()>,
) -> watch::Receiver<RulesState> {
    let (state, rules) = watch::channel(Err("rules not looked at yet".to_owned()));
    if let Some(subnet) = lease.subnet.v4() {
        let rules = FirewallConfig {
            network: network.network,
            subnet,
            masquerade: config.masquerade,
            random_fully: config.random_fully,
            forward: config.forward,
        };
        tasks.spawn(firewall::keep(rules, config.firewall_every, state));
    }
    rules
}

fn subnet_file(
    config: &Config,
    network: &NetworkConfig,
    lease: &Lease,
    underlay: &Underlay,
) -> Result<SubnetEnv, Failure> {
    let unusable = |error: &dyn std::fmt::Display| Failure::Usage(format!("overlay: {error}"));
    Ok(SubnetEnv {
        network: network.network,
        subnet: lease
            .subnet
            .v4()
            .ok_or_else(|| unusable(&"the lease is not IPv4"))?,
        mtu: Mtu::try_from(underlay.overlay_mtu()).map_err(|error| unusable(&error))?,
        ip_masq: config.masquerade,
    })
}

/// Puts the status together whenever a task tells something. `subnet.env` is written after the
/// first complete pass: whoever starts by it finds the overlay in place.
async fn tell(
    told: watch::Sender<Status>,
    ground: Status,
    path: std::path::PathBuf,
    env: SubnetEnv,
    mut report: watch::Receiver<Report>,
    mut lease: watch::Receiver<OwnLease>,
    mut rules: watch::Receiver<RulesState>,
) {
    let mut written: Result<String, String> = Err("not written yet".to_owned());
    let mut was_ready = false;
    loop {
        let now = Told {
            report: report.borrow_and_update().clone(),
            lease: lease.borrow_and_update().clone(),
            rules: rules.borrow_and_update().clone(),
            subnet_file: written.clone(),
        };
        if now.report.complete && written.is_err() {
            let outcome = env
                .write(&path)
                .map(|()| path.display().to_string())
                .map_err(|error| format!("{}: {error}", path.display()));
            if let Err(error) = &outcome
                && written.as_ref().err() != Some(error)
            {
                warn!(error, "subnet.env was not written: will retry");
            }
            written = outcome;
            if written.is_ok() {
                continue;
            }
        }
        let status = status(&ground, &now);
        if status.ready != was_ready {
            was_ready = status.ready;
            info!(ready = status.ready, peers = status.peers, "state changed");
        }
        told.send_replace(status);
        let ended = tokio::select! {
            changed = report.changed() => changed.is_err(),
            changed = lease.changed() => changed.is_err(),
            changed = rules.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}
