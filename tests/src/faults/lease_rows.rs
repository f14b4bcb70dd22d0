//! Rows about who has which subnet: 20 to 22, 24.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;

use super::{
    Injected,
    history::History,
    process_rows::everything_pinned,
    stage::{Stage, TTL},
};
use crate::{
    agent::{Agent, Flags},
    cluster::Cut,
    container::{Container, Place as _, add_bridge},
    etcd::PREFIX,
    probe, wait,
};

/// For a lease to end after its TTL: etcd takes a second or two more.
const EXPIRY: Duration = Duration::from_secs(30);
const LIMIT: Duration = Duration::from_secs(30);

/// Row 20.
pub fn an_expired_lease(stage: &mut Stage) -> Result<Injected> {
    stage.require("lease-ttl")?;
    let (address, subnet) = (
        stage.node(0)?.host.address,
        stage.node(0)?.env.subnet.trunc(),
    );
    let unready = stage.times_unready()?;
    stage.cluster.cut_all(address, Cut::BlackHole)?;
    wait::until_true("the lease ends", TTL + EXPIRY, || {
        let records = super::truth::records(&stage.cluster, &stage.bad)?;
        Ok(records.iter().all(|record| record.subnet != subnet))
    })?;
    let meanwhile = silent_and_ready(stage, subnet);
    stage.cluster.heal()?;
    let injected = Injected::now();
    meanwhile?;
    ensure!(
        stage.times_unready()? == unready,
        "silence of the store made it unready"
    );
    stage.settle(LIMIT)?;
    let took = injected.healed.elapsed();
    Ok(injected.note(format!("its own subnet again after {took:.1?}")))
}

/// Who is cut off is ready and says since when nothing is confirmed; the others see one lease end and
/// let its peer go.
fn silent_and_ready(stage: &Stage, subnet: Ipv4Net) -> Result<()> {
    let host = &stage.node(0)?.host;
    wait::until_true("it says that its lease is unconfirmed", LIMIT, || {
        let ready = host.weft(&["status"])?.0 == 0;
        ensure!(ready, "silence of the store made it unready");
        let lease = host.component("lease")?;
        Ok(lease.starts_with("degraded: lease unconfirmed since "))
    })?;
    for other in stage.nodes.iter().skip(1) {
        let what = format!("{} has no peer {subnet}", other.host.label);
        let subnet = subnet.to_string();
        wait::until_true(&what, LIMIT, || {
            let peers = other.host.peers()?;
            Ok(peers.iter().all(|peer| peer.subnet != subnet))
        })?;
    }
    Ok(())
}

/// Row 24: a clone of the first host appears.
pub fn one_address_twice(stage: &mut Stage) -> Result<Injected> {
    let prefix = format!("{PREFIX}/subnets/");
    let history = History::start(&stage.cluster, &prefix, stage.log("twins"))?;
    let (first, address) = (stage.node(0)?.host.clone(), stage.node(0)?.host.address);
    let pinned = everything_pinned(&first)?;
    let host = stage.host(5)?;
    let mut flags = stage.flags();
    // It has it by its own configuration: two hosts with one address cannot be on one wire.
    let clone = ["--iface=eth0".to_owned(), format!("--public-ip={address}")];
    flags.more.extend(clone);
    let clone = Agent::start(&host, flags)?;
    stage.spares.push(clone);
    let injected = Injected::now();
    wait::until_true("both say public_ip_conflict", LIMIT, || {
        let says = |host: &crate::host::Host| -> Result<bool> {
            let (code, status, _) = host.weft(&["status", "-o", "json"])?;
            Ok(code == 1 && status.contains("public_ip_conflict"))
        };
        Ok(says(&first)? && says(&host)?)
    })?;
    let said = injected.healed.elapsed();
    // Whoever writes on after that writes for ever.
    let before = history.changes(&stage.cluster)?.len();
    stage.endure(Duration::from_secs(6), Duration::from_secs(30))?;
    let after = history.changes(&stage.cluster)?.len();
    ensure!(
        after <= before + 2,
        "they write on: {before} changes, then {after}"
    );
    let now = everything_pinned(&first)?;
    ensure!(now == pinned, "pinned: {pinned:?}, then {now:?}");
    Ok(injected.note(format!("said after {said:.1?}, {before} changes of keys")))
}

/// Row 21.
pub fn a_stolen_subnet(stage: &mut Stage) -> Result<Injected> {
    stage.require("lease-ttl")?;
    let prefix = format!("{PREFIX}/subnets/");
    let history = History::start(&stage.cluster, &prefix, stage.log("history"))?;
    let (address, env) = (stage.node(0)?.host.address, stage.node(0)?.env);
    let subnet = env.subnet.trunc();
    stage.cluster.cut_all(address, Cut::Refuse)?;
    wait::until_true("the lease ends", TTL + EXPIRY, || {
        let records = super::truth::records(&stage.cluster, &stage.bad)?;
        Ok(records.iter().all(|record| record.subnet != subnet))
    })?;
    // A new host asks for the subnet that its file names.
    let host = stage.host(4)?;
    fs::write(host.file("/run/flannel/subnet.env"), env.text()).context("write subnet.env")?;
    let mut thief = Agent::start(&host, stage.flags())?;
    ensure!(thief.ready()?.subnet == env.subnet, "it has another subnet");
    stage.spares.push(thief);
    stage.cluster.heal()?;
    let injected = Injected::now();
    let loser = stage.node(0)?.host.clone();
    wait::until_true("the loser says so", LIMIT, || {
        let ready = loser.weft(&["status"])?.0 == 0;
        let lease = loser.component("lease")?;
        Ok(!ready && lease.contains("subnet_lost"))
    })
    .with_context(|| loser.component("lease").unwrap_or_default())?;
    let said = injected.healed.elapsed();
    the_new_owner_is_reached(stage, &host, &env)?;
    the_old_owner_is_not(stage)?;
    let live = history.ensure_apart(&stage.cluster)?;
    let owner = live.iter().find(|record| record.subnet == subnet);
    let owner = owner.context("an owner at the end")?;
    ensure!(owner.address == host.address, "overwritten: {owner:?}");
    Ok(injected.note(format!("subnet_lost after {said:.1?}")))
}

