//! Routes of the main table, and the kernel's own choice of a way.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteMetric,
        RouteNextHopFlags, RouteProtocol, RouteScope, RouteType, RouteVia,
    },
};

use super::{
    calls::{Calls, GONE, accept, is},
    direct::Request,
    links,
    nexthops::{is_numbered, named},
};
use crate::{
    model::{net::IfIndex, peer::Hop},
    netlink::{NetlinkError, ObservedHost, Route},
};

/// What the kernel answers when nothing leads to an address, or a route says that nothing may.
const NO_WAY: [i32; 4] = [
    libc::ENETUNREACH,
    libc::EHOSTUNREACH,
    libc::EACCES,
    libc::EINVAL,
];

/// What routes say of numbers of next hops.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// The routes whose next hop has a number of ours.
    pub(super) numbered: BTreeSet<Route>,
    /// All that any of them names.
    pub(super) named: BTreeSet<u32>,
}

pub(super) async fn observe(
    calls: &Calls,
    host: &mut ObservedHost,
) -> Result<Numbers, NetlinkError> {
    let mut numbers = Numbers::default();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut request = RouteMessage::default();
        request.header.address_family = family;
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        let dumped = calls
            .dump("read routes", RouteNetlinkMessage::GetRoute(request))
            .await;
        let rows = match dumped {
            // A namespace that never had a route has no main table.
            Err(error) if is(&error, &[libc::ENOENT]) => continue,
            other => other?,
        };
        for row in rows {
            if let RouteNetlinkMessage::NewRoute(message) = row {
                let found = read(&message);
                let ours = found.iter().filter(|route| is_numbered(&message, route));
                numbers.numbered.extend(ours);
                numbers.named.extend(named(&message));
                host.routes.extend(found);
                host.nowhere.extend(nowhere(&message));
            }
        }
    }
    Ok(numbers)
}

pub(super) fn put(call: String, route: &Route) -> Request {
    Request {
        call,
        message: RouteNetlinkMessage::NewRoute(new(route)).into(),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        accept: &[],
    }
}

pub(super) fn new(route: &Route) -> RouteMessage {
    let mut message = message(route);
    message.header.scope = match route.gateway {
        Some(_) => RouteScope::Universe,
        None => RouteScope::Link,
    };
    message.attributes.extend(route.mtu.map(metrics));
    message
}

/// What a route says of its way: 0 takes back what another said in its place.
pub(super) fn metrics(mtu: u32) -> RouteAttribute {
    RouteAttribute::Metrics(vec![RouteMetric::Mtu(mtu)])
}

pub(super) fn delete(call: String, route: &Route) -> Request {
    Request {
        call,
        message: RouteNetlinkMessage::DelRoute(gone(route)).into(),
        flags: 0,
        accept: &GONE,
    }
}

pub(super) fn gone(route: &Route) -> RouteMessage {
    let mut message = message(route);
    // Any scope, and any width: whoever made the route may have chosen another than we do.
    message.header.scope = RouteScope::NoWhere;
    message
}

/// As the kernel makes it, source and all: with the address it goes again.
pub(super) fn put_connected(call: String, link: IfIndex, addr: IpNet) -> Request {
    let mut message = new(&Route {
        destination: addr.trunc(),
        gateway: None,
        link,
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: RouteProtocol::Kernel.into(),
    });
    let source = RouteAttribute::PrefSource(address(addr.addr()));
    message.attributes.push(source);
    Request {
        call,
        message: RouteNetlinkMessage::NewRoute(message).into(),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        accept: &[libc::EEXIST],
    }
}

/// Never beside another route: the kernel's own for a bridge's address is better than this one.
pub(super) async fn put_blackhole(
    calls: &Calls,
    call: &str,
    net: IpNet,
) -> Result<(), NetlinkError> {
    let mut message = blackhole(net);
    message.header.scope = RouteScope::Universe;
    let request = RouteNetlinkMessage::NewRoute(message);
    let result = calls.act(call, request, NLM_F_CREATE | NLM_F_EXCL).await;
    accept(result, &[libc::EEXIST])
}

pub(super) async fn delete_blackhole(
    calls: &Calls,
    call: &str,
    net: IpNet,
) -> Result<(), NetlinkError> {
    let mut message = blackhole(net);
    message.header.scope = RouteScope::NoWhere;
    let request = RouteNetlinkMessage::DelRoute(message);
    accept(calls.act(call, request, 0).await, &[libc::ESRCH])
}

fn blackhole(net: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(net.addr());
    message.header.destination_prefix_length = net.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Boot;
    message.header.kind = RouteType::BlackHole;
    let destination = RouteAttribute::Destination(address(net.network()));
    message.attributes.push(destination);
    message
}

pub(super) fn lookup(destination: IpAddr) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination);
    message.header.destination_prefix_length = if destination.is_ipv4() { 32 } else { 128 };
    message
        .attributes
        .push(RouteAttribute::Destination(address(destination)));
    Request {
        call: format!("look up route to {destination}"),
        message: RouteNetlinkMessage::GetRoute(message).into(),
        flags: 0,
        accept: &NO_WAY,
    }
}

