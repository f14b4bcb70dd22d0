//! Agents on the lab's hosts: start, kill, restart, and what they report.

use std::{path::PathBuf, process::Command, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{daemon::Daemon, host::Host, paths, subnet_env::SubnetEnv, wait};

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
    /// Variables on top of the lab's own.
    pub environment: Vec<(String, String)>,
    /// Another build than the one under test.
    pub build: Option<PathBuf>,
}

impl Flags {
    pub fn new(endpoint: &str) -> Self {
        let endpoint = endpoint.to_owned();
        Self {
            endpoint,
            datapath: "ebpf",
            fast_path: "auto",
            more: Vec::new(),
            environment: Vec::new(),
            build: None,
        }
    }

    fn apply(&self, command: &mut Command) {
        let Self {
            endpoint,
            datapath,
            fast_path,
            more,
            environment,
            build: _,
        } = self;
        command.envs(environment.iter().map(|(name, value)| (name, value)));
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
        let build = self.flags.build.clone();
        let mut command = self.host.command(build.map_or_else(paths::weft, Ok)?);
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
            // By the device, or by another node as the next hop.
            let leads = |line: &&str| {
                line.contains(" dev flannel.1")
                    || (line.starts_with("188.172.") && line.contains(" via "))
            };
            let routes = self.host.ip("route show")?.lines().filter(leads).count();
            Ok(routes == count && (!self.has_programs() || self.host.peers()?.len() == count))
        });
        done.with_context(|| self.tail())
    }

    /// Whether maps and counters are to be expected.
    pub fn has_programs(&self) -> bool {
        self.flags.datapath != "kernel"
    }

    /// Its process.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// Whether there is a process that was neither killed nor stopped.
    pub fn runs(&self) -> bool {
        self.daemon.is_some()
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
