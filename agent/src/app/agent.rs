//! `weft run`, from the first look to the signal that ends it.

use std::{collections::BTreeSet, sync::Arc};

use ipnet::Ipv4Net;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};
use tracing::{info, warn};

use super::{
    Failure, address, blackhole,
    firewall::{self, Manager, RulesState},
    ground, lock,
    prepare::{self, Movers},
    renumber::{self, CutOff},
    report::tell,
    subnet_file::SubnetFile,
    systemd,
};
use crate::{
    admin::{
        health::{self, Health},
        socket,
        status::{Component, SCHEMA, Status},
    },
    clock::BootClock,
    config::Config,
    datapath::ebpf::EbpfDatapath,
    firewall::FirewallConfig,
    model::{lease::Lease, network::NetworkConfig},
    netlink::{Netlink as _, conntrack, kernel::Rtnetlink},
    outputs::subnet_env,
    paths::{self, Narrow},
    reconcile::{
        leases::{self, Following, StoreNews},
        loss::SharedLedger,
        narrow::{self, Paths},
        network::Follower,
        pass::Memory,
        pulse::{Pulse, Task},
        renewal::{OwnLease, Renewal},
        run::{Reconciler, Report},
        underlay::{Underlay, UplinkWatch},
    },
    store::{
        LeaseStore as _,
        etcd::{EtcdStore, Tuning},
    },
    sysctl::Sysctls,
};

/// Events that may wait for the loop: a thousand changed leases are looked at together.
const NEWS: usize = 4096;

/// Runs until SIGINT or SIGTERM. The data path stays when the agent goes.
pub async fn run(config: Config) -> Result<(), Failure> {
    let mut tasks = JoinSet::new();
    let (told, listener) = listen(&config)?;
    let pulse = Arc::new(Pulse::default());
    tasks.spawn(socket::serve(
        listener,
        told.subscribe(),
        Arc::clone(&pulse),
    ));
    tell_health(&config, &told, &pulse, &mut tasks)?;
    tasks.spawn(systemd::keep(told.subscribe(), Arc::clone(&pulse)));
    let outcome = tokio::select! {
        outcome = rounds(&config, &told, &pulse) => outcome,
        () = asked_to_stop() => {
            info!("asked to stop: the data path stays as it is; `weft cleanup` removes it");
            Ok(())
        }
    };
    systemd::stopping();
    tasks.shutdown().await;
    if let Err(error) = std::fs::remove_file(&config.socket) {
        warn!(%error, socket = %config.socket.display(), "socket not removed");
    }
    outcome
}

