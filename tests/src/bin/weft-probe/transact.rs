//! Writes many etcd keys at the same time: puts in transactions, a connection each, and deletions in
//! revisions of their own, as leases end. All connections stand before the first request is sent.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddrV4, TcpStream},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::revisions::{PATIENCE, answer, base64};

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
        let encoded = |text: &str| base64(text.as_bytes());
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
    let ready = puts.chain(gone).map(|bodies| Writer::new(to, &bodies));
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
    stream: TcpStream,
    requests: Vec<String>,
}

impl Writer {
    fn new(to: SocketAddrV4, bodies: &[Value]) -> Result<Self> {
        let stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        let request = |body: &Value| {
            let body = body.to_string();
            let length = body.len();
            format!(
                "POST /v3/kv/txn HTTP/1.1\r\nHost: {to}\r\nContent-Length: {length}\r\n\r\n{body}"
            )
        };
        let requests = bodies.iter().map(request).collect();
        Ok(Self { stream, requests })
    }

    /// The revision of the last request.
    fn write(self) -> Result<i64> {
        let mut to = self.stream.try_clone()?;
        let mut from = BufReader::new(self.stream);
        let mut revision = None;
        for request in self.requests {
            to.write_all(request.as_bytes()).context("ask")?;
            let body = answer(&mut from)?;
            let said: Value = serde_json::from_slice(&body).context("etcd's JSON")?;
            // 64 bits are strings in it.
            let text = said.pointer("/header/revision").and_then(Value::as_str);
            revision = Some(text.context("a revision")?.parse().context("a revision")?);
        }
        revision.context("nothing to write")
    }
}
