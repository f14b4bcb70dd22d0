//! `cargo xtask bench scale`: an agent with many peers, in a host of the lab beside a real etcd. The
//! yardstick is a kernel that `ip -batch` programs with the same entries.

use std::{
    fs,
    net::Ipv4Addr,
    ops::Range,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use serde_json::Value;
use weft_tests::{
    agent::{Agent, Flags},
    host::Host,
    kernel_host::{DEVICE, Peer, lease_key, lease_value},
    lab::Lab,
    wait,
};

use super::yardstick::{self, Changes, Yardstick};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// How many leases, one measurement each.
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1_000, 10_000])]
    leases: Vec<u32>,
    /// How long the idling agent is watched, in seconds.
    #[arg(long, default_value_t = 120)]
    idle: u64,
}

/// Room for 16,384 subnets.
const CONFIG: &str = r#"{"Network":"100.64.0.0/10","SubnetLen":24,"Backend":{"Type":"vxlan"}}"#;
/// The targets hold for this many.
const FULL: u32 = 10_000;
/// The number of the first new node: the agent takes one of the first subnets that are free.
const NEW: u32 = 15_000;
/// So many leases change, at most.
const CHANGED: u32 = 1_000;
const LIMIT: Duration = Duration::from_secs(120);
const TICKS_PER_SECOND: f64 = 100.0;

