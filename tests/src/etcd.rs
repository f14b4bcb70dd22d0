//! A real etcd, and what an operator does with etcdctl.

use std::{
    io::Write as _,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::{
    command,
    daemon::Daemon,
    netns::Netns,
    paths::{self, ETCD, ETCDCTL, required},
    wait,
};

pub const PREFIX: &str = "/coreos.com/network";
const LIMIT: Duration = Duration::from_secs(20);

/// Operations in a transaction; etcd takes 128.
const MOST: usize = 100;

/// What etcdctl reads.
fn put_lines(pairs: &[(String, String)]) -> impl Iterator<Item = String> {
    // As a Go string, whose quotes are escaped as Rust's are.
    let line = |(key, value): &(String, String)| format!("put {key} {value:?}\n");
    pairs.iter().map(line)
}

#[derive(Debug)]
pub struct Etcd {
    server: Option<Daemon>,
    address: Ipv4Addr,
    ns: PathBuf,
    folder: PathBuf,
}

impl Etcd {
    /// Starts a server in `ns`, where `address` is, with its data below `folder`.
    pub fn start(ns: &Netns, address: Ipv4Addr, folder: &Path) -> Result<Self> {
        let (ns, folder) = (ns.path(), folder.to_path_buf());
        let mut etcd = Self {
            server: None,
            address,
            ns,
            folder,
        };
        etcd.resume()?;
        Ok(etcd)
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}:2379", self.address)
    }

    /// The same data, a new process.
    pub fn resume(&mut self) -> Result<()> {
        let mut command = self.inside(required(ETCD)?);
        let client = self.endpoint();
        command.arg("--data-dir").arg(self.folder.join("etcd"));
        command.args([
            "--listen-client-urls",
            &client,
            "--advertise-client-urls",
            &client,
        ]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--initial-advertise-peer-urls", "http://127.0.0.1:2380"]);
        command.args(["--initial-cluster", "default=http://127.0.0.1:2380"]);
        let mut server = Daemon::start("etcd", command, self.folder.join("etcd.log"))?;
        wait::until_true("etcd answers", LIMIT, || {
            server.ensure_running()?;
            self.ctl(&["endpoint", "health"]).map(|_| true)
        })?;
        self.server = Some(server);
        Ok(())
    }

    /// The store goes away as in an outage: no goodbye.
    pub fn outage(&mut self) -> Result<()> {
        let mut server = self.server.take().context("etcd is not running")?;
        server.kill_hard()
    }

    /// The server's disk is lost: a new one comes up with nothing.
    pub fn lose_data(&mut self) -> Result<()> {
        self.outage()?;
        let data = self.folder.join("etcd");
        std::fs::remove_dir_all(&data).with_context(|| format!("remove {}", data.display()))?;
        self.resume()
    }

    pub fn put_config(&self, json: &str) -> Result<()> {
        self.put(&format!("{PREFIX}/config"), json)
    }

    pub fn put(&self, key: &str, value: &str) -> Result<()> {
        self.ctl(&["put", key, value]).map(drop)
    }

    /// Many keys, a hundred a transaction.
    pub fn put_all(&self, pairs: &[(String, String)]) -> Result<()> {
        let lines: Vec<String> = put_lines(pairs).collect();
        for some in lines.chunks(MOST) {
            Self::written(self.begin(some)?)?;
        }
        Ok(())
    }

    /// Puts and deletions in transactions at the same time. Counts from when they are sent: the
    /// client runs already, for programs that start would be measured with it.
    pub fn change_at_once(
        &self,
        puts: &[(String, String)],
        gone: &[String],
    ) -> Result<(i64, Instant)> {
        let mut command = self.inside(&paths::probe()?);
        command.args(["transact", &format!("{}:2379", self.address)]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the probe")?;
        let mut to = child.stdin.take().context("the probe's input")?;
        for (key, value) in puts {
            writeln!(to, "put {key} {value}").context("write to the probe")?;
        }
        for key in gone {
            writeln!(to, "del {key}").context("write to the probe")?;
        }
        let began = Instant::now();
        drop(to);
        let out = child.wait_with_output().context("wait for the probe")?;
        ensure!(out.status.success(), "the probe: {}", out.status);
        let said: Value = serde_json::from_slice(&out.stdout).context("the probe's JSON")?;
        let revision = said.get("revision").and_then(Value::as_i64);
        Ok((revision.context("a revision")?, began))
    }

    fn begin(&self, lines: &[String]) -> Result<Child> {
        // etcdctl reads compares, then what to do, then what else, each ended by an empty line.
        let text = format!("\n{}\n\n", lines.concat());
        let mut command = self.client()?;
        command.arg("txn").stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().context("start etcdctl")?;
        if let Some(mut to) = child.stdin.take() {
            to.write_all(text.as_bytes()).context("write to etcdctl")?;
        }
        Ok(child)
    }

    fn written(child: Child) -> Result<()> {
        let out = child.wait_with_output().context("wait for etcdctl")?;
        let errors = String::from_utf8_lossy(&out.stderr);
        ensure!(out.status.success(), "etcdctl txn: {errors}");
        Ok(())
    }

    pub fn delete(&self, key: &str) -> Result<()> {
        self.ctl(&["del", key]).map(drop)
    }

    /// Keys of the subnet leases with their values.
    pub fn leases(&self) -> Result<Vec<(String, String)>> {
        let text = self.ctl(&["get", "--prefix", &format!("{PREFIX}/subnets/")])?;
        let mut lines = text.lines();
        let mut leases = Vec::new();
        while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
            leases.push((key.to_owned(), value.to_owned()));
        }
        Ok(leases)
    }

    /// `etcdctl` with these words.
    pub fn ctl(&self, words: &[&str]) -> Result<String> {
        command::run(self.client()?.args(words))
    }

    fn client(&self) -> Result<Command> {
        let mut command = self.inside(required(ETCDCTL)?);
        command
            .env("ETCDCTL_API", "3")
            .arg("--endpoints")
            .arg(self.endpoint());
        Ok(command)
    }

    fn inside(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.ns.display()))
            .arg("--")
            .arg(program);
        command
    }
}
