//! Prints the frames of one interface as they pass, one a line: `in` or `out`, words of
//! [`weft_tests::craft`] about offloads, and hexadecimal, with the tag where it was on the wire.

use std::io::{self, Write as _};

use anyhow::{Context as _, Result};
use nix::{
    net::if_::if_nametoindex,
    sys::socket::{
        AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::RcvBufForce,
    },
};
use weft_tests::craft::{Frame, Offload, VNET_LEN};

use crate::sys;

/// Longer than any aggregate with its headers.
const LONGEST: usize = 1 << 17;

pub(crate) fn frames(interface: &str) -> Result<()> {
    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
    let index = i32::try_from(index).context("interface index")?;
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )
    .context("open a packet socket")?;
    setsockopt(&fd, RcvBufForce, &(64 << 20)).context("grow the receive buffer")?;
    sys::packet_option(&fd, libc::PACKET_VNET_HDR).context("ask for offloads")?;
    sys::packet_option(&fd, libc::PACKET_AUXDATA).context("ask for tags")?;
    let mut out = io::stdout().lock();
    writeln!(out, "listening")?;
    out.flush()?;
    let mut buffer = vec![0_u8; LONGEST];
    loop {
        let received = sys::receive_frame(&fd, &mut buffer).context("read a frame")?;
        // The socket hears every interface of the namespace.
        if received.interface != index {
            continue;
        }
        let bytes = buffer.get(..received.size).unwrap_or_default();
        let Some((vnet, bytes)) = bytes.split_first_chunk::<VNET_LEN>() else {
            continue;
        };
        let mut frame = Frame {
            bytes: bytes.to_vec(),
            offload: Offload::of_vnet(vnet),
        };
        if let Some((tag, control)) = received.tag {
            frame = frame.tagged(tag, control);
        }
        let direction = if received.outgoing { "out" } else { "in" };
        writeln!(out, "{direction} {}", frame.line())?;
        out.flush()?;
    }
}
