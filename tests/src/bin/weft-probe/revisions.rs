//! Writes many etcd keys, each in a revision of its own, over a few connections: a client program
//! for each would take minutes, and one write after the other would take longer than leases live.

use std::{net::SocketAddrV4, thread};

use anyhow::{Context as _, Result, anyhow};
use serde_json::json;

use crate::gateway::{Gateway, encoded};

/// Writes that are under way at the same time: etcd brings those to its disk together.
const WRITERS: u32 = 16;

/// Puts `key` and `value` `count` times; `%` in either stands for a number that goes round below
/// `modulus`.
pub(crate) fn write(
    to: SocketAddrV4,
    key: &str,
    value: &str,
    count: u32,
    modulus: u32,
) -> Result<()> {
    thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS)
            .map(|first| {
                let numbers = (first..count).step_by(WRITERS as usize);
                scope.spawn(move || one_by_one(to, key, value, numbers, modulus))
            })
            .collect();
        writers.into_iter().try_for_each(|writer| {
            let written = writer.join();
            written.unwrap_or_else(|_panic| Err(anyhow!("a writer panicked")))
        })
    })
}

fn one_by_one(
    to: SocketAddrV4,
    key: &str,
    value: &str,
    numbers: impl Iterator<Item = u32>,
    modulus: u32,
) -> Result<()> {
    let gateway = Gateway::open(to)?;
    for number in numbers {
        let number = (number % modulus.max(1)).to_string();
        let text = |of: &str| encoded(&of.replace('%', &number));
        let put = json!({ "key": text(key), "value": text(value) });
        gateway
            .ask("kv/put", &put)
            .with_context(|| format!("write {number}"))?;
    }
    Ok(())
}
