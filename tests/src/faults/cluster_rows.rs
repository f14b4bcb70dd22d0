//! Rows about etcd's members and the way to them: 7 to 11, 14, 16, 17.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Injected, stage::Stage};
use crate::{cluster::Cut, host::Host, subnet_env::SubnetEnv, wait, world::Node};

const LIMIT: Duration = Duration::from_secs(20);
/// For a member that answers nothing to be found out.
const FROZEN: Duration = Duration::from_secs(3);
/// For a way that swallows everything: the pause between signs of life, the wait for one, a second,
/// and what the lab needs to look.
const FOUND_OUT: Duration = Duration::from_secs(4);
/// A host that nobody has, and two hardware addresses of it.
const THIRD: u8 = 200;
const MAC: &str = "0a:00:00:00:c8:01";
const OTHER_MAC: &str = "0a:00:00:00:c8:02";

/// Whether a host's agent is ready, and its components that are not well.
fn mind(stage: &Stage, index: usize) -> Result<(bool, Vec<String>)> {
    let status = stage.node(index)?.host.status()?;
    let ready = status.pointer("/ready").is_some_and(|ready| ready == true);
    let parts = status.pointer("/components").and_then(|all| all.as_array());
    let bad = parts.into_iter().flatten().filter(|part| {
        let ok = part.pointer("/ok");
        ok.is_some_and(|ok| ok == false)
    });
    Ok((ready, bad.map(|part| part.to_string()).collect()))
}

/// Puts a pretended host in, waits until everybody knows it, and takes it out again. Answers with
/// the longest time that it took anybody.
fn heard(stage: &Stage, limit: Duration) -> Result<Duration> {
    let began = Instant::now();
    stage.pretend(THIRD, MAC)?;
    for index in 0..stage.nodes.len() {
        stage.until_peer(
            index,
            THIRD,
            Some(MAC),
            limit.saturating_sub(began.elapsed()),
        )?;
    }
    let took = began.elapsed();
    stage.forget(THIRD)?;
    for index in 0..stage.nodes.len() {
        stage.until_peer(index, THIRD, None, LIMIT)?;
    }
    Ok(took)
}

/// Row 7.
pub fn a_silent_store(stage: &mut Stage) -> Result<Injected> {
    let before = files(stage)?;
    let unready = stage.times_unready()?;
    stage.cluster.kill_all()?;
    let began = Instant::now();
    wait::until_true("every agent says so", Duration::from_secs(5), || {
        let mut all = true;
        for index in 0..stage.nodes.len() {
            let (ready, bad) = mind(stage, index)?;
            ensure!(ready, "not ready: {bad:?}");
            all &= bad.iter().any(|part| part.contains("\"store\""));
        }
        Ok(all)
    })?;
    let said = began.elapsed();
    stage.endure(Duration::from_secs(30), Duration::from_secs(300))?;
    for index in 0..stage.nodes.len() {
        let (ready, bad) = mind(stage, index)?;
        ensure!(ready, "not ready: {bad:?}");
    }
    stage.cluster.resume_all()?;
    let injected = Injected::now().note(format!("degraded after {said:.1?}"));
    stage.settle(LIMIT)?;
    let after = files(stage)?;
    ensure!(before == after, "subnet.env: {before:?}, then {after:?}");
    ensure!(
        stage.times_unready()? == unready,
        "an agent was not ready meanwhile"
    );
    Ok(injected)
}

/// What every host's `subnet.env` says.
fn files(stage: &Stage) -> Result<Vec<SubnetEnv>> {
    let read = |node: &Node| SubnetEnv::read(&node.host.file(SubnetEnv::path()));
    stage.nodes.iter().map(read).collect()
}

/// Row 8.
pub fn start_without_store(stage: &mut Stage) -> Result<Injected> {
    stage.cluster.kill_all()?;
    let agent = stage.agent(0)?;
    agent.kill_hard()?;
    agent.restart()?;
    let host = stage.node(0)?.host.clone();
    wait::until_true("the start waits for etcd, and says so", LIMIT, || {
        Ok(host
            .component("store")
            .is_ok_and(|detail| !detail.is_empty()))
    })?;
    let (code, ..) = host.weft(&["status"])?;
    ensure!(code == 1, "status of an agent that waits ended with {code}");
    stage.endure(Duration::from_secs(3), Duration::from_secs(15))?;
    stage.cluster.resume_all()?;
    let injected = Injected::now();
    stage.agent(0)?.ready()?;
    let took = injected.healed.elapsed();
    ensure!(
        took < Duration::from_millis(2500),
        "ready {took:.1?} after etcd"
    );
    Ok(injected.note(format!("ready {took:.1?} after etcd")))
}

