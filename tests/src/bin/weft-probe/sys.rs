//! Socket options that neither the standard library nor nix knows.
#![expect(unsafe_code, reason = "getsockopt and setsockopt take a pointer")]

use std::{io, mem, os::fd::AsRawFd};

/// Sets DF and refuses to send what does not fit, or clears DF.
pub(crate) fn set_dont_fragment(socket: &impl AsRawFd, on: bool) -> io::Result<()> {
    let value = if on {
        libc::IP_PMTUDISC_DO
    } else {
        libc::IP_PMTUDISC_DONT
    };
    let size = u32::try_from(mem::size_of_val(&value)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `value`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            (&raw const value).cast(),
            size,
        )
    };
    result(code)
}

/// Every frame that this packet socket sends is preceded by a `struct virtio_net_hdr`.
pub(crate) fn send_with_vnet_header(socket: &impl AsRawFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = u32::try_from(mem::size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_VNET_HDR,
            (&raw const on).cast(),
            size,
        )
    };
    result(code)
}

/// A packet socket that sends by one interface, and receives nothing.
pub(crate) fn bind_to_interface(socket: &impl AsRawFd, index: u32) -> io::Result<()> {
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).map_err(io::Error::other)?,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(index).map_err(io::Error::other)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    let size = u32::try_from(mem::size_of_val(&address)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `address`, which outlives the call.
    let code = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size) };
    result(code)
}

fn result(code: libc::c_int) -> io::Result<()> {
    if code < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Segments that this connection has sent again.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentAgain {
    pub(crate) all: u64,
    /// Those that the other end says it had already: late acknowledgements, not losses.
    pub(crate) needless: u64,
}

pub(crate) fn sent_again(socket: &impl AsRawFd) -> io::Result<SentAgain> {
    // SAFETY: the structure consists of integers, for which all zeroes is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut size = u32::try_from(mem::size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `size` bytes, the size of `info`, and updates `size`.
    let code = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut size,
        )
    };
    if code < 0 {
        return Err(io::Error::last_os_error());
    }
    let (all, needless) = (info.tcpi_total_retrans.into(), info.tcpi_dsack_dups.into());
    Ok(SentAgain { all, needless })
}
