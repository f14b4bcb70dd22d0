//! Runs the probe in a place and reads its report.

use std::{
    io::{BufRead as _, BufReader, Read as _},
    net::{Ipv4Addr, SocketAddrV4},
    os::unix::process::CommandExt as _,
    process::{Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::de::DeserializeOwned;

use crate::{
    command,
    container::Place,
    load::backlog_drops,
    paths,
    report::{Asked, Ping, Tcp, Udp},
};

/// So often pings are sent at most.
const PING_TRIES: u32 = 3;

/// A probe at work: ended when dropped, or waited for.
#[derive(Debug)]
pub struct Running {
    child: Option<Child>,
    /// The output of a server, behind the line that says that it listens.
    rest: Option<BufReader<ChildStdout>>,
    line: String,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.process_group(0).spawn();
        let line = command::line(&command);
        Ok(Self {
            child: Some(child.with_context(|| line.clone())?),
            rest: None,
            line,
        })
    }

    /// As [`Self::start`], on a leash: the probe works until [`Self::release`].
    fn start_held(mut command: Command) -> Result<Self> {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let line = command::line(&command);
        let child = command.process_group(0).spawn();
        Ok(Self {
            child: Some(child.with_context(|| line.clone())?),
            rest: None,
            line,
        })
    }

    /// Waits until it is at work.
    pub fn until_running(&mut self) -> Result<()> {
        let out = self.child.as_mut().and_then(|child| child.stdout.take());
        let mut out = BufReader::new(out.context("the probe's output")?);
        let mut first = String::new();
        out.read_line(&mut first)?;
        self.rest = Some(out);
        ensure!(first.trim() == "running", "{}: {first:?}", self.line);
        Ok(())
    }

    /// Whether it has ended, in whatever way.
    pub fn ended(&mut self) -> Result<bool> {
        let child = self
            .child
            .as_mut()
            .context("the probe was waited for already")?;
        Ok(child.try_wait()?.is_some())
    }

    /// Lets go of the leash.
    pub fn release(&mut self) {
        if let Some(child) = &mut self.child {
            drop(child.stdin.take());
        }
    }

    /// Starts a server and waits until it listens.
    fn serve(command: Command) -> Result<Self> {
        let mut server = Self::start(command)?;
        let out = server.child.as_mut().and_then(|child| child.stdout.take());
        let mut first = String::new();
        let mut out = BufReader::new(out.context("the server's output")?);
        out.read_line(&mut first)?;
        if first.trim() != "listening" {
            return Err(server
                .wait()
                .expect_err("a server that does not listen has ended"));
        }
        server.rest = Some(out);
        Ok(server)
    }

    /// Waits for the end and returns what it printed.
    pub fn wait(mut self) -> Result<String> {
        let child = self
            .child
            .take()
            .context("the probe was waited for already")?;
        let mut rest = String::new();
        if let Some(mut out) = self.rest.take() {
            out.read_to_string(&mut rest)
                .with_context(|| self.line.clone())?;
        }
        let out = child
            .wait_with_output()
            .with_context(|| self.line.clone())?;
        if !out.status.success() {
            bail!(
                "{}: {}",
                self.line,
                String::from_utf8_lossy(&out.stderr).trim()
            );
        }
        Ok(rest + &String::from_utf8_lossy(&out.stdout))
    }

    pub fn report<T: DeserializeOwned>(self) -> Result<T> {
        let line = self.line.clone();
        let text = self.wait()?;
        serde_json::from_str(&text).with_context(|| format!("{line}: {text:?}"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The probe in `place`, with the words of `arguments`.
pub fn start(place: &dyn Place, arguments: &str) -> Result<Running> {
    Running::start(prepare(place, arguments)?)
}

/// The same until it is released; the arguments say `--until-input-ends`.
pub fn start_held(place: &dyn Place, arguments: &str) -> Result<Running> {
    Running::start_held(prepare(place, arguments)?)
}

pub fn serve(place: &dyn Place, arguments: &str) -> Result<Running> {
    Running::serve(prepare(place, arguments)?)
}

pub(crate) fn prepare(place: &dyn Place, arguments: &str) -> Result<Command> {
    let mut command = place.inside(paths::probe()?.as_os_str());
    command.args(arguments.split_whitespace());
    Ok(command)
}

/// What two places send each other at the same time.
#[derive(Clone, Copy, Debug)]
pub struct Exchange {
    pub port: u16,
    pub rate: u32,
    pub count: u64,
    pub size: usize,
}

impl Exchange {
    pub fn start(&self, a: &dyn Place, b: &dyn Place) -> Result<Exchanging> {
        let until = format!("--count {}", self.count);
        self.start_by(a, b, |place, line| start(place, &format!("{line} {until}")))
    }

    /// The same until it is asked for its reports, whatever the count says. It runs already.
    pub fn start_held(&self, a: &dyn Place, b: &dyn Place) -> Result<Exchanging> {
        let mut both = self.start_by(a, b, |place, line| {
            start_held(place, &format!("{line} --until-input-ends"))
        })?;
        for side in [&mut both.a, &mut both.b] {
            side.until_running()?;
        }
        Ok(both)
    }

    fn start_by(
        &self,
        a: &dyn Place,
        b: &dyn Place,
        start: impl Fn(&dyn Place, &str) -> Result<Running>,
    ) -> Result<Exchanging> {
        let Self {
            port, rate, size, ..
        } = self;
        let side = |from: &dyn Place, to: &dyn Place| {
            let (bind, to) = (from.address(), to.address());
            let ends = format!("--bind {bind}:{port} --to {to}:{port}");
            start(from, &format!("udp {ends} --rate {rate} --size {size}"))
        };
        Ok(Exchanging {
            dropped: backlog_drops()?,
            a: side(a, b)?,
            b: side(b, a)?,
        })
    }

    pub fn run(&self, a: &dyn Place, b: &dyn Place) -> Result<(Udp, Udp)> {
        self.start(a, b)?.reports()
    }
}

#[derive(Debug)]
pub struct Exchanging {
    dropped: u64,
    a: Running,
    b: Running,
}

impl Exchanging {
    pub fn reports(mut self) -> Result<(Udp, Udp)> {
        self.a.release();
        self.b.release();
        let (mut a, mut b): (Udp, Udp) = (self.a.report()?, self.b.report()?);
        let dropped = backlog_drops()?.saturating_sub(self.dropped);
        (a.backlog_drops, b.backlog_drops) = (dropped, dropped);
        Ok((a, b))
    }
}

/// Fails unless everything arrived, both ways, but for what the machine itself dropped.
pub fn ensure_complete(what: &str, (a, b): (Udp, Udp)) -> Result<()> {
    for side in [a, b] {
        ensure!(
            side.lost_on_the_way() == 0 && side.received > 0 && side.refused == 0,
            "{what}: {} lost of {}: {side:?}",
            side.lost(),
            side.peer_sent
        );
    }
    Ok(())
}

/// A transfer from one place to another, hashed at both ends.
pub fn transfer(from: &dyn Place, to: &dyn Place, port: u16, bytes: u64) -> Result<Tcp> {
    transfer_with(from, to, port, &format!("--bytes {bytes}"))
}

/// The same with the probe's flags for the sender.
pub fn transfer_with(from: &dyn Place, to: &dyn Place, port: u16, flags: &str) -> Result<Tcp> {
    let at = SocketAddrV4::new(to.address(), port);
    let _sink = serve(to, &format!("tcp-sink {at}"))?;
    start(from, &format!("tcp-send --to {at} {flags}"))?.report()
}

/// One line over TCP, there and back; returns the address that the other end saw.
pub fn ask(from: &dyn Place, to: &dyn Place, port: u16) -> Result<Ipv4Addr> {
    let at = SocketAddrV4::new(to.address(), port);
    let _server = serve(to, &format!("tcp-echo {at}"))?;
    let text = start(from, &format!("tcp-ask {} {at}", from.address()))?.wait()?;
    let seen = text.trim().strip_prefix("weft from ").context("an echo")?;
    seen.parse().with_context(|| format!("address {seen:?}"))
}

/// Echo requests with further `flags` of the probe's `ping`. Where some were not answered while the
/// machine's own queues dropped packets of whomever, that says nothing, and they are sent again.
pub fn ping(from: &dyn Place, to: Ipv4Addr, flags: &str) -> Result<Ping> {
    let mut tries = 0;
    loop {
        let dropped = backlog_drops()?;
        let pings: Ping = start(from, &format!("ping --to {to} {flags}"))?.report()?;
        tries += 1;
        if pings.replies == pings.sent || tries == PING_TRIES || backlog_drops()? == dropped {
            return Ok(pings);
        }
    }
}

/// Questions to a UDP echo server from a port of `from`, with further `flags` of the probe.
pub fn ask_udp(from: &dyn Place, port: u16, to: SocketAddrV4, flags: &str) -> Result<Running> {
    let bind = SocketAddrV4::new(from.address(), port);
    start(from, &format!("udp-ask --bind {bind} --to {to} {flags}"))
}

/// Connections from one port of `from`, one after the other, to a server that closes first.
pub fn reuse(from: &dyn Place, port: u16, to: SocketAddrV4, count: u32) -> Result<Asked> {
    let bind = SocketAddrV4::new(from.address(), port);
    start(from, &format!("tcp-reuse {bind} {to} {count}"))?.report()
}

/// Fails unless every question was answered.
pub fn ensure_answered(what: &str, asked: &Asked) -> Result<()> {
    ensure!(
        asked.asked > 0 && asked.answered == asked.asked,
        "{what}: {asked:?}"
    );
    Ok(())
}