/// Row 9.
pub fn a_killed_leader(stage: &mut Stage) -> Result<Injected> {
    let leader = stage.cluster.leader()?;
    stage.cluster.kill(leader)?;
    let began = Instant::now();
    // etcdctl itself has to wait for the election.
    wait::until_true("the rest elects another", Duration::from_secs(8), || {
        let value = super::truth::value(&format!("192.0.2.{THIRD}"), MAC);
        let key = crate::cluster::lease_key(&format!("188.172.{THIRD}.0-24"));
        let put = ["--command-timeout=1s", "put", &key, &value];
        stage.cluster.ctl(&put).map(|_| true)
    })?;
    let elected = began.elapsed();
    for index in 0..stage.nodes.len() {
        stage.until_peer(index, THIRD, Some(MAC), Duration::from_secs(4))?;
    }
    let took = began.elapsed();
    stage.forget(THIRD)?;
    stage.cluster.resume(leader)?;
    // Four seconds in all, unless the members alone take longer to agree.
    let most = elected.max(Duration::from_millis(2500)) + Duration::from_millis(1500);
    ensure!(took < most, "heard after {took:.1?}");
    let note = format!("written after {elected:.1?}, heard everywhere after {took:.1?}");
    Ok(Injected::now().note(note))
}

/// The member that a host uses, made a follower: what happens to it is not an election.
fn followed(stage: &Stage, index: usize) -> Result<usize> {
    let used = stage.member_of(index)?;
    if stage.cluster.leader()? == used {
        stage.cluster.lead_elsewhere(used)?;
        wait::until_true("another member leads", LIMIT, || {
            Ok(stage.cluster.leader()? != used)
        })?;
        // An agent may leave a member for the election.
        return stage.member_of(index);
    }
    Ok(used)
}

/// Freezes a follower that a host's agent uses. Where the agent has left it for something else at that
/// very moment, another: the agent would not notice.
fn freeze_under(stage: &mut Stage, index: usize) -> Result<(usize, String)> {
    const TRIES: u32 = 3;
    for _ in 0..TRIES {
        let used = followed(stage, index)?;
        stage.cluster.freeze(used)?;
        stage.endure(FROZEN, FROZEN)?;
        let frozen = stage.cluster.members.get(used).context("a member")?;
        let named = format!("left alone: {}", frozen.endpoint());
        let said = stage.node(index)?.host.component("endpoint")?;
        if said.starts_with(&frozen.endpoint()) || said.contains(&named) {
            return Ok((used, named));
        }
        println!("    left before it was frozen: {named}, {said}");
        stage.cluster.thaw(used)?;
    }
    bail!("{TRIES} times the agent used another member than it said")
}

/// Row 10.
pub fn a_frozen_member(stage: &mut Stage) -> Result<Injected> {
    let (used, named) = freeze_under(stage, 0)?;
    let mut slowest = Duration::ZERO;
    for _ in 0..stage.times(5, 50) {
        slowest = slowest.max(heard(stage, LIMIT)?);
    }
    let host = stage.node(0)?.host.clone();
    wait::until_true("the frozen member is left alone", LIMIT, || {
        Ok(host.component("endpoint")?.contains(&named))
    })
    .with_context(|| host.component("endpoint").unwrap_or_default())?;
    stage.cluster.thaw(used)?;
    ensure!(
        slowest < Duration::from_millis(1500),
        "the slowest change took {slowest:.1?}"
    );
    Ok(Injected::now().note(format!("the slowest change took {slowest:.1?}")))
}

/// Row 11.
pub fn a_black_hole(stage: &mut Stage) -> Result<Injected> {
    cut_off(stage, Cut::BlackHole)
}

/// Cuts a host off from the member that it uses, in silence, and waits until it uses another.
pub fn cut_off(stage: &mut Stage, how: Cut) -> Result<Injected> {
    let used = stage.member_of(0)?;
    let address = stage.node(0)?.host.address;
    let member = stage.cluster.members.get(used).context("a member")?;
    member.cut(address, how)?;
    let began = Instant::now();
    stage.pretend(THIRD, MAC)?;
    let found = stage.until_peer(0, THIRD, Some(MAC), LIMIT);
    let took = began.elapsed();
    let moved = wait::until_true("another member is used", LIMIT, || {
        Ok(stage.member_of(0)? != used)
    });
    let moved_after = began.elapsed();
    stage.forget(THIRD)?;
    let gone = stage.until_peer(0, THIRD, None, LIMIT);
    stage.cluster.heal()?;
    found?;
    moved?;
    gone?;
    ensure!(
        took.max(moved_after) < FOUND_OUT,
        "a change was heard after {took:.1?}, another member used after {moved_after:.1?}"
    );
    let note =
        format!("a change was heard after {took:.1?}, another member used after {moved_after:.1?}");
    Ok(Injected::now().note(note))
}

