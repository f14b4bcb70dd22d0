//! What can be typed: flags, environment and verbs. Nothing here does anything.
//!
//! `weft run` takes flanneld's flags as they are: one dash or two, `--flag=value`, and each flag
//! as `FLANNELD_<NAME>` in the environment; `WEFT_<NAME>` works too, and wins. The command line
//! wins over both. Started as `flanneld`, the program is `weft run`.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    net::IpAddr,
    path::PathBuf,
};

use clap::{
    ArgAction, Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, ValueEnum,
    error::ErrorKind,
};

pub use self::{
    etcd::EtcdArgs,
    lease::{LeaseArgs, OnSubnetLost, ReleaseArgs},
};
use self::{
    flannel::Typed,
    go::{number, truth_value},
};
use crate::{admin::dump::What, reconcile::leases};

mod etcd;
mod flannel;
mod go;
mod lease;

/// Where a running agent answers.
pub const SOCKET: &str = "/run/weft/weft.sock";

/// An eBPF-accelerated overlay agent for container hosts, in flannel's place.
#[derive(Debug, Parser)]
#[command(name = "weft", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What `weft` can do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Runs the agent.
    #[command(args_override_self = true)]
    Run(Box<RunArgs>),
    /// Says how the agent is. Exit code 0 when it is ready, 1 when not, 3 when none answers.
    Status(StatusArgs),
    /// Shows what the pinned maps hold, whether an agent runs or not.
    Dump(DumpArgs),
    /// Prints Docker's options out of subnet.env, as mk-docker-opts.sh does.
    #[command(args_override_self = true)]
    DockerOpts(DockerOptsArgs),
    /// Measures the way to another host, where `weft bench --server` waits.
    Bench(BenchArgs),
    /// Removes what the agent left: programs, maps, device, rules and files. The lease stays until
    /// its end, or goes at once with --release.
    Cleanup(CleanupArgs),
}

/// Flags of `weft run`.
#[derive(Clone, Debug, Args)]
pub struct RunArgs {
    /// The store.
    #[command(flatten)]
    pub etcd: EtcdArgs,
    /// Give up (exit code 69) when etcd has not given what is needed to start within this many
    /// seconds; 0 waits for ever, as flanneld does.
    #[arg(long, default_value_t = 0, value_parser = number)]
    pub etcd_wait: u64,
    /// Seconds between two full looks at the leases, about. For tests.
    #[arg(long, default_value_t = leases::RELIST.as_secs(), value_parser = clap::value_parser!(u64).range(1..),
        hide = true)]
    pub etcd_relist: u64,
    /// Seconds after which a silent etcd is left for another, instead of the usual limits. For tests.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), hide = true)]
    pub etcd_patience: Option<u64>,
    /// Seconds that peers stay when etcd loses many leases at once, or all its data.
    #[arg(long, default_value_t = 60)]
    pub store_loss_grace: u64,
    /// Seconds between two looks, by ICMP echoes, whether full packets reach the peers whole; 0 never looks.
    #[arg(long, default_value_t = 600)]
    pub path_mtu_every: u64,
    /// Interface of the underlay, by name or address; may be repeated, the first that fits wins.
    #[arg(long, action = ArgAction::Append)]
    pub iface: Vec<String>,
    /// The same by regular expression, over addresses first, then over names.
    #[arg(long, action = ArgAction::Append)]
    pub iface_regex: Vec<String>,
    /// The interface that the kernel would reach this address by.
    #[arg(long)]
    pub iface_can_reach: Option<IpAddr>,
    /// Address that peers send to, when it is not the interface's.
    #[arg(long)]
    pub public_ip: Option<std::net::Ipv4Addr>,
    /// Where subnet.env is written, and the last subnet is read from.
    #[arg(long, default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// Renew the lease at the latest this many minutes before its end, 1 to 1439; with another
    /// --lease-ttl than 24h, as much sooner or later.
    #[arg(long, default_value_t = 60, value_parser = minutes)]
    pub subnet_lease_renew_margin: u64,
    /// More about the lease.
    #[command(flatten)]
    pub lease: LeaseArgs,
    /// Masquerade what leaves the overlay.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = ArgAction::Set, value_parser = truth_value)]
    pub ip_masq: bool,
    /// Leave `--random-fully` off the masquerade rules.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = ArgAction::Set, value_parser = truth_value)]
    pub ip_masq_fully_random_disable: bool,
    /// Accept the overlay's packets in FORWARD.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = true,
        default_missing_value = "true", action = ArgAction::Set, value_parser = truth_value)]
    pub iptables_forward_rules: bool,
    /// Seconds between two looks at the rules.
    #[arg(long, default_value_t = 5, value_parser = seconds)]
    pub iptables_resync: u64,
    /// Keep a route for the host's own subnet that leads nowhere, where no bridge has one.
    #[arg(long, num_args = 0..=1, require_equals = true, default_value_t = false,
        default_missing_value = "true", action = ArgAction::Set, value_parser = truth_value)]
    pub ip_blackhole_route: bool,
    /// Where `/healthz` and `/readyz` are answered.
    #[arg(long, default_value = "0.0.0.0")]
    pub healthz_ip: IpAddr,
    /// And at which TCP port; 0 is nowhere.
    #[arg(long, default_value_t = 0, value_parser = port)]
    pub healthz_port: u16,
    /// What moves the packets: programs where the kernel can (auto), programs or nothing (ebpf),
    /// or the kernel alone (kernel).
    #[arg(long, value_enum, default_value_t = DatapathChoice::Auto)]
    pub datapath: DatapathChoice,
    /// How the programs are attached: by TCX where the kernel has it (auto), only so (tcx), or as
    /// filters of the qdisc clsact (clsact).
    #[arg(long, value_enum, default_value_t = AttachChoice::Auto)]
    pub attach: AttachChoice,
    /// Whether the programs take packets: unless a rule of the host could drop them (auto), whatever
    /// the packet filter says (on), or never: they guard and count (off).
    #[arg(long, value_enum, default_value_t = FastPathChoice::Auto)]
    pub fast_path: FastPathChoice,
    /// What the programs refuse: whatever no legitimate peer or container can have sent (strict),
    /// tunnel packets of senders that are no peer (peers), or nothing (flannel).
    #[arg(long, value_enum, default_value_t = GuardChoice::Strict)]
    pub guard: GuardChoice,
    /// Where containers' packets are met: at the ports of bridges, or at the bridges alone. For
    /// measuring what the ports give.
    #[arg(long, value_enum, default_value = "ports", hide = true)]
    pub hook_at: HookAt,
    /// Where the agent answers `weft status`.
    #[arg(long, default_value = SOCKET)]
    pub socket: PathBuf,
    /// What to log: a level (error, warn, info, debug, trace), or a filter by module.
    #[arg(long, default_value = "info")]
    pub log: String,
    /// How to log.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// `--datapath`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DatapathChoice {
    /// Programs where the kernel can, else the kernel.
    Auto,
    /// Programs, or exit.
    Ebpf,
    /// The kernel alone.
    Kernel,
}

