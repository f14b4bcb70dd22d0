//! The end that asks: runs a slice against a server and has the sample.

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::{Arc, Barrier},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    control::{Answer, Control, Request},
    load::{self, CONNECT, Start, Tally, bulk, packets, rr},
    place,
    slice::{Load, Sample, Slice},
};

/// A client with its server.
pub struct Client {
    to: IpAddr,
    control: Control,
}

impl Client {
    /// Connects to a server.
    pub fn connect(to: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect_timeout(&to, CONNECT).with_context(|| {
            format!("no server at {to}: start `weft bench --server` on the other host")
        })?;
        Ok(Self {
            to: to.ip(),
            control: Control::new(stream)?,
        })
    }

    /// Where the server's other end waits, inside the overlay.
    pub fn overlay(&mut self) -> Result<Option<IpAddr>> {
        self.control.send(&Request::Overlay)?;
        match self.control.receive()? {
            Answer::Overlay(address) => Ok(address),
            _ => bail!("the server answers out of order"),
        }
    }

    /// Runs a slice.
    pub fn run(&mut self, slice: Slice) -> Result<Sample> {
        let pairs = 0..usize::from(slice.load.width());
        place::check(pairs.filter_map(|pair| slice.cores.client(pair)))?;
        self.control.send(&Request::Prepare(slice))?;
        let ports = match self.control.receive()? {
            Answer::Ready(ports) => ports,
            Answer::Refused(why) => bail!("the server refuses: {why}"),
            Answer::Outcome { .. } | Answer::Overlay(_) => {
                bail!("the server answers out of order")
            }
        };
        let (tally, busy) = self.load(slice, &ports)?;
        self.control.send(&Request::Done)?;
        let Answer::Outcome {
            count,
            nanos,
            busy: server_busy,
        } = self.control.receive()?
        else {
            bail!("the server has no outcome");
        };
        Ok(sample(slice.load, tally, (count, nanos), busy, server_busy))
    }

    fn load(&self, slice: Slice, ports: &[u16]) -> Result<(Tally, f64)> {
        let Slice { load, cores, .. } = slice;
        let start = Start {
            barrier: Arc::new(Barrier::new(usize::from(load.width()) + 1)),
            length: slice.length(),
        };
        let crew = match load {
            Load::TcpRr { pairs } => rr::tcp_client(self.to, ports, pairs, cores, &start)?,
            Load::UdpRr { pairs } => rr::udp_client(self.to, ports, pairs, cores, &start)?,
            Load::Crr => rr::crr_client(self.to, ports, cores, &start),
            Load::Packets { size } => packets::sender(self.to, ports, size, cores, &start)?,
            Load::Bulk { streams, reverse } => {
                bulk::guest(self.to, ports, streams, reverse, cores, &start)?
            }
        };
        start.barrier.wait();
        let before = place::busy()?;
        let tally = load::join(crew)?;
        Ok((tally, place::busy()? - before))
    }
}

/// What arrives counts, and the end where it arrives knows.
fn sample(
    load: Load,
    mut tally: Tally,
    (arrived, within): (u64, u64),
    busy: f64,
    server_busy: f64,
) -> Sample {
    let there = matches!(
        load,
        Load::Packets { .. } | Load::Bulk { reverse: false, .. }
    );
    let (count, nanos) = if there {
        (arrived, within)
    } else {
        (tally.count, tally.nanos)
    };
    tally.times.sort_unstable();
    Sample {
        count,
        nanos,
        busy,
        server_busy,
        sent: tally.sent,
        p50: quantile(&tally.times, 50),
        p99: quantile(&tally.times, 99),
    }
}

/// In microseconds, of sorted nanoseconds.
fn quantile(times: &[u32], percent: usize) -> f64 {
    let last = times.len().saturating_sub(1);
    let at = last * percent / 100;
    times.get(at).map_or(0.0, |time| f64::from(*time) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_of_what_was_measured() {
        let times: Vec<u32> = (1..=101).map(|n| n * 1000).collect();
        assert!((quantile(&times, 50) - 51.0).abs() < 1e-9);
        assert!((quantile(&times, 99) - 100.0).abs() < 1e-9);
        assert!(quantile(&[], 50) == 0.0);
    }
}
