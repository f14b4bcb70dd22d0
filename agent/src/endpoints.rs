//! Endpoints: the join of neighbours, forwarding entries and ports of our bridges. Pure.
//!
//! An endpoint begins when both halves are known (address to MAC, MAC to port), and ends when its
//! port goes, goes down or leaves the bridge, when its MAC or address shows elsewhere, or when its
//! neighbour fails. It does not end because an entry ages: a busy flow on the fast path no longer
//! refreshes the bridge's entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};
use weft_common::endpoint::{
    ENDPOINT_HOOKED, ENDPOINT_KERNEL, ENDPOINT_PEER, EndpointEntry, PortEntry,
};

use crate::{
    model::net::{IfIndex, Mac},
    netlink::{BridgeEntry, Link, LinkKind, Neighbour, NeighbourState, ObservedHost},
};

/// A local container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The bridge that the container is behind.
    pub bridge: IfIndex,
    /// The port of the bridge.
    pub port: IfIndex,
    /// The container's MAC.
    pub mac: Mac,
}

/// Containers by address.
pub type Endpoints = BTreeMap<Ipv4Addr, Endpoint>;

/// Programs and filters of others at ports and bridges, by device.
pub type Foreign = BTreeMap<IfIndex, String>;

/// The host's end of a container's cable.
const CABLE: LinkKind = LinkKind::Veth {
    peer_elsewhere: true,
};

/// Ways of queueing that do nothing to a packet. A port that is down has `noop`.
const NO_QUEUE: [&str; 2] = ["noqueue", "noop"];

/// Why a port's packets stay with the kernel, if they do: something on it would be skipped, or
/// packets cannot be put into the container past the stack.
#[must_use]
pub fn kept(host: &ObservedHost, port: &Link, foreign: &Foreign) -> Option<String> {
    if port.kind != CABLE {
        return Some("not a veth pair with its other end in a container".to_owned());
    }
    if let Some(queue) = queue(port) {
        return Some(format!("has the queueing discipline {queue}"));
    }
    let bridge = port.master.and_then(|master| host.links.get(&master));
    if let Some(queue) = bridge.and_then(queue) {
        return Some(format!("its bridge has the queueing discipline {queue}"));
    }
    [Some(port.index), port.master]
        .into_iter()
        .flatten()
        .find_map(|link| foreign.get(&link))
        .map(|what| format!("{what} of others is on its way"))
}

/// What a device does to packets before it sends them.
#[must_use]
pub fn queue(link: &Link) -> Option<&str> {
    let queue = link.qdisc.as_deref();
    queue.filter(|queue| !NO_QUEUE.contains(queue))
}

impl Endpoint {
    /// The endpoint that an entry of the map describes, without what is read anew.
    #[must_use]
    pub fn from_entry(entry: &EndpointEntry) -> Option<Self> {
        Some(Self {
            bridge: IfIndex::try_from(entry.bridge).ok()?,
            port: IfIndex::try_from(entry.ifindex).ok()?,
            mac: Mac(entry.mac),
        })
    }

    /// The entry for the map; `None` when port or bridge are not there (any more).
    #[must_use]
    pub fn to_entry(
        &self,
        host: &ObservedHost,
        hooked: bool,
        foreign: &Foreign,
    ) -> Option<EndpointEntry> {
        let bridge = host.links.get(&self.bridge)?;
        let port = host.links.get(&self.port)?;
        let flags = flags(host, port, hooked, foreign);
        Some(EndpointEntry {
            ifindex: self.port.get(),
            mac: self.mac.0,
            bridge_mac: bridge.mac?.0,
            bridge_mtu: bridge.mtu,
            bridge: self.bridge.get(),
            flags,
        })
    }
}