/// `--attach`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum AttachChoice {
    /// By TCX where the kernel has it, else as filters.
    Auto,
    /// By TCX.
    Tcx,
    /// As filters of the qdisc clsact.
    Clsact,
}

/// `--fast-path`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FastPathChoice {
    /// On, unless the network's config rules it out.
    Auto,
    /// On.
    On,
    /// Off.
    Off,
}

/// `--hook-at`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum HookAt {
    /// At every port of a bridge.
    Ports,
    /// At the bridge, which sees no service address before it is rewritten.
    Bridge,
}

/// `--guard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum GuardChoice {
    /// Peers only, and only for themselves; containers only from their host's subnet.
    Strict,
    /// Peers only.
    Peers,
    /// Anybody, as with flannel.
    Flannel,
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// `-o`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For machines.
    Json,
}

/// Flags of `weft status`.
#[derive(Clone, Debug, Args)]
pub struct StatusArgs {
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// Where the agent answers.
    #[arg(long, default_value = SOCKET)]
    pub socket: PathBuf,
}

/// Flags of `weft dump`.
#[derive(Clone, Debug, Args)]
pub struct DumpArgs {
    /// What to show.
    #[arg(value_enum)]
    pub what: What,
    /// Form of the output.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
    /// VXLAN network identifier of the network.
    #[arg(long, default_value_t = 1)]
    pub vni: u32,
}

