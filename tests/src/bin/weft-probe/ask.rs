//! Questions over UDP, one after the other on one socket, and what answers or hears them.

use std::{
    io::{self, Write as _},
    net::{SocketAddr, SocketAddrV4, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use weft_tests::report::Asked;

use crate::AskOptions;

const LONGEST: usize = 1 << 16;

/// Serves until killed.
pub(crate) fn echo(bind: SocketAddrV4, least: usize) -> Result<()> {
    serve(bind, |socket, from, content| {
        let mut answer = content.to_vec();
        answer.resize(least.max(content.len()), 0);
        // An ICMP error about an earlier answer is no reason to stop.
        let _ = socket.send_to(&answer, from);
        Ok(())
    })
}

/// Prints until killed.
pub(crate) fn listen(bind: SocketAddrV4) -> Result<()> {
    serve(bind, |_, from, content| {
        let mut out = io::stdout().lock();
        writeln!(out, "{from} {}", String::from_utf8_lossy(content).trim())?;
        out.flush().context("print")
    })
}

pub(crate) fn say(bind: SocketAddrV4, to: SocketAddrV4, text: &str) -> Result<()> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("bind {bind}"))?;
    socket
        .send_to(text.as_bytes(), to)
        .with_context(|| format!("send to {to}"))
        .map(drop)
}

/// Every question has its number, and only the answer to it counts.
pub(crate) fn ask(options: &AskOptions) -> Result<Asked> {
    let AskOptions {
        bind,
        to,
        count,
        pause_ms,
        size,
        patience_ms,
    } = *options;
    let socket = UdpSocket::bind(bind).with_context(|| format!("bind {bind}"))?;
    socket
        .connect(to)
        .with_context(|| format!("connect to {to}"))?;
    let mut report = Asked::default();
    for number in 0..count {
        if number > 0 {
            // The silence is what is asked for: longer than somebody remembers the flow.
            thread::sleep(Duration::from_millis(pause_ms));
        }
        let mut question = number.to_be_bytes().to_vec();
        question.resize(size.max(question.len()), 0x5a);
        report.asked += 1;
        let end = Instant::now() + Duration::from_millis(patience_ms);
        match socket
            .send(&question)
            .and_then(|_| hear(&socket, &question, end))
        {
            Ok(()) => report.answered += 1,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => report.refused += 1,
            Err(error) => {
                report.trouble.get_or_insert(error.to_string());
            }
        }
    }
    Ok(report)
}

/// Waits for a datagram that begins with this content.
pub(crate) fn hear(socket: &UdpSocket, content: &[u8], end: Instant) -> io::Result<()> {
    let mut buffer = vec![0_u8; LONGEST];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "no answer"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.recv(&mut buffer) {
            Ok(size)
                if buffer
                    .get(..size)
                    .is_some_and(|all| all.starts_with(content)) =>
            {
                return Ok(());
            }
            // The answer to an earlier question, or the end of the time.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

fn serve(
    bind: SocketAddrV4,
    handle: impl Fn(&UdpSocket, SocketAddr, &[u8]) -> Result<()>,
) -> Result<()> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("bind {bind}"))?;
    setsockopt(&socket, RcvBufForce, &(8 << 20)).context("grow the receive buffer")?;
    println!("listening");
    let mut buffer = vec![0_u8; LONGEST];
    loop {
        // An ICMP error about an earlier answer shows here.
        if let Ok((size, from)) = socket.recv_from(&mut buffer) {
            handle(&socket, from, buffer.get(..size).unwrap_or_default())?;
        }
    }
}
