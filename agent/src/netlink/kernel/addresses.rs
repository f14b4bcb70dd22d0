//! Addresses of links.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressFlags, AddressMessage},
};
use rtnetlink::AddressMessageBuilder;

use super::calls::{Calls, accept};
use crate::{
    model::net::IfIndex,
    netlink::{AddressStanding, NetlinkError, ObservedHost},
};

pub(super) async fn observe(calls: &Calls, host: &mut ObservedHost) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::GetAddress(AddressMessage::default());
    let mut seen = BTreeMap::<IfIndex, u32>::new();
    for row in calls.dump("read addresses", request).await? {
        let RouteNetlinkMessage::NewAddress(message) = row else {
            continue;
        };
        let Some((link, net, mut standing)) = read(&message) else {
            continue;
        };
        let position = seen.entry(link).or_default();
        standing.position = *position;
        *position += 1;
        host.addresses.insert((link, net));
        host.standings.insert((link, net.addr()), standing);
    }
    Ok(())
}

pub(super) async fn put(
    calls: &Calls,
    call: &str,
    link: IfIndex,
    net: IpNet,
) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::NewAddress(message(link, net));
    let result = calls.act(call, request, NLM_F_CREATE | NLM_F_EXCL).await;
    accept(result, &[libc::EEXIST])
}

pub(super) async fn delete(
    calls: &Calls,
    call: &str,
    link: IfIndex,
    net: IpNet,
) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::DelAddress(message(link, net));
    let result = calls.act(call, request, 0).await;
    accept(result, &[libc::EADDRNOTAVAIL, libc::ENODEV])
}

fn message(link: IfIndex, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(link.get())
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(link.get())
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

fn read(message: &AddressMessage) -> Option<(IfIndex, IpNet, AddressStanding)> {
    let link = IfIndex::try_from(message.header.index).ok()?;
    let mut local = None;
    let mut address = None;
    let mut flags = AddressFlags::from_bits_retain(u32::from(message.header.flags.bits()));
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(found) => local = Some(*found),
            AddressAttribute::Address(found) => address = Some(*found),
            AddressAttribute::Flags(found) => flags = *found,
            _ => {}
        }
    }
    // On a point-to-point link the address is the other end's and the local one is ours.
    let own: IpAddr = local.or(address)?;
    let net = IpNet::new(own, message.header.prefix_len).ok()?;
    let standing = AddressStanding {
        deprecated: flags.contains(AddressFlags::Deprecated),
        dynamic: !flags.contains(AddressFlags::Permanent),
        temporary: flags.contains(AddressFlags::Secondary),
        position: 0,
    };
    Some((link, net, standing))
}
