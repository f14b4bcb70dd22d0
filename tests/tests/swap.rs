//! flannel out, weft in, on a host at work; and the reverse. Subnet, MAC, device and every
//! connection stay, what the predecessor forgot goes.

use std::{collections::BTreeSet, net::SocketAddrV4, sync::Arc, time::Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::{Agent, Flags, READY},
    container::Place,
    dialogue::Dialogue,
    flannel::{self, Adoptable},
    host::Host,
    kernel_host::{DEVICE, KernelHost, lease_key, lease_value},
    probe::{self, Running},
    reach::{self, Effort},
    report::Tcp,
    rules, wait,
    world::{Driver, Kind, Plan, World, total},
};

/// Each way, across the change, and more where that takes longer.
const BYTES: u64 = 100 << 20;
/// Mbit per second: the change takes a second or two of the five.
const PACE: u32 = 160;
const HELD: u32 = 20;

/// What must not notice: long transfers and quiet connections, each way.
struct Work {
    began: Instant,
    transfers: Vec<Running>,
    quiet: Vec<Dialogue>,
    _servers: Vec<Running>,
}

impl Work {
    fn start(world: &World, port: u16) -> Result<Self> {
        let (a, b) = world.pair()?;
        let at = |place: &dyn Place, port| SocketAddrV4::new(place.address(), port);
        let mut work = Self {
            began: Instant::now(),
            transfers: Vec::new(),
            quiet: Vec::new(),
            _servers: Vec::new(),
        };
        let ways: [(&dyn Place, &dyn Place); 2] = [(a, b), (b, a)];
        for (from, to) in ways {
            let (echo, sink) = (at(to, port), at(to, port + 1));
            let servers = [format!("tcp-echo {echo}"), format!("tcp-sink {sink}")];
            for server in servers {
                work._servers.push(probe::serve(to, &server)?);
            }
            let mut quiet = Dialogue::tcp(from, echo)?;
            quiet.open(HELD)?;
            work.quiet.push(quiet);
        }
        work.round("before the change")?;
        work.began = Instant::now();
        for (from, to) in ways {
            let sink = at(to, port + 1);
            let most = u64::MAX;
            let send = format!(
                "tcp-send --to {sink} --bytes {most} --pace {PACE} --until-input-ends --at-least {BYTES}"
            );
            let mut transfer = probe::start_held(from, &send)?;
            transfer.until_running()?;
            work.transfers.push(transfer);
        }
        Ok(work)
    }

    fn round(&mut self, when: &str) -> Result<()> {
        for quiet in &mut self.quiet {
            let all = quiet.complete_round(HELD.into());
            all.with_context(|| when.to_owned())?;
        }
        Ok(())
    }

    /// Fails unless everything arrived that was on its way before the change, during it and after.
    fn finish(mut self) -> Result<()> {
        let changed = self.began.elapsed().as_millis();
        self.round("after the change")?;
        for transfer in &mut self.transfers {
            transfer.release();
        }
        for transfer in self.transfers {
            let tcp: Tcp = transfer.report()?;
            println!(
                "{} MB in {} ms, the change was over after {changed} ms; {} sent again, longest stall {} ms",
                tcp.received >> 20,
                tcp.milliseconds,
                tcp.repaired(),
                tcp.longest_stall_ms
            );
            ensure!(tcp.complete() && tcp.sent >= BYTES, "{tcp:?}");
        }
        Ok(())
    }
}

/// Two hosts whose containers have met, where what conntrack calls invalid is dropped.
fn world(test: &str, kinds: [Kind; 2]) -> Result<World> {
    let mut plan = Plan::new(test);
    plan.kinds = kinds.to_vec();
    plan.flags = vec!["--ip-masq".to_owned()];
    let world = World::start(&plan)?;
    for node in &world.nodes {
        rules::drop_invalid(&node.host)?;
    }
    let small = Effort {
        pings: 2,
        packets: 20,
        tcp_bytes: 1 << 16,
    };
    reach::ensure_all(&reach::everybody(&world, small)?)?;
    Ok(world)
}

/// Everything that leads to other nodes.
#[derive(Debug, PartialEq, Eq)]
struct Entries {
    routes: BTreeSet<String>,
    neighbours: BTreeSet<String>,
    forwarding: BTreeSet<String>,
}

fn entries(host: &Host) -> Result<Entries> {
    let lines = |text: String| text.lines().map(|line| line.trim().to_owned()).collect();
    Ok(Entries {
        routes: lines(host.ip(&format!("route show dev {DEVICE}"))?),
        neighbours: lines(host.ip(&format!("-4 neigh show dev {DEVICE}"))?),
        forwarding: lines(host.run(&format!("bridge fdb show dev {DEVICE}"))?),
    })
}

/// flannel's rules, as the tables hold them.
fn flannels_rules(host: &Host) -> Result<Vec<String>> {
    let saved = host.run("iptables-save")?;
    let ours = saved.lines().filter(|line| line.contains("flanneld"));
    Ok(ours.map(str::to_owned).collect())
}

/// The record with its revision and its etcd lease.
fn record(world: &World, node: usize) -> Result<String> {
    let key = lease_key(world.node(node)?.env.subnet);
    world
        .lab
        .etcd
        .ctl(&["get", &key, "-w", "json"])
        .map(|json| {
            // The header says when it was asked, not what is there.
            json.split_once("\"kvs\"")
                .map(|(_, record)| record.to_owned())
                .unwrap_or(json)
        })
}

