//! Many connections or flows in one process, which all say something when told to.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    net::{Ipv4Addr, SocketAddrV4, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use weft_tests::report::Round;

use crate::{ask, print};

/// Speak at the same time: fewer than any queue on their way has room for.
const BATCH: usize = 200;
/// For all of a batch to be answered, retransmissions included.
const PATIENCE: Duration = Duration::from_secs(5);

trait Talker {
    fn say(&mut self, text: &str) -> io::Result<()>;
    fn hear(&mut self, text: &str, end: Instant) -> io::Result<()>;
}

pub(crate) fn tcp(bind: Ipv4Addr, to: SocketAddrV4) -> Result<()> {
    obey(|_| {
        let stream = TcpStream::connect_timeout(&to.into(), PATIENCE)
            .with_context(|| format!("connect to {to}"))?;
        let from = stream.local_addr().context("name this end")?;
        if from.ip() != bind {
            bail!("connected from {from} instead of {bind}");
        }
        Ok(BufReader::new(stream))
    })
}

pub(crate) fn udp(bind: SocketAddrV4, to: SocketAddrV4) -> Result<()> {
    obey(|number| {
        let port = u16::try_from(usize::from(bind.port()) + number).context("no port is left")?;
        let from = SocketAddrV4::new(*bind.ip(), port);
        let socket = UdpSocket::bind(from).with_context(|| format!("bind {from}"))?;
        socket
            .connect(to)
            .with_context(|| format!("connect to {to}"))?;
        Ok(socket)
    })
}

/// Does what standard input says, and answers every line with a report.
fn obey<T: Talker>(open: impl Fn(usize) -> Result<T>) -> Result<()> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).context("ask how many descriptors")?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most).context("allow many descriptors")?;
    let mut held = Vec::new();
    for (number, line) in io::stdin().lock().lines().enumerate() {
        let line = line.context("read what to do")?;
        match line.split_once(' ') {
            Some(("open", more)) => {
                for _ in 0..more.parse::<u32>().context("how many to open")? {
                    held.push(open(held.len())?);
                }
                print(&Round {
                    held: held.len() as u64,
                    ..Round::default()
                })?;
            }
            None if line == "round" => print(&round(&mut held, number))?,
            _ => bail!("neither \"open NUMBER\" nor \"round\": {line:?}"),
        }
    }
    Ok(())
}

fn round<T: Talker>(held: &mut [T], number: usize) -> Round {
    let mut report = Round {
        held: held.len() as u64,
        ..Round::default()
    };
    let text = format!("round {number}");
    for batch in held.chunks_mut(BATCH) {
        let said: Vec<_> = batch.iter_mut().map(|one| one.say(&text)).collect();
        let end = Instant::now() + PATIENCE;
        for (one, said) in batch.iter_mut().zip(said) {
            match said.and_then(|()| one.hear(&text, end)) {
                Ok(()) => report.answered += 1,
                Err(error) => {
                    report.trouble.get_or_insert(error.to_string());
                }
            }
        }
    }
    report
}

impl Talker for BufReader<TcpStream> {
    fn say(&mut self, text: &str) -> io::Result<()> {
        // In one piece, and so in one packet.
        self.get_mut().write_all(format!("{text}\n").as_bytes())
    }

    /// The server adds whom it saw.
    fn hear(&mut self, text: &str, end: Instant) -> io::Result<()> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            // Zero would mean no limit.
            let left = left.max(Duration::from_millis(1));
            self.get_ref().set_read_timeout(Some(left))?;
            let mut line = String::new();
            if self.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // An answer that came too late for its round is still in the stream.
            if line.split(" from ").next() == Some(text) {
                return Ok(());
            }
        }
    }
}

impl Talker for UdpSocket {
    fn say(&mut self, text: &str) -> io::Result<()> {
        self.send(text.as_bytes()).map(drop)
    }

    fn hear(&mut self, text: &str, end: Instant) -> io::Result<()> {
        ask::hear(self, text.as_bytes(), end)
    }
}
