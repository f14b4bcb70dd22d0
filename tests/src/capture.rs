//! Frames of one interface of a host, read by the probe from a packet socket.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, ensure};

use crate::{frame::Overlay, host::Host, paths};

/// Flannel's port, unless the config names another.
pub const PORT: u16 = 8472;

#[derive(Debug)]
pub struct Capture {
    child: Child,
    frames: Arc<Mutex<Vec<Vec<u8>>>>,
    reader: Option<JoinHandle<()>>,
}

impl Capture {
    /// Returns once frames are being captured.
    pub fn start(host: &Host, interface: &str) -> Result<Self> {
        let mut command = host.command(paths::probe()?);
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
                if let Some(frame) = bytes(&line) {
                    into.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(frame);
                }
            }
        });
        let capture = Self {
            child,
            frames,
            reader: Some(reader),
        };
        ensure!(
            first.trim() == "listening",
            "no capture on {interface} of {}",
            host.label
        );
        Ok(capture)
    }

    /// Everything so far; frames of the last moments may still be on their way.
    pub fn frames(&self) -> Vec<Vec<u8>> {
        self.frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
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

fn bytes(line: &str) -> Option<Vec<u8>> {
    let pairs = line.trim().as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_hexadecimal() {
        assert_eq!(bytes("00ff10\n"), Some(vec![0, 255, 16]));
        assert_eq!(bytes("listening"), None);
    }
}