/// What `PORTS` says of a port; `None` when its bridge has no MAC.
#[must_use]
pub fn port_entry(
    host: &ObservedHost,
    port: &Link,
    hooked: bool,
    foreign: &Foreign,
) -> Option<PortEntry> {
    let bridge = host.links.get(&port.master?)?;
    Some(PortEntry {
        bridge: bridge.index.get(),
        bridge_mac: bridge.mac?.0,
        _pad: [0; 2],
        bridge_mtu: bridge.mtu,
        flags: flags(host, port, hooked, foreign),
    })
}

fn flags(host: &ObservedHost, port: &Link, hooked: bool, foreign: &Foreign) -> u32 {
    let bit = |on: bool, bit: u32| if on { bit } else { 0 };
    bit(port.kind == CABLE, ENDPOINT_PEER)
        | bit(kept(host, port, foreign).is_some(), ENDPOINT_KERNEL)
        | bit(hooked, ENDPOINT_HOOKED)
}

/// The bridges whose containers are ours: they own an address inside our subnet. A bridge that
/// forwards by VLAN is left to the kernel, and the uplink is never one of them.
#[must_use]
pub fn bridges(host: &ObservedHost, subnet: Ipv4Net, uplink: IfIndex) -> BTreeSet<IfIndex> {
    let usable = LinkKind::Bridge {
        vlan_filtering: false,
    };
    addressed(host, subnet, uplink)
        .filter(|link| link.up && link.kind == usable)
        .map(|link| link.index)
        .collect()
}

/// Every bridge that owns an address in there, whether packets can be taken from it or not.
pub fn addressed(
    host: &ObservedHost,
    subnet: Ipv4Net,
    uplink: IfIndex,
) -> impl Iterator<Item = &Link> {
    let within = move |net: &IpNet| matches!(net, IpNet::V4(net) if subnet.contains(&net.addr()));
    host.addresses
        .iter()
        .filter(move |(link, net)| *link != uplink && within(net))
        .filter_map(|(link, _)| host.links.get(link))
        .filter(|link| matches!(link.kind, LinkKind::Bridge { .. }))
}

/// All other ways into this host's stack. Its VXLAN socket hears tunnel packets by each of them.
pub fn side_entrances<'a>(
    host: &'a ObservedHost,
    bridges: &BTreeSet<IfIndex>,
    device: &str,
) -> impl Iterator<Item = &'a Link> {
    host.links.values().filter(move |link| {
        let ours = link.name == device || bridges.contains(&link.index);
        link.ethernet && link.up && link.master.is_none() && !ours
    })
}

/// The ports of those bridges.
#[must_use]
pub fn ports<'a>(host: &'a ObservedHost, bridges: &BTreeSet<IfIndex>) -> Vec<&'a Link> {
    host.links
        .values()
        .filter(|link| link.ethernet && link.master.is_some_and(|master| bridges.contains(&master)))
        .collect()
}

/// The host's own addresses, with their device: never endpoints, and where its VXLAN socket listens.
#[must_use]
pub fn locals(host: &ObservedHost) -> BTreeMap<Ipv4Addr, IfIndex> {
    host.addresses
        .iter()
        .filter_map(|(link, net)| match net {
            IpNet::V4(net) => Some((net.addr(), *link)),
            IpNet::V6(_) => None,
        })
        .collect()
}