/// Row 14.
pub fn compaction(stage: &mut Stage) -> Result<Injected> {
    let (gone, changed, new) = (201, 202, 203);
    let mac = |third: u8| format!("0a:00:00:00:{third:02x}:01");
    for third in [gone, changed] {
        stage.pretend(third, &mac(third))?;
        stage.until_peer(0, third, Some(&mac(third)), LIMIT)?;
    }
    let address = stage.node(0)?.host.address;
    stage.cluster.cut_all(address, Cut::Refuse)?;
    wait::until_true("the agent knows that it is cut off", LIMIT, || {
        let (_, bad) = mind(stage, 0)?;
        Ok(bad.iter().any(|part| part.contains("\"store\"")))
    })?;
    stage.forget(gone)?;
    let value = super::truth::value("192.0.2.212", OTHER_MAC);
    stage
        .cluster
        .put_lease(&format!("188.172.{changed}.0-24"), &value)?;
    stage.pretend(new, &mac(new))?;
    let many = |number: u32| (format!("/weft-faults/{number}"), "x".to_owned());
    stage
        .cluster
        .put_all(&(0..2000).map(many).collect::<Vec<_>>())?;
    let revision = stage.cluster.revision()?.to_string();
    stage.cluster.ctl(&["compact", &revision])?;
    stage.cluster.heal()?;
    let injected = Injected::now();
    // All three are in the store: I1 and I4 compare all their fields.
    let took = stage.settle(LIMIT)?;
    ensure!(took < Duration::from_secs(3), "right after {took:.1?}");
    for third in [changed, new] {
        stage.forget(third)?;
    }
    Ok(injected.note(format!("right after {took:.1?}")))
}

/// Row 16: another cluster, with nothing in it but the config. One agent is away, so that the others
/// keep it as a peer; and one of those restarts meanwhile.
pub fn data_lost(stage: &mut Stage) -> Result<Injected> {
    let away = stage.node(1)?.env.subnet.trunc().to_string();
    stage.cluster.kill_all()?;
    stage.agent(1)?.kill_hard()?;
    stage.cluster.wipe()?;
    stage.cluster.resume_all()?;
    stage.put_config(super::stage::CONFIG)?;
    let kept = |stage: &Stage, host: &Host| -> Result<()> {
        let records = super::truth::records(&stage.cluster, &stage.bad)?;
        let back = records
            .iter()
            .any(|record| record.subnet.to_string() == away);
        ensure!(!back, "the store has {away}");
        let peers = host.peers()?;
        let knows = peers.iter().any(|peer| peer.subnet == away);
        ensure!(knows, "{} does not know {away}: {peers:?}", host.label);
        Ok(())
    };
    let host = stage.node(0)?.host.clone();
    wait::until_true("a host keeps the one that is away", LIMIT, || {
        Ok(host.component("kept_peers")?.contains("1:"))
    })?;
    kept(stage, &host)?;
    stage.agent(0)?.kill_hard()?;
    stage.revive(0)?;
    kept(stage, &host).context("after a restart")?;
    stage.revive(1)?;
    // Whoever keeps its peers for a while gets them back: I2 asks for the same subnets.
    stage.settle(LIMIT).context("in an empty cluster")?;
    let heard = thrown_back(stage).context("restored from an earlier day")?;
    Ok(Injected::now()
        .note("an agent that restarted kept its peer that was away")
        .note(format!(
            "a change was heard {heard:.1?} after it was written into restored data"
        )))
}

/// The same cluster with the data of an earlier time: its revisions go back. What was removed since
/// is there again, what was added is not, and what is written from then on is heard.
fn thrown_back(stage: &mut Stage) -> Result<Duration> {
    let (removed, added) = (207, 208);
    stage.pretend(removed, MAC)?;
    stage.until_peer(0, removed, Some(MAC), LIMIT)?;
    stage.cluster.kill_all()?;
    stage.cluster.save()?;
    stage.cluster.resume_all()?;
    stage.forget(removed)?;
    stage.pretend(added, OTHER_MAC)?;
    let many = |number: u32| (format!("/weft-faults/{number}"), "x".to_owned());
    stage
        .cluster
        .put_all(&(0..200).map(many).collect::<Vec<_>>())?;
    let ahead = stage.cluster.revision()?;
    stage.settle(LIMIT).context("ahead of what is restored")?;
    stage.cluster.kill_all()?;
    stage.cluster.rewind()?;
    stage.cluster.resume_all()?;
    let back = stage.cluster.revision()?;
    ensure!(back < ahead, "revision {ahead}, then {back}");
    // I1: exactly what is in the store, once the grace for what is lost is over.
    stage.settle(LIMIT)?;
    let heard = heard(stage, LIMIT)?;
    stage.forget(removed)?;
    Ok(heard)
}

/// Row 17.
pub fn prefix_deleted(stage: &mut Stage) -> Result<Injected> {
    let prefix = format!("{}/subnets/", crate::etcd::PREFIX);
    stage.cluster.ctl(&["del", "--prefix", &prefix])?;
    let injected = Injected::now();
    let wanted: Vec<_> = stage
        .nodes
        .iter()
        .map(|node| node.env.subnet.trunc())
        .collect();
    wait::until_true("everybody's key is back", LIMIT, || {
        let records = super::truth::records(&stage.cluster, &stage.bad)?;
        let back = |subnet: &ipnet::Ipv4Net| records.iter().any(|record| record.subnet == *subnet);
        Ok(wanted.iter().all(back))
    })?;
    let took = injected.healed.elapsed();
    ensure!(
        took < Duration::from_secs(2),
        "the keys were back after {took:.1?}"
    );
    Ok(injected.note(format!("the keys were back after {took:.1?}")))
}
