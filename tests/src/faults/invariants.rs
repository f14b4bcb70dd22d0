//! What must hold after every fault, on every host with an agent: I1 to I4 and I6 of the matrix.
//! I5, which takes time to see, is in `pulse.rs`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use serde_json::Value;

use super::{
    stage::{HEALTH, Stage},
    truth::{self, Record},
};
use crate::{
    command,
    container::BRIDGE,
    paths::{self, BPFTOOL},
    report::Hooked,
    world::{Driver, Node},
};

const DEVICE: &str = "flannel.1";
const OURS: [&str; 6] = [
    "from_bridge",
    "from_container",
    "from_overlay",
    "from_uplink",
    "to_container",
    "to_overlay",
];

/// Fails with the first that does not hold.
pub fn check(stage: &Stage) -> Result<()> {
    let records = truth::records(&stage.cluster, &stage.bad)?;
    truth::ensure_apart(&records)?;
    let names = programs(stage)?;
    for node in &stage.nodes {
        if matches!(&node.driver, Driver::Weft(agent) if agent.runs()) {
            let label = &node.host.label;
            let own = own(node, &records);
            let own = own.with_context(|| format!("I2 on {label}: {records:?}"))?;
            let others: Vec<_> = records.iter().filter(|record| **record != own).collect();
            maps(node, &others).with_context(|| format!("I1 on {label}"))?;
            kernel(node, &others).with_context(|| format!("I4 on {label}"))?;
            hooks(node, &names).with_context(|| format!("I3 on {label}"))?;
            status(stage, node, others.len()).with_context(|| format!("I6 on {label}"))?;
        }
    }
    Ok(())
}

/// I2: the running agent's subnet is the key that it owns, and says who it is.
fn own(node: &Node, records: &[Record]) -> Result<Record> {
    let subnet = node.env.subnet.trunc();
    let own = records.iter().find(|record| record.subnet == subnet);
    let own = own.with_context(|| format!("no record of {subnet}"))?;
    let links = json(node, "link show")?;
    let mac = list(&links)
        .find(|link| text(link, "/ifname") == DEVICE)
        .map(|link| text(link, "/address").to_owned());
    let addresses = json(node, "-4 address show dev eth0")?;
    let address = own.address.to_string();
    let ours = list(&addresses)
        .flat_map(|link| link.pointer("/addr_info").into_iter().flat_map(list))
        .any(|info| text(info, "/local") == address);
    ensure!(ours, "{own:?} is not behind this host's address");
    ensure!(
        mac.as_ref() == Some(&own.mac),
        "the device has {mac:?}, the record {own:?}"
    );
    Ok(own.clone())
}

/// I1: the programs know exactly the others, in all fields.
fn maps(node: &Node, others: &[&Record]) -> Result<()> {
    let wanted: BTreeSet<_> = others
        .iter()
        .map(|record| {
            (
                record.subnet.to_string(),
                record.address.to_string(),
                record.mac.clone(),
            )
        })
        .collect();
    let there: BTreeSet<_> = node
        .host
        .peers()?
        .into_iter()
        .map(|peer| (peer.subnet, peer.vtep, peer.mac))
        .collect();
    same(&wanted, &there)
}

/// I4: so does the kernel.
fn kernel(node: &Node, others: &[&Record]) -> Result<()> {
    let dev = format!("show dev {DEVICE}");
    let gateway = |net: &Ipv4Net| net.network().to_string();
    let routes = json(node, &format!("route {dev}"))?;
    let there = list(&routes).map(|route| {
        let (to, via) = (text(route, "/dst"), text(route, "/gateway"));
        (to.to_owned(), via.to_owned())
    });
    let wanted = others
        .iter()
        .map(|record| (record.subnet.to_string(), gateway(&record.subnet)));
    same(&wanted.collect(), &there.collect()).context("routes")?;

    let neighbours = json(node, &format!("neigh {dev} nud permanent"))?;
    let there = list(&neighbours).map(|entry| {
        let (address, mac) = (text(entry, "/dst"), text(entry, "/lladdr"));
        (address.to_owned(), mac.to_owned())
    });
    let wanted = others
        .iter()
        .map(|record| (gateway(&record.subnet), record.mac.clone()));
    same(&wanted.collect(), &there.collect()).context("neighbours")?;

    let ns = node.host.ns.name();
    let fdb = node.host.run(&format!("bridge -n {ns} -j fdb {dev}"));
    let fdb = fdb.or_else(|_| node.host.run(&format!("bridge -j fdb {dev}")))?;
    let fdb: Value = serde_json::from_str(&fdb).context("parse the FDB")?;
    let there = list(&fdb).filter(|entry| entry.pointer("/dst").is_some());
    let there = there.map(|entry| {
        let (mac, address) = (text(entry, "/mac"), text(entry, "/dst"));
        (mac.to_owned(), address.to_owned())
    });
    let wanted = others
        .iter()
        .map(|record| (record.mac.clone(), record.address.to_string()));
    same(&wanted.collect(), &there.collect()).context("FDB")
}

