//! Rows about what is written in the store: 18, 19, 36.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;

use super::{Injected, stage::Stage, truth};
use crate::{cluster::lease_key, wait};

const LIMIT: Duration = Duration::from_secs(20);
const MUTANTS: u8 = 200;

/// Records that no agent may believe, by name.
fn records(stage: &Stage) -> Result<Vec<(String, String)>> {
    let value = |address: &str| truth::value(address, "0a:00:00:00:dc:01");
    let good = value("192.0.2.220");
    // Half of what another host has, and twice as much.
    let other = stage.node(1)?.env.subnet.trunc();
    let overlapping = [25, 23].map(|length| {
        let wide = Ipv4Net::new(other.network(), length).map(|net| net.trunc());
        let name = wide.map(|net| net.to_string().replace('/', "-"));
        name.map(|name| (name, value("192.0.2.229")))
    });
    let named = [
        ("nonsense", good.clone()),
        ("188.172.220.0-24", String::new()),
        ("188.172.221.0-24", "[1,2]".to_owned()),
        ("188.172.222.0-24", format!("{good}{}", " ".repeat(1 << 20))),
        ("188.172.223.0-24", good.replace("vxlan", "host-gw")),
        (
            "188.172.224.0-24",
            good.replace("0a:00:00:00:dc:01", "0a:00:00:00:dc"),
        ),
        ("188.172.225.0-24", value("0.0.0.0")),
        ("188.172.226.0-24", value("127.0.0.1")),
        ("10.0.7.0-24", good.clone()),
        (
            "188.172.227.0-24",
            good.replace("\"VNI\":1", "\"VNI\":2147483648"),
        ),
    ];
    let named = named.map(|(name, value)| Ok((name.to_owned(), value)));
    let all = named.into_iter().chain(overlapping);
    all.collect::<Result<_, _>>().context("a subnet")
}

/// Row 18.
pub fn bad_records(stage: &mut Stage) -> Result<Injected> {
    let mut names = Vec::new();
    for (name, value) in records(stage)? {
        stage.cluster.put_lease(&name, &value)?;
        stage.bad.insert(name.clone());
        names.push(name);
    }
    let outcome = stage.settle(LIMIT).context("with bad records");
    let mutated = outcome.and_then(|_| mutants(stage, &mut names));
    let own = stage.node(0)?.host.address;
    let impostor = mutated.and_then(|told| impostor(stage, own).map(|()| told));
    for name in &names {
        stage.cluster.delete_lease(name)?;
    }
    stage.bad.clear();
    let (refused, believed) = impostor?;
    let note =
        format!("of {MUTANTS} mutations {refused} were refused, {believed} are leases still");
    Ok(Injected::now().note(note))
}

/// A subnet that says it is behind the first host's address: that one knows better, and to the others
/// it is a lease like any other, beside which the first host's own goes on.
fn impostor(stage: &Stage, address: Ipv4Addr) -> Result<()> {
    let (third, mac) = (228, "0a:00:00:00:e4:01");
    let name = format!("188.172.{third}.0-24");
    stage
        .cluster
        .put_lease(&name, &truth::value(&address.to_string(), mac))?;
    let host = &stage.node(0)?.host;
    let judged = wait::until_true("it is named", LIMIT, || {
        let status = host.status()?.to_string();
        Ok(status.contains("names our own address"))
    });
    let known = (1..stage.nodes.len())
        .try_for_each(|index| stage.until_peer(index, third, Some(mac), LIMIT).map(drop));
    stage.cluster.delete_lease(&name)?;
    judged?;
    known
}

