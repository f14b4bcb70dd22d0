//! Ways to the peers that are narrower than this host knows. Tunnel packets may be taken to pieces on
//! the way, as flannel's may, so no router says that they do not fit; what forwards frames drops them
//! without a word. So the peers are asked, by ICMP, whether packets of full size come through whole.

mod echo;
mod search;

use std::{collections::BTreeMap, io, net::Ipv4Addr, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tracing::{debug, info, warn};

pub use self::echo::read_any;
use self::{echo::Echoes, search::Search};

/// The largest packet that comes through whole, for each peer where that is not the full size.
pub type Narrow = BTreeMap<Ipv4Addr, u32>;

/// Whose way is to be measured, and from where.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ways {
    /// Our own address; `None` while nothing is known.
    pub source: Option<Ipv4Addr>,
    /// The largest packet that this host would send to each peer if it knew nothing of its way;
    /// `None` where none leads there at the moment.
    pub peers: BTreeMap<Ipv4Addr, Option<u32>>,
}

/// Every host takes packets of this size (RFC 791).
pub const LEAST: u32 = 576;
/// A full packet may be lost for other reasons.
const TRIES: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(300);
/// From the start to the first questions.
const FIRST: Duration = Duration::from_secs(5);
/// What was narrow is looked at again sooner.
const AGAIN: Duration = Duration::from_secs(60);
/// Peers that are asked at a time: one that is silent takes two seconds.
const AT_ONCE: usize = 32;

/// What came of asking one peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Width {
    Full,
    /// Packets of up to this size come through whole.
    Narrow(u32),
    /// It does not answer at all.
    Unknown,
}

/// Who can be asked.
trait Ask {
    /// Whether a packet of that size comes back.
    async fn answers(&mut self, to: Ipv4Addr, size: u32) -> io::Result<bool>;
}

/// Asks every peer at these intervals, until it is dropped. Who is new, or is reached by another way, is
/// asked soon.
pub async fn watch(every: Duration, ways: watch::Receiver<Ways>, told: watch::Sender<Narrow>) {
    follow(|from| Echoes::open(from.into()), every, ways, told).await;
}

async fn follow<A: Ask>(
    open: impl Fn(Ipv4Addr) -> io::Result<A>,
    every: Duration,
    mut ways: watch::Receiver<Ways>,
    told: watch::Sender<Narrow>,
) {
    let soon = every.min(FIRST);
    let mut due = Instant::now();
    let mut asked = BTreeMap::new();
    loop {
        match until_news(&mut ways, &asked, due).await {
            Ok(true) => sleep(soon).await,
            Ok(false) => {}
            Err(_gone) => return,
        }
        let Ways { source, peers } = ways.borrow().clone();
        forget(&peers, &told);
        let all = Instant::now() >= due;
        if all {
            asked.clear();
        }
        let reached: BTreeMap<_, _> = peers
            .into_iter()
            .filter_map(|(peer, full)| Some((peer, full?)))
            .collect();
        let new = reached.iter().filter(|way| is_new(&asked, way));
        let new = new.map(|(peer, full)| (*peer, *full)).collect();
        let open = || open(source.unwrap_or(Ipv4Addr::UNSPECIFIED));
        tokio::select! {
            () = round(open, new, &told) => asked = reached,
            // The answers go to the address that it was.
            Ok(_) = ways.wait_for(|ways| ways.source != source) => asked.clear(),
        }
        if all {
            due = Instant::now() + every;
        }
        if !told.borrow().is_empty() {
            due = due.min(Instant::now() + AGAIN);
        }
    }
}

/// Whether a peer has not been asked with packets of that size.
fn is_new(asked: &BTreeMap<Ipv4Addr, u32>, (peer, full): &(&Ipv4Addr, &u32)) -> bool {
    asked.get(*peer) != Some(*full)
}

/// Waits until there is somebody new, or all are to be asked; says whether it is the former.
async fn until_news(
    ways: &mut watch::Receiver<Ways>,
    asked: &BTreeMap<Ipv4Addr, u32>,
    due: Instant,
) -> Result<bool, watch::error::RecvError> {
    let has_new = |ways: &Ways| {
        let mut reached = ways.peers.iter();
        reached.any(|(peer, full)| full.is_some_and(|full| is_new(asked, &(peer, &full))))
    };
    tokio::select! {
        news = ways.wait_for(has_new) => news.map(|_| true),
        () = sleep_until(due), if !asked.is_empty() => Ok(false),
    }
}

/// Whoever is no peer any more.
fn forget(peers: &BTreeMap<Ipv4Addr, Option<u32>>, told: &watch::Sender<Narrow>) {
    told.send_if_modified(|narrow| {
        let before = narrow.len();
        narrow.retain(|peer, _| peers.contains_key(peer));
        narrow.len() != before
    });
}

async fn round<A: Ask>(
    open: impl Fn() -> io::Result<A>,
    peers: BTreeMap<Ipv4Addr, u32>,
    told: &watch::Sender<Narrow>,
) {
    let asked = peers.into_iter().map(|(peer, full)| {
        let ask = open();
        async move {
            let width = match ask {
                Ok(mut ask) => measure(&mut ask, peer, full).await,
                Err(error) => Err(error),
            };
            match width {
                Ok(width) => note(peer, full, width, told),
                Err(error) => debug!(%peer, %error, "the way was not measured"),
            }
        }
    });
    stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .collect::<()>()
        .await;
}

fn note(peer: Ipv4Addr, full: u32, width: Width, told: &watch::Sender<Narrow>) {
    told.send_if_modified(|narrow| match width {
        Width::Full => {
            let was = narrow.remove(&peer).is_some();
            if was {
                info!(%peer, full, "full packets come through whole again");
            }
            was
        }
        Width::Narrow(most) => {
            let is_new = narrow.insert(peer, most) != Some(most);
            if is_new {
                warn!(%peer, full, most, "the way to a peer is narrower than this host knows");
            }
            is_new
        }
        // Silence takes nothing back, and says nothing new.
        Width::Unknown => false,
    });
}

async fn measure(ask: &mut impl Ask, peer: Ipv4Addr, full: u32) -> io::Result<Width> {
    if full <= LEAST || come_through(ask, peer, full).await? {
        return Ok(Width::Full);
    }
    if !come_through(ask, peer, LEAST).await? {
        return Ok(Width::Unknown);
    }
    let mut search = Search::new(LEAST, full);
    while let Some(size) = search.next() {
        let passed = come_through(ask, peer, size).await?;
        search.note(size, passed);
    }
    // What is sent goes by the answer: full packets may have met a queue that was full for a moment.
    if come_through(ask, peer, full).await? {
        return Ok(Width::Full);
    }
    Ok(Width::Narrow(search.most()))
}

async fn come_through(ask: &mut impl Ask, peer: Ipv4Addr, size: u32) -> io::Result<bool> {
    for _ in 0..TRIES {
        if ask.answers(peer, size).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Ask for Echoes {
    async fn answers(&mut self, to: Ipv4Addr, size: u32) -> io::Result<bool> {
        let until = Instant::now() + PATIENCE;
        // What does not fit our own device says nothing of the way.
        self.send(to, size).await?;
        match timeout_at(until, self.answer(to)).await {
            Ok(answer) => answer.map(|()| true),
            Err(_elapsed) => Ok(false),
        }
    }
}

#[cfg(test)]
mod tests;