/// Flags of `weft bench`.
#[derive(Clone, Debug, Args)]
#[command(group = clap::ArgGroup::new("end").required(true).args(["server", "peer"]))]
pub struct BenchArgs {
    /// Waits for the other end.
    #[arg(long)]
    pub server: bool,
    /// Address to wait at.
    #[arg(long, default_value = "0.0.0.0", requires = "server")]
    pub bind: IpAddr,
    /// Address of the server.
    #[arg(long)]
    pub peer: Option<IpAddr>,
    /// TCP port of the server.
    #[arg(long, default_value_t = weft_bench::PORT)]
    pub port: u16,
    /// Runs the slices that come by lines of JSON, instead of the built-in ones.
    #[arg(long, hide = true, requires = "peer")]
    pub worker: bool,
    /// Beside the overlay only: no container is made.
    #[arg(long)]
    pub host_only: bool,
    /// Where the agent writes what containers need to know.
    #[arg(long, default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// Length of each measurement, in milliseconds.
    #[arg(long, default_value_t = 500)]
    pub millis: u64,
    /// How often each is made.
    #[arg(long, default_value_t = 3)]
    pub rounds: u32,
    /// As what to print.
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Flags of `weft docker-opts`.
#[derive(Clone, Debug, Args)]
pub struct DockerOptsArgs {
    /// The file to read.
    #[arg(short = 'f', long, default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// Only the individual variables.
    #[arg(short, long)]
    pub individual: bool,
    /// Only the combined one.
    #[arg(short, long)]
    pub combined: bool,
    /// Name of the combined one.
    #[arg(short, long, default_value = "DOCKER_OPTS")]
    pub key: String,
    /// Writes there instead of printing.
    #[arg(short = 'd', long)]
    pub output: Option<PathBuf>,
    /// Leave out whether Docker should masquerade.
    #[arg(short = 'm', long)]
    pub no_ip_masq: bool,
}

/// Flags of `weft cleanup`.
#[derive(Clone, Debug, Args)]
pub struct CleanupArgs {
    /// VXLAN network identifier of the network.
    #[arg(long, default_value_t = 1)]
    pub vni: u32,
    /// Only programs and maps go: device, entries, rules and files stay, for a flanneld that takes
    /// this host over. Connections live on.
    #[arg(long)]
    pub keep_network: bool,
    /// The subnet file to remove.
    #[arg(long, default_value = "/run/flannel/subnet.env")]
    pub subnet_file: PathBuf,
    /// The lease.
    #[command(flatten)]
    pub lease: ReleaseArgs,
}

/// The other verb whose flags the environment fills as well: it finds the store as the agent does.
const CLEANUP: &str = "cleanup";

/// Reads the command line and, for `weft run` and `weft cleanup`, the environment.
pub fn parse(
    args: impl IntoIterator<Item = OsString>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Cli, clap::Error> {
    let (args, runs) = flannel::with_verb(args.into_iter().collect());
    let command = Cli::command();
    let verb = match args.get(1) {
        _ if runs => command.find_subcommand("run"),
        Some(verb) if verb == CLEANUP => command.find_subcommand(CLEANUP),
        _ => None,
    };
    let Some(verb) = verb else {
        return Cli::from_arg_matches(&command.try_get_matches_from(args)?);
    };
    let mut typed = Typed::read(verb, args)?;
    // What is typed is judged alone first: the environment must not be blamed for it.
    Cli::command().try_get_matches_from(&typed.args)?;
    typed.take_environment(verb, environment)?;
    Cli::command()
        .try_get_matches_from(&typed.args)
        .and_then(|matches| Cli::from_arg_matches(&matches))
        .map_err(|error| typed.named(error))
}

/// The flag that others must not read off the process list, and the variable in its place.
const PASSWORD: (&str, &str) = ("etcd-password", "WEFT_ETCD_PASSWORD");

/// A command line that [`parse`] has read, with the password in the environment instead.
pub struct Hidden {
    /// The words, the password left out.
    pub args: Vec<OsString>,
    /// The variable.
    pub variable: &'static str,
    /// The password.
    pub value: OsString,
}

/// Where a password was typed, the same command line without it.
#[must_use]
pub fn hide_password(args: &[OsString]) -> Option<Hidden> {
    let command = Cli::command();
    let verb = match flannel::with_verb(args.to_vec()) {
        (_, true) => "run",
        (words, false) if words.get(1).is_some_and(|verb| verb == CLEANUP) => CLEANUP,
        _ => return None,
    };
    let (flag, variable) = PASSWORD;
    let (args, value) = flannel::without(command.find_subcommand(verb)?, args, flag);
    let value = value.filter(|value| !value.is_empty())?;
    Some(Hidden {
        args,
        variable,
        value,
    })
}

/// Prints an error, a help or a version. flanneld says its version to standard error.
pub fn print(error: &clap::Error, args: &[OsString]) -> io::Result<()> {
    if error.kind() == ErrorKind::DisplayVersion && flannel::with_verb(args.to_vec()).1 {
        return writeln!(io::stderr(), "{}", flannel::VERSION);
    }
    error.print()
}

fn minutes(text: &str) -> Result<u64, String> {
    match number(text)? {
        good @ 1..=1439 => Ok(good),
        _ => Err("it must be 1 to 1439 minutes".to_owned()),
    }
}

fn seconds(text: &str) -> Result<u64, String> {
    match number(text)? {
        0 => Err("it must be 1 or more".to_owned()),
        good => Ok(good),
    }
}

fn port(text: &str) -> Result<u16, String> {
    u16::try_from(number(text)?).map_err(|_too_large| "it must be 0 to 65535".to_owned())
}

/// The exit code for a command line that cannot be used.
#[must_use]
pub fn usage_code(error: &clap::Error, args: &[OsString]) -> u8 {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
        _ if flannel::with_verb(args.to_vec()).1 => 64,
        _ => 2,
    }
}

#[cfg(test)]
mod tests;
