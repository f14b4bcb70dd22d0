//! What a host has beside its packet filter that packets on the fast path would pass by: queues,
//! filters and programs at devices, and routes into the overlay. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use crate::{
    datapath::DatapathState,
    endpoints::{self, Foreign},
    model::{lease::Snapshot, net::IfIndex},
    netlink::{ObservedHost, Side},
};

/// What else the host has that packets would pass by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Obstacles {
    /// Something that all packets of the overlay are meant to meet.
    pub all: Option<String>,
    /// Nodes that a route leads away from, and the route.
    pub diverted: BTreeMap<Ipv4Addr, String>,
}

impl Obstacles {
    /// Those of this host, with what others have hung up at its devices.
    #[must_use]
    pub fn of(
        host: &ObservedHost,
        foreign: &Foreign,
        leases: &Snapshot,
        device: &str,
        uplink: IfIndex,
    ) -> Self {
        Self {
            all: in_the_way(host, foreign, device, uplink),
            diverted: diverted(host, leases, device),
        }
    }
}

/// What others have hung up at devices: programs beside ours, and classic filters.
#[must_use]
pub fn foreign(host: &ObservedHost, seen: Option<&DatapathState>) -> Foreign {
    let mut foreign = seen.map(|seen| seen.foreign.clone()).unwrap_or_default();
    let filters = host.filters.iter();
    foreign.extend(filters.map(|((link, _), kind)| (*link, filter(kind))));
    foreign
}

fn filter(kind: &str) -> String {
    format!("the filter {kind:?}")
}

/// What is meant to see every packet of the overlay, and would not see those that are taken: at our
/// device, or where tunnel packets come in.
fn in_the_way(
    host: &ObservedHost,
    foreign: &Foreign,
    device: &str,
    uplink: IfIndex,
) -> Option<String> {
    let link = host.link_named(device);
    if let Some(queue) = link.and_then(endpoints::queue) {
        return Some(format!("{device} has the queueing discipline {queue}"));
    }
    if let Some(what) = link.and_then(|link| foreign.get(&link.index)) {
        return Some(format!("{what} of others is at {device}"));
    }
    let kind = host.filters.get(&(uplink, Side::Ingress))?;
    let name = host.links.get(&uplink).map(|link| link.name.as_str());
    let name = name.unwrap_or("the uplink");
    Some(format!("{} of others is at {name}", filter(kind)))
}

/// Nodes whose packets a route of the host's leads another way than into the tunnel, and the route.
fn diverted(host: &ObservedHost, leases: &Snapshot, device: &str) -> BTreeMap<Ipv4Addr, String> {
    let own = host.link_named(device).map(|link| link.index);
    let away = host.routes.iter().filter(|route| Some(route.link) != own);
    let away = away.map(|route| &route.destination).chain(&host.nowhere);
    let away: BTreeSet<&IpNet> = away.collect();
    let mut found = BTreeMap::new();
    for lease in leases.leases.values() {
        let IpAddr::V4(vtep) = lease.attrs.public_ip else {
            continue;
        };
        let net = lease.subnet.net();
        // Ours stand for themselves: what is within them is about some of their addresses.
        let within = |other: &&&IpNet| **other != &net && net.contains(**other);
        if let Some(route) = away.iter().find(within) {
            found.insert(vtep, format!("route to {route}"));
        }
    }
    found
}

#[cfg(test)]
mod tests;
