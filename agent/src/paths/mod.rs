//! Ways to the peers that are narrower than this host knows. Tunnel packets may be taken to pieces on
//! the way, as flannel's may, so no router says that they do not fit; what forwards frames drops them
//! without a word. So the peers are asked, by ICMP, whether packets of full size come through whole.

mod echo;
mod search;

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info, warn};
use weft_common::{
    peer::{PEER_DIRECT, PEER_FAST, PeerEntry},
    settings::{DIRECT_ROUTING, DatapathSettings},
    wire::OVERHEAD,
};

pub use self::echo::read_any;
use self::{echo::Echoes, search::Search};
use crate::{
    datapath::{
        DatapathError,
        ebpf::{maps::Maps, pins::PinDir},
    },
    model::net::Vni,
};

/// The largest packet that comes through whole, for each peer where that is not the full size.
pub type Narrow = BTreeMap<Ipv4Addr, u32>;

/// Every host takes packets of this size (RFC 791).
const LEAST: u32 = 576;
/// A full packet may be lost for other reasons.
const TRIES: u32 = 3;
const PATIENCE: Duration = Duration::from_millis(300);
/// From the start to the first questions.
const FIRST: Duration = Duration::from_secs(5);
/// What was narrow is looked at again sooner.
const AGAIN: Duration = Duration::from_secs(60);
/// Peers that are asked at a time: one that is silent takes two seconds.
const AT_ONCE: usize = 32;
/// Between two looks at our own address.
const LOOK: Duration = Duration::from_secs(1);

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
pub async fn watch(vni: Vni, every: Duration, told: watch::Sender<Narrow>) {
    sleep(every.min(FIRST)).await;
    loop {
        let pause = match peers(vni) {
            Ok((source, peers)) => tokio::select! {
                () = round(|| Echoes::open(source), peers, &told) => every,
                () = moved(vni, source) => every.min(FIRST),
            },
            Err(error) => {
                debug!(%error, "ways to peers are not measured");
                every
            }
        };
        let narrow = !told.borrow().is_empty();
        sleep(if narrow { pause.min(AGAIN) } else { pause }).await;
    }
}

/// Our own address, and the largest packet that each peer is sent.
fn peers(vni: Vni) -> Result<(IpAddr, BTreeMap<Ipv4Addr, u32>), DatapathError> {
    let state = Maps::open(&PinDir::new(vni))?.read()?;
    let settings = state.settings.as_ref();
    let width = |peer: &PeerEntry| Some((peer.vtep_addr.into(), full(peer, settings)?));
    let peers = state.peers.values().filter_map(width).collect();
    Ok((own(settings), peers))
}

fn own(settings: Option<&DatapathSettings>) -> IpAddr {
    let own = settings.map(|settings| settings.vtep_addr);
    own.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from).into()
}

/// The largest packet that a peer is sent on the underlay. An entry has the width of what is in the
/// tunnel, and of the whole way where there is none. One that is left to the kernel may have either,
/// where there are ways without a tunnel.
fn full(peer: &PeerEntry, settings: Option<&DatapathSettings>) -> Option<u32> {
    let has = |flag| peer.flags & flag != 0;
    let direct = settings
        .is_some_and(|settings| settings.flags & DIRECT_ROUTING != 0 || peer.mtu > settings.mtu);
    let overhead = if has(PEER_DIRECT) {
        0
    } else if has(PEER_FAST) || !direct {
        u32::try_from(OVERHEAD).unwrap_or(u32::MAX)
    } else {
        return None;
    };
    (peer.mtu > 0).then(|| peer.mtu.saturating_add(overhead))
}

/// Waits until our address is another: the answers go to the one that it was.
async fn moved(vni: Vni, from: IpAddr) {
    let now = || Maps::open(&PinDir::new(vni))?.settings();
    // What cannot be read has not changed.
    while now().map_or(true, |settings| own(settings.as_ref()) == from) {
        sleep(LOOK).await;
    }
}

async fn round<A: Ask>(
    open: impl Fn() -> io::Result<A>,
    peers: BTreeMap<Ipv4Addr, u32>,
    told: &watch::Sender<Narrow>,
) {
    told.send_if_modified(|narrow| {
        let before = narrow.len();
        narrow.retain(|peer, _| peers.contains_key(peer));
        narrow.len() != before
    });
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

    use zerocopy::FromZeros as _;

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
        let peers = BTreeMap::from([1, 2, 3, 4].map(|last| (peer(last), 1500)));
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
        let peers: BTreeMap<_, _> = all.map(|peer| (peer, 1500)).collect();
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
        let peers = BTreeMap::from([(peer(1), 1550)]);
        round(|| Ok(ways.clone()), peers, &told).await;
        assert_eq!(*told.borrow(), Narrow::new());
    }

    #[test]
    fn a_peer_is_asked_with_what_it_is_sent() {
        let entry = |flags, mtu| PeerEntry {
            flags,
            mtu,
            ..PeerEntry::new_zeroed()
        };
        let settings = |flags| DatapathSettings {
            flags,
            mtu: 1450,
            ..DatapathSettings::default()
        };
        for (flags, mtu, network, asked) in [
            (PEER_FAST, 1450, 0, Some(1500)),
            (PEER_FAST, 1450, DIRECT_ROUTING, Some(1500)),
            (PEER_DIRECT, 1500, DIRECT_ROUTING, Some(1500)),
            (PEER_FAST, 0, 0, None),
            (0, 1450, 0, Some(1500)),
            (0, 1500, 0, None),
            (0, 1450, DIRECT_ROUTING, None),
        ] {
            let found = full(&entry(flags, mtu), Some(&settings(network)));
            assert_eq!(found, asked, "{flags} {mtu} {network}");
        }
    }
}
