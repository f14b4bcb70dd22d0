//! Agents on the lab's hosts: start, kill, restart, and what they report.

use std::{process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{command, daemon::Daemon, host::Host, paths, subnet_env::SubnetEnv, wait};

/// From start to ready, with programs to load and etcd to ask, on a busy machine.
pub const READY: Duration = Duration::from_secs(20);

/// How an agent is started; what is not set is the agent's default.
#[derive(Clone, Debug)]
pub struct Flags {
    pub endpoint: String,
    pub datapath: &'static str,
    pub fast_path: &'static str,
    /// Further flags, as typed.
    pub more: Vec<String>,
}

impl Flags {
    pub fn new(endpoint: &str) -> Self {
        let endpoint = endpoint.to_owned();
        Self {
            endpoint,
            datapath: "ebpf",
            fast_path: "auto",
            more: Vec::new(),
        }
    }

    fn apply(&self, command: &mut Command) {
        let Self {
            endpoint,
            datapath,
            fast_path,
            more,
        } = self;
        command
            .arg("run")
            .arg(format!("--etcd-endpoints={endpoint}"));
        command
            .arg(format!("--datapath={datapath}"))
            .arg(format!("--fast-path={fast_path}"));
        command.args(more);
    }
}

#[derive(Debug)]
pub struct Agent {
    pub host: Arc<Host>,
    pub flags: Flags,
    daemon: Option<Daemon>,
}

impl Agent {
    /// Starts an agent and does not wait for anything.
    pub fn start(host: &Arc<Host>, flags: Flags) -> Result<Self> {
        let mut agent = Self {
            host: Arc::clone(host),
            flags,
            daemon: None,
        };
        agent.restart()?;
        Ok(agent)
    }

    /// A new process with the same flags; the old one must have ended.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = self.host.command(paths::weft()?);
        self.flags.apply(&mut command);
        let log = self.host.folder().join("weft.log");
        self.daemon = Some(Daemon::start(
            &format!("weft on {}", self.host.label),
            command,
            log,
        )?);
        Ok(())
    }

    /// Polls `weft status` until the agent is ready, then returns the host's `subnet.env`.
    pub fn ready(&mut self) -> Result<SubnetEnv> {
        let what = format!("the agent on {} is ready", self.host.label);
        let done = wait::until_true(&what, READY, || {
            self.daemon()?.ensure_running()?;
            Ok(self.host.weft(&["status", "-o", "json"])?.0 == 0)
        });
        done.with_context(|| self.tail())?;
        SubnetEnv::read(&self.host.file(SubnetEnv::path()))
    }

    /// Waits until the kernel has the way to this many peers, and the programs too.
    pub fn knows(&mut self, count: usize) -> Result<()> {
        let what = format!("the agent on {} knows {count} peers", self.host.label);
        let done = wait::until_true(&what, READY, || {
            self.daemon()?.ensure_running()?;
            let routes = self.host.ip("route show dev flannel.1")?.lines().count();
            Ok(routes == count && (!self.has_programs() || self.host.peers()?.len() == count))
        });
        done.with_context(|| self.tail())
    }

    /// Whether maps and counters are to be expected.
    pub fn has_programs(&self) -> bool {
        self.flags.datapath != "kernel"
    }

    pub fn kill_hard(&mut self) -> Result<()> {
        self.daemon()?.kill_hard()?;
        self.daemon = None;
        Ok(())
    }

    /// SIGTERM; fails unless it ends with status 0.
    pub fn stop(&mut self) -> Result<()> {
        let status = self.daemon()?.stop()?;
        ensure!(
            status.success(),
            "the agent ended with {status}\n{}",
            self.tail()
        );
        self.daemon = None;
        Ok(())
    }

    pub fn daemon(&mut self) -> Result<&mut Daemon> {
        self.daemon
            .as_mut()
            .with_context(|| format!("no agent on {}", self.host.label))
    }

    pub fn tail(&self) -> String {
        self.daemon.as_ref().map(Daemon::tail).unwrap_or_default()
    }
}

/// What `weft dump counters` says.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Counters {
    pub counters: Vec<Counter>,
    /// Packets that the programs carried, aggregates included.
    pub taken: u64,
    pub taken_aggregates: u64,
    /// Packets between two hosts' subnets that are plain enough to be carried.
    pub qualified: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Counter {
    pub hook: String,
    pub reason: String,
    pub fate: String,
    pub packets: u64,
    pub bytes: u64,
}

impl Counters {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Share {
        Share {
            taken: self.taken.saturating_sub(earlier.taken),
            aggregates: self
                .taken_aggregates
                .saturating_sub(earlier.taken_aggregates),
            qualified: self.qualified.saturating_sub(earlier.qualified),
        }
    }

    /// One line for each counter that is not zero.
    pub fn lines(&self) -> String {
        let shown = self.counters.iter().filter(|counter| counter.packets > 0);
        let line = |c: &Counter| {
            format!(
                "  {:<16} {:<24} {:<9} {:>10}\n",
                c.hook, c.reason, c.fate, c.packets
            )
        };
        shown.map(line).collect()
    }
}

/// Packets on the fast path among those that qualify for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub taken: u64,
    pub aggregates: u64,
    pub qualified: u64,
}

impl Share {
    /// In thousandths of a percent point, rounded down: 99 900 is 99.9 %.
    pub fn milli_percent(&self) -> u64 {
        if self.qualified == 0 {
            return 0;
        }
        self.taken.saturating_mul(100_000) / self.qualified
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = self.milli_percent();
        let Self {
            taken,
            aggregates,
            qualified,
        } = self;
        write!(
            f,
            "{}.{:03} % ({taken} of {qualified}, {aggregates} aggregates)",
            share / 1000,
            share % 1000
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PeerEntry {
    pub subnet: String,
    pub vtep: String,
    pub mac: String,
    #[serde(default)]
    pub gateway: Option<String>,
    #[serde(default)]
    pub device: Option<Value>,
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub fast: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EndpointEntry {
    pub address: String,
    pub mac: String,
    pub port: Value,
    #[serde(default)]
    pub bridge: Value,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerEntry>,
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<EndpointEntry>,
}

/// The read verbs, which need no handle on the agent's process.
impl Host {
    /// Runs `weft` with these words on this host: exit code, output, errors.
    pub fn weft(&self, words: &[&str]) -> Result<(i32, String, String)> {
        let out = command::output(self.command(paths::weft()?).args(words))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = out.status.code().context("weft was killed by a signal")?;
        Ok((code, text(&out.stdout), text(&out.stderr)))
    }

    pub fn status(&self) -> Result<Value> {
        let (code, text, errors) = self.weft(&["status", "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("status: {code} {text} {errors}"))
    }

    pub fn counters(&self) -> Result<Counters> {
        self.dump("counters")
    }

    pub fn peers(&self) -> Result<Vec<PeerEntry>> {
        Ok(self.dump::<Peers>("peers")?.peers)
    }

    pub fn endpoints(&self) -> Result<Vec<EndpointEntry>> {
        Ok(self.dump::<Endpoints>("endpoints")?.endpoints)
    }

    fn dump<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T> {
        let (code, text, errors) = self.weft(&["dump", what, "-o", "json"])?;
        ensure!(code == 0, "weft dump {what} ended with {code}: {errors}");
        serde_json::from_str(&text).with_context(|| format!("weft dump {what}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_rounded_down() {
        let share = Share {
            taken: 99_899,
            aggregates: 0,
            qualified: 100_000,
        };
        assert_eq!(share.milli_percent(), 99_899);
        assert_eq!(Share::default().milli_percent(), 0);
    }
}
