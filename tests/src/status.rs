//! What an agent says of its mind: what moves the packets, what does not, and why.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{command, host::Host, wait};

impl Host {
    /// The status line and the body of an answer to a plain request on this host.
    pub fn get(&self, port: u16, path: &str) -> Result<(String, String)> {
        let script = format!(
            "exec 3<>/dev/tcp/127.0.0.1/{port}; printf 'GET {path} HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3"
        );
        let text = command::run(self.command("bash").args(["-c", &script]))?;
        let (head, body) = text.split_once("\r\n\r\n").context("an HTTP answer")?;
        let status = head.lines().next().unwrap_or_default().to_owned();
        Ok((status, body.to_owned()))
    }

    /// Packets that met this reason at this hook.
    pub fn counted(&self, hook: &str, reason: &str) -> Result<u64> {
        Ok(self.counters()?.of(hook, reason))
    }

    /// Waits until the fast path is as told, for a reason that contains `why`, and says how long
    /// it took.
    pub fn until_mode(&self, fast: &str, why: &str, limit: Duration) -> Result<Duration> {
        let began = Instant::now();
        wait::until_true(&format!("the fast path is {fast}"), limit, || {
            let (now, reason) = self.fast_path()?;
            Ok(now == fast && reason.contains(why))
        })
        .with_context(|| format!("{:?}", self.fast_path()))?;
        Ok(began.elapsed())
    }
}
