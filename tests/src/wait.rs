//! Waits for a condition with a deadline, instead of sleeping for a time.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

const PAUSE: Duration = Duration::from_millis(20);

/// Deadlines are this many times as long: for machines whose processor is emulated.
fn patience() -> u32 {
    let told = std::env::var("WEFT_PATIENCE").ok();
    told.and_then(|text| text.parse().ok()).unwrap_or(1)
}

/// Asks until `check` gives a value; its last error, if any, is the reason for giving up.
pub fn until<T>(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let limit = limit * patience();
    let end = Instant::now() + limit;
    loop {
        let reason = match check() {
            Ok(Some(value)) => return Ok(value),
            Ok(None) => None,
            Err(error) => Some(error),
        };
        if Instant::now() >= end {
            match reason {
                Some(error) => return Err(error.context(format!("{what} within {limit:?}"))),
                None => bail!("{what}: not within {limit:?}"),
            }
        }
        thread::sleep(PAUSE);
    }
}

/// As [`until`], for a condition that is only true or false.
pub fn until_true(
    what: &str,
    limit: Duration,
    mut check: impl FnMut() -> Result<bool>,
) -> Result<()> {
    until(what, limit, || Ok(check()?.then_some(())))
}
