//! Rows about a bad way to the store: 12, 13, 15.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::{
    Injected, cluster_rows,
    lease_rows::no_orphans,
    stage::{Stage, TTL},
    truth,
};
use crate::{
    agent::Agent,
    cluster::{Cut, lease_key},
    command,
    container::NetnsAt,
    lab::SWITCH,
    netns::Netns,
    probe::{self, Running},
    subnet_env::SubnetEnv,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Where the relay listens, on the switch.
const PORT: u16 = 5379;
/// Bytes that come back before an answer is lost: from the first greeting to after the claim.
const POINTS: [u32; 8] = [60, 150, 300, 450, 600, 800, 1100, 1600];

/// A relay on the switch to the first member.
fn relay(stage: &Stage, flags: &str) -> Result<Running> {
    let at = NetnsAt {
        ns: &stage.switch,
        address: SWITCH,
    };
    let member = stage.cluster.members.first().context("a member")?.address;
    probe::serve(&at, &format!("relay {SWITCH}:{PORT} {member}:2379 {flags}"))
}

fn through_relay() -> String {
    format!("http://{SWITCH}:{PORT}")
}

/// Has a host's agent use the relay, or all members again.
fn redirect(stage: &mut Stage, index: usize, endpoints: String) -> Result<()> {
    let agent = stage.agent(index)?;
    agent.kill_hard()?;
    agent.flags.endpoint = endpoints;
    stage.revive(index).map(drop)
}

/// Row 12: no answer comes back from the member; and an allocation whose answer is lost, at one
/// point after the other, is found again.
pub fn answers_lost(stage: &mut Stage) -> Result<Injected> {
    let cut = cluster_rows::cut_off(stage, Cut::Deaf)?;
    for (number, bytes) in (40..).zip(POINTS) {
        let _relay = relay(stage, &format!("--cut-after {bytes}"))?;
        let host = stage.host(number)?;
        let mut flags = stage.flags();
        flags.endpoint = through_relay();
        flags.datapath = "kernel";
        let mut agent = Agent::start(&host, flags)?;
        let env = agent
            .ready()
            .with_context(|| format!("cut after {bytes} bytes"))?;
        let records = truth::records(&stage.cluster, &stage.bad)?;
        let own: Vec<_> = records
            .iter()
            .filter(|own| own.address == host.address)
            .collect();
        ensure!(
            own.len() == 1 && own.iter().all(|own| own.subnet == env.subnet.trunc()),
            "cut after {bytes} bytes: {own:?}, and subnet.env says {}",
            env.subnet
        );
        agent.kill_hard()?;
        let name = env.subnet.trunc().to_string().replace('/', "-");
        no_orphans(stage).with_context(|| format!("cut after {bytes} bytes"))?;
        stage.cluster.revoke(&lease_key(&name))?;
    }
    let points = POINTS.len();
    let mut injected = Injected::now().note(format!("{points} allocations survived a lost answer"));
    injected.notes.extend(cut.notes);
    Ok(injected)
}

/// Row 13: everything late and uneven, and some of it lost.
pub fn a_slow_store(stage: &mut Stage) -> Result<Injected> {
    let _relay = relay(stage, "--delay-ms 50 --jitter-ms 300")?;
    let before = stage.node(0)?.env;
    redirect(stage, 0, through_relay())?;
    let lossy = Lossy::new(&stage.switch)?;
    let born = stage.born(0)?;
    let log = stage.node(0)?.host.folder().join("weft.log");
    let complaints = || -> Result<usize> {
        let log = std::fs::read_to_string(&log).context("read the log")?;
        Ok(log.matches("cannot follow the leases").count())
    };
    let earlier = complaints()?;
    let time = stage.endure(Duration::from_secs(20), Duration::from_secs(180))?;
    let restarts = complaints()? - earlier;
    stage.pretend(210, "0a:00:00:00:d2:01")?;
    let heard = stage.until_peer(0, 210, Some("0a:00:00:00:d2:01"), LIMIT);
    stage.forget(210)?;
    let heard = heard?;
    // Whom it does not see go it keeps for a while after a restart.
    stage.until_peer(0, 210, None, LIMIT)?;
    let now = stage.node(0)?;
    let env = SubnetEnv::read(&now.host.file(SubnetEnv::path()))?;
    ensure!(env == before, "another subnet: {env:?}");
    ensure!(stage.born(0)? == born, "its key was gone meanwhile");
    let dropped = lossy.end()?;
    redirect(stage, 0, stage.cluster.endpoints())?;
    // Once a minute.
    let most = usize::try_from(time.as_secs() / 60)?.max(1);
    ensure!(restarts <= most, "the watch broke {restarts} times");
    Ok(Injected::now().note(format!(
        "a change was heard after {heard:.1?}, {dropped} packets lost on the way, the watch broke {restarts} times"
    )))
}

/// One packet of twenty between the relay and its clients is lost, either way.
struct Lossy<'a>(&'a Netns);

