//! The end that waits: one client after the other, one slice after the other.

use std::{
    net::{IpAddr, TcpListener, TcpStream},
    sync::atomic::Ordering,
    thread,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    control::{Answer, Control, Request},
    load::{self, Crew, Over, bulk, packets, rr},
    place,
    slice::{Load, Slice},
};

/// Longer slices, and more pairs, are somebody's mistake.
const LONGEST: u64 = 600_000;
const WIDEST: u16 = 1024;

/// Waits for clients until the process ends. Each has a thread of its own. `overlay` is where
/// another server of this process waits inside the overlay.
pub fn serve(listener: &TcpListener, overlay: Option<IpAddr>) -> Result<()> {
    loop {
        let (stream, client) = listener.accept().context("accept a client")?;
        thread::spawn(move || {
            if let Err(error) = attend(stream, overlay) {
                eprintln!("weft bench: {client}: {error:#}");
            }
        });
    }
}

/// Slices until the client hangs up.
fn attend(stream: TcpStream, overlay: Option<IpAddr>) -> Result<()> {
    let at = stream.local_addr()?.ip();
    let mut control = Control::new(stream)?;
    while let Ok(request) = control.wait() {
        let slice = match request {
            Request::Prepare(slice) => slice,
            Request::Overlay => {
                control.send(&Answer::Overlay(overlay))?;
                continue;
            }
            Request::Done => bail!("it ended a slice that had not begun"),
        };
        let over = Over::default();
        let (ports, crew) = match prepare(at, slice, &over) {
            Ok((ports, crew)) => {
                control.send(&Answer::Ready(ports.clone()))?;
                (ports, crew)
            }
            Err(error) => {
                control.send(&Answer::Refused(format!("{error:#}")))?;
                continue;
            }
        };
        let before = place::busy()?;
        let done = control.receive::<Request>();
        let busy = place::busy()? - before;
        // Whatever became of the client, its threads end.
        over.store(true, Ordering::SeqCst);
        if slice.load == Load::Crr {
            rr::crr_wake(at, &ports);
        }
        if !matches!(done, Ok(Request::Done)) {
            return Ok(());
        }
        let tally = load::join(crew)?;
        control.send(&Answer::Outcome {
            count: tally.count,
            nanos: tally.nanos,
            busy,
        })?;
    }
    Ok(())
}

fn prepare(at: IpAddr, slice: Slice, over: &Over) -> Result<(Vec<u16>, Crew)> {
    let Slice {
        load,
        cores,
        millis,
    } = slice;
    if millis > LONGEST || load.width() > WIDEST || load.width() == 0 {
        bail!(
            "a slice of {millis} ms with {} pairs is refused",
            load.width()
        );
    }
    place::check((0..usize::from(load.width())).filter_map(|pair| cores.server(pair)))?;
    match load {
        Load::TcpRr { pairs } => rr::tcp_server(at, pairs, cores),
        Load::UdpRr { pairs } => rr::udp_server(at, pairs, cores, over),
        Load::Crr => rr::crr_server(at, cores, over),
        Load::Packets { size: _ } => packets::receiver(at, cores, over),
        Load::Bulk { streams, reverse } => bulk::host(at, streams, reverse, cores, slice.length()),
    }
}
