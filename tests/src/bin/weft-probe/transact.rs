//! Writes many etcd keys at the same time: puts in transactions, a connection each, and deletions in
//! revisions of their own, as leases end. All connections stand before the first request is sent.

use std::{io::BufRead as _, net::SocketAddrV4, thread};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::gateway::{Gateway, encoded};

/// What etcd takes in one transaction.
const MOST: usize = 128;
/// Deletions that are sent one after the other; etcd commits those of several connections together.
const EACH: usize = 16;

/// Reads `put KEY VALUE` and `del KEY` lines until the input ends; answers with the last revision.
pub(crate) fn run(to: SocketAddrV4) -> Result<Value> {
    let (mut puts, mut gone) = (Vec::new(), Vec::new());
    for line in std::io::stdin().lock().lines() {
        let line = line.context("read what to write")?;
        let mut words = line.splitn(3, ' ');
        match (words.next(), words.next(), words.next()) {
            (Some("put"), Some(key), Some(value)) => puts.push(json!({
                "request_put": { "key": encoded(key), "value": encoded(value) }
            })),
            (Some("del"), Some(key), None) => gone.push(json!({
                "success": [{ "request_delete_range": { "key": encoded(key) } }]
            })),
            _ => bail!("{line:?} is neither `put KEY VALUE` nor `del KEY`"),
        }
    }
    let puts = puts
        .chunks(MOST)
        .map(|some| vec![json!({ "success": some })]);
    let gone = gone.chunks(EACH).map(<[Value]>::to_vec);
    let ready = puts.chain(gone).map(|requests| Writer::new(to, requests));
    let ready = ready.collect::<Result<Vec<_>>>()?;
    let revisions = thread::scope(|scope| {
        let sent: Vec<_> = ready
            .into_iter()
            .map(|writer| scope.spawn(|| writer.write()))
            .collect();
        let ended = sent.into_iter().map(|thread| {
            let ended = thread.join().map_err(|_panic| anyhow!("a writer panicked"));
            ended.and_then(|revision| revision)
        });
        ended.collect::<Result<Vec<i64>>>()
    })?;
    let last = revisions.into_iter().max().context("nothing to write")?;
    Ok(json!({ "revision": last }))
}

/// A connection, and what it asks for one after the other.
struct Writer {
    gateway: Gateway,
    requests: Vec<Value>,
}

impl Writer {
    fn new(to: SocketAddrV4, requests: Vec<Value>) -> Result<Self> {
        let gateway = Gateway::open(to)?;
        Ok(Self { gateway, requests })
    }

    /// The revision of the last request.
    fn write(self) -> Result<i64> {
        let mut revision = None;
        for request in &self.requests {
            let said = self.gateway.ask("kv/txn", request)?;
            // 64 bits are strings in it.
            let text = said.pointer("/header/revision").and_then(Value::as_str);
            revision = Some(text.context("a revision")?.parse().context("a revision")?);
        }
        revision.context("nothing to write")
    }
}