/// The endpoints now, from those before and the kernel's tables.
#[must_use]
pub fn join(
    before: &Endpoints,
    host: &ObservedHost,
    subnet: Ipv4Net,
    bridges: &BTreeSet<IfIndex>,
) -> Endpoints {
    let ports: BTreeMap<(IfIndex, Mac), IfIndex> = host
        .bridge_fdb
        .iter()
        .filter(|entry| bridges.contains(&entry.bridge) && is_live(host, entry))
        .map(|entry| ((entry.bridge, entry.mac), entry.port))
        .collect();
    let own = locals(host);
    let mut seen: BTreeMap<Ipv4Addr, Vec<(IfIndex, &Neighbour)>> = BTreeMap::new();
    for ((link, address), neighbour) in &host.neighbours {
        match address {
            IpAddr::V4(address) if subnet.contains(address) => {
                seen.entry(*address).or_default().push((*link, neighbour));
            }
            IpAddr::V4(_) | IpAddr::V6(_) => {}
        }
    }

    let mut now: Endpoints = before
        .iter()
        .filter(|(address, endpoint)| {
            subnet.contains(*address)
                && !own.contains_key(*address)
                && bridges.contains(&endpoint.bridge)
                && !is_diverted(host, subnet, **address, endpoint.bridge)
                && survives(endpoint, host, bridges, &ports, seen.get(*address))
        })
        .map(|(address, endpoint)| (*address, *endpoint))
        .collect();

    let rows = seen
        .iter()
        .flat_map(|(address, rows)| rows.iter().map(move |(link, row)| (address, link, row)));
    for (address, link, neighbour) in rows {
        let known = matches!(
            neighbour.state,
            NeighbourState::Valid | NeighbourState::Permanent
        );
        let Some(mac) = neighbour.mac else { continue };
        if !known || !bridges.contains(link) || own.contains_key(address) {
            continue;
        }
        if is_diverted(host, subnet, *address, *link) {
            continue;
        }
        if let Some(port) = ports.get(&(*link, mac)) {
            now.insert(
                *address,
                Endpoint {
                    bridge: *link,
                    port: *port,
                    mac,
                },
            );
        }
    }
    now
}

/// Whether a route within the subnet leads the address elsewhere than to this bridge: then that is
/// where the stack delivers.
fn is_diverted(host: &ObservedHost, subnet: Ipv4Net, address: Ipv4Addr, bridge: IfIndex) -> bool {
    let covers =
        |net: &IpNet| net.prefix_len() > subnet.prefix_len() && net.contains(&IpAddr::V4(address));
    let away = host
        .routes
        .iter()
        .filter(|route| covers(&route.destination));
    let refused = host.nowhere.iter().filter(|net| covers(net));
    let refused = refused.map(IpNet::prefix_len).max();
    let Some(longest) = away
        .clone()
        .map(|route| route.destination.prefix_len())
        .max()
    else {
        return refused.is_some();
    };
    // Among equals the metric decides, and may decide otherwise tomorrow.
    let mut best = away.filter(|route| route.destination.prefix_len() == longest);
    refused >= Some(longest) || best.any(|route| route.link != bridge)
}

/// Whether a port is in its bridge, up, and has carrier.
fn is_live(host: &ObservedHost, entry: &BridgeEntry) -> bool {
    host.links
        .get(&entry.port)
        .is_some_and(|port| port.master == Some(entry.bridge) && port.up && port.carrier)
}

/// Whether nothing speaks against an endpoint that was known before: no forwarding entry, and
/// none of the neighbours that have its address on a bridge of ours. What claims it elsewhere, on
/// the uplink for one, says nothing of our containers.
fn survives(
    endpoint: &Endpoint,
    host: &ObservedHost,
    bridges: &BTreeSet<IfIndex>,
    ports: &BTreeMap<(IfIndex, Mac), IfIndex>,
    neighbours: Option<&Vec<(IfIndex, &Neighbour)>>,
) -> bool {
    let Endpoint { bridge, port, mac } = *endpoint;
    if !is_live(host, &BridgeEntry { bridge, mac, port }) {
        return false;
    }
    if ports.get(&(bridge, mac)).is_some_and(|seen| *seen != port) {
        return false;
    }
    neighbours.into_iter().flatten().all(|(link, entry)| {
        let contradicts = entry.mac.is_some_and(|seen| seen != mac || *link != bridge)
            && entry.state == NeighbourState::Valid
            && bridges.contains(link);
        let failed = *link == bridge && entry.state == NeighbourState::Failed;
        !contradicts && !failed
    })
}

#[cfg(test)]
#[path = "endpoints_tests.rs"]
mod tests;