/// A container of the new owner has an address that one of the loser's has, too.
fn the_new_owner_is_reached(
    stage: &Stage,
    host: &std::sync::Arc<crate::host::Host>,
    env: &crate::subnet_env::SubnetEnv,
) -> Result<()> {
    add_bridge(host, env)?;
    let container = Container::new(host, env, 1)?;
    let from = stage.node(1)?.container(0)?;
    wait::until_true("the new owner's container answers", LIMIT, || {
        let pings = probe::ping(from, container.address(), "--count 1 --patience-ms 300")?;
        Ok(pings.replies == 1)
    })
}

/// What the loser's containers still send goes nowhere, and is counted.
fn the_old_owner_is_not(stage: &Stage) -> Result<()> {
    let (from, to) = (stage.node(0)?.container(0)?, stage.node(1)?.container(0)?);
    let lost = || -> Result<u64> {
        let counters = stage.node(0)?.host.counters()?.counters;
        let ours = counters
            .iter()
            .filter(|count| count.reason.ends_with("subnet_lost"));
        Ok(ours.map(|count| count.packets).sum())
    };
    let before = lost()?;
    let began = Instant::now();
    let pings = probe::ping(from, to.address(), "--count 5 --patience-ms 200")?;
    ensure!(
        pings.replies == 0,
        "the loser's container was answered: {pings:?}"
    );
    let after = lost()?;
    ensure!(
        after > before,
        "nothing counted under subnet_lost in {:?}",
        began.elapsed()
    );
    Ok(())
}

/// Row 22.
pub fn a_race_for_subnets(stage: &mut Stage) -> Result<Injected> {
    const AGENTS: u8 = 20;
    const SUBNETS: usize = 16;
    let config = r#"{"Network":"188.174.0.0/16","SubnetLen":24,"SubnetMin":"188.174.1.0","SubnetMax":"188.174.16.0","Backend":{"Type":"vxlan"}}"#;
    stage.cluster.put("/race/config", config)?;
    let history = History::start(&stage.cluster, "/race/subnets/", stage.log("race"))?;
    let hosts: Vec<_> = (0..AGENTS)
        .map(|number| stage.host(20 + number))
        .collect::<Result<_>>()?;
    let mut flags = Flags::new(&stage.cluster.endpoints());
    flags.datapath = "kernel";
    flags.more.push("--etcd-prefix=/race".to_owned());
    let began = Instant::now();
    for host in &hosts {
        stage.spares.push(Agent::start(host, flags.clone())?);
    }
    let (mut ready, mut refused) = (Vec::new(), 0);
    for agent in &mut stage.spares {
        let host = agent.host.clone();
        let ended = wait::until("it has a subnet or has ended", LIMIT, || {
            if host.weft(&["status"])?.0 == 0 {
                return Ok(Some(None));
            }
            Ok(agent.daemon()?.ended()?.map(Some))
        })?;
        match ended {
            None => ready.push(crate::subnet_env::SubnetEnv::read(
                &host.file(crate::subnet_env::SubnetEnv::path()),
            )?),
            Some(status) => {
                ensure!(
                    status.code() == Some(69),
                    "{} ended with {status}",
                    host.label
                );
                ensure!(agent.tail().contains("no free subnet"), "{}", agent.tail());
                refused += 1;
            }
        }
    }
    let took = began.elapsed();
    let live = history.ensure_apart(&stage.cluster)?;
    let distinct: std::collections::BTreeSet<_> = ready.iter().map(|env| env.subnet).collect();
    ensure!(
        distinct.len() == SUBNETS && ready.len() == SUBNETS && live.len() == SUBNETS,
        "{} agents have {} subnets, {} in the store, {refused} refused",
        ready.len(),
        distinct.len(),
        live.len()
    );
    no_orphans(stage)?;
    for agent in &mut stage.spares {
        if agent.daemon()?.ended()?.is_none() {
            agent.kill_hard()?;
        }
    }
    stage.cluster.ctl(&["del", "--prefix", "/race/"])?;
    Ok(Injected::now().note(format!("settled among themselves in {took:.1?}")))
}

/// Every lease of etcd's has a key: those that were granted in vain were given back.
pub fn no_orphans(stage: &Stage) -> Result<()> {
    let listed = stage.cluster.ctl(&["lease", "list"])?;
    let ids = listed
        .lines()
        .filter(|line| !line.is_empty() && line.chars().all(|digit| digit.is_ascii_hexdigit()));
    for id in ids {
        let told = stage.cluster.ctl(&["lease", "timetolive", id, "--keys"])?;
        let is_empty = told.contains("attached keys([])");
        ensure!(!is_empty, "a lease without a key: {told}");
    }
    Ok(())
}
