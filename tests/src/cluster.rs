//! Three real etcd members, each in a namespace of its own, and what can be done to them.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    certificates::{Guard, METRICS},
    command,
    daemon::Daemon,
    etcd::PREFIX,
    netns::{LabName, Netns},
    paths::{ETCD, ETCDCTL, required},
    wait,
};

const MEMBERS: u8 = 3;
/// For the members to agree on a leader, on a busy machine.
const LIMIT: Duration = Duration::from_secs(30);

/// How a member is cut off from an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Everything vanishes: nobody is told.
    BlackHole,
    /// What the address sends arrives; what it is answered vanishes.
    Deaf,
    /// Connections are refused, and those that exist are reset.
    Refuse,
}

#[derive(Debug)]
pub struct Member {
    label: String,
    pub address: Ipv4Addr,
    scheme: &'static str,
    server: Option<Daemon>,
    frozen: bool,
    folder: PathBuf,
    pub ns: Netns,
}

#[derive(Debug)]
pub struct Cluster {
    pub members: Vec<Member>,
    /// Where etcdctl runs.
    from: PathBuf,
    /// User and password of whoever may do everything, once authentication is on.
    pub admin: Option<String>,
    /// How clients are met, where it is not in plain text.
    pub guard: Option<Guard>,
    /// A new cluster after the loss of all data has a name of its own.
    generation: u32,
}

impl Cluster {
    /// Three members on the lab's switch, with their data below `folder`.
    pub fn start(lab: &LabName, switch: &Netns, folder: &Path) -> Result<Self> {
        let mut members = Vec::new();
        for number in 1..=MEMBERS {
            members.push(Member::new(lab, switch, folder, number)?);
        }
        let mut cluster = Self {
            members,
            from: switch.path(),
            admin: None,
            guard: None,
            generation: 1,
        };
        cluster.resume_all()?;
        Ok(cluster)
    }

    /// What an agent is told: every member.
    pub fn endpoints(&self) -> String {
        let all = self.members.iter().map(Member::endpoint);
        all.collect::<Vec<_>>().join(",")
    }

    /// Starts every member anew, with certificates.
    pub fn protect(&mut self, guard: Guard) -> Result<()> {
        self.kill_all()?;
        for member in &mut self.members {
            member.scheme = "https";
        }
        self.guard = Some(guard);
        self.resume_all()
    }

    /// Starts every member that does not run, and waits until all answer.
    pub fn resume_all(&mut self) -> Result<()> {
        for index in 0..self.members.len() {
            self.spawn(index)?;
        }
        self.until_healthy()
    }

    /// Starts one member again.
    pub fn resume(&mut self, index: usize) -> Result<()> {
        self.spawn(index)?;
        self.until_healthy()
    }

    /// Kills every member, with no goodbye.
    pub fn kill_all(&mut self) -> Result<()> {
        (0..self.members.len()).try_for_each(|index| self.kill(index))
    }

    pub fn kill(&mut self, index: usize) -> Result<()> {
        let mut server = self.member(index)?.server.take().context("it runs")?;
        server.kill_hard()
    }

    /// The member is there and does nothing.
    pub fn freeze(&mut self, index: usize) -> Result<()> {
        self.member(index)?.signal(Signal::SIGSTOP, true)
    }

    pub fn thaw(&mut self, index: usize) -> Result<()> {
        self.member(index)?.signal(Signal::SIGCONT, false)
    }

    /// Removes all data; the members must not run. What starts next is another cluster.
    pub fn wipe(&mut self) -> Result<()> {
        self.generation += 1;
        for member in &self.members {
            ensure!(member.server.is_none(), "{} runs", member.label);
            std::fs::remove_dir_all(member.data()).context("remove a member's data")?;
        }
        Ok(())
    }

    /// Keeps a copy of all data; the members must not run.
    pub fn save(&self) -> Result<()> {
        self.copy(Member::data, Member::saved)
    }

    /// Puts the copy in the place of the data; the members must not run.
    pub fn rewind(&self) -> Result<()> {
        self.copy(Member::saved, Member::data)
    }

    fn copy(&self, from: fn(&Member) -> PathBuf, to: fn(&Member) -> PathBuf) -> Result<()> {
        for member in &self.members {
            ensure!(member.server.is_none(), "{} runs", member.label);
            let to = to(member);
            if to.exists() {
                std::fs::remove_dir_all(&to).context("remove a member's data")?;
            }
            command::run(Command::new("cp").arg("-a").arg(from(member)).arg(&to))?;
        }
        Ok(())
    }

    /// Cuts an address off from every member.
    pub fn cut_all(&self, address: Ipv4Addr, how: Cut) -> Result<()> {
        self.members
            .iter()
            .try_for_each(|member| member.cut(address, how))
    }

    /// Undoes every cut.
    pub fn heal(&self) -> Result<()> {
        self.members.iter().try_for_each(Member::heal)
    }

