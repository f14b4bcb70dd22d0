//! Links of any width, and clocks that do not wait.

use std::collections::BTreeSet;

use super::*;

/// Links of that width on the way to each peer; the silent never answer.
#[derive(Clone, Default)]
struct Links {
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

impl Ask for Links {
    async fn answers(&mut self, to: Ipv4Addr, size: u32) -> io::Result<bool> {
        sleep(self.patience).await;
        if self.device.is_some_and(|most| size > most) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        self.asked += 1;
        let lost = self
            .lossy
            .is_some_and(|every| self.asked.is_multiple_of(every));
        Ok(!lost && !self.silent.contains(&to) && self.widths.get(&to).is_none_or(|w| size <= *w))
    }
}

fn peer(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, last)
}

#[tokio::test]
async fn what_is_narrow_is_found_to_the_byte_and_forgotten_when_it_is_not() {
    let told = watch::Sender::new(Narrow::new());
    let peers = BTreeMap::from([1, 2, 3, 4].map(|last| (peer(last), 1500)));
    let mut ways = Links {
        widths: BTreeMap::from([(peer(2), 1400), (peer(3), 1499)]),
        silent: BTreeSet::from([peer(4)]),
        lossy: Some(3),
        ..Links::default()
    };
    round(|| Ok(ways.clone()), peers.clone(), &told).await;
    let narrow = Narrow::from([(peer(2), 1400), (peer(3), 1499)]);
    assert_eq!(*told.borrow(), narrow);
    // Silence takes nothing back.
    ways.silent.insert(peer(3));
    ways.widths.clear();
    round(|| Ok(ways.clone()), peers, &told).await;
    assert_eq!(*told.borrow(), Narrow::from([(peer(3), 1499)]));
    forget(&BTreeMap::new(), &told);
    assert_eq!(*told.borrow(), Narrow::new());
}

#[tokio::test(start_paused = true)]
async fn thousands_that_do_not_answer_take_minutes() {
    let told = watch::Sender::new(Narrow::new());
    let all = (0..4000_u32).map(|n| Ipv4Addr::from(0xc000_0200 + n));
    let peers: BTreeMap<_, _> = all.map(|peer| (peer, 1500)).collect();
    let ways = Links {
        silent: peers.keys().copied().collect(),
        patience: PATIENCE,
        ..Links::default()
    };
    let began = Instant::now();
    round(|| Ok(ways.clone()), peers, &told).await;
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4 * 60), "{took:?}");
}

#[tokio::test]
async fn what_does_not_fit_our_own_device_is_not_narrow() {
    let told = watch::Sender::new(Narrow::new());
    let ways = Links {
        device: Some(1500),
        ..Links::default()
    };
    let peers = BTreeMap::from([(peer(1), 1550)]);
    round(|| Ok(ways.clone()), peers, &told).await;
    assert_eq!(*told.borrow(), Narrow::new());
}

#[tokio::test(start_paused = true)]
async fn who_is_new_is_asked_soon_and_the_others_in_their_turn() {
    let told = watch::Sender::new(Narrow::new());
    let mut known = told.subscribe();
    let links = Links {
        widths: BTreeMap::from([(peer(1), 1400), (peer(2), 1400)]),
        patience: Duration::from_millis(1),
        ..Links::default()
    };
    let every = Duration::from_secs(600);
    let (ways, heard) = watch::channel(Ways::default());
    let task = tokio::spawn(follow(move |_| Ok(links.clone()), every, heard, told));
    let put = |last, full| {
        ways.send_modify(|ways| {
            ways.source = Some(peer(9));
            ways.peers.insert(peer(last), full);
        });
    };
    sleep(every * 2).await;
    // The second is wide as far as this host sends, and the third has no way.
    for (last, full, narrow) in [
        (1, Some(1500), vec![1]),
        (2, Some(1400), vec![1]),
        (3, None, vec![1]),
        (2, Some(1500), vec![1, 2]),
        (1, Some(1400), vec![2]),
    ] {
        put(last, full);
        sleep(FIRST * 2).await;
        let wanted = narrow.into_iter().map(|last| (peer(last), 1400));
        assert_eq!(
            *known.borrow(),
            wanted.collect::<Narrow>(),
            "{last} {full:?}"
        );
    }
    ways.send_modify(|ways| _ = ways.peers.remove(&peer(2)));
    let began = Instant::now();
    known.wait_for(BTreeMap::is_empty).await.unwrap();
    assert!(began.elapsed() <= AGAIN, "{:?}", began.elapsed());
    drop(ways);
    task.await.unwrap();
}