/// Fails where a target is missed.
pub(super) fn run(options: &Options) -> Result<ExitCode> {
    let mut good = true;
    println!(
        "| leases | ready s | changed | applied s | resident MiB | maps MiB | idle % of a core | ip -batch s | its changes s |"
    );
    println!("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    let mut verdicts = Vec::new();
    for leases in &options.leases {
        let figures = measure(*leases, options.idle)?;
        println!("{}", figures.row());
        if *leases >= FULL {
            verdicts = figures.verdicts();
        }
    }
    for (what, met) in verdicts {
        println!("{} {what}", if met { "PASS" } else { "FAIL" });
        good &= met;
    }
    Ok(if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What one number of leases cost.
struct Figures {
    leases: u32,
    ready: Duration,
    changed: u32,
    applied: Duration,
    resident: f64,
    maps: f64,
    /// The agent itself, and the programs that it runs to read the host's rules.
    idle: (f64, f64),
    yardstick: Yardstick,
}

impl Figures {
    fn row(&self) -> String {
        format!(
            "| {} | {:.2} | {} | {:.3} | {:.1} | {:.1} | {:.2} (and {:.2} its helpers) | {:.2} | {:.3} |",
            self.leases,
            self.ready.as_secs_f64(),
            self.changed,
            self.applied.as_secs_f64(),
            self.resident,
            self.maps,
            self.idle.0,
            self.idle.1,
            self.yardstick.all.as_secs_f64(),
            self.yardstick.changes.as_secs_f64()
        )
    }

    fn verdicts(&self) -> Vec<(&'static str, bool)> {
        let (own, helpers) = self.idle;
        vec![
            (
                "ready at most 3 s after the start",
                self.ready <= Duration::from_secs(3),
            ),
            (
                "1,000 changed leases applied at most 0.5 s after the first was sent",
                self.applied <= Duration::from_millis(500),
            ),
            ("at most 64 MiB resident", self.resident <= 64.0),
            (
                "idle below 0.5 % of a core, helpers included",
                own + helpers < 0.5,
            ),
        ]
    }
}

fn measure(leases: u32, idle: u64) -> Result<Figures> {
    ensure!(
        (1..=FULL + 2_000).contains(&leases),
        "{leases} leases do not fit"
    );
    let lab = Lab::new("scale", 2)?;
    let peers: Vec<Peer> = (0..leases).map(|n| peer(n, 0)).collect::<Result<_>>()?;
    let changed = leases.min(CHANGED);
    let changes = changes(&peers, changed)?;
    let yardstick = yardstick::measure(&*lab.host(1)?, &peers, &changes)?;
    lab.etcd.put_config(CONFIG)?;
    lab.etcd.put_all(&records(&peers))?;

    let host = lab.host(0)?;
    let began = Instant::now();
    let mut agent = Agent::start(&host, Flags::new(&lab.etcd.endpoint()))?;
    wait::until_true("the agent is ready", LIMIT, || {
        agent.daemon()?.ensure_running()?;
        Ok(host.weft(&["status", "-o", "json"])?.0 == 0)
    })?;
    let ready = began.elapsed();
    ensure_programmed(&host, &peers).context("after the start")?;

    let applied = change(&lab, &host, peers, &changes)?;
    let pid = agent.daemon()?.pid();
    let idle = idling(pid, Duration::from_secs(idle))?;
    Ok(Figures {
        leases,
        ready,
        changed,
        applied,
        resident: resident(pid)?,
        maps: maps(&host)?,
        idle,
        yardstick,
    })
}

/// Node `n` at its `age`: each age has another VTEP MAC and another address.
fn peer(n: u32, age: u8) -> Result<Peer> {
    let [_, a, b, c] = n.to_be_bytes();
    let subnet = u32::from(Ipv4Addr::new(100, 64, 0, 0)) + ((n + 1) << 8);
    let public = u32::from(Ipv4Addr::new(198, 18, 0, 1)) + n + (u32::from(age) << 15);
    Ok(Peer {
        subnet: Ipv4Net::new(subnet.into(), 24)?,
        public: public.into(),
        mac: format!("0a:00:{age:02x}:{a:02x}:{b:02x}:{c:02x}"),
    })
}

fn records(peers: &[Peer]) -> Vec<(String, String)> {
    let record = |peer: &Peer| (lease_key(peer.subnet), lease_value(peer));
    peers.iter().map(record).collect()
}

/// Of so many nodes two of four come back with another address and another MAC, one goes, and one is
/// new.
fn changes(peers: &[Peer], changed: u32) -> Result<Changes> {
    let quarter = changed / 4;
    let moved = changed - 2 * quarter;
    let still = peers.len() - usize::try_from(quarter)?;
    let (before, gone) = peers.split_at_checked(still).context("peers")?;
    let before = before.get(..usize::try_from(moved)?).context("peers")?;
    let of = |numbers: Range<u32>, age| numbers.map(|n| peer(n, age)).collect::<Result<_>>();
    Ok(Changes {
        before: before.to_vec(),
        after: of(0..moved, 1)?,
        gone: gone.to_vec(),
        new: of(NEW..NEW + quarter, 0)?,
    })
}

/// From when the first change is sent until the agent says that all of it is in place, which is then
/// compared with the kernel's tables.
fn change(lab: &Lab, host: &Host, mut peers: Vec<Peer>, changes: &Changes) -> Result<Duration> {
    let puts = [records(&changes.after), records(&changes.new)].concat();
    let keys = changes.gone.iter().map(|peer| lease_key(peer.subnet));
    let (revision, began) = lab.etcd.change_at_once(&puts, &keys.collect::<Vec<_>>())?;
    let written = began.elapsed();
    wait::until_true("the changes are applied", LIMIT, || {
        let status = host.status()?;
        let applied = status.get("applied_revision").and_then(Value::as_i64);
        Ok(applied.is_some_and(|applied| applied >= revision))
    })?;
    let took = began.elapsed();
    eprintln!(
        "scale: of the {took:.3?} until all was applied, {written:.3?} went by until etcd had it all"
    );
    peers.truncate(peers.len() - changes.gone.len());
    peers.splice(..changes.after.len(), changes.after.iter().cloned());
    peers.extend(changes.new.iter().cloned());
    ensure_programmed(host, &peers).context("after the changes")?;
    Ok(took)
}

/// Every entry is in the kernel's tables and in the maps, and no other.
fn ensure_programmed(host: &Host, peers: &[Peer]) -> Result<()> {
    let rows = |text: String| -> Vec<String> {
        let mut rows: Vec<_> = text.lines().map(|line| line.trim().to_owned()).collect();
        rows.sort();
        rows
    };
    let wanted = |row: &dyn Fn(&Peer) -> String| {
        let mut rows: Vec<_> = peers.iter().map(row).collect();
        rows.sort();
        rows
    };
    let routes = host.ip(&format!("route show dev {DEVICE}"))?;
    let routes = rows(routes.lines().map(without_number).collect());
    let route = |peer: &Peer| format!("{} via {} onlink", peer.subnet, peer.subnet.network());
    ensure_same("routes", &routes, &wanted(&route))?;
    let neighbours = rows(host.ip(&format!("neigh show dev {DEVICE} nud permanent"))?);
    let neighbour =
        |peer: &Peer| format!("{} lladdr {} PERMANENT", peer.subnet.network(), peer.mac);
    ensure_same("neighbours", &neighbours, &wanted(&neighbour))?;
    let entries = rows(host.run(&format!("bridge fdb show dev {DEVICE}"))?);
    let entry = |peer: &Peer| format!("{} dst {} self permanent", peer.mac, peer.public);
    ensure_same("forwarding entries", &entries, &wanted(&entry))?;
    ensure!(
        host.peers()?.len() == peers.len(),
        "the maps hold other peers"
    );
    Ok(())
}

/// Many routes name their next hop by a number, too.
fn without_number(row: &str) -> String {
    let words: Vec<&str> = row.split_whitespace().collect();
    let kept = match words.as_slice() {
        [subnet, "nhid", _, rest @ ..] => [&[*subnet], rest].concat(),
        _ => words,
    };
    kept.join(" ") + "\n"
}

fn ensure_same(what: &str, found: &[String], wanted: &[String]) -> Result<()> {
    let first = |of: &[String], beside: &[String]| {
        let mut only = of.iter().filter(|row| beside.binary_search(row).is_err());
        (only.next().cloned(), only.count())
    };
    ensure!(
        found == wanted,
        "{what}: {} instead of {}; only there: {:?}; missing: {:?}",
        found.len(),
        wanted.len(),
        first(found, wanted),
        first(wanted, found)
    );
    Ok(())
}

/// In MiB.
fn resident(pid: u32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("read the memory")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    let kib: f64 = kib.context("VmRSS")?.parse().context("VmRSS")?;
    Ok(kib / 1024.0)
}

/// What the kernel says that the pinned maps take, in MiB.
fn maps(host: &Host) -> Result<f64> {
    let pins = host.run("find /sys/fs/bpf/weft -type f -name [A-Z]*")?;
    let mut bytes = 0.0;
    for pin in pins.lines() {
        let shown = host.run(&format!("/usr/sbin/bpftool -j map show pinned {pin}"))?;
        let shown: Value = serde_json::from_str(&shown).context("bpftool's JSON")?;
        bytes += shown
            .get("bytes_memlock")
            .and_then(Value::as_f64)
            .context("bytes_memlock")?;
    }
    Ok(bytes / 1_048_576.0)
}

/// Shares of a processor in percent: the agent's own, and of what it started.
fn idling(pid: u32, time: Duration) -> Result<(f64, f64)> {
    // What the changes left to do is done, and does not count.
    thread::sleep(Duration::from_secs(3));
    let before = ticks(pid)?;
    thread::sleep(time);
    let after = ticks(pid)?;
    let share = |ticks: f64| ticks / TICKS_PER_SECOND / time.as_secs_f64() * 100.0;
    Ok((share(after.0 - before.0), share(after.1 - before.1)))
}

fn ticks(pid: u32) -> Result<(f64, f64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("read the time")?;
    // Behind the name, which may hold anything.
    let rest = text.rsplit(')').next().context("a line of stat")?;
    let numbers: Vec<f64> = rest
        .split_whitespace()
        .map(|word| word.parse().unwrap_or(0.0))
        .collect();
    let [user, system, of_user, of_system] = numbers.get(11..15).context("four times")? else {
        anyhow::bail!("four times");
    };
    Ok((user + system, of_user + of_system))
}
