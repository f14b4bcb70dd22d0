//! Ways that are narrower than this host knows: what the loop hears of them, and whom it has asked.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use tokio::sync::watch;

use super::{plan::has_direct_form, underlay::tunnel};
use crate::{
    model::{net::IfIndex, network::NetworkConfig},
    netlink::{ObservedHost, Route, TunnelEntry},
    paths::{LEAST, Narrow, Ways},
};

/// The loop's end of the measuring.
#[derive(Debug)]
pub struct Paths {
    /// What is known to be narrow.
    pub narrow: watch::Receiver<Narrow>,
    /// Whom to ask.
    pub ways: watch::Sender<Ways>,
}

impl Paths {
    /// Where nobody measures: nothing is narrow.
    #[must_use]
    pub fn unmeasured() -> Self {
        Self {
            narrow: watch::channel(Narrow::default()).1,
            ways: watch::Sender::default(),
        }
    }

    /// Tells whom to ask, where that is news.
    pub(super) fn ask(&self, ways: &Ways) {
        self.ways.send_if_modified(|told| {
            let is_new = told != ways;
            if is_new {
                told.clone_from(ways);
            }
            is_new
        });
    }
}

/// What an earlier run found narrow, as its routes say it. It holds until the way is measured again: a
/// start that widened them would bring back, for as long, the loss that they prevent.
#[must_use]
pub fn earlier(host: &ObservedHost, network: &NetworkConfig) -> Narrow {
    let device = host.link_named(&network.vni.device());
    let device = device.map(|link| link.index);
    let width = |route: &Route| {
        let (vtep, tunnel) = node(host, network, device, route)?;
        let width = route.mtu?.saturating_add(tunnel);
        (width >= LEAST).then_some((vtep, width))
    };
    host.routes.iter().filter_map(width).collect()
}

/// The node that a route of ours leads to, and what its tunnel adds.
fn node(
    host: &ObservedHost,
    network: &NetworkConfig,
    device: Option<IfIndex>,
    route: &Route,
) -> Option<(Ipv4Addr, u32)> {
    let gateway = route.gateway?;
    let (vtep, tunnel) = if Some(route.link) == device {
        let link = route.link;
        let mac = host.neighbours.get(&(link, gateway))?.mac?;
        let vtep = host.tunnel_fdb.get(&TunnelEntry { link, mac })?;
        (*vtep, tunnel())
    } else {
        let overlay = IpNet::V4(network.network);
        let ours = network.direct_routing && has_direct_form(&overlay, network.subnet_len, route);
        ours.then_some((gateway, 0))?
    };
    match vtep {
        IpAddr::V4(vtep) => Some((vtep, tunnel)),
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests;