    /// The member that leads.
    pub fn leader(&self) -> Result<usize> {
        let text = self.ctl(&["endpoint", "status", "-w", "json"])?;
        let all: Vec<Value> = serde_json::from_str(&text).context("parse the members' status")?;
        let leads = |status: &&Value| {
            let id = status.pointer("/Status/header/member_id");
            id.is_some() && id == status.pointer("/Status/leader")
        };
        let leading = all.iter().find(leads).context("a member that leads")?;
        let endpoint = leading.pointer("/Endpoint").and_then(Value::as_str);
        let mut members = self.members.iter();
        let found = members.position(|member| Some(member.endpoint().as_str()) == endpoint);
        found.with_context(|| format!("{endpoint:?} is a member"))
    }

    /// Has another member lead than this one, which does.
    pub fn lead_elsewhere(&self, leader: usize) -> Result<()> {
        let other = self
            .members
            .iter()
            .enumerate()
            .find(|(index, _)| *index != leader);
        let (_, other) = other.context("another member")?;
        let text = self.ctl(&["endpoint", "status", "-w", "json"])?;
        let all: Vec<Value> = serde_json::from_str(&text).context("parse the members' status")?;
        let is_other = |status: &&Value| {
            let endpoint = status.pointer("/Endpoint").and_then(Value::as_str);
            endpoint == Some(other.endpoint().as_str())
        };
        let id = all.iter().find(is_other).and_then(|status| {
            let id = status.pointer("/Status/header/member_id")?;
            id.as_u64()
        });
        let id = format!("{:x}", id.context("its number")?);
        // Only the leader itself can do it.
        let mut command = inside(&self.from, required(ETCDCTL)?);
        let leader = self.members.get(leader).context("the leader")?;
        command
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &leader.endpoint()]);
        command::run(command.args(["move-leader", &id])).map(drop)
    }

    /// How often a member with certificates has been shown a token that is worthless by now.
    pub fn worthless_tokens(&self) -> Result<u64> {
        let mut sum = 0;
        for member in &self.members {
            let script = format!(
                "exec 3<>/dev/tcp/{METRICS}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
            );
            let text = command::run(member.ns.command("bash").args(["-c", &script]))?;
            let refused = text.lines().filter(|line| {
                line.starts_with("grpc_server_handled_total{grpc_code=\"Unauthenticated\"")
            });
            for line in refused {
                let count = line.rsplit_once(' ').context("a counter")?.1;
                sum += count.parse::<u64>().context("a counter's value")?;
            }
        }
        Ok(sum)
    }

    /// The store's revision now.
    pub fn revision(&self) -> Result<u64> {
        let text = self.ctl(&["get", "/", "-w", "json"])?;
        let answer: Value = serde_json::from_str(&text).context("parse an answer")?;
        let revision = answer.pointer("/header/revision").and_then(Value::as_u64);
        revision.context("the revision")
    }

    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        if value.is_empty() {
            return self.ctl(&["put", key, ""]).map(drop);
        }
        // By standard input, since a value may be longer than a command line.
        self.tell(&["put", key], value)
    }

    /// A lease's record, by its name below the prefix (`188.172.7.0-24`).
    pub fn put_lease(&self, name: &str, value: &str) -> Result<()> {
        self.put(&lease_key(name), value)
    }

    /// Many keys, a hundred a transaction.
    pub fn put_all(&self, pairs: &[(String, String)]) -> Result<()> {
        for some in pairs.chunks(100) {
            let puts = some.iter().map(|(key, value)| {
                // As a Go string, whose quotes are escaped as Rust's are.
                format!("put {key} {value:?}\n")
            });
            let text = format!("\n{}\n\n", puts.collect::<String>());
            self.tell(&["txn"], &text)?;
        }
        Ok(())
    }

    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(&["del", key]).map(drop)
    }

    pub fn delete_lease(&self, name: &str) -> Result<()> {
        self.delete(&lease_key(name))
    }

    /// Revokes the etcd lease of a key, and so removes it: a holder that was killed has left both.
    pub fn revoke(&self, key: &str) -> Result<()> {
        let text = self.ctl(&["get", key, "-w", "json"])?;
        let answer: Value = serde_json::from_str(&text).context("parse an answer")?;
        let lease = answer.pointer("/kvs/0/lease").and_then(Value::as_u64);
        let lease = lease.with_context(|| format!("the lease of {key}"))?;
        self.ctl(&["lease", "revoke", &format!("{lease:x}")])
            .map(drop)
    }

    /// `etcdctl` with these words, at the members that can answer.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        command::run(self.client()?.args(words))
    }

    /// The same with something on its standard input.
    pub fn tell(&self, words: &[&str], input: &str) -> Result<()> {
        let mut command = self.client()?;
        command.args(words).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start etcdctl")?;
        if let Some(mut to) = child.stdin.take() {
            to.write_all(input.as_bytes()).context("write to etcdctl")?;
        }
        let out = child.wait_with_output().context("wait for etcdctl")?;
        let errors = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "etcdctl {words:?}: {errors}");
        Ok(())
    }

    /// A client that a test runs beside itself.
    pub fn client(&self) -> Result<Command> {
        let able = self.members.iter().filter(|member| member.is_able());
        let endpoints: Vec<_> = able.map(Member::endpoint).collect();
        ensure!(!endpoints.is_empty(), "no member runs");
        let mut command = inside(&self.from, required(ETCDCTL)?);
        command.env("ETCDCTL_API", "3");
        command.arg("--endpoints").arg(endpoints.join(","));
        command.args(self.guard.iter().flat_map(Guard::of_client));
        if let Some(admin) = &self.admin {
            command.arg("--user").arg(admin);
        }
        Ok(command)
    }

    fn until_healthy(&mut self) -> Result<()> {
        wait::until_true("etcd answers", LIMIT, || {
            for server in self.members.iter_mut().flat_map(|m| m.server.as_mut()) {
                server.ensure_running()?;
            }
            self.ctl(&["endpoint", "health"]).map(|_| true)
        })
    }

    fn spawn(&mut self, index: usize) -> Result<()> {
        let peers = self.members.iter().map(|member| {
            let Member { label, address, .. } = member;
            format!("{label}=http://{address}:2380")
        });
        let peers = peers.collect::<Vec<_>>().join(",");
        let token = format!("generation-{}", self.generation);
        let guard = self.guard.clone();
        let member = self.member(index)?;
        if member.server.is_some() {
            return Ok(());
        }
        let (client, peer) = (member.endpoint(), format!("http://{}:2380", member.address));
        let mut command = inside(&member.ns.path(), required(ETCD)?);
        command.args(["--name", &member.label]);
        command.arg("--data-dir").arg(member.data());
        command.args(["--listen-client-urls", &client]);
        command.args(["--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer]);
        command.args(["--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &peers]);
        command.args(["--initial-cluster-token", &token]);
        command.args(guard.iter().flat_map(Guard::of_server));
        let log = member.folder.join("etcd.log");
        member.server = Some(Daemon::start(&member.label, command, log)?);
        Ok(())
    }

    fn member(&mut self, index: usize) -> Result<&mut Member> {
        let found = self.members.get_mut(index);
        found.with_context(|| format!("member {index} of etcd"))
    }
}

impl Member {
    fn new(lab: &LabName, switch: &Netns, folder: &Path, number: u8) -> Result<Self> {
        let label = format!("e{number}");
        let (ns, address) = (
            Netns::new(lab, &label)?,
            Ipv4Addr::new(192, 0, 2, 100 + number),
        );
        let far = ns.name();
        switch.ip(&format!(
            "link add pe{number} type veth peer name eth0 netns {far}"
        ))?;
        switch.ip(&format!("link set pe{number} master br0 up"))?;
        ns.ip(&format!("address add {address}/24 dev eth0"))?;
        ns.ip("link set eth0 up")?;
        let folder = folder.join(&label);
        std::fs::create_dir_all(&folder).context("make a member's folder")?;
        Ok(Self {
            label,
            address,
            scheme: "http",
            server: None,
            frozen: false,
            folder,
            ns,
        })
    }

    pub fn endpoint(&self) -> String {
        format!("{}://{}:2379", self.scheme, self.address)
    }

    /// Cuts an address off from this member's clients' port.
    pub fn cut(&self, address: Ipv4Addr, how: Cut) -> Result<()> {
        let input = |verdict| {
            format!(
                "chain in {{ type filter hook input priority 0; ip saddr {address} tcp dport 2379 {verdict}; }} ; "
            )
        };
        let output = format!(
            "chain out {{ type filter hook output priority 0; ip daddr {address} tcp sport 2379 drop; }} ; "
        );
        let rules = match how {
            Cut::BlackHole => input("drop") + &output,
            Cut::Deaf => output,
            Cut::Refuse => input("reject with tcp reset"),
        };
        let table = format!("table inet cut {{ {rules} }}");
        command::run(self.ns.command("nft").arg(table)).map(drop)
    }

    /// Undoes its cuts.
    pub fn heal(&self) -> Result<()> {
        let tables = self.ns.run("nft list tables")?;
        if tables.contains("inet cut") {
            self.ns.run("nft delete table inet cut")?;
        }
        Ok(())
    }

    fn is_able(&self) -> bool {
        self.server.is_some() && !self.frozen
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    fn saved(&self) -> PathBuf {
        self.folder.join("saved")
    }

    fn signal(&mut self, signal: Signal, frozen: bool) -> Result<()> {
        let server = self.server.as_ref().context("it runs")?;
        server.signal(signal)?;
        self.frozen = frozen;
        Ok(())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // A frozen process would not hear that it is to end.
        if self.frozen {
            let _ = self.signal(Signal::SIGCONT, false);
        }
    }
}

/// The key of a lease, by its name.
pub fn lease_key(name: &str) -> String {
    format!("{PREFIX}/subnets/{name}")
}

fn inside(ns: &Path, program: &Path) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net={}", ns.display())).arg("--");
    command.arg(program);
    command
}
