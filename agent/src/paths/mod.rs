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

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{debug, info, warn};
use weft_common::wire::OVERHEAD;

use self::{echo::Echoes, search::Search};
use crate::{
    datapath::ebpf::{maps::Maps, pins::PinDir},
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

/// Asks every peer at these intervals, one after the other, until it is dropped.
pub async fn watch(vni: Vni, every: Duration, told: watch::Sender<Narrow>) {
    sleep(every.min(FIRST)).await;
    loop {
        match peers(vni) {
            Ok((source, peers)) => match Echoes::open(source) {
                Ok(mut echoes) => round(&mut echoes, &peers, &told).await,
                Err(error) => debug!(%error, "ways to peers are not measured"),
            },
            Err(error) => debug!(%error, "ways to peers are not measured"),
        }
        let narrow = !told.borrow().is_empty();
        sleep(if narrow { every.min(AGAIN) } else { every }).await;
    }
}

/// Our own address, and the largest tunnel packet that each peer is sent.
fn peers(vni: Vni) -> Result<(IpAddr, BTreeMap<Ipv4Addr, u32>), crate::datapath::DatapathError> {
    let state = Maps::open(&PinDir::new(vni))?.read()?;
    let overhead = u32::try_from(OVERHEAD).unwrap_or(u32::MAX);
    let reached = state.peers.values().filter(|peer| peer.mtu > 0);
    let peers = reached.map(|peer| (peer.vtep_addr.into(), peer.mtu.saturating_add(overhead)));
    let own = state.settings.map(|settings| settings.vtep_addr);
    let own = own.map_or(Ipv4Addr::UNSPECIFIED, Ipv4Addr::from);
    Ok((own.into(), peers.collect()))
}

async fn round(ask: &mut impl Ask, peers: &BTreeMap<Ipv4Addr, u32>, told: &watch::Sender<Narrow>) {
    told.send_if_modified(|narrow| {
        let before = narrow.len();
        narrow.retain(|peer, _| peers.contains_key(peer));
        narrow.len() != before
    });
    for (peer, full) in peers {
        let width = match measure(ask, *peer, *full).await {
            Ok(width) => width,
            Err(error) => {
                debug!(%peer, %error, "the way was not measured");
                continue;
            }
        };
        told.send_if_modified(|narrow| match width {
            Width::Full => {
                let was = narrow.remove(peer).is_some();
                if was {
                    info!(%peer, full, "full packets come through whole again");
                }
                was
            }
            Width::Narrow(most) => {
                let is_new = narrow.insert(*peer, most) != Some(most);
                if is_new {
                    warn!(%peer, full, most, "the way to a peer is narrower than this host knows");
                }
                is_new
            }
            // Silence takes nothing back, and says nothing new.
            Width::Unknown => false,
        });
    }
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
        match self.send(to, size).await {
            Ok(()) => {}
            // This host knows that it does not fit.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => return Ok(false),
            Err(error) => return Err(error),
        }
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
    #[derive(Default)]
    struct Ways {
        widths: BTreeMap<Ipv4Addr, u32>,
        silent: BTreeSet<Ipv4Addr>,
        /// Every so many packets one is lost.
        lossy: Option<u32>,
        asked: u32,
    }

    impl Ask for Ways {
        async fn answers(&mut self, to: Ipv4Addr, size: u32) -> io::Result<bool> {
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
        round(&mut ways, &peers, &told).await;
        let narrow = Narrow::from([(peer(2), 1400), (peer(3), 1499)]);
        assert_eq!(*told.borrow(), narrow);
        // Silence takes nothing back.
        ways.silent.insert(peer(3));
        ways.widths.clear();
        round(&mut ways, &peers, &told).await;
        assert_eq!(*told.borrow(), Narrow::from([(peer(3), 1499)]));
        round(&mut ways, &BTreeMap::new(), &told).await;
        assert_eq!(*told.borrow(), Narrow::new());
    }
}
