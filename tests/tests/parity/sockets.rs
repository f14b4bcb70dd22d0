//! Traffic of real sockets on both pairs: what arrives is the same to the byte, and on our pair it
//! takes the way that it must.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{Container, Place as _},
    probe,
    report::{Datagrams, Tcp},
};

use crate::{
    case::Wire,
    counts::{self, Counts},
    pair::Pair,
};

/// How the wire is, beyond [`Wire`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Air {
    Clear,
    /// It loses one tunnel packet in fifty.
    Lossy,
    /// The far end puts together what comes, as a card does.
    Gathered,
    /// The same, in lists of packets.
    Listed,
}

pub enum Traffic {
    /// Flags of the sender.
    Tcp(&'static str),
    /// Size of each datagram, datagrams of a call, calls.
    Datagrams(usize, usize, u32),
}

pub struct Socket {
    pub name: &'static str,
    pub wire: Wire,
    pub air: Air,
    pub traffic: Traffic,
    /// Counters that must move on our pair, by at least this much.
    pub counts: &'static str,
}

/// What may move beside: acknowledgements, and segments that were alone.
const BESIDE: &[&str] = &["taken", "taken_aggregate", "aggregate"];

/// What arrived.
#[derive(Debug, PartialEq, Eq)]
enum Arrived {
    /// Bytes, whose hash is that of what was sent; and whether something had to be sent again.
    Tcp(u64, bool),
    Datagrams(Datagrams),
}

pub fn check(case: &Socket, kernel: &Pair, ours: &Pair) -> Result<()> {
    for pair in [kernel, ours] {
        pair.set_wire(case.wire)?;
        pair.set_air(case.air)?;
    }
    let theirs = send(case, kernel).context("on the kernel's pair")?;
    let before = ours.counters()?;
    let found = send(case, ours).context("on our pair")?;
    let after = ours.counters()?;
    let moved = counts::moved(&before, &after);
    println!("{}: {found:?}\n  {}", case.name, counts::text(&moved));
    ensure!(found == theirs, "{theirs:?} and on our pair {found:?}");
    ensure_way(&counts::parse(case.counts)?, &moved)
}

fn send(case: &Socket, pair: &Pair) -> Result<Arrived> {
    let [a, b] = &pair.containers;
    match case.traffic {
        Traffic::Tcp(flags) => {
            let tcp: Tcp = probe::transfer_with(a, b, 9000, flags)?;
            println!("  {tcp:?}");
            if case.air == Air::Lossy {
                repairs_by_sack(a)?;
            }
            ensure!(tcp.complete(), "{tcp:?}");
            // On a clear wire that is the machine's affair: a queue of its own was full.
            let again = case.air == Air::Lossy && tcp.repaired() > 0;
            Ok(Arrived::Tcp(tcp.received, again))
        }
        Traffic::Datagrams(size, segments, calls) => {
            let at = SocketAddrV4::new(b.address(), 9001);
            let count = u64::from(calls) * u64::try_from(segments).context("that many")?;
            let sink = probe::serve(b, &format!("datagram-sink {at} --count {count}"))?;
            let flags = format!("--size {size} --segments {segments} --calls {calls}");
            let sent: Datagrams =
                probe::start(a, &format!("datagrams --to {at} {flags}"))?.report()?;
            let arrived: Datagrams = sink.report()?;
            ensure!(arrived == sent, "{sent:?} became {arrived:?}");
            Ok(Arrived::Datagrams(arrived))
        }
    }
}

/// The loss is repaired by what the options of each segment say.
fn repairs_by_sack(place: &Container) -> Result<()> {
    for option in ["sack", "timestamps"] {
        let set = place.run(&format!("cat /proc/sys/net/ipv4/tcp_{option}"))?;
        ensure!(set.trim() != "0", "TCP goes without {option}");
    }
    Ok(())
}

/// Everything that must move does, and nothing that belongs on the fast path misses it.
fn ensure_way(wanted: &Counts, moved: &Counts) -> Result<()> {
    for (key, least) in wanted {
        let count = moved.get(key).copied().unwrap_or(0);
        ensure!(
            count >= *least,
            "{key:?}: {count} of {least}: {}",
            counts::text(moved)
        );
    }
    let other = |key: &&(char, String, String)| {
        !BESIDE.contains(&key.2.as_str()) && !wanted.contains_key(*key)
    };
    let other = moved.keys().find(other);
    ensure!(other.is_none(), "{other:?}: {}", counts::text(moved));
    Ok(())
}

pub fn table() -> Vec<Socket> {
    let case = |name, wire, air, traffic, counts| Socket {
        name,
        wire,
        air,
        traffic,
        counts,
    };
    let (large, small) = (Traffic::Tcp("--bytes 33554433"), "--bytes 4194305");
    vec![
        case(
            "TCP over a whole wire",
            Wire::Whole,
            Air::Clear,
            large,
            "A out taken_aggregate*400; B in aggregate*400; B over taken_aggregate*400",
        ),
        case(
            "TCP over a wire of segments",
            Wire::Cut,
            Air::Clear,
            Traffic::Tcp(small),
            "A out taken_aggregate*50; B in taken*3000",
        ),
        case(
            "TCP that is gathered",
            Wire::Cut,
            Air::Gathered,
            Traffic::Tcp(small),
            "A out taken_aggregate*50; B in aggregate*30; B over taken_aggregate*30",
        ),
        case(
            "TCP that is gathered in lists",
            Wire::Cut,
            Air::Listed,
            Traffic::Tcp(small),
            "A out taken_aggregate*50; B in aggregate*10; B over taken_aggregate*10",
        ),
        case(
            "TCP of a file",
            Wire::Whole,
            Air::Clear,
            Traffic::Tcp("--sendfile --bytes 4194305"),
            "A out taken_aggregate*50; B in aggregate*50",
        ),
        case(
            "TCP of a file over a wire of segments",
            Wire::Cut,
            Air::Clear,
            Traffic::Tcp("--sendfile --bytes 4194305"),
            "A out taken_aggregate*50; B in taken*3000",
        ),
        case(
            "TCP under loss",
            Wire::Cut,
            Air::Lossy,
            Traffic::Tcp(small),
            "A out taken_aggregate*50; B in taken*3000",
        ),
        case(
            "TCP of whole aggregates under loss",
            Wire::Whole,
            Air::Lossy,
            Traffic::Tcp("--bytes 33554433"),
            "A out taken_aggregate*300; B in aggregate*300; B over taken_aggregate*300",
        ),
        case(
            "UDP segments",
            Wire::Whole,
            Air::Clear,
            Traffic::Datagrams(1422, 20, 100),
            "A out taken_aggregate*100; B in aggregate*100; B over taken_aggregate*100",
        ),
        case(
            "UDP segments over a wire of segments",
            Wire::Cut,
            Air::Clear,
            Traffic::Datagrams(1422, 20, 100),
            "A out taken_aggregate*100; B in taken*2000",
        ),
        case(
            "small UDP segments",
            Wire::Whole,
            Air::Clear,
            Traffic::Datagrams(100, 60, 30),
            "A out taken_aggregate*30; B in aggregate*30; B over taken_aggregate*30",
        ),
    ]
}
