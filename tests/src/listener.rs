//! Datagrams that reach a socket, in the order in which they come.

use std::{
    io::{BufRead as _, BufReader},
    net::SocketAddrV4,
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{container::Place, probe, wait};

/// For a datagram that was sent: a machine that does other things may be slow.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Listener {
    child: Child,
    heard: Arc<Mutex<Vec<Datagram>>>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    pub from: SocketAddrV4,
    pub content: String,
}

impl Listener {
    /// Returns once the port of `at` is open.
    pub fn start(at: &dyn Place, port: u16) -> Result<Self> {
        let bind = SocketAddrV4::new(at.address(), port);
        let mut command = probe::prepare(at, &format!("udp-listen {bind}"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.process_group(0).spawn().context("listen")?;
        let mut out = BufReader::new(child.stdout.take().context("the listener's output")?);
        let heard = Arc::new(Mutex::new(Vec::new()));
        let mut first = String::new();
        out.read_line(&mut first).context("hear the listener")?;
        let into = Arc::clone(&heard);
        let reader = thread::spawn(move || {
            let lines = out.lines().map_while(Result::ok);
            for datagram in lines.filter_map(|line| parse(&line)) {
                let mut heard = into.lock().unwrap_or_else(PoisonError::into_inner);
                heard.push(datagram);
            }
        });
        let listener = Self {
            child,
            heard,
            reader: Some(reader),
        };
        ensure!(first.trim() == "listening", "nobody listens on {bind}");
        Ok(listener)
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<Datagram> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.clone()
    }

    /// Waits for this content and returns everything before it.
    pub fn until(&self, content: &str) -> Result<Vec<Datagram>> {
        let what = format!("{content:?} arrives");
        wait::until(&what, PATIENCE, || {
            let heard = self.heard();
            let at = heard.iter().position(|one| one.content == content);
            Ok(at.and_then(|at| heard.get(..at).map(<[Datagram]>::to_vec)))
        })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn parse(line: &str) -> Option<Datagram> {
    let (from, content) = line.split_once(' ')?;
    Some(Datagram {
        from: from.parse().ok()?,
        content: content.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_a_source_and_a_content() {
        let heard = parse("192.0.2.9:77 a b").expect("a line");
        assert_eq!(heard.content, "a b");
        assert_eq!(heard.from, "192.0.2.9:77".parse().expect("a constant"));
        assert_eq!(parse("listening"), None);
    }
}
