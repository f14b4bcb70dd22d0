//! Where faults happen: three etcd members, three hosts with agents and a container each.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{invariants, pulse::Pulse, truth, vigil::Vigil};
use crate::{
    agent::{Agent, Flags},
    cluster::{Cluster, lease_key},
    command,
    container::{Container, add_bridge},
    docker,
    host::{Bpffs, Host},
    lab,
    netns::{self, LabName, Netns},
    paths, wait,
    world::{Driver, Node},
};

const HOSTS: u8 = 3;
/// Agents get a low number: the hosts that the lab only pretends have higher ones.
pub const CONFIG: &str = r#"{"Network":"188.172.0.0/16","SubnetMin":"188.172.1.0","SubnetMax":"188.172.9.0","Backend":{"Type":"vxlan"}}"#;
/// Leases of the lab's agents live for this long: dead hosts are to be noticed within a test.
pub const TTL: Duration = Duration::from_secs(15);
/// Peers stay for this long when etcd has lost them.
const GRACE: Duration = Duration::from_secs(10);
/// For all agents to agree with the store, before a fault and at most after it.
pub const SETTLE: Duration = Duration::from_secs(30);
/// Where agents answer for their health.
pub const HEALTH: u16 = 10_250;
/// What is shorter says nothing about an agent's appetite.
const STEADY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Stage {
    // In the order in which they go.
    pub nodes: Vec<Node>,
    /// Hosts without a container, which a fault brought.
    pub spares: Vec<Agent>,
    pub cluster: Cluster,
    pub switch: Netns,
    pub lab: LabName,
    /// Whether a fault may take as long as the matrix says.
    pub thorough: bool,
    /// Names of records that the lab made bad: no agent may believe them.
    pub bad: BTreeSet<String>,
    /// Parts of a host's agent that a fault has disturbed for as long as it lasts.
    pub disturbed: BTreeSet<&'static str>,
    help: String,
    seed: u64,
    folder: tempfile::TempDir,
}

impl Stage {
    /// Everything up, every agent ready and acquainted with all others.
    pub fn new(thorough: bool, seed: u64) -> Result<Self> {
        netns::require_root()?;
        netns::sweep();
        docker::sweep();
        let lab = LabName::new("faults");
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", lab.as_str()))
            .tempdir()
            .context("make the lab's folder")?;
        let switch = lab::switch(&lab)?;
        let cluster = Cluster::start(&lab, &switch, folder.path())?;
        let mut stage = Self {
            nodes: Vec::new(),
            spares: Vec::new(),
            cluster,
            switch,
            lab,
            thorough,
            bad: BTreeSet::new(),
            disturbed: BTreeSet::new(),
            help: command::run(std::process::Command::new(paths::weft()?).args(["run", "--help"]))?,
            seed,
            folder,
        };
        stage.put_config(CONFIG)?;
        let hosts: Vec<_> = (1..=HOSTS)
            .map(|number| stage.host(number))
            .collect::<Result<_>>()?;
        let agents: Vec<_> = hosts
            .iter()
            .map(|host| Agent::start(host, stage.flags()))
            .collect::<Result<_>>()?;
        for mut agent in agents {
            let env = agent.ready()?;
            let host = Arc::clone(&agent.host);
            add_bridge(&host, &env)?;
            let containers = vec![Container::new(&host, &env, 1)?];
            let driver = Driver::Weft(agent);
            stage.nodes.push(Node {
                containers,
                driver,
                env,
                host,
            });
        }
        stage.settle(SETTLE)?;
        Ok(stage)
    }

    /// Another host on the switch.
    pub fn host(&self, number: u8) -> Result<Arc<Host>> {
        let (name, switch, folder) = (&self.lab, &self.switch, self.folder.path());
        lab::host(name, switch, number, folder, Bpffs::Missing).map(Arc::new)
    }

