//! What systemd is to a unit of the type `notify` with a watchdog: hears what the agent tells of
//! itself, and notices when it tells nothing.

use std::{
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::daemon::Daemon;

/// For a process to go that was told to abort.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Supervisor {
    socket: UnixDatagram,
    path: PathBuf,
    /// `WatchdogSec=`.
    watchdog: Duration,
    /// When the agent last said that it lives.
    alive: Instant,
}

impl Supervisor {
    /// Listens below `folder`.
    pub fn new(folder: &Path, watchdog: Duration) -> Result<Self> {
        let path = folder.join("notify.sock");
        let _ = std::fs::remove_file(&path);
        let socket = UnixDatagram::bind(&path).context("bind the notify socket")?;
        Ok(Self {
            socket,
            path,
            watchdog,
            alive: Instant::now(),
        })
    }

    /// What the agent must be started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        vec![
            ("NOTIFY_SOCKET".to_owned(), self.path.display().to_string()),
            (
                "WATCHDOG_USEC".to_owned(),
                self.watchdog.as_micros().to_string(),
            ),
        ]
    }

    /// Waits until the agent says `line`.
    pub fn until(&mut self, line: &str, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        let mut heard = Vec::new();
        while let Some(said) = self.hear(limit.saturating_sub(began.elapsed()))? {
            if said == line {
                return Ok(began.elapsed());
            }
            heard.push(said);
        }
        bail!("no {line} within {limit:?}, only {heard:?}")
    }

    /// Waits until the agent has not said for the watchdog's time that it lives, and answers how
    /// long that took from now.
    pub fn until_silent(&mut self, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let left = self.watchdog.saturating_sub(self.alive.elapsed());
            if left.is_zero() {
                return Ok(began.elapsed());
            }
            if began.elapsed() > limit {
                bail!("still alive after {limit:?}");
            }
            self.hear(left)?;
        }
    }

    /// Ends a process as systemd does when the watchdog's time is over.
    pub fn abort(&self, daemon: &mut Daemon) -> Result<()> {
        daemon.signal(Signal::SIGABRT)?;
        daemon.signal(Signal::SIGCONT)?;
        daemon.wait(GRACE).map(drop)
    }

    /// What the agent says next, if it does in time.
    fn hear(&mut self, limit: Duration) -> Result<Option<String>> {
        let mut text = [0; 4096];
        self.socket
            .set_read_timeout(Some(limit.max(Duration::from_millis(1))))
            .context("set a limit")?;
        let length = match self.socket.recv(&mut text) {
            Ok(length) => length,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(None);
            }
            Err(error) => return Err(error).context("hear the agent"),
        };
        let said = String::from_utf8_lossy(text.get(..length).unwrap_or_default());
        let said = said.trim().to_owned();
        // Its first word on itself is a sign of life, too.
        if said == "WATCHDOG=1" || said == "READY=1" {
            self.alive = Instant::now();
        }
        Ok(Some(said))
    }
}
