//! Numbered UDP packets in both directions over one pair of sockets.
//!
//! Both sides greet until they hear each other, so that nothing is counted that was sent to a
//! socket that did not exist yet, and end by telling each other how much they sent.

use std::{
    net::UdpSocket,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use weft_tests::report::Udp;

use crate::{UdpOptions, input, sys};

/// In the first eight bytes, where a numbered packet has its number.
const HELLO: u64 = u64::MAX;
const BYE: u64 = u64::MAX - 1;

/// No exchange is longer: hours at a thousand a second.
const MOST: u64 = 20_000_000;

/// Up to so many a second, a probe needs next to nothing, and others that do may not delay it: what
/// it measures would be the machine's scheduler.
const PACED: u32 = 2000;

const PAUSE: Duration = Duration::from_millis(20);
/// After the other side's farewell: late packets still count.
const LINGER: Duration = Duration::from_millis(300);
/// Without a farewell, how long to hope for one.
const LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct Heard {
    greeted: AtomicBool,
    /// The other side's total plus one; zero while it has not said farewell.
    total: AtomicU64,
    stop: AtomicBool,
}

pub(crate) fn exchange(options: &UdpOptions) -> Result<Udp> {
    let socket = UdpSocket::bind(options.bind).with_context(|| format!("bind {}", options.bind))?;
    // What the probe is too slow to read would look like loss on the way.
    setsockopt(&socket, RcvBufForce, &(8 << 20)).context("grow the receive buffer")?;
    socket
        .set_read_timeout(Some(PAUSE))
        .context("set a read timeout")?;
    socket.connect(options.to).context("connect")?;
    if options.df {
        sys::set_dont_fragment(&socket, true).context("set DF")?;
    }
    if options.rate <= PACED {
        sys::go_first();
    }
    let heard = Arc::new(Heard::default());
    // Both sides are told the same; a larger number is not ours.
    let count = if options.until_input_ends {
        MOST
    } else {
        options.count
    };
    let receiver = {
        let (socket, heard) = (socket.try_clone()?, Arc::clone(&heard));
        thread::spawn(move || receive(&socket, &heard, count))
    };
    let result = talk(options, &socket, &heard);
    heard.stop.store(true, Ordering::Relaxed);
    let Ok(received) = receiver.join() else {
        bail!("the receiving thread panicked")
    };
    let (sent, refused, longest_pause_ms) = result?;
    let peer_sent = heard.total.load(Ordering::Relaxed).saturating_sub(1);
    Ok(Udp {
        sent,
        refused,
        peer_sent,
        longest_pause_ms,
        ..received
    })
}

/// Greets, sends the numbered packets at their pace, and says farewell.
/// Answers with how many were sent and refused, and its own longest pause in milliseconds.
fn talk(options: &UdpOptions, socket: &UdpSocket, heard: &Heard) -> Result<(u64, u64, u64)> {
    let end = Instant::now() + Duration::from_secs(options.patience);
    while !heard.greeted.load(Ordering::Relaxed) {
        if Instant::now() > end {
            bail!("{} was not heard within {} s", options.to, options.patience);
        }
        // Refused while the other socket is not there yet.
        let _ = socket.send(&HELLO.to_be_bytes());
        thread::sleep(PAUSE);
    }
    // It may not have heard us yet.
    let _ = socket.send(&HELLO.to_be_bytes());

    let mut packet = vec![0_u8; options.size.max(16)];
    let start = Instant::now();
    let (mut sent, mut refused) = (0, 0);
    let ended = options.until_input_ends.then(input::ended);
    if ended.is_some() {
        println!("running");
    }
    let (mut last, mut longest) = (start, Duration::ZERO);
    let count = if ended.is_some() { MOST } else { options.count };
    for number in 0..count {
        if ended
            .as_ref()
            .is_some_and(|end| end.load(Ordering::Relaxed))
        {
            break;
        }
        let due = Duration::from_secs(number) / options.rate.max(1);
        thread::sleep(due.saturating_sub(start.elapsed()));
        if let Some(head) = packet.first_chunk_mut() {
            *head = number.to_be_bytes();
        }
        match socket.send(&packet) {
            Ok(_) => sent += 1,
            Err(_) => refused += 1,
        }
        let now = Instant::now();
        longest = longest.max(now - last);
        last = now;
    }
    say_bye(socket, heard, sent);
    Ok((sent, refused, millis(longest)))
}

fn say_bye(socket: &UdpSocket, heard: &Heard, sent: u64) {
    let mut bye = [0_u8; 16];
    let (head, tail) = bye.split_at_mut(8);
    head.copy_from_slice(&BYE.to_be_bytes());
    tail.copy_from_slice(&sent.to_be_bytes());
    let mut end = Instant::now() + LIMIT;
    let mut answered = false;
    while Instant::now() < end {
        let _ = socket.send(&bye);
        thread::sleep(PAUSE);
        if !answered && heard.total.load(Ordering::Relaxed) > 0 {
            answered = true;
            end = Instant::now() + LINGER;
        }
    }
}

fn receive(socket: &UdpSocket, heard: &Heard, count: u64) -> Udp {
    let mut report = Udp::default();
    let mut seen = Vec::new();
    let mut buffer = vec![0_u8; 65536];
    let mut last: Option<Instant> = None;
    let mut longest = Duration::ZERO;
    while !heard.stop.load(Ordering::Relaxed) {
        let Ok(size) = socket.recv(&mut buffer) else {
            continue;
        };
        let Some((number, rest)) = buffer.get(..size).and_then(split_number) else {
            continue;
        };
        match number {
            HELLO => heard.greeted.store(true, Ordering::Relaxed),
            BYE => {
                if let Some((total, _)) = split_number(rest) {
                    heard.total.store(total + 1, Ordering::Relaxed);
                }
            }
            number => {
                heard.greeted.store(true, Ordering::Relaxed);
                let index = usize::try_from(number).ok();
                let index = index.filter(|_| number < count);
                if let Some(index) = index.filter(|index| *index >= seen.len()) {
                    seen.resize(index + 1, false);
                }
                let slot = index.and_then(|index| seen.get_mut(index));
                match slot {
                    Some(slot) if !*slot => {
                        *slot = true;
                        report.received += 1;
                    }
                    Some(_) | None => report.duplicates += 1,
                }
                let now = Instant::now();
                longest = longest.max(last.map_or(Duration::ZERO, |then| now - then));
                last = Some(now);
            }
        }
    }
    report.longest_gap_ms = millis(longest);
    report
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn split_number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (head, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*head), rest))
}