impl<'a> Lossy<'a> {
    fn new(switch: &'a Netns) -> Result<Self> {
        let chain = |hook: &str, port: &str| {
            format!(
                "chain {hook} {{ type filter hook {hook} priority 0; ip protocol tcp tcp {port} {PORT} numgen random mod 100 < 5 counter drop; }} ; "
            )
        };
        // In the bridge: what is dropped as it leaves the relay's own stack is known to it.
        let rules = chain("input", "dport") + &chain("output", "sport");
        let table = format!("table bridge lossy {{ {rules} }}");
        command::run(switch.command("nft").arg(table))?;
        Ok(Self(switch))
    }

    /// Ends it, and says how many packets it took.
    fn end(self) -> Result<u64> {
        let text = self.0.run("nft -j list table bridge lossy")?;
        let all: serde_json::Value = serde_json::from_str(&text).context("parse nft's table")?;
        let rules = all.pointer("/nftables").and_then(|all| all.as_array());
        let words = rules.into_iter().flatten().filter_map(|rule| {
            let words = rule.pointer("/rule/expr")?;
            words.as_array()
        });
        let packets = words.flatten().filter_map(|word| {
            let packets = word.pointer("/counter/packets")?;
            packets.as_u64()
        });
        let packets = packets.sum();
        ensure!(packets > 0, "nothing was lost on the way: {text}");
        Ok(packets)
    }
}

impl Drop for Lossy<'_> {
    fn drop(&mut self) {
        // It may be gone with its namespace.
        let _ = self.0.run("nft delete table bridge lossy");
    }
}

/// Row 15: the way breaks in the middle of what there is to catch up with.
pub fn a_broken_catch_up(stage: &mut Stage) -> Result<Injected> {
    const REVISIONS: u32 = 5000;
    const PEERS: u32 = 10;
    let way = relay(stage, "")?;
    // Its lease is to outlive what is written meanwhile.
    let usual = stage.agent(0)?.flags.clone();
    let ttl = format!("--lease-ttl={}s", TTL.as_secs());
    for flag in &mut stage.agent(0)?.flags.more {
        if *flag == ttl {
            "--lease-ttl=120s".clone_into(flag);
        }
    }
    redirect(stage, 0, through_relay())?;
    drop(way);
    let member = stage.cluster.members.first().context("a member")?.address;
    let at = NetnsAt {
        ns: &stage.switch,
        address: SWITCH,
    };
    let key = lease_key("188.172.11%.0-24");
    let value = truth::value("192.0.2.11%", "0a:00:00:00:00:1%");
    let began = Instant::now();
    let words =
        format!("revisions {member}:2379 {key} {value} --count {REVISIONS} --modulus {PEERS}");
    probe::start(&at, &words)?.wait()?;
    let wrote = began.elapsed();
    let _way = relay(stage, "--cut-after 20000 --cuts 3")?;
    let injected = Injected::now();
    let settled = stage.settle(LIMIT);
    for number in 0..PEERS {
        stage
            .cluster
            .delete_lease(&format!("188.172.11{number}.0-24"))?;
    }
    // Whom it does not see go it keeps for a while after a restart.
    for number in 0..PEERS {
        stage.until_peer(0, u8::try_from(110 + number)?, None, LIMIT)?;
    }
    stage.agent(0)?.flags = usual;
    redirect(stage, 0, stage.cluster.endpoints())?;
    let settled = settled.context("with all of them in the store")?;
    Ok(injected.note(format!(
        "{REVISIONS} revisions written in {wrote:.1?}, right {settled:.1?} after"
    )))
}
