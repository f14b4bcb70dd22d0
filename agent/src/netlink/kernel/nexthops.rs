//! Next hops that the kernel knows by a number, for routes that are many.
//!
//! The kernel keeps equal next hops once, and finds them by a hash in which the gateway has no part.
//! All peers' routes lead through one device: each new one is compared with every other, fifty
//! million times for ten thousand peers. A route that names its next hop by a number is found by it.
//! The route leads the same way, and is read and replaced as any other.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE, NetlinkSerializable};
use netlink_packet_route::{
    RouteNetlinkMessage,
    route::{RouteAttribute, RouteMessage},
};
use rtnetlink::sys::protocols::NETLINK_ROUTE;

use super::{
    calls::GONE,
    direct::{Message, Request},
    routes,
};
use crate::{
    model::net::IfIndex,
    netlink::{NetlinkError, Route, raw},
};

/// With fewer routes the comparisons cost less than the numbers, and the routes look like flannel's
/// to whoever lists them.
const MANY: usize = 1000;
/// Where 0 says that routes with a number are listed without their ways: then we have none.
const COMPATIBLE: &str = "/proc/sys/net/ipv4/nexthop_compat_mode";

const RTM_GETNEXTHOP: u16 = 106;
const RTM_NEWNEXTHOP: u16 = 104;
const RTM_DELNEXTHOP: u16 = 105;
const NHA_ID: u16 = 1;
const NHA_GROUP: u16 = 2;
const NHA_OIF: u16 = 5;
const NHA_GATEWAY: u16 = 6;
const RTNH_F_ONLINK: u32 = 4;
const RTPROT_BOOT: u8 = 3;
/// Of `struct nhmsg`, and of an attribute with four bytes.
const FIXED: usize = 8;
const ATTRIBUTE: usize = 8;
/// Of `struct nexthop_grp`, which begins with a number.
const MEMBER: usize = 8;

/// A destination and a metric.
type Place = (IpNet, u32);

/// What the kernel knows by our numbers.
#[derive(Debug)]
pub(super) struct NextHops {
    /// By what makes the kernel take one route for another's successor.
    numbered: BTreeMap<Place, Route>,
    /// All routes, as last read.
    routes: usize,
    possible: bool,
}

impl NextHops {
    /// In the network namespace of the calling thread.
    pub(super) fn here() -> Self {
        // Without the switch the kernel is older, and has no such numbers, or lists them in full.
        let mode = std::fs::read_to_string(COMPATIBLE);
        Self {
            numbered: BTreeMap::new(),
            routes: 0,
            possible: mode.is_ok_and(|mode| mode.trim() != "0"),
        }
    }

    /// Takes in what was read.
    pub(super) fn read(&mut self, numbered: BTreeSet<Route>, routes: usize) {
        let placed = numbered.into_iter().map(|route| (place(&route), route));
        self.numbered = placed.collect();
        self.routes = routes;
    }

    /// Whether routes that come are to have numbers.
    pub(super) fn pays(&self, more: usize) -> bool {
        self.possible && self.routes.max(self.numbered.len()) + more >= MANY
    }

    /// Whether its way has a number. How large a packet it takes is the route's alone.
    pub(super) fn has(&self, route: &Route) -> bool {
        let way = |route: &Route| Route {
            mtu: None,
            ..*route
        };
        let numbered = self.numbered.get(&place(route));
        numbered.is_some_and(|numbered| way(numbered) == way(route))
    }

    /// Notes what came of an attempt to number a next hop.
    pub(super) fn made(&mut self, route: &Route, answer: &Result<(), NetlinkError>) {
        match answer {
            Ok(()) => _ = self.numbered.insert(place(route), *route),
            Err(error) if error.source.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                self.possible = false;
            }
            Err(_) => {}
        }
    }

    pub(super) fn removed(&mut self, route: &Route) {
        if self.has(route) {
            self.numbered.remove(&place(route));
        }
    }

    /// A route has been made without a number: answers with the one that was in its place and had
    /// one. Nothing names that number any more, and it would be in the way of the next.
    pub(super) fn replaced(&mut self, by: &Route) -> Option<Route> {
        self.numbered.remove(&place(by))
    }
}

fn place(route: &Route) -> Place {
    (route.destination, route.metric)
}

