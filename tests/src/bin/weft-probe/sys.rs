//! Socket options, and an order of running, that neither the standard library nor nix knows.
#![expect(unsafe_code, reason = "these calls take a pointer")]

use std::{io, mem, os::fd::AsRawFd};

/// Has this thread, and those that it starts, run before others. Where that is not allowed they wait
/// their turn.
pub(crate) fn go_first() {
    let priority = libc::sched_param { sched_priority: 1 };
    // SAFETY: the pointer is to `priority`, which outlives the call.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
}

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

/// Turns on an option of a packet socket. With `PACKET_VNET_HDR` every frame is preceded by a
/// `struct virtio_net_hdr`, with `PACKET_AUXDATA` a control message tells of its tag.
pub(crate) fn packet_option(socket: &impl AsRawFd, option: libc::c_int) -> io::Result<()> {
    let on: libc::c_int = 1;
    let size = u32::try_from(mem::size_of_val(&on)).map_err(io::Error::other)?;
    // SAFETY: the pointer and the length describe `on`, which outlives the call.
    let code = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            (&raw const on).cast(),
            size,
        )
    };
    result(code)
}

/// What a packet socket says of a frame, beside its bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received {
    pub(crate) size: usize,
    pub(crate) interface: i32,
    pub(crate) outgoing: bool,
    /// EtherType and content of a tag that the kernel took off.
    pub(crate) tag: Option<(u16, u16)>,
}

/// Waits for a frame on a packet socket with `PACKET_AUXDATA`.
pub(crate) fn receive_frame(socket: &impl AsRawFd, into: &mut [u8]) -> io::Result<Received> {
    // As the kernel aligns control messages.
    let mut control = [0_u64; 16];
    // SAFETY: both structures consist of integers and pointers, for which all zeroes is a value.
    let (mut from, mut message): (libc::sockaddr_ll, libc::msghdr) = unsafe { mem::zeroed() };
    let mut piece = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    message.msg_name = (&raw mut from).cast();
    message.msg_namelen = u32::try_from(mem::size_of_val(&from)).map_err(io::Error::other)?;
    message.msg_iov = &raw mut piece;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = mem::size_of_val(&control);
    // SAFETY: the message points to buffers of the lengths it states, which outlive the call.
    let size = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, 0) };
    let size = usize::try_from(size).map_err(|_negative| io::Error::last_os_error())?;
    Ok(Received {
        size,
        interface: from.sll_ifindex,
        outgoing: from.sll_pkttype == libc::PACKET_OUTGOING,
        tag: tag_of(&message),
    })
}

fn tag_of(message: &libc::msghdr) -> Option<(u16, u16)> {
    // SAFETY: the kernel has filled the message's control buffer, which the caller still owns.
    let header = unsafe { libc::CMSG_FIRSTHDR(message).as_ref() }?;
    if (header.cmsg_level, header.cmsg_type) != (libc::SOL_PACKET, libc::PACKET_AUXDATA) {
        return None;
    }
    // SAFETY: a control message of this type holds this structure; it may not be aligned.
    let data = unsafe {
        libc::CMSG_DATA(header)
            .cast::<libc::tpacket_auxdata>()
            .read_unaligned()
    };
    (data.tp_status & libc::TP_STATUS_VLAN_VALID != 0)
        .then_some((data.tp_vlan_tpid, data.tp_vlan_tci))
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

/// A side of a device, by the kernel's number for the attachment.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TcxSide {
    Ingress = 46,
    Egress = 47,
}

/// Programs and links at a hook, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tcx {
    pub(crate) programs: Vec<u32>,
    pub(crate) links: Vec<u32>,
}

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` uses.
#[repr(C)]
#[derive(Default)]
struct ProgQuery {
    target: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    count: u32,
    padding: u32,
    prog_attach_flags: u64,
    link_ids: u64,
    link_attach_flags: u64,
    revision: u64,
}

/// Asks the kernel what hangs at one side of a device.
pub(crate) fn tcx(device: u32, side: TcxSide) -> io::Result<Tcx> {
    const BPF_PROG_QUERY: libc::c_long = 16;
    let (mut programs, mut links) = ([0_u32; 64], [0_u32; 64]);
    let mut query = ProgQuery {
        target: device,
        attach_type: side as u32,
        prog_ids: programs.as_mut_ptr().expose_provenance() as u64,
        link_ids: links.as_mut_ptr().expose_provenance() as u64,
        count: 64,
        ..ProgQuery::default()
    };
    // SAFETY: the kernel reads and writes `query`, of the size stated, and at most `count` numbers
    // into each of the two arrays; all three outlive the call.
    let code = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            &raw mut query,
            mem::size_of::<ProgQuery>(),
        )
    };
    if code < 0 {
        let error = io::Error::last_os_error();
        // Nothing has ever hung there.
        return match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(Tcx::default()),
            _ => Err(error),
        };
    }
    let count = usize::try_from(query.count).map_err(io::Error::other)?;
    let first = |numbers: &[u32]| numbers.iter().take(count).copied().collect();
    Ok(Tcx {
        programs: first(&programs),
        links: first(&links),
    })
}
