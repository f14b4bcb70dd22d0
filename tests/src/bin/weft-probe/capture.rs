//! Prints the frames of one interface as they pass, one a line: direction and hexadecimal.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    os::fd::AsRawFd as _,
};

use anyhow::{Context as _, Result};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt::RcvBufForce,
    },
};

/// Longer than any aggregate with its headers.
const LONGEST: usize = 1 << 17;

pub(crate) fn frames(interface: &str) -> Result<()> {
    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
    let index = usize::try_from(index).context("interface index")?;
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("open a packet socket")?;
    setsockopt(&fd, RcvBufForce, &(64 << 20)).context("grow the receive buffer")?;
    let mut out = io::stdout().lock();
    writeln!(out, "listening")?;
    out.flush()?;
    let mut buffer = vec![0_u8; LONGEST];
    loop {
        let (size, from) =
            recvfrom::<LinkAddr>(fd.as_raw_fd(), &mut buffer).context("read a frame")?;
        // The socket hears every interface of the namespace.
        if from.is_none_or(|from| from.ifindex() != index) {
            continue;
        }
        let mut line = String::with_capacity(2 * size + 1);
        for byte in buffer.get(..size).unwrap_or_default() {
            write!(line, "{byte:02x}")?;
        }
        writeln!(out, "{line}")?;
        out.flush()?;
    }
}
