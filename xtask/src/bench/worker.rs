//! The two processes of a lane: a server in one place, and in the other a client that is told by
//! lines what to run.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use weft_bench::slice::{Sample, Slice};
use weft_tests::container::Place;

/// Ended when dropped.
#[derive(Debug)]
struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    fn start(mut command: Command, ready: &str) -> Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command
            .process_group(0)
            .spawn()
            .context("start weft bench")?;
        let out = child.stdout.take().context("output of weft bench")?;
        let mut process = Self {
            child,
            out: BufReader::new(out),
        };
        let first = process.line()?;
        ensure!(first.trim() == ready, "weft bench said {first:?}");
        Ok(process)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        ensure!(!line.is_empty(), "weft bench has ended");
        Ok(line)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Both ends of a lane.
#[derive(Debug)]
pub(super) struct Pair {
    client: Process,
    to: ChildStdin,
    _server: Process,
}

impl Pair {
    pub(super) fn start(weft: &OsStr, client: &dyn Place, server: &dyn Place) -> Result<Self> {
        let at = server.address().to_string();
        let mut waits = server.inside(weft);
        waits.args(["bench", "--server", "--host-only", "--bind", &at]);
        let server = Process::start(waits, "listening")?;
        let mut asks = client.inside(weft);
        asks.args(["bench", "--worker", "--peer", &at]);
        let mut client = Process::start(asks, "connected")?;
        let to = client.child.stdin.take().context("input of weft bench")?;
        Ok(Self {
            client,
            to,
            _server: server,
        })
    }

    pub(super) fn run(&mut self, slice: &Slice) -> Result<Sample> {
        writeln!(self.to, "{}", serde_json::to_string(slice)?)?;
        let line = self.client.line()?;
        serde_json::from_str(&line).with_context(|| format!("a sample: {line:?}"))
    }
}
