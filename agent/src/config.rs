//! The agent's own configuration: typed, checked, free of the command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use regex::Regex;

use crate::{
    cli::{
        AttachChoice, DatapathChoice, EtcdArgs, FastPathChoice, GuardChoice, HookAt, OnSubnetLost,
        RunArgs,
    },
    datapath::ebpf::AttachBy,
    reconcile::desired::Guard,
    store::etcd::{EtcdConfig, Tuning},
    uplink::UplinkRequest,
};

/// What the agent is asked to do.
#[derive(Clone, Debug)]
pub struct Config {
    /// The store.
    pub etcd: EtcdConfig,
    /// Time limits of the store.
    pub tuning: Tuning,
    /// About how long between two full looks at the leases.
    pub relist: Duration,
    /// How long peers stay that a loss of the store's data took away.
    pub loss_grace: Duration,
    /// How often the ways to the peers are measured; `None` for never.
    pub path_mtu_every: Option<Duration>,
    /// How long to wait for the store at start; `None` for ever.
    pub store_wait: Option<Duration>,
    /// Which interface carries the underlay; `can_reach` is looked up at start.
    pub uplink: UplinkRequest,
    /// `--iface-can-reach`.
    pub can_reach: Option<IpAddr>,
    /// Where subnet.env goes.
    pub subnet_file: PathBuf,
    /// Renew this long before the end of a lease of the usual length at the latest.
    pub renew_margin: Duration,
    /// How long a lease lives without renewal.
    pub lease_ttl: Duration,
    /// What to do when somebody else has our subnet.
    pub on_subnet_lost: OnSubnetLost,
    /// Masquerade what leaves the overlay.
    pub masquerade: bool,
    /// With `--random-fully`.
    pub random_fully: bool,
    /// Accept rules in FORWARD.
    pub forward: bool,
    /// Time between two looks at the rules.
    pub firewall_every: Duration,
    /// Keep a route for our own subnet that leads nowhere.
    pub blackhole: bool,
    /// Where health is told.
    pub health: Option<SocketAddr>,
    /// What moves the packets.
    pub datapath: DatapathChoice,
    /// How the programs are attached.
    pub attach: AttachBy,
    /// Whether the programs take packets.
    pub fast_path: FastPathChoice,
    /// What the guard refuses.
    pub guard: Guard,
    /// Whether ports of bridges have programs of their own.
    pub hook_ports: bool,
    /// Where the agent answers.
    pub socket: PathBuf,
}

/// Every problem of a command line, each by its flag.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigErrors(pub Vec<String>);

impl TryFrom<RunArgs> for Config {
    type Error = ConfigErrors;

    fn try_from(args: RunArgs) -> Result<Self, ConfigErrors> {
        let mut errors = Vec::new();
        let mut iface_regexes = Vec::new();
        for text in &args.iface_regex {
            match Regex::new(text) {
                Ok(regex) => iface_regexes.push(regex),
                Err(error) => errors.push(format!("--iface-regex {text}: {error}")),
            }
        }
        let etcd = etcd(args.etcd).unwrap_or_else(|wrong| {
            errors.extend(wrong.0);
            EtcdConfig::default()
        });
        if !errors.is_empty() {
            return Err(ConfigErrors(errors));
        }
        Ok(Self {
            etcd,
            tuning: args.etcd_patience.map_or_else(Tuning::default, |seconds| {
                Tuning::patient(Duration::from_secs(seconds))
            }),
            relist: Duration::from_secs(args.etcd_relist),
            loss_grace: Duration::from_secs(args.store_loss_grace),
            path_mtu_every: (args.path_mtu_every > 0)
                .then(|| Duration::from_secs(args.path_mtu_every)),
            store_wait: (args.etcd_wait > 0).then(|| Duration::from_secs(args.etcd_wait)),
            uplink: UplinkRequest {
                ifaces: args.iface,
                iface_regexes,
                can_reach: None,
                public_ip: args.public_ip,
            },
            can_reach: args.iface_can_reach,
            subnet_file: args.subnet_file,
            renew_margin: Duration::from_secs(args.subnet_lease_renew_margin * 60),
            lease_ttl: args.lease.lease_ttl,
            on_subnet_lost: args.lease.on_subnet_lost,
            masquerade: args.ip_masq,
            random_fully: !args.ip_masq_fully_random_disable,
            forward: args.iptables_forward_rules,
            firewall_every: Duration::from_secs(args.iptables_resync),
            blackhole: args.ip_blackhole_route,
            health: (args.healthz_port > 0)
                .then(|| SocketAddr::new(args.healthz_ip, args.healthz_port)),
            datapath: args.datapath,
            attach: match args.attach {
                AttachChoice::Auto => AttachBy::Auto,
                AttachChoice::Tcx => AttachBy::Tcx,
                AttachChoice::Clsact => AttachBy::Clsact,
            },
            fast_path: args.fast_path,
            hook_ports: args.hook_at == HookAt::Ports,
            guard: match args.guard {
                GuardChoice::Strict => Guard::Strict,
                GuardChoice::Peers => Guard::Peers,
                GuardChoice::Flannel => Guard::Flannel,
            },
            socket: args.socket,
        })
    }
}

/// The store, or every problem of what is said of it.
pub fn etcd(args: EtcdArgs) -> Result<EtcdConfig, ConfigErrors> {
    let mut errors = Vec::new();
    let listed = args.etcd_endpoints.split(',').map(str::trim);
    let given = listed.filter(|endpoint| !endpoint.is_empty());
    let endpoints: Vec<String> = given.map(str::to_owned).collect();
    if endpoints.is_empty() {
        errors.push("--etcd-endpoints names no endpoint".to_owned());
    }
    if args.etcd_keyfile.is_some() != args.etcd_certfile.is_some() {
        errors.push("--etcd-keyfile and --etcd-certfile belong together".to_owned());
    }
    let passwords = [
        args.etcd_password.is_some(),
        args.etcd_password_file.is_some(),
    ];
    if passwords == [true, true] {
        errors.push("give --etcd-password or --etcd-password-file, not both".to_owned());
    } else if args.etcd_username.is_some() != passwords.contains(&true) {
        errors.push(
            "--etcd-username and --etcd-password or --etcd-password-file belong together"
                .to_owned(),
        );
    }
    if !errors.is_empty() {
        return Err(ConfigErrors(errors));
    }
    Ok(EtcdConfig {
        endpoints,
        prefix: args.etcd_prefix,
        cafile: args.etcd_cafile,
        certfile: args.etcd_certfile,
        keyfile: args.etcd_keyfile,
        server_name: args.etcd_server_name,
        username: args.etcd_username,
        password: args.etcd_password,
        password_file: args.etcd_password_file,
    })
}
