//! `cargo xtask demo`: the lab as something to look at.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use weft_tests::{
    dump::{PeerEntry, Share},
    lab::Lab,
    reach::{self, Effort, Reached},
    walkthrough::{Download, Masquerade, Walk},
    world::{Kind, Plan, World, total},
};

use crate::{shell, signals, test, toolchain::Lock};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many hosts.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u8).range(2..=16))]
    hosts: u8,
    /// Two hosts with a real Docker engine each, as in the walk-through.
    #[arg(long, conflicts_with = "hosts")]
    docker: bool,
    /// With --docker: the agents masquerade, not Docker.
    #[arg(long, requires = "docker")]
    ip_masq: bool,
    /// Leave the kernel's path in charge.
    #[arg(long, value_parser = ["ebpf", "kernel", "auto"], default_value = "ebpf")]
    datapath: String,
    /// Fail if anything was lost or if the fast path took nothing.
    #[arg(long)]
    check: bool,
    /// Keep everything up until Ctrl-C.
    #[arg(long, conflicts_with = "check")]
    keep: bool,
}

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    if !shell::is_root() {
        return test::again_as_root();
    }
    // After `again_as_root` both are there already, built by the user they belong to.
    if std::env::var_os("WEFT_BIN").is_none() {
        test::build_agent(Lock::MayChange)?;
        test::build_probe(Lock::MayChange)?;
    }
    let verdict = if options.docker {
        docker(options)?
    } else {
        namespaces(options)?
    };
    println!("\n{verdict}");
    let failed = options.check && !verdict.good();
    Ok(if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// What `--check` decides on.
struct Verdict {
    complete: bool,
    share: Share,
    /// With the kernel's path in charge, nothing is to be taken.
    fast: bool,
}

impl Verdict {
    fn good(&self) -> bool {
        self.complete && (self.share.taken > 0 || !self.fast)
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lost = if self.complete {
            "nothing was lost"
        } else {
            "SOMETHING WAS LOST"
        };
        let taken = match (self.fast, self.share.taken) {
            (false, _) => "the kernel's path was in charge".to_owned(),
            (true, 0) => "the fast path took NOTHING".to_owned(),
            (true, _) => format!("on the fast path: {}", self.share),
        };
        write!(f, "demo: {lost}; {taken}")
    }
}

fn namespaces(options: &Options) -> Result<Verdict> {
    println!(
        "demo: {} hosts on one wire, an etcd, an agent on each",
        options.hosts
    );
    let mut plan = Plan::new("demo");
    plan.kinds = vec![Kind::Weft; options.hosts.into()];
    plan.datapath = datapath(&options.datapath);
    plan.containers = 2;
    let world = World::start(&plan)?;

    println!("\npeers");
    println!("{}", peer_header());
    for node in world.nodes.iter().filter(|node| node.has_programs()) {
        for peer in node.host.peers()? {
            println!("{}", peer_line(&node.host.label, &peer));
        }
    }

    // The first packets of a pair teach both hosts who is where.
    reach::everybody(
        &world,
        Effort {
            pings: 1,
            packets: 10,
            tcp_bytes: 1 << 16,
        },
    )?;
    let before = world.counters()?;
    println!("\nwho reaches whom");
    let reached = reach::everybody(&world, Effort::default())?;
    print_reached(&reached);

    println!("\nshare of the fast path");
    let shares = world.shares(&before)?;
    for (node, share) in world.nodes.iter().zip(&shares) {
        println!("  {:<8} {share}", node.host.label);
    }
    if options.keep {
        keep(&world.lab)?;
    }
    let complete = reached.iter().all(Reached::complete);
    if !complete {
        println!("\n{}", world.describe());
    }
    Ok(Verdict {
        complete,
        share: total(&shares),
        fast: plan.datapath != "kernel",
    })
}

fn docker(options: &Options) -> Result<Verdict> {
    ensure!(options.datapath != "kernel", "--docker shows the fast path");
    println!("demo: etcd, an agent and a Docker engine on each of two hosts");
    let masquerade = if options.ip_masq {
        Masquerade::Agent
    } else {
        Masquerade::Docker
    };
    let walk = Walk::start("demo", masquerade)?;
    let found = walk.walk()?;

    println!("\npeers");
    println!("{}", peer_header());
    for (host, peer) in &found.peers {
        println!("{}", peer_line(host, peer));
    }
    println!("\nwho reaches whom");
    print_reached(&found.reached);
    println!("\ndownloads");
    for Download {
        what,
        megabytes,
        equal,
        milliseconds,
    } in &found.downloads
    {
        let content = if *equal { "equal" } else { "DIFFERS" };
        println!("  {what:<40} {megabytes:>5} MB {milliseconds:>7} ms  {content}");
    }
    println!("\nshare of the fast path, container to container");
    for (host, share) in walk.lab.hosts.iter().zip(&found.shares) {
        println!("  {:<8} {share}", host.label);
    }
    if options.keep {
        keep(&walk.lab)?;
    }
    Ok(Verdict {
        complete: found.complete(),
        share: total(&found.shares),
        fast: true,
    })
}

fn datapath(name: &str) -> &'static str {
    match name {
        "kernel" => "kernel",
        "auto" => "auto",
        _ => "ebpf",
    }
}

fn print_reached(reached: &[Reached]) {
    println!("{}", Reached::header());
    for line in reached.iter().map(Reached::line) {
        println!("{line}");
    }
}

fn peer_header() -> String {
    format!(
        "  {:<6} {:<18} {:<15} {:<18} {:<12} {:>5}  path",
        "host", "subnet", "vtep", "mac", "device", "mtu"
    )
}

fn peer_line(host: &str, peer: &PeerEntry) -> String {
    let PeerEntry {
        subnet,
        vtep,
        mac,
        device,
        mtu,
        fast,
        gateway: _,
        direct: _,
    } = peer;
    let device = device
        .as_ref()
        .map(|device| device.to_string().replace('"', ""));
    let device = device.unwrap_or_default();
    let mtu = mtu.map(|mtu| mtu.to_string()).unwrap_or_default();
    let path = if *fast { "fast" } else { "kernel" };
    format!("  {host:<6} {subnet:<18} {vtep:<15} {mac:<18} {device:<12} {mtu:>5}  {path}")
}

/// Shows the way in and waits for Ctrl-C.
fn keep(lab: &Lab) -> Result<()> {
    signals::outlive_interrupts()?;
    println!(
        "\nEverything stays up until Ctrl-C. Logs are in {}",
        lab.folder().display()
    );
    println!("A shell on a host:");
    for host in &lab.hosts {
        println!("  {}: sudo {}", host.label, host.entry());
    }
    println!("Containers are network namespaces (`ip netns`), for example:");
    println!("  sudo ip netns exec {}-h1c1 ip address", lab.name.as_str());
    signals::wait_for_interrupt();
    Ok(())
}
