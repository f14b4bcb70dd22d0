//! Echo requests on a raw socket: size, TTL and DF as asked, errors read from what comes back.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt::Ipv4Tos,
};
use weft_tests::report::{IcmpError, Ping};

use crate::{PingOptions, sys};

const IP_HEADER: usize = 20;
const ICMP_HEADER: usize = 8;
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const ECHO_REQUEST: u8 = 8;
const TIME_EXCEEDED: u8 = 11;

enum Answer {
    Reply(u16),
    Error(IcmpError, u16),
}

pub(crate) fn ping(options: &PingOptions) -> Result<Ping> {
    let socket = open(options)?;
    let to = SocketAddr::V4(SocketAddrV4::new(options.to, 0));
    // Several probes may ping at once in one namespace, and each sees all answers.
    let id = u16::try_from(std::process::id() & 0xffff).unwrap_or_default();
    let mut report = Ping::default();
    for sequence in 1..=u16::try_from(options.count).context("too many requests")? {
        report.sent += 1;
        match socket.send_to(&request(id, sequence, options.size), to) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                report.too_big += 1;
                continue;
            }
            Err(_) => {
                report.refused += 1;
                continue;
            }
        }
        match wait(
            &socket,
            id,
            sequence,
            Duration::from_millis(options.patience_ms),
        )? {
            Some(Answer::Reply(_)) => report.replies += 1,
            Some(Answer::Error(error, _)) => report.errors.push(error),
            None => {}
        }
    }
    Ok(report)
}

/// The standard library's type sends and receives on any datagram-like descriptor.
fn open(options: &PingOptions) -> Result<UdpSocket> {
    let fd: OwnedFd = socket(
        AddressFamily::Inet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::Icmp,
    )
    .context("open a raw socket")?;
    sys::set_dont_fragment(&fd, options.df).context("set DF")?;
    setsockopt(&fd, Ipv4Tos, &i32::from(options.tos)).context("set the TOS")?;
    let socket = UdpSocket::from(fd);
    socket.set_ttl(options.ttl).context("set the TTL")?;
    Ok(socket)
}

fn request(id: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend(id.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.resize(size.saturating_sub(IP_HEADER).max(ICMP_HEADER), 0x5a);
    let sum = checksum(&packet).to_be_bytes();
    for (to, from) in packet.iter_mut().skip(2).zip(sum) {
        *to = from;
    }
    packet
}

fn checksum(packet: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in packet.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([high, low]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn wait(socket: &UdpSocket, id: u16, sequence: u16, limit: Duration) -> Result<Option<Answer>> {
    let end = Instant::now() + limit;
    let mut buffer = vec![0_u8; 65536];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
        }
        socket
            .set_read_timeout(Some(left))
            .context("set a read timeout")?;
        let (size, from) = match socket.recv_from(&mut buffer) {
            Ok(got) => got,
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock) => return Ok(None),
            // An error report can also come as the socket's error; its packet follows.
            Err(_) => continue,
        };
        let SocketAddr::V4(from) = from else { continue };
        let answer = buffer
            .get(..size)
            .and_then(|packet| parse(*from.ip(), packet, id));
        match answer {
            Some(Answer::Reply(number) | Answer::Error(_, number)) if number != sequence => {}
            Some(answer) => return Ok(Some(answer)),
            None => {}
        }
    }
}

/// Reads an IP packet; answers to somebody else's request are nothing.
fn parse(from: Ipv4Addr, packet: &[u8], id: u16) -> Option<Answer> {
    let icmp = payload(packet)?;
    let (kind, code) = (*icmp.first()?, *icmp.get(1)?);
    match kind {
        ECHO_REPLY => {
            let (theirs, sequence) = echo(icmp)?;
            (theirs == id).then_some(Answer::Reply(sequence))
        }
        UNREACHABLE | TIME_EXCEEDED => {
            let (theirs, sequence) = echo(payload(icmp.get(ICMP_HEADER..)?)?)?;
            let mtu = word(icmp, 6).filter(|_| (kind, code) == (UNREACHABLE, 4));
            let error = IcmpError {
                from,
                kind,
                code,
                mtu,
            };
            (theirs == id).then_some(Answer::Error(error, sequence))
        }
        _ => None,
    }
}

fn payload(packet: &[u8]) -> Option<&[u8]> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    packet.get(header..)
}

fn echo(icmp: &[u8]) -> Option<(u16, u16)> {
    Some((word(icmp, 4)?, word(icmp, 6)?))
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|pair| u16::from_be_bytes(*pair))
}
