//! UDP packets one way, as fast as they go.

use std::{
    net::{IpAddr, UdpSocket},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use super::{Crew, Over, Start, Tally, any, client, is_over, nanos, port, server};
use crate::slice::Cores;

/// Packets between two looks at the clock.
const BATCH: usize = 32;
/// How long the receiver rests when nothing waits: far shorter than its queue takes to fill.
const REST: Duration = Duration::from_micros(50);

/// Counts what arrives. It is not woken by packets but looks again and again: between the ends of a
/// virtual cable every packet would wake it on its own, at the sender's expense and for a fifth of
/// what a packet costs, where a real device wakes it once for a batch.
pub(crate) fn receiver(at: IpAddr, cores: Cores, over: &Over) -> Result<(Vec<u16>, Crew)> {
    let socket = UdpSocket::bind((at, 0)).context("bind")?;
    socket.set_nonblocking(true)?;
    let own = socket.local_addr()?.port();
    let over = Over::clone(over);
    let thread = server(cores, 0, move || {
        let mut buffer = vec![0; 1 << 16];
        let mut tally = Tally::default();
        let mut began = None;
        let mut last = None;
        while !is_over(&over) {
            // The clock is looked at as seldom as at the other end.
            let before = tally.count;
            for _ in 0..BATCH {
                match socket.recv(&mut buffer) {
                    Ok(_) => tally.count += 1,
                    Err(_nothing) => break,
                }
                began.get_or_insert_with(Instant::now);
            }
            if tally.count == before {
                sleep(REST);
            } else {
                last = Some(Instant::now());
            }
        }
        // Waiting at the end is no part of it.
        if let (Some(began), Some(last)) = (began, last) {
            tally.nanos = nanos(last - began);
        }
        Ok(tally)
    });
    Ok((vec![own], vec![thread]))
}

/// Sends until the slice is over.
pub(crate) fn sender(
    to: IpAddr,
    ports: &[u16],
    size: u16,
    cores: Cores,
    start: &Start,
) -> Result<Crew> {
    let socket = UdpSocket::bind((any(to), 0)).context("bind")?;
    socket.connect((to, port(ports, 0)?))?;
    let start = start.clone();
    Ok(vec![client(cores, 0, move || {
        let payload = vec![7; usize::from(size)];
        let mut tally = Tally::default();
        let (began, end) = start.together();
        let mut now = began;
        while now < end {
            for _ in 0..BATCH {
                // A full queue loses the packet, as on a wire.
                tally.sent += u64::from(socket.send(&payload).is_ok());
            }
            now = Instant::now();
        }
        tally.nanos = nanos(now - began);
        Ok(tally)
    })])
}
