//! The loads, each with both its ends.

pub(crate) mod bulk;
pub(crate) mod packets;
pub(crate) mod rr;

use std::{
    net::IpAddr,
    sync::{
        Arc, Barrier,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow};

use crate::{place, slice::Cores};

/// A socket that waits looks this often whether the slice is over.
pub(crate) const LOOK: Duration = Duration::from_millis(50);
/// A connection that takes longer does not come.
pub(crate) const CONNECT: Duration = Duration::from_secs(5);

/// What one end counted.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    /// Transactions, packets or bytes.
    pub(crate) count: u64,
    /// Packets sent, or requests without an answer.
    pub(crate) sent: u64,
    /// From its first to its last, in nanoseconds.
    pub(crate) nanos: u64,
    /// Time of each transaction, in nanoseconds.
    pub(crate) times: Vec<u32>,
}

/// Threads of one end, and what they count.
pub(crate) type Crew = Vec<JoinHandle<Result<Tally>>>;

/// That the slice is over.
pub(crate) type Over = Arc<AtomicBool>;

pub(crate) fn is_over(over: &Over) -> bool {
    over.load(Ordering::SeqCst)
}

/// What the threads of the client share.
#[derive(Clone, Debug)]
pub(crate) struct Start {
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) length: Duration,
}

impl Start {
    /// Waits for all the others, and answers with the moment at which to stop.
    pub(crate) fn together(&self) -> (Instant, Instant) {
        self.barrier.wait();
        let began = Instant::now();
        (began, began + self.length)
    }
}

/// A thread of the client's end.
pub(crate) fn client(
    cores: Cores,
    index: usize,
    work: impl FnOnce() -> Result<Tally> + Send + 'static,
) -> JoinHandle<Result<Tally>> {
    spawn(cores.client(index), work)
}

/// A thread of the server's end.
pub(crate) fn server(
    cores: Cores,
    index: usize,
    work: impl FnOnce() -> Result<Tally> + Send + 'static,
) -> JoinHandle<Result<Tally>> {
    spawn(cores.server(index), work)
}

fn spawn(
    core: Option<usize>,
    work: impl FnOnce() -> Result<Tally> + Send + 'static,
) -> JoinHandle<Result<Tally>> {
    thread::spawn(move || {
        place::pin(core)?;
        work()
    })
}

/// Waits for all threads and adds up. The time is that of the slowest.
pub(crate) fn join(crew: Crew) -> Result<Tally> {
    let mut all = Tally::default();
    for thread in crew {
        let one = thread
            .join()
            .map_err(|_panic| anyhow!("a thread of the load panicked"))??;
        all.count += one.count;
        all.sent += one.sent;
        all.nanos = all.nanos.max(one.nanos);
        all.times.extend(one.times);
    }
    Ok(all)
}

pub(crate) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The port of pair `index`: its own, or the one that all share.
pub(crate) fn port(ports: &[u16], index: usize) -> Result<u16> {
    let found = ports.get(index).or_else(|| ports.first());
    found.copied().context("the server named no port")
}

pub(crate) fn any(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    }
}
