//! A program that runs beside the test: in a process group of its own, its output in a file,
//! ended by its process id when its owner goes.

use std::{
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, wait};

/// How long a program may take to stop when asked; then it is killed.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Daemon {
    what: String,
    child: Child,
    log: PathBuf,
    /// What the owner sends before it kills.
    stop: Signal,
}

impl Daemon {
    /// Starts `command`; both its outputs are appended to `log`.
    pub fn start(what: &str, mut command: Command, log: PathBuf) -> Result<Self> {
        let out = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .context("open a log")?;
        let errors = out.try_clone().context("share the log")?;
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(errors)
            .process_group(0);
        let child = command.spawn().with_context(|| command::line(&command))?;
        Ok(Self {
            what: what.to_owned(),
            child,
            log,
            stop: Signal::SIGTERM,
        })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = i32::try_from(self.child.id()).context("process id")?;
        kill(Pid::from_raw(pid), signal).with_context(|| format!("send {signal} to {}", self.what))
    }

    /// `kill -9`, and waits until the process is gone.
    pub fn kill_hard(&mut self) -> Result<()> {
        self.child
            .kill()
            .with_context(|| format!("kill {}", self.what))?;
        self.child
            .wait()
            .map(drop)
            .with_context(|| format!("wait for {}", self.what))
    }

    /// Asks it to stop and waits for that.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.signal(self.stop)?;
        self.wait(GRACE)
    }

    /// Waits for the end of its own accord.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.what);
        wait::until(&what, limit, || {
            self.child.try_wait().context("ask for the exit status")
        })
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("ask for the exit status")
    }

    /// Fails, with the end of the log, when it has ended.
    pub fn ensure_running(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait().context("ask for the exit status")? {
            bail!("{} ended: {status}\n{}", self.what, self.tail());
        }
        Ok(())
    }

    pub fn log(&self) -> String {
        fs::read(&self.log)
            .map(|text| String::from_utf8_lossy(&text).into_owned())
            .unwrap_or_default()
    }

    /// The last lines of its output, for an error message.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(40);
        let text = lines.get(from..).unwrap_or_default().join("\n");
        format!("--- {} ({})\n{text}\n---", self.what, self.log.display())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.stop().is_err() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}
