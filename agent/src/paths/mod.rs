//! Ways to the peers that are narrower than this host knows. Tunnel packets may be taken to pieces on
//! the way, as flannel's may, so no router says that they do not fit; what forwards frames drops them
//! without a word. So the peers are asked, by ICMP, whether packets of full size come through whole.

mod echo;
mod search;

use std::{collections::BTreeMap, io, net::Ipv4Addr, time::Duration};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
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

/// Asks every peer at these intervals, until it is dropped.
pub async fn watch(every: Duration, mut ways: watch::Receiver<Ways>, told: watch::Sender<Narrow>) {
    if ways.wait_for(|ways| ways.source.is_some()).await.is_err() {
        return;
    }
    sleep(every.min(FIRST)).await;
    loop {
        let Ways { source, peers } = ways.borrow().clone();
        let open = || Echoes::open(source.unwrap_or(Ipv4Addr::UNSPECIFIED).into());
        let pause = tokio::select! {
            () = round(open, peers, &told) => every,
            // The answers go to the address that it was.
            Ok(_) = ways.wait_for(|ways| ways.source != source) => every.min(FIRST),
        };
        let narrow = !told.borrow().is_empty();
        sleep(if narrow { pause.min(AGAIN) } else { pause }).await;
    }
}

async fn round<A: Ask>(
    open: impl Fn() -> io::Result<A>,
    peers: BTreeMap<Ipv4Addr, Option<u32>>,
    told: &watch::Sender<Narrow>,
) {
    told.send_if_modified(|narrow| {
        let before = narrow.len();
        narrow.retain(|peer, _| peers.contains_key(peer));
        narrow.len() != before
    });
    let reached = peers
        .into_iter()
        .filter_map(|(peer, full)| Some((peer, full?)));
    let asked = reached.map(|(peer, full)| {
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
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Links of that width on the way to each peer; the silent never answer.
    #[derive(Clone, Default)]
    struct Ways {
        widths: BTreeMap<Ipv4Addr, u32>,
        silent: BTreeSet<Ipv4Addr>,
        /// Every so many packets one is lost.
        lossy: Option<u32>,
        asked: u32,
        /// What our own device takes.
        device: Option<u32>,
        /// How long an answer takes.
        patience: Duration,
    }

    impl Ask for Ways {
        async fn answers(&mut self, to: Ipv4Addr, size: u32) -> io::Result<bool> {
            sleep(self.patience).await;
            if self.device.is_some_and(|most| size > most) {
                return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
            }
            self.asked += 1;
            let lost = self
                .lossy
                .is_some_and(|every| self.asked.is_multiple_of(every));
            Ok(!lost
                && !self.silent.contains(&to)
                && self.widths.get(&to).is_none_or(|w| size <= *w))
        }
    }

    fn peer(last: u8) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, last)
    }

    #[tokio::test]
    async fn what_is_narrow_is_found_to_the_byte_and_forgotten_when_it_is_not() {
        let told = watch::Sender::new(Narrow::new());
        let peers = BTreeMap::from([1, 2, 3, 4].map(|last| (peer(last), Some(1500))));
        let mut ways = Ways {
            widths: BTreeMap::from([(peer(2), 1400), (peer(3), 1499)]),
            silent: BTreeSet::from([peer(4)]),
            lossy: Some(3),
            ..Ways::default()
        };
        round(|| Ok(ways.clone()), peers.clone(), &told).await;
        let narrow = Narrow::from([(peer(2), 1400), (peer(3), 1499)]);
        assert_eq!(*told.borrow(), narrow);
        // Silence takes nothing back.
        ways.silent.insert(peer(3));
        ways.widths.clear();
        round(|| Ok(ways.clone()), peers, &told).await;
        assert_eq!(*told.borrow(), Narrow::from([(peer(3), 1499)]));
        round(|| Ok(ways.clone()), BTreeMap::new(), &told).await;
        assert_eq!(*told.borrow(), Narrow::new());
    }

    #[tokio::test(start_paused = true)]
    async fn thousands_that_do_not_answer_take_minutes() {
        let told = watch::Sender::new(Narrow::new());
        let all = (0..4000_u32).map(|n| Ipv4Addr::from(0xc000_0200 + n));
        let peers: BTreeMap<_, _> = all.map(|peer| (peer, Some(1500))).collect();
        let ways = Ways {
            silent: peers.keys().copied().collect(),
            patience: PATIENCE,
            ..Ways::default()
        };
        let began = Instant::now();
        round(|| Ok(ways.clone()), peers, &told).await;
        let took = began.elapsed();
        assert!(took < Duration::from_secs(4 * 60), "{took:?}");
    }

    #[tokio::test]
    async fn what_does_not_fit_our_own_device_is_not_narrow() {
        let told = watch::Sender::new(Narrow::new());
        let ways = Ways {
            device: Some(1500),
            ..Ways::default()
        };
        let peers = BTreeMap::from([(peer(1), Some(1550))]);
        round(|| Ok(ways.clone()), peers, &told).await;
        assert_eq!(*told.borrow(), Narrow::new());
    }
}
