//! A probe that holds many connections and is told, line by line, to use them.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    net::SocketAddrV4,
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{command, container::Place, probe, report::Round};

#[derive(Debug)]
pub struct Dialogue {
    child: Child,
    told: ChildStdin,
    said: BufReader<ChildStdout>,
    line: String,
}

impl Dialogue {
    /// TCP connections from `from` to an echo server.
    pub fn tcp(from: &dyn Place, to: SocketAddrV4) -> Result<Self> {
        Self::start(from, &format!("tcp-many {} {to}", from.address()))
    }

    /// UDP flows from `from`, whose ports are `first` and those that follow, to an echo server.
    pub fn udp(from: &dyn Place, first: u16, to: SocketAddrV4) -> Result<Self> {
        let bind = SocketAddrV4::new(from.address(), first);
        Self::start(from, &format!("udp-many {bind} {to}"))
    }

    fn start(place: &dyn Place, arguments: &str) -> Result<Self> {
        let mut command = probe::prepare(place, arguments)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let line = command::line(&command);
        let child = command.process_group(0).spawn();
        let mut child = child.with_context(|| line.clone())?;
        let told = child.stdin.take().context("the probe's input")?;
        let said = child.stdout.take().context("the probe's output")?;
        Ok(Self {
            child,
            told,
            said: BufReader::new(said),
            line,
        })
    }

    /// Opens more of them.
    pub fn open(&mut self, more: u32) -> Result<Round> {
        self.tell(&format!("open {more}"))
    }

    /// Each asks once and waits for its answer.
    pub fn round(&mut self) -> Result<Round> {
        self.tell("round")
    }

    /// As [`Self::round`]; fails unless there were this many and all were answered.
    pub fn complete_round(&mut self, held: u64) -> Result<()> {
        let round = self.round()?;
        ensure!(round.is_complete(held), "not {held} of {held}: {round:?}");
        Ok(())
    }

    fn tell(&mut self, what: &str) -> Result<Round> {
        let answer = self.exchange(what);
        answer.with_context(|| format!("{}: told to {what:?}", self.line))
    }

    /// The probe limits its own patience.
    fn exchange(&mut self, what: &str) -> Result<Round> {
        writeln!(self.told, "{what}").context("tell the probe")?;
        let mut answer = String::new();
        self.said.read_line(&mut answer).context("hear the probe")?;
        serde_json::from_str(&answer).with_context(|| format!("its answer: {answer:?}"))
    }
}

impl Drop for Dialogue {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