    /// What the lab's agents are started with.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::new(&self.cluster.endpoints());
        let short = [
            ("healthz-port", HEALTH.to_string()),
            ("lease-ttl", format!("{}s", TTL.as_secs())),
            ("store-loss-grace", GRACE.as_secs().to_string()),
            ("path-mtu-every", "5".to_owned()),
        ];
        for (flag, value) in short {
            if self.knows(flag) {
                flags.more.push(format!("--{flag}={value}"));
            }
        }
        // The matrix counts on a silent etcd's being left within two seconds. It is no flag for
        // people, so that the help does not have it.
        if self.knows("store-loss-grace") {
            flags.more.push("--etcd-patience=1".to_owned());
        }
        flags
    }

    /// Whether this build has the flag.
    pub fn knows(&self, flag: &str) -> bool {
        let flag = format!("--{flag}");
        self.help.split_whitespace().any(|word| word == flag)
    }

    /// Fails, naming it, without the flag that a fault is about.
    pub fn require(&self, flag: &str) -> Result<()> {
        ensure!(self.knows(flag), "this agent has no --{flag}");
        Ok(())
    }

    pub fn put_config(&self, json: &str) -> Result<()> {
        let key = format!("{}/config", crate::etcd::PREFIX);
        self.cluster.put(&key, json)
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A file for a log, with a name of its own.
    pub fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    pub fn node(&self, index: usize) -> Result<&Node> {
        let found = self.nodes.get(index);
        found.with_context(|| format!("host {index} of the stage"))
    }

    pub fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        let found = self.nodes.get_mut(index);
        found.with_context(|| format!("host {index} of the stage"))
    }

    pub fn agent(&mut self, index: usize) -> Result<&mut Agent> {
        self.node_mut(index)?.agent()
    }

    /// Starts a host's agent again; what an earlier one left is there.
    pub fn revive(&mut self, index: usize) -> Result<Duration> {
        let began = Instant::now();
        let agent = self.agent(index)?;
        agent.restart()?;
        agent.ready()?;
        Ok(began.elapsed())
    }

    /// The load between the first containers of two hosts.
    pub fn vigil(&self, (a, b): (usize, usize)) -> Result<Vigil> {
        Vigil::start(self.node(a)?.container(0)?, self.node(b)?.container(0)?)
    }

    /// Lets a fault last: `short`, or where there is time as long as the matrix says. Fails when
    /// an agent was busy meanwhile, or talkative (I5). Answers with how long it was.
    pub fn endure(&self, short: Duration, long: Duration) -> Result<Duration> {
        let time = if self.thorough { long } else { short };
        let before = Pulse::of_all(&self.nodes)?;
        thread::sleep(time);
        let after = Pulse::of_all(&self.nodes)?;
        if time >= STEADY {
            Pulse::ensure_calm(&before, &after, time)?;
        }
        Ok(time)
    }

    /// Fewer times, or where there is time as often as the matrix says.
    pub fn times(&self, short: u32, long: u32) -> u32 {
        if self.thorough { long } else { short }
    }

    /// A number below `below`, repeatable by the seed.
    pub fn dice(&mut self, below: u64) -> u64 {
        // xorshift64*, which never leaves zero: the seed is made odd.
        let mut state = self.seed | 1;
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.seed = state;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % below.max(1)
    }

    /// Waits until I1 to I4 and I6 hold on every host with an agent, and says how long it took.
    pub fn settle(&self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        wait::until_true("I1 to I4 and I6 hold", limit, || {
            invariants::check(self).map(|()| true)
        })?;
        Ok(began.elapsed())
    }

    /// Publishes the lease of a host that the lab only pretends: `188.172.<third>.0/24` behind
    /// `192.0.2.<third>`.
    pub fn pretend(&self, third: u8, mac: &str) -> Result<()> {
        let value = truth::value(&format!("192.0.2.{third}"), mac);
        self.cluster
            .put_lease(&format!("188.172.{third}.0-24"), &value)
    }

    pub fn forget(&self, third: u8) -> Result<()> {
        self.cluster.delete_lease(&format!("188.172.{third}.0-24"))
    }

    /// Waits until a host's programs know the pretended one under this MAC, or no more.
    pub fn until_peer(
        &self,
        index: usize,
        third: u8,
        mac: Option<&str>,
        limit: Duration,
    ) -> Result<Duration> {
        let began = Instant::now();
        let subnet = format!("188.172.{third}.0/24");
        let host = &self.node(index)?.host;
        let what = format!("{} knows {subnet} as {mac:?}", host.label);
        wait::until_true(&what, limit, || {
            let peers = host.peers()?;
            let found = peers.iter().find(|peer| peer.subnet == subnet);
            Ok(found.map(|peer| peer.mac.as_str()) == mac)
        })?;
        Ok(began.elapsed())
    }

    /// The member that a host's agent asks; a watch that goes on elsewhere does not count.
    pub fn member_of(&self, index: usize) -> Result<usize> {
        let host = &self.node(index)?.host;
        let used = host.component("endpoint")?;
        let mut members = self.cluster.members.iter();
        let found = members.position(|member| used.starts_with(&member.endpoint()));
        found.with_context(|| format!("{} uses no member: {used}", host.label))
    }

    /// How often agents have said that they are not ready any more.
    pub fn times_unready(&self) -> Result<usize> {
        let of = |node: &Node| -> Result<usize> {
            let log = fs::read_to_string(node.host.folder().join("weft.log"))?;
            Ok(log.matches("state changed ready=false").count())
        };
        self.nodes.iter().map(of).sum()
    }

    /// When the key of a host's lease was last created.
    pub fn born(&self, index: usize) -> Result<u64> {
        let name = self.node(index)?.env.subnet.trunc().to_string();
        let key = lease_key(&name.replace('/', "-"));
        let text = self.cluster.ctl(&["get", &key, "-w", "json"])?;
        let answer: serde_json::Value = serde_json::from_str(&text).context("parse an answer")?;
        let created = answer.pointer("/kvs/0/create_revision");
        created
            .and_then(serde_json::Value::as_u64)
            .with_context(|| format!("{key} is there"))
    }

    /// For a failure: what every agent logged, and says of itself.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            if let Driver::Weft(agent) = &node.driver {
                text.push_str(&agent.tail());
                text.push('\n');
            }
            let log = fs::read_to_string(node.host.folder().join("weft.log"));
            let lines = log.map_or(0, |log| log.lines().count());
            text.push_str(&format!("{lines} lines in all\n"));
            // One that does not answer says so, too.
            if let Ok((code, said, errors)) = node.host.weft(&["status"]) {
                text.push_str(&format!("status {code}: {said}{errors}\n"));
            }
        }
        for spare in &self.spares {
            text.push_str(&spare.tail());
        }
        text
    }
}
