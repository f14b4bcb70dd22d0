//! Sends frames as they are given, one a line: words of [`weft_tests::craft`] and hexadecimal.
//! A blank line, or the end, sends what was read since the last one and reports it.

use std::{
    io::{self, BufRead as _, Write as _},
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socket},
    unistd::Pid,
};
use weft_tests::{
    craft::{Frame, VNET_LEN, internet, parse_line, put},
    report::Sent,
};

use crate::{FramesOptions, sys};

/// A full queue empties in far less.
const PATIENCE: Duration = Duration::from_secs(5);

pub(crate) fn run(options: &FramesOptions) -> Result<()> {
    stay_on_one_cpu()?;
    let socket = open(&options.interface)?;
    let mut batch = Vec::new();
    for line in io::stdin().lock().lines() {
        let line = line.context("read a line")?;
        if line.trim().is_empty() {
            report(&send_all(&socket, &batch, options)?)?;
            batch.clear();
        } else {
            batch.push(parse_line(&line)?);
        }
    }
    if !batch.is_empty() {
        report(&send_all(&socket, &batch, options)?)?;
    }
    Ok(())
}

/// What one processor sends arrives in its order: queues between devices are each processor's own.
fn stay_on_one_cpu() -> Result<()> {
    let me = Pid::from_raw(0);
    let allowed = sched_getaffinity(me).context("ask for the processors")?;
    let first = (0..CpuSet::count()).find(|cpu| allowed.is_set(*cpu).unwrap_or(false));
    let mut one = CpuSet::new();
    one.set(first.context("a processor")?)
        .context("choose a processor")?;
    sched_setaffinity(me, &one).context("stay on a processor")
}

fn report(sent: &Sent) -> Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(sent)?)?;
    out.flush().context("report")
}

fn open(interface: &str) -> Result<OwnedFd> {
    let index = if_nametoindex(interface).with_context(|| format!("find {interface}"))?;
    // No protocol: it hears nothing.
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("open a packet socket")?;
    sys::packet_option(&fd, libc::PACKET_VNET_HDR).context("turn on the header for offloads")?;
    sys::bind_to_interface(&fd, index).with_context(|| format!("bind to {interface}"))?;
    Ok(fd)
}

fn send_all(socket: &OwnedFd, batch: &[Frame], options: &FramesOptions) -> Result<Sent> {
    let mut sent = Sent::default();
    if let Some(seed) = options.mutate {
        let end = Instant::now() + Duration::from_millis(options.time.unwrap_or(1000));
        let mut random = Random(seed | 1);
        while Instant::now() < end && !batch.is_empty() {
            let mut frame = random.choice(batch).clone();
            mutate(&mut frame, &mut random);
            send_one(socket, &frame, &mut sent)?;
        }
        return Ok(sent);
    }
    for _ in 0..options.count {
        for frame in batch {
            send_one(socket, frame, &mut sent)?;
        }
    }
    Ok(sent)
}

fn send_one(socket: &OwnedFd, frame: &Frame, sent: &mut Sent) -> Result<()> {
    use std::os::fd::AsRawFd as _;
    let mut bytes = Vec::with_capacity(VNET_LEN + frame.bytes.len());
    bytes.extend(frame.offload.vnet());
    bytes.extend(&frame.bytes);
    let end = Instant::now() + PATIENCE;
    loop {
        match send(socket.as_raw_fd(), &bytes, MsgFlags::empty()) {
            Ok(_) => {
                sent.sent += 1;
                return Ok(());
            }
            // The device's queue is full.
            Err(Errno::ENOBUFS | Errno::EAGAIN) if Instant::now() < end => {
                std::thread::yield_now();
            }
            Err(Errno::EINVAL | Errno::EMSGSIZE | Errno::ENOBUFS | Errno::EIO) => {
                sent.refused += 1;
                return Ok(());
            }
            Err(error) => bail!("send a frame of {} bytes: {error}", frame.bytes.len()),
        }
    }
}

/// Repeatable numbers (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let limit = u64::try_from(limit.max(1)).unwrap_or(1);
        usize::try_from((self.0 >> 11) % limit).unwrap_or(0)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or(0)
    }

    fn choice<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let at = self.below(of.len());
        of.get(at).expect("callers have at least one")
    }
}

/// One to eight damages, most of them to the headers.
fn mutate(frame: &mut Frame, random: &mut Random) {
    for _ in 0..=random.below(8) {
        damage(frame, random);
    }
}

fn damage(frame: &mut Frame, random: &mut Random) {
    let bytes = &mut frame.bytes;
    let len = bytes.len();
    let within = if random.below(4) == 0 {
        len
    } else {
        len.min(110)
    };
    let at = random.below(within);
    match random.below(16) {
        0..=5 => flip(bytes, at, random.below(8)),
        6..=9 => put(bytes, at, &[random.byte()]),
        10 => bytes.truncate(14 + random.below(len.saturating_sub(13))),
        11 => {
            let more = 1 + random.below(80);
            bytes.extend((0..more).map(|_| random.byte()));
        }
        12 => frame.offload.aggregate = None,
        13 => frame.offload.partial = None,
        _ => repair(bytes),
    }
}

fn flip(bytes: &mut [u8], at: usize, bit: usize) {
    if let Some(byte) = bytes.get_mut(at) {
        *byte ^= 1 << bit;
    }
}

/// Makes the header checksums of the packet and of a tunnelled one right, so that damage gets
/// further.
fn repair(bytes: &mut [u8]) {
    for start in [14, 64] {
        let Some(header) = bytes.get_mut(start..start + 20) else {
            continue;
        };
        put(header, 10, &[0; 2]);
        let sum = internet(header);
        put(header, 10, &sum.to_be_bytes());
    }
}