fn listen(config: &Config) -> Result<(watch::Sender<Status>, tokio::net::UnixListener), Failure> {
    let other = socket::ask(&config.socket);
    // Its process may have our number, in a namespace of its own.
    if let Ok(other) = other {
        return Err(Failure::Usage(format!(
            "another agent, process {}, answers at {}: for a second network pass another --socket",
            other.pid,
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

/// Who asks for health is answered from here on, whatever the agent waits for.
fn tell_health(
    config: &Config,
    told: &watch::Sender<Status>,
    pulse: &Arc<Pulse>,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    if let Some(address) = config.health {
        let listener = health::bind(address).map_err(|error| {
            Failure::Usage(format!("--healthz-ip, --healthz-port {address}: {error}"))
        })?;
        let health = Health {
            status: told.subscribe(),
            pulse: Arc::clone(pulse),
        };
        tasks.spawn(health::serve(listener, health));
    }
    Ok(())
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

/// A round for each subnet that we are given; with `--on-subnet-lost=stop` there is one. The data path
/// goes on in between as it does between two agents.
async fn rounds(
    config: &Config,
    told: &watch::Sender<Status>,
    pulse: &Arc<Pulse>,
) -> Result<(), Failure> {
    let ledger = SharedLedger::new(config.loss_grace);
    loop {
        let mut tasks = JoinSet::new();
        let ended = serve(config, told, Arc::clone(pulse), &ledger, &mut tasks).await;
        tasks.shutdown().await;
        ended?;
        pulse.rest(Task::Reconcile);
    }
}

/// Runs until a new subnet is leased.
async fn serve(
    config: &Config,
    told: &watch::Sender<Status>,
    pulse: Arc<Pulse>,
    ledger: &SharedLedger,
    tasks: &mut JoinSet<()>,
) -> Result<(), Failure> {
    let privileged = |error: &dyn std::fmt::Display| Failure::Privilege(error.to_string());
    let sysctls = Sysctls::host();
    let netlink = Rtnetlink::new().map_err(|error| privileged(&error))?;
    // What the command line says about this host is judged before anything is waited for.
    let uplink = prepare::uplink(config, &netlink).await?;
    let tuning = Tuning {
        ttl: config.lease_ttl,
        ..config.tuning
    };
    let store = EtcdStore::with_tuning(config.etcd.clone(), tuning)
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
    let mut lock = lock::take(network.vni).map_err(Failure::Usage)?;
    lock.claim(network.network, &config.socket)
        .map_err(|error| Failure::Usage(format!("/run/weft: {error}")))?;

    let underlay = Underlay::new(&uplink, &network);
    let host = netlink
        .observe()
        .await
        .map_err(|error| privileged(&error))?;
    ground::check(&network, &underlay, &host)?;
    let previous = subnet_env::read_previous(&config.subnet_file);
    let found = prepare::own_record(&*store, &underlay).await;
    let vtep_mac = prepare::vtep_mac(&host, found.as_ref(), previous, &network);
    let found_other = found.and_then(|lease| lease.attrs.vtep_mac());
    let found_other = found_other.is_some_and(|mac| mac != vtep_mac);
    let kernel = prepare::kernel_defaults(&sysctls)?;
    prepare::load_conntrack(config, &netlink).await;
    let movers = prepare::movers(config, &network, &underlay, &sysctls)?;
    let unused = prepare::UnusedMaps::of(&network);
    let claim = prepare::claim(&network, &underlay, vtep_mac, previous);
    let lease = prepare::lease(config, &*store, &network, &claim, waiting).await?;
    unused.are_used();
    if sysctls
        .enable_forwarding()
        .map_err(|error| privileged(&error))?
    {
        info!("turned net.ipv4.ip_forward on");
    }

    let allow = prepare::allow(&movers, tasks).await;
    let ground = ground::ground(&network, &lease, &underlay, &movers, &uplink.name, vtep_mac);
    told.send_replace(Status {
        components: vec![Component::bad("start", "programming")],
        ..ground.clone()
    });
    #[cfg_attr(
        not(feature = "bpf-log"),
        expect(unused_mut, reason = "the log borrows it")
    )]
    let Movers {
        mut datapath,
        fast_path: _,
        why: _,
        filtered: _,
    } = movers;
    #[cfg(feature = "bpf-log")]
    if let Some(datapath) = &mut datapath {
        tasks.spawn(datapath.pump_log().map_err(|error| privileged(&error))?);
    }
    match &datapath {
        Some(datapath) => {
            tasks.spawn(
                datapath
                    .log_refusals()
                    .map_err(|error| privileged(&error))?,
            );
        }
        None => prepare::detach_leftovers(&network),
    }

    let (measured, narrow) = watch::channel(Narrow::default());
    let ways = watch::Sender::default();
    if let Some(every) = config.path_mtu_every {
        measured.send_replace(narrow::earlier(&host, &network));
        tasks.spawn(paths::watch(every, ways.subscribe(), measured));
    }
    let paths = Paths { narrow, ways };

    let (news, heard) = mpsc::channel::<StoreNews>(NEWS);
    let keeper = Arc::clone(&store);
    tasks.spawn(async move { keeper.keep_way().await });
    let (kept, kept_peers) = watch::channel(0);
    let earlier = prepare::earlier_peers(datapath.as_ref(), &network);
    ledger.open().begin(lease.subnet, earlier);
    let following = Following {
        ledger: ledger.clone(),
        relist: config.relist,
        kept,
    };
    let follower = leases::follow(Arc::clone(&store), following, news);
    tasks.spawn(Arc::clone(&pulse).of(Task::Store, follower));
    let bell = Arc::new(Notify::new());
    let (outcome, own_lease) = watch::channel(OwnLease::Held);
    let (report, reported) = watch::channel(Report::default());
    let (moved, address) = watch::channel(lease.attrs.public_ip);
    let connected = Arc::clone(&store);
    let leave = move || connected.moved();
    tasks.spawn(address::follow(
        underlay.address,
        reported.clone(),
        moved,
        leave,
    ));
    let renewal = Renewal {
        store: Arc::clone(&store),
        clock: BootClock,
        lease: lease.clone(),
        found_other,
        ttl: config.lease_ttl,
        margin: config.renew_margin,
        address: address.clone(),
        bell: Arc::clone(&bell),
        outcome,
    };
    tasks.spawn(renewal.run());
    let (live, networks) = watch::channel(network.clone());
    let followed = firewall::Followed {
        networks: networks.clone(),
        uplink: uplink.name.clone(),
        reports: reported.clone(),
        has_programs: datapath.is_some(),
    };
    let (rules, dropped) = spawn_firewall(config, &network, &lease, followed, tasks);
    let by_rules = lease.subnet.v4().filter(|_| datapath.is_none());
    let cut_off = CutOff {
        reports: reported.clone(),
        rules: by_rules.map(|own| (own, dropped)),
    };
    let (state, network_state) = watch::channel(Follower::<EtcdStore>::state_at_start());
    let follower = Follower {
        store: Arc::clone(&store),
        started: network.clone(),
        live,
        state,
    };
    tasks.spawn(follower.run());
    if let (true, Some(subnet)) = (config.blackhole, lease.subnet.v4()) {
        let netlink = Rtnetlink::new().map_err(|error| privileged(&error))?;
        tasks.spawn(blackhole::keep(netlink, subnet, config.firewall_every));
    }

    let changes = netlink
        .changes()
        .await
        .map_err(|error| privileged(&error))?;
    let events = conntrack_events(datapath.is_some());
    let env = ground::subnet_env(config.masquerade, &network, &lease, &underlay)?;
    tasks.spawn(tell(
        told.clone(),
        ground,
        SubnetFile::new(config.subnet_file.clone(), env),
        reported.clone(),
        (store.health(), kept_peers, paths.narrow.clone()),
        own_lease.clone(),
        (rules, network_state),
    ));

    let reconciler = Reconciler::<Rtnetlink, EbpfDatapath> {
        netlink,
        datapath,
        network: network.clone(),
        own: lease.subnet,
        own_lease: own_lease.clone(),
        vtep_mac,
        uplink: UplinkWatch::new(config.uplink.clone(), config.can_reach, uplink),
        sysctls,
        kernel,
        allow,
        guard: config.guard,
        hook_ports: config.hook_ports,
        networks,
        paths,
        pulse,
        memory: Memory::default(),
    };
    let key_of = |subnet| store.key_of(subnet);
    tokio::select! {
        () = reconciler.run(heard, changes, events, key_of, report, move || bell.notify_one()) => {
            Err(Failure::Bug("the store's follower ended".to_owned()))
        }
        () = renumber::renumber(config.on_subnet_lost, &*store, (&claim, address), own_lease, cut_off) => Ok(()),
    }
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

fn spawn_firewall(
    config: &Config,
    network: &NetworkConfig,
    lease: &Lease,
    followed: firewall::Followed,
    tasks: &mut JoinSet<()>,
) -> (
    watch::Receiver<Option<RulesState>>,
    watch::Receiver<BTreeSet<Ipv4Net>>,
) {
    let (state, rules) = watch::channel(None);
    let (dropped, of_lost) = watch::channel(BTreeSet::new());
    if let Some(subnet) = lease.subnet.v4() {
        let rules = FirewallConfig {
            network: network.network,
            subnet,
            vni: network.vni.get(),
            direct: None,
            masquerade: config.masquerade,
            random_fully: config.random_fully,
            forward: config.forward,
        };
        let manager = if network.nftables {
            Manager::Nftables
        } else {
            Manager::Iptables
        };
        let every = config.firewall_every;
        tasks.spawn(firewall::keep(
            rules,
            manager,
            network.vni,
            every,
            followed,
            firewall::Told { state, dropped },
        ));
    }
    (rules, of_lost)
}