/// I3: one program of ours at each hook, by a pinned link, and none elsewhere.
fn hooks(node: &Node, names: &BTreeMap<u32, String>) -> Result<()> {
    let links = json(node, "link show")?;
    let devices: BTreeMap<String, u64> = list(&links)
        .filter_map(|link| {
            let index = link.pointer("/ifindex")?.as_u64()?;
            Some((text(link, "/ifname").to_owned(), index))
        })
        .collect();
    let mut wanted = BTreeSet::from([
        ("eth0".to_owned(), "ingress", "from_uplink"),
        (DEVICE.to_owned(), "ingress", "from_overlay"),
        (DEVICE.to_owned(), "egress", "to_overlay"),
        (BRIDGE.to_owned(), "ingress", "from_bridge"),
    ]);
    for container in &node.containers {
        wanted.insert((container.port.clone(), "ingress", "from_container"));
        wanted.insert((container.port.clone(), "egress", "to_container"));
    }
    let hooked = hooked(node, devices.keys())?;
    let mut there = Vec::new();
    for hook in &hooked {
        for program in &hook.programs {
            let name = names.get(program).map_or("", String::as_str);
            if let Some(ours) = OURS.iter().find(|ours| **ours == name) {
                there.push((hook.device.clone(), hook.side.as_str(), *ours));
            }
        }
    }
    let distinct: BTreeSet<_> = there.iter().cloned().collect();
    same(&wanted, &distinct)?;
    ensure!(
        distinct.len() == there.len(),
        "one of them twice: {there:?}"
    );
    pins(node, &distinct, &devices)
}

/// The pins are those of the links, and of every map once.
fn pins(
    node: &Node,
    hooks: &BTreeSet<(String, &str, &str)>,
    devices: &BTreeMap<String, u64>,
) -> Result<()> {
    let text = node.host.run("find /sys/fs/bpf/weft -type f")?;
    let (links, rest): (Vec<_>, Vec<_>) = text.lines().partition(|pin| pin.contains("/links/"));
    let there: BTreeSet<_> = links
        .iter()
        .filter_map(|pin| Some(pin.rsplit_once('/')?.1.to_owned()))
        .collect();
    let wanted = hooks
        .iter()
        .filter_map(|(device, _, hook)| Some(format!("{hook}-{}", devices.get(device)?)));
    same(&wanted.collect(), &there).context("pinned links")?;
    let maps = rest.iter().filter_map(|pin| Some(pin.rsplit_once('/')?.1));
    same(&weft_common::abi::MAPS.into(), &maps.collect()).context("pinned maps")?;
    ensure!(
        rest.len() == weft_common::abi::MAPS.len(),
        "of more than one version: {rest:?}"
    );
    Ok(())
}

/// I6: the agent says of itself what the lab knows.
fn status(stage: &Stage, node: &Node, peers: usize) -> Result<()> {
    let status = node.host.status()?;
    let bad: Vec<_> = status
        .pointer("/components")
        .into_iter()
        .flat_map(list)
        .filter(|part| !part.pointer("/ok").is_some_and(|ok| ok == true))
        .filter(|part| !stage.disturbed.contains(text(part, "/name")))
        .map(|part| format!("{}: {}", text(part, "/name"), text(part, "/detail")))
        .collect();
    ensure!(bad.is_empty(), "{}", bad.join("; "));
    ensure!(
        status.pointer("/ready").is_some_and(|ready| ready == true),
        "not ready"
    );
    for path in ["/readyz", "/healthz", "/livez"] {
        let (line, body) = node.host.get(HEALTH, path)?;
        ensure!(line.contains(" 200 "), "{path}: {line}: {body}");
    }
    let subnet = node.env.subnet.trunc().to_string();
    ensure!(
        text(&status, "/subnet") == subnet,
        "its subnet: {}",
        text(&status, "/subnet")
    );
    let told = status.pointer("/peers").and_then(Value::as_u64);
    ensure!(
        told == Some(peers as u64),
        "it says {told:?} peers, not {peers}"
    );
    let ignored = status
        .pointer("/ignored")
        .into_iter()
        .flat_map(list)
        .count();
    ensure!(
        ignored == stage.bad.len(),
        "{ignored} records ignored, not {}: {:?}",
        stage.bad.len(),
        status.pointer("/ignored")
    );
    Ok(())
}

/// Programs of the whole machine by their number.
pub fn programs(stage: &Stage) -> Result<BTreeMap<u32, String>> {
    let text = stage
        .node(0)?
        .host
        .run(&format!("{BPFTOOL} -j prog show"))?;
    let all: Value = serde_json::from_str(&text).context("parse bpftool's programs")?;
    let pairs = list(&all).filter_map(|program| {
        let id = u32::try_from(program.pointer("/id")?.as_u64()?).ok()?;
        Some((id, text_of(program, "/name")))
    });
    Ok(pairs.collect())
}

/// What hangs at a host's devices.
pub fn hooked(
    node: &Node,
    devices: impl Iterator<Item = impl AsRef<std::ffi::OsStr>>,
) -> Result<Vec<Hooked>> {
    let mut probe = node.host.command(paths::probe()?);
    let text = command::run(probe.arg("hooks").args(devices))?;
    serde_json::from_str(&text).with_context(|| format!("parse {text:?}"))
}

fn json(node: &Node, words: &str) -> Result<Value> {
    let text = node.host.ip(&format!("-j {words}"))?;
    // Nothing at all is printed where there is nothing to show.
    let text = if text.trim().is_empty() { "[]" } else { &text };
    serde_json::from_str(text).with_context(|| format!("parse ip's {words}: {text:?}"))
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, at: &str) -> &'a str {
    value
        .pointer(at)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

fn text_of(value: &Value, at: &str) -> String {
    text(value, at).to_owned()
}

fn same<T: Ord + std::fmt::Debug>(wanted: &BTreeSet<T>, there: &BTreeSet<T>) -> Result<()> {
    let missing: Vec<_> = wanted.difference(there).collect();
    let extra: Vec<_> = there.difference(wanted).collect();
    ensure!(
        missing.is_empty() && extra.is_empty(),
        "missing {missing:?}, too much {extra:?}"
    );
    Ok(())
}
