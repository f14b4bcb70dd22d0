//! Connections one after the other from one port: each meets what the last has left behind.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddrV4, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket,
    sockopt::ReuseAddr,
};
use weft_tests::report::Asked;

const QUESTION: &[u8] = b"once more\n";
const PATIENCE: Duration = Duration::from_secs(3);

pub(crate) fn reuse(from: SocketAddrV4, to: SocketAddrV4, count: u32) -> Result<Asked> {
    let mut report = Asked::default();
    for _ in 0..count {
        report.asked += 1;
        match talk(from, to) {
            Ok(()) => report.answered += 1,
            Err(error) => {
                report.trouble.get_or_insert(format!("{error:#}"));
            }
        }
    }
    Ok(report)
}

/// Asks, and reads to the end: the server is the first to close.
fn talk(from: SocketAddrV4, to: SocketAddrV4) -> Result<()> {
    let socket = socket(
        AddressFamily::Inet,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    setsockopt(&socket, ReuseAddr, &true).context("reuse the port")?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(from)).with_context(|| format!("bind {from}"))?;
    let mut stream = TcpStream::from(socket);
    // A connection attempt is given up after as long as an answer is.
    stream.set_write_timeout(Some(PATIENCE))?;
    connect(stream.as_raw_fd(), &SockaddrIn::from(to))
        .with_context(|| format!("connect to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(QUESTION).context("ask")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).context("read the answer")?;
    ensure!(answer == QUESTION, "another answer: {answer:?}");
    Ok(())
}