/// The way that a lookup's answer names, if any.
pub(super) async fn way(
    calls: &Calls,
    answer: Option<RouteNetlinkMessage>,
    link_mtu: impl Fn(&IfIndex) -> Option<u32>,
) -> Result<Option<(Hop, Option<IpAddr>)>, NetlinkError> {
    let Some(RouteNetlinkMessage::NewRoute(message)) = answer else {
        return Ok(None);
    };
    let attributes = &message.attributes;
    let Some(link) = link(attributes) else {
        return Ok(None);
    };
    let source = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(source) => ip(source),
        _ => None,
    });
    let mtu = match route_mtu(attributes).or_else(|| link_mtu(&link)) {
        Some(mtu) => mtu,
        None => links::mtu(calls, link).await?,
    };
    let hop = Hop {
        link,
        gateway: gateway(attributes),
        mtu,
    };
    Ok(Some((hop, source)))
}

fn message(route: &Route) -> RouteMessage {
    let Route {
        destination,
        gateway,
        link,
        onlink,
        metric,
        mtu: _,
        protocol,
    } = *route;
    let mut message = RouteMessage::default();
    message.header.address_family = family(destination.addr());
    message.header.destination_prefix_length = destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(protocol);
    message.header.kind = RouteType::Unicast;
    let attributes = &mut message.attributes;
    if destination.prefix_len() > 0 {
        attributes.push(RouteAttribute::Destination(address(destination.network())));
    }
    if let Some(gateway) = gateway {
        attributes.push(RouteAttribute::Gateway(address(gateway)));
    }
    attributes.push(RouteAttribute::Oif(link.get()));
    if metric > 0 {
        attributes.push(RouteAttribute::Priority(metric));
    }
    if onlink {
        message.header.flags.insert(RouteFlags::Onlink);
    }
    message
}

/// The route of a message; one for each next hop where there are several, none for kinds that
/// lead nowhere.
fn read(message: &RouteMessage) -> Vec<Route> {
    let header = &message.header;
    let any = match header.address_family {
        AddressFamily::Inet => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        AddressFamily::Inet6 => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        _ => return Vec::new(),
    };
    // Kernels before 4.20 do not filter: they send every table.
    if header.table != RouteHeader::RT_TABLE_MAIN || header.kind != RouteType::Unicast {
        return Vec::new();
    }
    let mut destination = any;
    let mut metric = 0;
    let mut hops = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(found) => destination = ip(found).unwrap_or(any),
            RouteAttribute::Priority(found) => metric = *found,
            RouteAttribute::MultiPath(found) => hops.clone_from(found),
            _ => {}
        }
    }
    let Ok(destination) = IpNet::new(destination, header.destination_prefix_length) else {
        return Vec::new();
    };
    let mtu = route_mtu(&message.attributes);
    let route = |link, gateway, onlink| Route {
        destination,
        gateway,
        link,
        onlink,
        metric,
        mtu,
        protocol: header.protocol.into(),
    };
    if let Some(link) = link(&message.attributes) {
        let onlink = header.flags.contains(RouteFlags::Onlink);
        return vec![route(link, gateway(&message.attributes), onlink)];
    }
    hops.iter()
        .filter_map(|hop| {
            let link = IfIndex::try_from(hop.interface_index).ok()?;
            let onlink = hop.flags.contains(RouteNextHopFlags::Onlink);
            Some(route(link, gateway(&hop.attributes), onlink))
        })
        .collect()
}

/// Where a route that leads nowhere would lead: what it covers is not to be reached.
fn nowhere(message: &RouteMessage) -> Option<IpNet> {
    let header = &message.header;
    let refuses = matches!(
        header.kind,
        RouteType::BlackHole | RouteType::Unreachable | RouteType::Prohibit | RouteType::Throw
    );
    if header.table != RouteHeader::RT_TABLE_MAIN || !refuses {
        return None;
    }
    let destination = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Destination(found) => ip(found),
            _ => None,
        })?;
    IpNet::new(destination, header.destination_prefix_length).ok()
}

fn link(attributes: &[RouteAttribute]) -> Option<IfIndex> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(link) => IfIndex::try_from(*link).ok(),
        _ => None,
    })
}

fn gateway(attributes: &[RouteAttribute]) -> Option<IpAddr> {
    attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Gateway(gateway) => ip(gateway),
        RouteAttribute::Via(RouteVia::Inet(gateway)) => Some(IpAddr::V4(*gateway)),
        RouteAttribute::Via(RouteVia::Inet6(gateway)) => Some(IpAddr::V6(*gateway)),
        _ => None,
    })
}

fn route_mtu(attributes: &[RouteAttribute]) -> Option<u32> {
    let metrics = attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Metrics(metrics) => Some(metrics),
        _ => None,
    })?;
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

fn address(addr: IpAddr) -> RouteAddress {
    match addr {
        IpAddr::V4(addr) => RouteAddress::Inet(addr),
        IpAddr::V6(addr) => RouteAddress::Inet6(addr),
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(addr) => Some(IpAddr::V4(*addr)),
        RouteAddress::Inet6(addr) => Some(IpAddr::V6(*addr)),
        _ => None,
    }
}