fn change_hands(world: &mut World, to: Driver) -> Result<()> {
    world.node_mut(0)?.driver = to;
    Ok(())
}

#[test]
fn weft_takes_over_from_flannel() -> Result<()> {
    let mut world = world("swap_in", [Kind::Kernel, Kind::Kernel])?;
    let host = Arc::clone(&world.node(0)?.host);
    let clean = entries(&host)?;
    world.node_mut(0)?.env.ip_masq = true;
    let Driver::Kernel(kernel) = &mut world.node_mut(0)?.driver else {
        anyhow::bail!("no flannel there");
    };
    kernel.env.ip_masq = true;
    let kernel = KernelHost {
        host: Arc::clone(&host),
        env: kernel.env,
        mac: kernel.mac.clone(),
    };
    flannel::furnish(&kernel, &world.lab.etcd)?;
    let (left, rules, written) = (
        Adoptable::of(&host)?,
        flannels_rules(&host)?,
        record(&world, 0)?,
    );
    ensure!(entries(&host)? != clean, "nothing stale was prepared");

    let work = Work::start(&world, 7100)?;
    let mut flags = Flags::new(&world.lab.etcd.endpoint());
    flags.more = vec!["--ip-masq".to_owned()];
    let mut agent = Agent::start(&host, flags)?;
    let env = agent.ready()?;
    change_hands(&mut world, Driver::Weft(agent))?;
    ensure!(env == kernel.env, "{env:?} after {:?}", kernel.env);
    work.finish().with_context(|| world.describe())?;

    ensure!(
        Adoptable::of(&host)? == left,
        "{:?} after {left:?}",
        Adoptable::of(&host)?
    );
    ensure!(
        record(&world, 0)? == written,
        "{} after {written}",
        record(&world, 0)?
    );
    let now = flannels_rules(&host)?;
    ensure!(now == rules, "{now:#?} after {rules:#?}");
    let now = entries(&host)?;
    ensure!(now == clean, "{now:#?} instead of {clean:#?}");
    until_fast(&world)?;
    let before = world.counters()?;
    let (a, b) = world.pair()?;
    let tcp = probe::transfer(a, b, 7200, 1 << 20)?;
    ensure!(tcp.complete(), "{tcp:?}");
    world.ensure_fast(&before)
}

fn until_fast(world: &World) -> Result<()> {
    let host = &world.node(0)?.host;
    wait::until_true("the fast path is on", READY, || {
        Ok(host.fast_path()?.0 == "on")
    })
}

#[test]
fn flannel_takes_over_from_weft_and_weft_again() -> Result<()> {
    let mut world = world("swap_out", [Kind::Weft, Kind::Kernel])?;
    let host = Arc::clone(&world.node(0)?.host);
    until_fast(&world)?;
    let (left, programmed) = (Adoptable::of(&host)?, entries(&host)?);
    let before = world.counters()?;
    let work = Work::start(&world, 7300)?;
    let share = total(&world.shares(&before)?);
    ensure!(share.taken > 0, "nothing was fast: {share}");

    let agent = world.node_mut(0)?.agent()?;
    let flags = agent.flags.clone();
    agent.kill_hard()?;
    let (code, said, errors) = host.weft(&["cleanup", "--keep-network"])?;
    ensure!(code == 0, "cleanup ended with {code}: {said}{errors}");
    let pins = host.run("find /sys/fs/bpf -path */weft/* -type f")?;
    ensure!(pins.trim().is_empty(), "still pinned: {pins}");
    let hung = host.run("/usr/sbin/bpftool net show")?;
    ensure!(!hung.contains("from_"), "still attached: {hung}");

    // What flannel finds is what it would have made.
    ensure!(
        Adoptable::of(&host)? == left,
        "{:?} after {left:?}",
        Adoptable::of(&host)?
    );
    ensure!(entries(&host)? == programmed, "{:?}", entries(&host)?);
    let env = world.node(0)?.env;
    ensure!(left.env == env.text(), "{:?}", left.env);
    let kernel = KernelHost {
        host: Arc::clone(&host),
        env,
        mac: host
            .run(&format!("cat /sys/class/net/{DEVICE}/address"))?
            .trim()
            .to_owned(),
    };
    let found = world.lab.etcd.leases()?;
    let own = found.iter().find(|(key, _)| *key == lease_key(env.subnet));
    let value = lease_value(&kernel.peer());
    ensure!(own.is_some_and(|(_, found)| *found == value), "{found:?}");
    let masq = flannels_rules(&host)?;
    ensure!(masq.len() == 10, "{masq:#?}");

    kernel.learn(&world.lab.etcd)?;
    ensure!(
        entries(&host)? == programmed,
        "flannel changed what was there"
    );
    change_hands(&mut world, Driver::Kernel(kernel))?;
    work.finish()?;

    let work = Work::start(&world, 7400)?;
    let mut agent = Agent::start(&host, flags)?;
    let again = agent.ready()?;
    change_hands(&mut world, Driver::Weft(agent))?;
    ensure!(again == env, "{again:?} after {env:?}");
    work.finish().with_context(|| world.describe())?;
    ensure!(
        Adoptable::of(&host)? == left,
        "{:?} after {left:?}",
        Adoptable::of(&host)?
    );
    Ok(())
}