/// Damages a good record in many ways. What happens to be a lease still is one; the hosts that are
/// there keep theirs.
fn mutants(stage: &mut Stage, names: &mut Vec<String>) -> Result<(usize, usize)> {
    let good = truth::value("192.0.2.230", "0a:00:00:00:e6:01");
    let mut pairs = Vec::new();
    for number in 0..MUTANTS {
        let mut bytes = good.clone().into_bytes();
        for _ in 0..=stage.dice(3) {
            let at = usize::try_from(stage.dice(bytes.len() as u64))?;
            let printable = u8::try_from(32 + stage.dice(95))?;
            match (stage.dice(3), bytes.get_mut(at)) {
                (0, Some(byte)) => *byte = printable,
                (1, Some(_)) => drop(bytes.remove(at)),
                _ => bytes.insert(at, printable),
            }
        }
        // A network of their own: they meet no real lease, whatever becomes of them.
        let name = format!("188.172.{}.{}-28", 240 + number / 16, number % 16 * 16);
        let value = String::from_utf8(bytes).context("it stays printable")?;
        pairs.push((lease_key(&name), value));
        names.push(name);
    }
    let earlier = stage.bad.len();
    stage.cluster.put_all(&pairs)?;
    let mut refused = 0;
    let host = stage.node(0)?.host.clone();
    let peers = stage.nodes.len() - 1;
    wait::until_true("every mutation is judged", LIMIT, || {
        let status = host.status()?;
        let ignored = status.pointer("/ignored").and_then(|all| all.as_array());
        refused = ignored.map_or(0, Vec::len).saturating_sub(earlier);
        let known = host.peers()?.len() - peers;
        Ok(refused + known == usize::from(MUTANTS))
    })?;
    // The real ones are still there, each in all its fields.
    let real = truth::records(&stage.cluster, &names.iter().cloned().collect())?;
    for node in &stage.nodes {
        let there = node.host.peers()?;
        for record in real
            .iter()
            .filter(|record| record.subnet != node.env.subnet.trunc())
        {
            let (subnet, mac) = (record.subnet.to_string(), &record.mac);
            let found = there
                .iter()
                .any(|peer| peer.subnet == subnet && peer.mac == *mac);
            ensure!(found, "{record:?} is missing on {}", node.host.label);
        }
    }
    Ok((refused, usize::from(MUTANTS) - refused))
}

/// Row 36.
pub fn replaced_peer(stage: &mut Stage) -> Result<Injected> {
    let (third, old, new) = (205, "0a:00:00:00:cd:01", "0a:00:00:00:cd:02");
    stage.pretend(third, old)?;
    stage.until_peer(0, third, Some(old), LIMIT)?;
    let began = Instant::now();
    stage.pretend(third, new)?;
    stage.until_peer(0, third, Some(new), LIMIT)?;
    let took = began.elapsed();
    let fdb = stage.node(0)?.host.run("bridge fdb show dev flannel.1")?;
    ensure!(!fdb.contains(old) && fdb.contains(new), "{fdb}");
    ensure!(
        took < Duration::from_secs(1),
        "the old MAC was used for {took:.1?}"
    );
    stage.forget(third)?;

    // One whose lease runs out: nobody deletes it.
    let granted = stage.cluster.ctl(&["lease", "grant", "2"])?;
    let id = granted
        .split_whitespace()
        .nth(1)
        .context("a lease's number")?;
    let value = truth::value("192.0.2.206", "0a:00:00:00:ce:01");
    let lease = format!("--lease={id}");
    stage
        .cluster
        .ctl(&["put", &lease, &lease_key("188.172.206.0-24"), &value])?;
    stage.until_peer(0, 206, Some("0a:00:00:00:ce:01"), LIMIT)?;
    stage.until_peer(0, 206, None, LIMIT)?;
    Ok(Injected::now().note(format!("the new MAC after {took:.1?}")))
}

/// Row 19.
pub fn config_changed(stage: &mut Stage) -> Result<Injected> {
    let key = format!("{}/config", crate::etcd::PREFIX);
    let changes = [
        (
            "another VNI",
            r#"{"Network":"188.172.0.0/16","Backend":{"Type":"vxlan","VNI":7}}"#,
        ),
        (
            "another network",
            r#"{"Network":"10.0.0.0/8","Backend":{"Type":"vxlan"}}"#,
        ),
        ("garbage", "not json"),
        ("nothing", ""),
    ];
    let mut notes = Vec::new();
    let mut outcome = Ok(());
    for (what, config) in changes {
        if config.is_empty() {
            stage.cluster.delete(&key)?;
        } else {
            stage.cluster.put(&key, config)?;
        }
        outcome = outcome.and_then(|()| unmoved(stage, what));
        stage.put_config(super::stage::CONFIG)?;
        notes.push(what);
    }
    outcome?;
    Ok(Injected::now().note(format!("said, and nothing else: {}", notes.join(", "))))
}

/// Every agent says that the config is another one, and does as before.
fn unmoved(stage: &mut Stage, what: &str) -> Result<()> {
    for node in &stage.nodes {
        let label = &node.host.label;
        wait::until_true(&format!("{label} speaks of {what}"), LIMIT, || {
            Ok(!node.host.part("config")?.0)
        })?;
    }
    stage.disturbed.insert("config");
    let settled = stage.settle(LIMIT);
    stage.disturbed.remove("config");
    settled.map(drop).with_context(|| format!("with {what}"))
}
