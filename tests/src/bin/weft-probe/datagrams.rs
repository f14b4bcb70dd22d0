//! Many datagrams in one call (`UDP_SEGMENT`), and a sink that hashes them one by one.

use std::{
    net::{SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    setsockopt,
    sockopt::{RcvBufForce, UdpGsoSegment},
};
use weft_tests::report::Datagrams;

use crate::{
    DatagramOptions,
    hash::{Content, Hash},
};

/// Between two of them, when all that is to come may have come.
const PATIENCE: Duration = Duration::from_secs(5);

/// Prints what came once `count` have, or when no more come.
pub(crate) fn sink(bind: SocketAddrV4, count: u64) -> Result<Datagrams> {
    let socket = UdpSocket::bind(bind).with_context(|| format!("bind {bind}"))?;
    setsockopt(&socket, RcvBufForce, &(64 << 20)).context("grow the receive buffer")?;
    socket
        .set_read_timeout(Some(PATIENCE))
        .context("set a read timeout")?;
    println!("listening");
    let (mut report, mut hash) = (Datagrams::default(), Hash::new());
    let mut buffer = vec![0_u8; 65536];
    while report.count < count {
        let Ok(size) = socket.recv(&mut buffer) else {
            break;
        };
        report.count += 1;
        report.bytes += size as u64;
        hash.add(buffer.get(..size).unwrap_or_default());
    }
    report.hash = hash.value();
    Ok(report)
}

/// Sends calls of several datagrams each; the last of a call is shorter.
pub(crate) fn send(options: &DatagramOptions) -> Result<Datagrams> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("bind")?;
    socket.connect(options.to).context("connect")?;
    let size = i32::try_from(options.size).context("size of a segment")?;
    setsockopt(&socket, UdpGsoSegment, &size).context("set UDP_SEGMENT")?;
    let (mut report, mut hash) = (Datagrams::default(), Hash::new());
    let mut content = Content::new();
    let mut block = vec![0_u8; options.size * options.segments - options.size / 2];
    let start = Instant::now();
    for number in 0..options.calls {
        content.fill(&mut block);
        // A burst would overflow the queues between devices, on both pairs.
        let due = Duration::from_millis(1) * number;
        std::thread::sleep(due.saturating_sub(start.elapsed()));
        socket.send(&block).context("send")?;
        for datagram in block.chunks(options.size) {
            report.count += 1;
            report.bytes += datagram.len() as u64;
            hash.add(datagram);
        }
    }
    report.hash = hash.value();
    Ok(report)
}
