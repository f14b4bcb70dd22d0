//! A steady load that shows the smallest loss: numbered UDP packets both ways and a paced TCP
//! stream beside them.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    container::Place,
    probe::{self, Exchange, Exchanging, Running},
    report::{Tcp, Udp},
};

const RATE: u32 = 1000;
const PACE: u32 = 100;

/// A load at work. It borrows nothing, so that the test can do things to the hosts meanwhile.
#[derive(Debug)]
pub struct Load {
    udp: Exchanging,
    stream: Running,
    _sink: Running,
    dropped: u64,
}

/// What came of it.
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    pub udp: (Udp, Udp),
    pub tcp: Tcp,
    /// Packets that the machine's own backlog dropped meanwhile, for whatever reason.
    pub backlog_drops: u64,
}

impl Load {
    /// 1,000 packets a second each way and 100 Mbit/s from `a` to `b`.
    pub fn start(a: &dyn Place, b: &dyn Place, time: Duration) -> Result<Self> {
        Self::start_for(a, b, Some(time))
    }

    /// The same until it is told to finish: for what takes as long as it takes.
    pub fn start_held(a: &dyn Place, b: &dyn Place) -> Result<Self> {
        Self::start_for(a, b, None)
    }

    fn start_for(a: &dyn Place, b: &dyn Place, time: Option<Duration>) -> Result<Self> {
        let dropped = backlog_drops()?;
        let at = format!("{}:9101", b.address());
        let sink = probe::serve(b, &format!("tcp-sink {at}"))?;
        let line = format!("tcp-send --to {at} --pace {PACE} --bytes {}", u64::MAX);
        let mut udp = Exchange {
            port: 9100,
            rate: RATE,
            count: 0,
            size: 200,
        };
        let (stream, udp) = if let Some(time) = time {
            let line = format!("{line} --stop-after {}", time.as_millis());
            udp.count = time.as_secs() * u64::from(RATE);
            (probe::start(a, &line)?, udp.start(a, b)?)
        } else {
            let mut stream = probe::start_held(a, &format!("{line} --until-input-ends"))?;
            stream.until_running()?;
            (stream, udp.start_held(a, b)?)
        };
        Ok(Self {
            udp,
            stream,
            _sink: sink,
            dropped,
        })
    }

    pub fn finish(mut self) -> Result<Outcome> {
        self.stream.release();
        let udp = self.udp.reports()?;
        let tcp: Tcp = self.stream.report()?;
        let backlog_drops = backlog_drops()?.saturating_sub(self.dropped);
        Ok(Outcome {
            udp,
            tcp,
            backlog_drops,
        })
    }
}

impl Outcome {
    /// Fails unless everything arrived, and TCP had nothing to repair, but for what the machine's
    /// queues dropped: other suites run beside this one. What it sends again because
    /// an acknowledgement was late does not count: the other end says that it had it already.
    pub fn ensure_lossless(&self) -> Result<()> {
        probe::ensure_complete("UDP under load", self.udp)?;
        ensure!(self.tcp.complete(), "TCP under load: {:?}", self.tcp);
        ensure!(
            self.tcp.repaired() <= self.backlog_drops,
            "TCP repaired a loss: {:?}, {} dropped by the machine's backlog",
            self.tcp,
            self.backlog_drops
        );
        Ok(())
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            udp: (a, b),
            tcp,
            backlog_drops,
        } = self;
        for (name, side) in [("there", b), ("back", a)] {
            writeln!(
                f,
                "UDP {name:<5} {} of {}, longest gap {} ms",
                side.received, side.peer_sent, side.longest_gap_ms
            )?;
        }
        let (megabytes, mbit) = (tcp.received >> 20, tcp.mbit());
        let Tcp {
            retransmits,
            needless,
            ..
        } = tcp;
        writeln!(
            f,
            "TCP {megabytes} MB at {mbit} Mbit/s, {retransmits} sent again, {needless} needlessly"
        )?;
        write!(f, "dropped by the machine's backlog: {backlog_drops}")
    }
}

/// Packets that the machine's backlog has dropped: the second column of every processor's line.
pub fn backlog_drops() -> Result<u64> {
    let text = fs::read_to_string("/proc/net/softnet_stat").context("read softnet_stat")?;
    let column = |line: &str| {
        line.split_whitespace()
            .nth(1)
            .and_then(|word| u64::from_str_radix(word, 16).ok())
    };
    Ok(text.lines().filter_map(column).sum())
}