/// The number of a route's next hop: the address of the peer's subnet, which no two peers share.
pub(super) fn number(route: &Route) -> Option<u32> {
    let through = match (route.destination, route.gateway) {
        (IpNet::V4(net), Some(IpAddr::V4(gateway))) => route.onlink && net.network() == gateway,
        _ => false,
    };
    let IpAddr::V4(network) = route.destination.network() else {
        return None;
    };
    (through && network != Ipv4Addr::UNSPECIFIED).then(|| network.into())
}

/// The number that a route was read with, if it is ours.
pub(super) fn is_numbered(message: &RouteMessage, route: &Route) -> bool {
    let ours = number(route);
    ours.is_some() && named(message) == ours
}

/// The number that a route names, whosever it is.
pub(super) fn named(message: &RouteMessage) -> Option<u32> {
    message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::NhId(number) => Some(*number),
            _ => None,
        })
}

/// Never in the place of another: that could be somebody else's.
pub(super) fn put(call: &str, route: &Route) -> Option<Request> {
    let (Some(number), Some(IpAddr::V4(gateway))) = (number(route), route.gateway) else {
        return None;
    };
    Some(Request {
        call: format!("{call} (its next hop)"),
        message: Message::NextHop(NextHop {
            number,
            way: Some((route.link, gateway)),
        }),
        flags: NLM_F_CREATE | NLM_F_EXCL,
        accept: &[],
    })
}

/// A route by the number of its next hop. It always says its width: without a word on that the kernel
/// takes any route with the same number for the same, and keeps what that one says.
pub(super) fn put_route(call: String, route: &Route) -> Request {
    let mut message = by_number(routes::new(route), route);
    if route.mtu.is_none() {
        message.attributes.push(routes::metrics(0));
    }
    let message = RouteNetlinkMessage::NewRoute(message);
    Request {
        call,
        message: message.into(),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        accept: &[],
    }
}

/// What removes a route that has a number.
pub(super) fn delete_route(call: String, route: &Route) -> Request {
    let message = RouteNetlinkMessage::DelRoute(by_number(routes::gone(route), route));
    gone(call, message.into())
}

/// What removes a number that no route names.
pub(super) fn free(call: String, gateway: Ipv4Addr) -> Request {
    let hop = NextHop {
        number: gateway.into(),
        way: None,
    };
    gone(call, Message::NextHop(hop))
}

/// What removes the number. Whatever route still had it would go with it.
pub(super) fn delete(call: String, route: &Route) -> Option<Request> {
    let number = number(route)?;
    let hop = NextHop { number, way: None };
    Some(gone(call, Message::NextHop(hop)))
}

fn gone(call: String, message: Message) -> Request {
    Request {
        call,
        message,
        flags: 0,
        accept: &GONE,
    }
}

fn by_number(mut message: RouteMessage, route: &Route) -> RouteMessage {
    message.attributes.retain(|attribute| {
        !matches!(
            attribute,
            RouteAttribute::Gateway(_) | RouteAttribute::Oif(_)
        )
    });
    // The next hop says it.
    message.header.flags = Default::default();
    let number = number(route).map(RouteAttribute::NhId);
    message.attributes.extend(number);
    message
}

/// A message about a next hop: how it leads, or that it is to go.
#[derive(Clone, Debug)]
pub(super) struct NextHop {
    number: u32,
    way: Option<(IfIndex, Ipv4Addr)>,
}

impl NetlinkSerializable for NextHop {
    fn message_type(&self) -> u16 {
        match self.way {
            Some(_) => RTM_NEWNEXTHOP,
            None => RTM_DELNEXTHOP,
        }
    }

    fn buffer_len(&self) -> usize {
        FIXED + ATTRIBUTE * if self.way.is_some() { 3 } else { 1 }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        let (family, protocol, flags) = match self.way {
            Some(_) => (libc::AF_INET, RTPROT_BOOT, RTNH_F_ONLINK),
            None => (libc::AF_UNSPEC, 0, 0),
        };
        let family = u8::try_from(family).unwrap_or_default();
        let mut bytes = vec![family, 0, protocol, 0];
        bytes.extend(flags.to_ne_bytes());
        let mut attribute = |kind: u16, value: [u8; 4]| {
            bytes.extend(8_u16.to_ne_bytes());
            bytes.extend(kind.to_ne_bytes());
            bytes.extend(value);
        };
        attribute(NHA_ID, self.number.to_ne_bytes());
        if let Some((link, gateway)) = self.way {
            attribute(NHA_OIF, link.get().to_ne_bytes());
            attribute(NHA_GATEWAY, gateway.octets());
        }
        for (to, from) in buffer.iter_mut().zip(bytes) {
            *to = from;
        }
    }
}

