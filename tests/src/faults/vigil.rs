//! What watches the overlay during a fault: 1,000 numbered packets a second and a TCP stream, both
//! ways between two containers, for as long as the fault takes.

use std::sync::atomic::{AtomicU16, Ordering};

use anyhow::{Context as _, Result};

use crate::{
    container::Place,
    load::backlog_drops,
    probe::{self, Exchange, Exchanging, Running},
    report::{Tcp, Udp},
};

const RATE: u32 = 1000;
/// Of each stream, in Mbit/s.
const PACE: u32 = 20;

#[derive(Debug)]
pub struct Vigil {
    udp: Exchanging,
    streams: [Running; 2],
    _sinks: [Running; 2],
    dropped: u64,
}

/// What a fault cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct Toll {
    pub sent: u64,
    /// Packets that did not arrive, or that the sender's kernel refused.
    pub lost: u64,
    pub gap_ms: u64,
    /// The senders' own longest pause in the same time.
    pub pause_ms: u64,
    /// Bytes that both streams carried.
    pub streamed: u64,
    /// Segments that they had to repair.
    pub repaired: u64,
    /// Packets that the machine's own backlog dropped meanwhile, for whatever reason.
    pub backlog_drops: u64,
}

impl Vigil {
    pub fn start(a: &dyn Place, b: &dyn Place) -> Result<Self> {
        // No flow of an earlier fault: those may be the stack's.
        static NEXT: AtomicU16 = AtomicU16::new(30_000);
        let port = NEXT.fetch_add(2, Ordering::Relaxed);
        let dropped = backlog_drops()?;
        let sink = |at: &dyn Place| probe::serve(at, &format!("tcp-sink {}:{port}", at.address()));
        let sinks = [sink(b)?, sink(a)?];
        let stream = |from: &dyn Place, to: &dyn Place| {
            let (to, most) = (to.address(), u64::MAX);
            let flags = format!("--bytes {most} --pace {PACE} --until-input-ends");
            probe::start_held(from, &format!("tcp-send --to {to}:{port} {flags}"))
        };
        let mut streams = [stream(a, b)?, stream(b, a)?];
        // The fault is to meet what runs.
        for probe in &mut streams {
            probe.until_running()?;
        }
        let udp = Exchange {
            port: port + 1,
            rate: RATE,
            count: 0,
            size: 200,
        }
        .start_held(a, b)?;
        Ok(Self {
            udp,
            streams,
            _sinks: sinks,
            dropped,
        })
    }

    /// Ends it. A stream that broke, or brought something else than was sent, is an error.
    pub fn end(self) -> Result<Toll> {
        let Self {
            udp,
            mut streams,
            _sinks,
            dropped,
        } = self;
        streams.iter_mut().for_each(Running::release);
        let (a, b) = udp.reports()?;
        let mut toll = Toll {
            sent: a.sent + b.sent,
            lost: missing(&a, &b) + missing(&b, &a),
            gap_ms: a.longest_gap_ms.max(b.longest_gap_ms),
            pause_ms: a.longest_pause_ms.max(b.longest_pause_ms),
            backlog_drops: backlog_drops()?.saturating_sub(dropped),
            ..Toll::default()
        };
        for stream in streams {
            let tcp: Tcp = stream.report().context("a TCP stream broke")?;
            anyhow::ensure!(
                tcp.complete(),
                "a TCP stream brought something else: {tcp:?}"
            );
            toll.streamed += tcp.received;
            toll.repaired += tcp.repaired();
        }
        Ok(toll)
    }
}

/// What one side sent, or could not, and the other does not have. What it says of itself counts:
/// its farewell may be lost as well.
fn missing(from: &Udp, to: &Udp) -> u64 {
    (from.sent + from.refused).saturating_sub(to.received)
}
