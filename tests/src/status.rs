//! What an agent says of its mind: what moves the packets, what does not, and why.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::{host::Host, wait};

impl Host {
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
