//! How the underlay reaches each VTEP address. The kernel is asked only when its answer may have
//! changed: a thousand peers times every neighbour event would be too much.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::debug;

use crate::{
    model::{net::IfIndex, peer::Hop},
    netlink::{Link, Netlink, ObservedHost, Route, Way},
};

/// Other tables and policy rules are not observed: what they changed shows after this long, or
/// later where there are so many addresses that asking for all takes its time.
const LASTS: Duration = Duration::from_secs(5);
const LASTS_EACH: Duration = Duration::from_millis(20);

/// Answers of the kernel, and what they rest on.
#[derive(Debug, Default)]
pub struct Hops {
    reached: BTreeMap<IpAddr, Hop>,
    unreached: BTreeSet<IpAddr>,
    ground: Ground,
    asked: Option<Instant>,
}

/// What a route lookup depends on: routes and addresses beside those on our own device, and the
/// links that these are on. Containers come and go without touching any of it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ground {
    routes: BTreeSet<Route>,
    addresses: BTreeSet<(IfIndex, IpNet)>,
    links: BTreeMap<IfIndex, Link>,
}

impl Ground {
    fn of(host: &ObservedHost, device: &str) -> Self {
        let own = host.link_named(device).map(|link| link.index);
        let routes: BTreeSet<Route> = host
            .routes
            .iter()
            .filter(|route| Some(route.link) != own)
            .copied()
            .collect();
        let addresses: BTreeSet<(IfIndex, IpNet)> = host
            .addresses
            .iter()
            .filter(|(link, _)| Some(*link) != own)
            .copied()
            .collect();
        let used = routes.iter().map(|route| route.link);
        let links = used
            .chain(addresses.iter().map(|(link, _)| *link))
            .filter_map(|link| Some((link, host.links.get(&link)?.clone())))
            .collect();
        Self {
            routes,
            addresses,
            links,
        }
    }
}

impl Hops {
    /// The way to each address that there is one to, as of the last [`Hops::refresh`].
    #[must_use]
    pub fn reached(&self) -> &BTreeMap<IpAddr, Hop> {
        &self.reached
    }

    /// Asks for what is not known, or for all when the ground has changed or enough time passed.
    pub async fn refresh(
        &mut self,
        netlink: &impl Netlink,
        host: &ObservedHost,
        device: &str,
        wanted: &BTreeSet<IpAddr>,
    ) {
        let ground = Ground::of(host, device);
        let many = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        let lasts = LASTS.max(LASTS_EACH.saturating_mul(many));
        if ground != self.ground || self.asked.is_none_or(|at| at.elapsed() >= lasts) {
            self.reached.clear();
            self.unreached.clear();
            self.ground = ground;
            self.asked = Some(Instant::now());
        }
        self.reached.retain(|address, _| wanted.contains(address));
        self.unreached.retain(|address| wanted.contains(address));
        let unknown = wanted.iter().filter(|address| {
            !self.reached.contains_key(*address) && !self.unreached.contains(*address)
        });
        let unknown: Vec<IpAddr> = unknown.copied().collect();
        let answers = netlink.ways_to(&unknown).await;
        for (address, answer) in unknown.into_iter().zip(answers) {
            self.note(address, answer);
        }
    }

    fn note(&mut self, address: IpAddr, answer: Way) {
        match answer {
            Ok(Some((hop, _))) => _ = self.reached.insert(address, hop),
            Ok(None) => {
                debug!(%address, "no route to a peer");
                self.unreached.insert(address);
            }
            Err(error) => debug!(%address, %error, "route to a peer is not known"),
        }
    }
}
