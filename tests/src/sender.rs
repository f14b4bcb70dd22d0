//! Sends crafted frames from an interface, through the probe.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command, container::Place, craft::Frame, host::Host, netns::Netns, paths, report::Sent,
};

/// A probe that stays and sends one batch after the other.
#[derive(Debug)]
pub struct Sender {
    child: Child,
    into: ChildStdin,
    out: BufReader<ChildStdout>,
    line: String,
}

impl Sender {
    /// From an interface of a place.
    pub fn start(place: &dyn Place, interface: &str) -> Result<Self> {
        Self::spawn(place.inside(paths::probe()?.as_os_str()), interface, "")
    }

    pub fn on_host(host: &Host, interface: &str) -> Result<Self> {
        Self::spawn(host.command(paths::probe()?), interface, "")
    }

    pub fn in_namespace(ns: &Netns, interface: &str) -> Result<Self> {
        Self::spawn(ns.command(paths::probe()?), interface, "")
    }

    fn spawn(mut command: Command, interface: &str, flags: &str) -> Result<Self> {
        command.args(["frames", interface]);
        command.args(flags.split_whitespace()).process_group(0);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let line = command::line(&command);
        let mut child = command.spawn().with_context(|| line.clone())?;
        Ok(Self {
            into: child.stdin.take().context("the sender's input")?,
            out: BufReader::new(child.stdout.take().context("the sender's output")?),
            child,
            line,
        })
    }

    /// Sends a batch in its order and returns once all of it has left the socket. Fails when the
    /// kernel refused one.
    pub fn send(&mut self, frames: &[Frame]) -> Result<()> {
        let sent = self.batch(frames)?;
        let wanted = u64::try_from(frames.len()).context("that many frames")?;
        ensure!(
            sent.sent == wanted && sent.refused == 0,
            "{}: {sent:?} of {wanted}",
            self.line
        );
        Ok(())
    }

    /// The same, and tells how many were refused.
    pub fn batch(&mut self, frames: &[Frame]) -> Result<Sent> {
        let mut text = String::new();
        for frame in frames {
            text.push_str(&frame.line());
            text.push('\n');
        }
        text.push('\n');
        let written = self.into.write_all(text.as_bytes());
        written
            .and_then(|()| self.into.flush())
            .with_context(|| format!("{} has ended", self.line))?;
        let mut answer = String::new();
        self.out
            .read_line(&mut answer)
            .context("read from the sender")?;
        serde_json::from_str(&answer).with_context(|| format!("{}: {answer:?}", self.line))
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// How to send many.
#[derive(Clone, Copy, Debug)]
pub enum Blast {
    /// The whole batch this many times.
    Count(u64),
    /// Random damage done to frames of the batch, at full speed.
    Mutate { seed: u64, time: Duration },
}

/// Sends at full speed and waits for the end. What the kernel refuses is only counted.
pub fn blast(place: &dyn Place, interface: &str, frames: &[Frame], how: Blast) -> Result<Sent> {
    blast_by(
        place.inside(paths::probe()?.as_os_str()),
        interface,
        frames,
        how,
    )
}

/// The same from any namespace: `command` runs the probe there.
pub fn blast_by(command: Command, interface: &str, frames: &[Frame], how: Blast) -> Result<Sent> {
    let flags = match how {
        Blast::Count(count) => format!("--count {count}"),
        Blast::Mutate { seed, time } => {
            format!("--mutate {seed} --for {}", time.as_millis())
        }
    };
    Sender::spawn(command, interface, &flags)?.batch(frames)
}
