//! Frames of one interface of a host, read by the probe from a packet socket.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    craft::{Frame, parse_line},
    frame::Overlay,
    host::Host,
    netns::Netns,
    paths,
};

/// Flannel's port, unless the config names another.
pub const PORT: u16 = 8472;

/// A frame that passed the interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Sent by this side, not received.
    pub outgoing: bool,
    /// A tag stands in its bytes, and offloads beside them.
    pub frame: Frame,
}

#[derive(Debug)]
pub struct Capture {
    child: Child,
    frames: Arc<Mutex<Vec<Seen>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Returns once frames are being captured.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        Self::spawn(host.command(paths::probe()?), interface)
    }

    /// The same in any namespace.
    pub fn in_namespace(ns: &Netns, interface: &str) -> Result<Self> {
        Self::spawn(ns.command(paths::probe()?), interface)
    }

    fn spawn(mut command: Command, interface: &str) -> Result<Self> {
        command.args(["capture", interface]).process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().context("start a capture")?;
        let mut out = BufReader::new(child.stdout.take().context("the capture's output")?);
        let frames = Arc::new(Mutex::new(Vec::new()));
        let mut first = String::new();
        out.read_line(&mut first).context("read from the capture")?;
        let into = Arc::clone(&frames);
        let reader = thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if let Some(seen) = seen(&line) {
                    into.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(seen);
                }
            }
        });
        let capture = Self {
            child,
            frames,
            reader: Some(reader),
        };
        ensure!(first.trim() == "listening", "no capture on {interface}");
        Ok(capture)
    }

    /// Everything so far; frames of the last moments may still be on their way.
    pub fn seen(&self) -> Vec<Seen> {
        self.frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Everything so far, and forgets it.
    pub fn take(&self) -> Vec<Seen> {
        std::mem::take(&mut self.frames.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The bytes of everything so far.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        let seen = self.seen().into_iter();
        seen.map(|seen| seen.frame.bytes).collect()
    }

    /// The overlay's frames so far.
    pub fn overlay(&self) -> Vec<Overlay> {
        self.frames()
            .iter()
            .filter_map(|frame| Overlay::parse(frame, PORT))
            .collect()
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

fn seen(line: &str) -> Option<Seen> {
    let (direction, rest) = line.split_once(' ')?;
    Some(Seen {
        outgoing: direction == "out",
        frame: parse_line(rest).ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_tell_direction_and_bytes() {
        let line = seen("out csum=34+16 00ff10\n").unwrap();
        assert!(line.outgoing);
        assert_eq!(line.frame.bytes, [0, 255, 16]);
        assert!(!seen("in 00").unwrap().outgoing);
        assert_eq!(seen("listening"), None);
    }
}
