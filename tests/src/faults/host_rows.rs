//! Rows about what strangers do on an agent's host: 30 to 32.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use super::{Injected, stage::Stage};
use crate::{host::Host, paths::BPFTOOL, wait, world::Node};

/// The agent looks every five seconds, whatever it hears, and the lab needs a while to see it.
const REPAIR: Duration = Duration::from_secs(8);
const LIMIT: Duration = Duration::from_secs(20);

/// Something of ours that a stranger may delete.
type Deletion = (&'static str, fn(&Node) -> Result<()>);

const DELETIONS: [Deletion; 9] = [
    ("a route", |node| {
        let routes = node.host.ip("route show dev flannel.1")?;
        let to = first_word(&routes)?;
        node.host
            .ip(&format!("route del {to} dev flannel.1"))
            .map(drop)
    }),
    ("a neighbour", |node| {
        let all = node.host.ip("neigh show dev flannel.1 nud permanent")?;
        let of = first_word(&all)?;
        node.host
            .ip(&format!("neigh del {of} dev flannel.1"))
            .map(drop)
    }),
    ("a forwarding entry", |node| {
        let all = node.host.run("bridge fdb show dev flannel.1")?;
        let peer = all.lines().find(|line| line.contains(" dst "));
        let mac = first_word(peer.context("a peer's entry")?)?;
        node.host
            .run(&format!("bridge fdb del {mac} dev flannel.1"))
            .map(drop)
    }),
    ("a rule", |node| {
        let rules = node.host.run("iptables -S FLANNEL-FWD")?;
        ensure!(rules.contains("-A FLANNEL-FWD"), "no rule of ours: {rules}");
        node.host.run("iptables -F FLANNEL-FWD").map(drop)
    }),
    ("a program from its device", |node| {
        let links = node
            .host
            .run("find /sys/fs/bpf/weft -path */links/from_uplink-*")?;
        let link = first_word(&links)?;
        node.host
            .run(&format!("{BPFTOOL} link detach pinned {link}"))
            .map(drop)
    }),
    ("a pinned link", |node| {
        let links = node
            .host
            .run("find /sys/fs/bpf/weft -path */links/from_uplink-*")?;
        node.host
            .run(&format!("rm {}", first_word(&links)?))
            .map(drop)
    }),
    ("a pinned map", |node| {
        let maps = node.host.run("find /sys/fs/bpf/weft -path */maps/PEERS")?;
        node.host
            .run(&format!("rm {}", first_word(&maps)?))
            .map(drop)
    }),
    ("a map entry", |node| {
        let maps = node.host.run("find /sys/fs/bpf/weft -path */maps/VTEPS")?;
        let map = first_word(&maps)?;
        let key = first_key(&node.host, map)?;
        let words = format!("{BPFTOOL} map delete pinned {map} key hex {key}");
        node.host.run(&words).map(drop)
    }),
    ("the device", |node| {
        node.host.ip("link del flannel.1").map(drop)
    }),
];

fn first_word(text: &str) -> Result<&str> {
    text.split_whitespace()
        .next()
        .context("nothing of ours is there")
}

/// The first key of a map, as bpftool takes it.
fn first_key(host: &Host, map: &str) -> Result<String> {
    let text = host.run(&format!("{BPFTOOL} -j map dump pinned {map}"))?;
    let all: serde_json::Value = serde_json::from_str(&text).context("parse the map")?;
    let key = all.pointer("/0/key").and_then(|key| key.as_array());
    let bytes = key.context("an entry")?.iter().map(|byte| {
        let byte = byte.as_str().unwrap_or_default();
        byte.trim_start_matches("0x").to_owned()
    });
    Ok(bytes.collect::<Vec<_>>().join(" "))
}

/// Row 30.
pub fn strangers_delete(stage: &mut Stage) -> Result<Injected> {
    let mut times = Vec::new();
    let mut late = Vec::new();
    for (what, delete) in DELETIONS {
        let before = operations(stage)?;
        delete(stage.node(0)?).with_context(|| format!("delete {what}"))?;
        let began = Instant::now();
        let settled = stage.settle(LIMIT).and_then(|_| rules(stage));
        let took = began.elapsed();
        if let Err(error) = settled {
            late.push(format!("{what} not repaired: {error:#}"));
        } else if took > REPAIR {
            late.push(format!("{what} after {took:.1?}"));
        } else if what != "a rule" {
            // The status follows what is repaired.
            let counted = || Ok(operations(stage)? > before);
            if wait::until_true("it is counted", REPAIR, counted).is_err() {
                late.push(format!("{what} repaired and not counted"));
            }
        }
        times.push(format!("{what} {:.1} s", took.as_secs_f64()));
    }
    ensure!(late.is_empty(), "{}", late.join("; "));
    Ok(Injected::now().note(format!("repaired: {}", times.join(", "))))
}

/// What the first host's agent has changed since its start; rules are no part of it.
fn operations(stage: &Stage) -> Result<u64> {
    let status = stage.node(0)?.host.status()?;
    let count = status.pointer("/operations").and_then(Value::as_u64);
    count.with_context(|| format!("no operations in {status}"))
}

fn rules(stage: &Stage) -> Result<()> {
    let host = &stage.node(0)?.host;
    wait::until_true("the rules are there", LIMIT, || {
        let rules = host.run("iptables -S FLANNEL-FWD")?;
        Ok(rules.contains("-A FLANNEL-FWD"))
    })
}

/// Row 31: a filter of somebody else's stays, and a copy of ours that hangs elsewhere goes.
pub fn foreign_programs(stage: &mut Stage) -> Result<Injected> {
    let host = stage.node(0)?.host.clone();
    host.run("tc qdisc add dev eth0 clsact")?;
    host.run("tc filter add dev eth0 ingress pref 7 protocol ip u32 match u32 0 0 flowid 1:1")?;
    let outcome = beside_ours(stage, &host);
    host.run("tc qdisc del dev eth0 clsact")?;
    host.until_mode("on", "", LIMIT)?;
    outcome
}

fn beside_ours(stage: &mut Stage, host: &Host) -> Result<Injected> {
    let took = host.until_mode("off", "", LIMIT)?;
    stage.settle(LIMIT).context("beside a filter of others")?;
    // A copy of ours, as an upgrade that went wrong leaves it.
    let all = super::invariants::programs(stage)?;
    let hooks = super::invariants::hooked(stage.node(0)?, ["eth0"].iter())?;
    let ours = hooks.iter().flat_map(|hook| &hook.programs);
    let ours = ours
        .copied()
        .find(|id| all.get(id).is_some_and(|name| name == "from_uplink"));
    let id = ours.context("from_uplink at eth0")?;
    host.run(&format!("{BPFTOOL} prog pin id {id} /sys/fs/bpf/stale"))?;
    let copy = "pref 9 bpf direct-action object-pinned /sys/fs/bpf/stale";
    host.run(&format!("tc filter add dev eth0 ingress {copy}"))?;
    host.run("rm /sys/fs/bpf/stale")?;
    let filters = || host.run("tc filter show dev eth0 ingress");
    let before = filters()?;
    ensure!(before.contains("pref 9"), "no copy is there: {before}");
    stage.agent(0)?.kill_hard()?;
    stage.revive(0)?;
    stage.settle(LIMIT).context("beside a copy of ours")?;
    wait::until_true(
        "the copy goes",
        LIMIT,
        || Ok(!filters()?.contains("pref 9")),
    )?;
    let after = filters()?;
    ensure!(
        after.contains("u32"),
        "the filter of others is gone: {after}"
    );
    Ok(Injected::now().note(format!("off for a foreign filter after {took:.1?}")))
}

/// Row 32: more changes than a socket's buffer holds. Who reads keeps pace with them, so the agent
/// stands still meanwhile; one of its routes goes among them, of which it hears nothing.
pub fn netlink_flood(stage: &mut Stage) -> Result<Injected> {
    const ROUTES: u32 = 10_000;
    let host = stage.node(0)?.host.clone();
    let file = host.folder().join("batch");
    let lines = |verb: &str| -> String {
        let line = |number: u32| {
            let (high, low) = (number / 250, number % 250);
            format!("route {verb} blackhole 10.201.{high}.{low}/32\n")
        };
        (0..ROUTES).map(line).collect()
    };
    std::fs::write(&file, lines("add") + &lines("del")).context("write the batch")?;
    let before = overflows(&host)?;
    let began = Instant::now();
    stage.agent(0)?.daemon()?.signal(Signal::SIGSTOP)?;
    let flooded = host.ip(&format!("-batch {}", file.display()));
    let [(_, delete_route), ..] = DELETIONS;
    let deleted = delete_route(stage.node(0)?);
    stage.agent(0)?.daemon()?.signal(Signal::SIGCONT)?;
    let took = began.elapsed();
    flooded?;
    deleted?;
    let lost = overflows(&host)?.saturating_sub(before);
    ensure!(lost > 0, "no socket ran over");
    Ok(Injected::now().note(format!(
        "{} changes in {took:.1?}, {lost} events lost",
        2 * ROUTES
    )))
}

/// Events that a host's rtnetlink sockets had no room for.
fn overflows(host: &Host) -> Result<u64> {
    const ROUTE: &str = "0";
    let text = host.run("cat /proc/net/netlink")?;
    let drops = text.lines().skip(1).filter_map(|line| {
        let mut columns = line.split_whitespace().skip(1);
        let is_route = columns.next() == Some(ROUTE);
        let drops = columns.nth(6)?.parse::<u64>().ok()?;
        is_route.then_some(drops)
    });
    Ok(drops.sum())
}