/// The numbers that the kernel knows.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Those of the form that we give: the gateway as a number, on a link.
    ours: BTreeSet<(IfIndex, Ipv4Addr)>,
    /// Members of groups, which nobody but others makes.
    grouped: BTreeSet<u32>,
}

impl Known {
    /// Ours that no route and no group names.
    pub(super) fn idle(&self, named: &BTreeSet<u32>) -> BTreeSet<(IfIndex, Ipv4Addr)> {
        let is_idle = |(_, gateway): &&(IfIndex, Ipv4Addr)| {
            let number = u32::from(*gateway);
            !named.contains(&number) && !self.grouped.contains(&number)
        };
        self.ours.iter().filter(is_idle).copied().collect()
    }

    fn add(&mut self, body: &[u8]) {
        let Some((header, attributes)) = body.split_first_chunk::<FIXED>() else {
            return;
        };
        let [_, _, protocol, _, flags @ ..] = *header;
        let attributes = raw::attributes(attributes);
        let value = |wanted: u16| {
            let found = attributes.iter().find(|(kind, _)| *kind == wanted);
            found.and_then(|(_, value)| <[u8; 4]>::try_from(*value).ok())
        };
        let groups = attributes.iter().filter(|(kind, _)| *kind == NHA_GROUP);
        let members = groups.flat_map(|(_, members)| members.chunks_exact(MEMBER));
        let members = members.filter_map(|member| member.first_chunk());
        self.grouped
            .extend(members.map(|number| u32::from_ne_bytes(*number)));
        let (Some(number), Some(link), Some(gateway)) =
            (value(NHA_ID), value(NHA_OIF), value(NHA_GATEWAY))
        else {
            return;
        };
        let (number, gateway) = (u32::from_ne_bytes(number), Ipv4Addr::from(gateway));
        let onlink = u32::from_ne_bytes(flags) & RTNH_F_ONLINK != 0;
        if protocol == RTPROT_BOOT && onlink && number == u32::from(gateway) {
            let link = IfIndex::try_from(u32::from_ne_bytes(link)).ok();
            self.ours.extend(link.map(|link| (link, gateway)));
        }
    }
}

/// Reads them; none where the kernel has no such numbers.
pub(super) async fn observe() -> Result<Known, NetlinkError> {
    let mut known = Known::default();
    let call = "read next hops";
    match raw::dump(call, NETLINK_ROUTE, RTM_GETNEXTHOP, &[0; FIXED]).await {
        Ok(rows) => rows.iter().for_each(|row| known.add(row)),
        Err(error) if raw::is_unsupported(&error) => {}
        Err(error) => return Err(error),
    }
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tunnelled(net: &str, link: u32) -> Route {
        let destination: IpNet = net.parse().unwrap();
        Route {
            destination,
            gateway: Some(destination.network()),
            link: IfIndex::try_from(link).unwrap(),
            onlink: true,
            metric: 0,
            mtu: None,
            protocol: RTPROT_BOOT,
        }
    }

    #[test]
    fn a_route_that_comes_without_a_number_frees_that_of_the_one_in_its_place() {
        let mut hops = NextHops {
            numbered: BTreeMap::new(),
            routes: 0,
            possible: true,
        };
        let (one, other) = (tunnelled("10.1.2.0/24", 7), tunnelled("10.1.3.0/24", 7));
        for route in [&one, &other] {
            hops.made(route, &Ok(()));
        }
        let direct = Route {
            gateway: Some([192, 0, 2, 2].into()),
            link: IfIndex::try_from(2).unwrap(),
            onlink: false,
            ..one
        };
        let beside = Route {
            metric: 9,
            ..direct
        };
        assert_eq!(hops.replaced(&beside), None);
        assert_eq!(hops.replaced(&direct), Some(one));
        assert_eq!(hops.replaced(&direct), None);
        assert!(!hops.has(&one) && hops.has(&other));
        // Another device, or no number this time.
        assert_eq!(hops.replaced(&tunnelled("10.1.3.0/24", 8)), Some(other));
    }
}
