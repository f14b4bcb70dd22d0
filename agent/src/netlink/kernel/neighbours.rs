//! Neighbours, and the forwarding entries of bridges and VXLAN devices, which are neighbours of
//! the bridge family.

use std::{collections::BTreeSet, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage,
        NeighbourState as State,
    },
};

use super::{
    calls::{Calls, GONE, accept, is},
    direct::Request,
};
use crate::{
    model::net::{IfIndex, Mac},
    netlink::{
        BridgeEntry, LinkKind, Neighbour, NeighbourState, NetlinkError, ObservedHost, TunnelEntry,
    },
};

pub(super) async fn observe(calls: &Calls, host: &mut ObservedHost) -> Result<(), NetlinkError> {
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in dump(calls, "read neighbours", family).await? {
            host.neighbours.extend(read(&message));
        }
    }
    for message in dump(calls, "read forwarding entries", AddressFamily::Bridge).await? {
        read_entry(host, &message);
    }
    Ok(())
}

/// Reads what belongs to these links again, and leaves the rest as it is.
pub(super) async fn observe_at(
    calls: &Calls,
    host: &mut ObservedHost,
    links: &BTreeSet<IfIndex>,
) -> Result<(), NetlinkError> {
    host.neighbours.retain(|(link, _), _| !links.contains(link));
    host.tunnel_fdb
        .retain(|entry, _| !links.contains(&entry.link));
    host.bridge_fdb.retain(|entry| !links.contains(&entry.port));
    for link in links
        .iter()
        .filter(|link| host.links.contains_key(link))
        .copied()
        .collect::<Vec<_>>()
    {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            let mut request = NeighbourMessage::default();
            request.header.family = family;
            request
                .attributes
                .push(NeighbourAttribute::IfIndex(link.get()));
            for message in dump_by(calls, "read neighbours", request).await? {
                // Kernels before 4.20 do not filter.
                host.neighbours
                    .extend(read(&message).filter(|((owner, _), _)| *owner == link));
            }
        }
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.header.ifindex = link.get();
        for message in dump_by(calls, "read forwarding entries", request).await? {
            if message.header.ifindex == link.get() {
                read_entry(host, &message);
            }
        }
    }
    // A MAC that moved here is told of here alone.
    let moved: BTreeSet<_> = host
        .bridge_fdb
        .iter()
        .filter(|entry| links.contains(&entry.port))
        .map(|entry| (entry.bridge, entry.mac))
        .collect();
    host.bridge_fdb
        .retain(|entry| links.contains(&entry.port) || !moved.contains(&(entry.bridge, entry.mac)));
    Ok(())
}

pub(super) fn put(call: String, link: IfIndex, addr: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour(link, addr);
    message.header.state = State::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    created(call, message)
}

pub(super) fn delete(call: String, link: IfIndex, addr: IpAddr) -> Request {
    deleted(call, neighbour(link, addr))
}

pub(super) fn put_tunnel(call: String, entry: TunnelEntry, vtep: IpAddr) -> Request {
    let mut message = tunnel(entry);
    message.header.state = State::Permanent;
    message
        .attributes
        .push(NeighbourAttribute::Destination(address(vtep)));
    created(call, message)
}

pub(super) fn delete_tunnel(call: String, entry: TunnelEntry) -> Request {
    deleted(call, tunnel(entry))
}

fn created(call: String, message: NeighbourMessage) -> Request {
    Request {
        call,
        message: RouteNetlinkMessage::NewNeighbour(message).into(),
        flags: NLM_F_CREATE | NLM_F_REPLACE,
        accept: &[],
    }
}

/// Whether there was nothing to remove matters for the echo: [`GONE`] is for the caller to accept.
fn deleted(call: String, message: NeighbourMessage) -> Request {
    Request {
        call,
        message: RouteNetlinkMessage::DelNeighbour(message).into(),
        flags: 0,
        accept: &[],
    }
}

/// Marks the neighbour as managed; its state and MAC stay as they are.
pub(super) async fn manage(
    calls: &Calls,
    call: &str,
    link: IfIndex,
    addr: IpAddr,
) -> Result<(), NetlinkError> {
    let mut message = neighbour(link, addr);
    // A kernel before 5.16 knows no extended flags and would take the empty state for an order to
    // forget the entry (`neigh_add` in net/core/neighbour.c). "Use" makes it probe instead, and
    // changes nothing for a kernel that does know them.
    message.header.flags = NeighbourFlags::Use;
    message
        .attributes
        .push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
    create(calls, call, message).await?;

    // An older kernel ignores the attribute without a word.
    let request = RouteNetlinkMessage::GetNeighbour(neighbour(link, addr));
    match calls.ask(call, request).await {
        Ok(RouteNetlinkMessage::NewNeighbour(found)) if !is_managed(&found) => Err(
            NetlinkError::errno(format!("{call} (needs Linux 5.16)"), libc::EOPNOTSUPP),
        ),
        // Gone again: there is nothing left to keep.
        Err(error) if is(&error, &GONE) => Ok(()),
        other => other.map(drop),
    }
}

/// Takes the mark away; the neighbour stays, and ages again.
pub(super) async fn release(
    calls: &Calls,
    call: &str,
    link: IfIndex,
    addr: IpAddr,
) -> Result<(), NetlinkError> {
    let mut message = neighbour(link, addr);
    // Without "use" the empty state would make the kernel forget the MAC.
    message.header.flags = NeighbourFlags::Use;
    let request = RouteNetlinkMessage::NewNeighbour(message);
    accept(calls.act(call, request, NLM_F_REPLACE).await, &GONE)
}

async fn create(calls: &Calls, call: &str, message: NeighbourMessage) -> Result<(), NetlinkError> {
    let request = RouteNetlinkMessage::NewNeighbour(message);
    calls.act(call, request, NLM_F_CREATE | NLM_F_REPLACE).await
}

async fn dump(
    calls: &Calls,
    call: &str,
    family: AddressFamily,
) -> Result<Vec<NeighbourMessage>, NetlinkError> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    dump_by(calls, call, request).await
}

async fn dump_by(
    calls: &Calls,
    call: &str,
    request: NeighbourMessage,
) -> Result<Vec<NeighbourMessage>, NetlinkError> {
    let family = request.header.family;
    let rows = match calls
        .dump(call, RouteNetlinkMessage::GetNeighbour(request))
        .await
    {
        // The link is gone: its event has us look again.
        Err(error) if is(&error, &[libc::ENODEV]) => Vec::new(),
        other => other?,
    };
    Ok(rows
        .into_iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewNeighbour(message) if message.header.family == family => {
                Some(message)
            }
            _ => None,
        })
        .collect())
}

fn neighbour(link: IfIndex, addr: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    message.header.ifindex = link.get();
    message
        .attributes
        .push(NeighbourAttribute::Destination(address(addr)));
    message
}

fn tunnel(entry: TunnelEntry) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = entry.link.get();
    // The entry is the device's own, not that of a bridge above it.
    message.header.flags = NeighbourFlags::Own;
    message
        .attributes
        .push(NeighbourAttribute::LinkLayerAddress(entry.mac.0.to_vec()));
    message
}

fn read(message: &NeighbourMessage) -> Option<((IfIndex, IpAddr), Neighbour)> {
    let link = IfIndex::try_from(message.header.ifindex).ok()?;
    let addr = destination(message)?;
    let neighbour = Neighbour {
        mac: mac(message),
        state: match message.header.state {
            State::Permanent => NeighbourState::Permanent,
            State::Reachable | State::Stale | State::Delay | State::Probe => NeighbourState::Valid,
            State::Incomplete => NeighbourState::Incomplete,
            State::Failed => NeighbourState::Failed,
            _ => NeighbourState::Other,
        },
        managed: is_managed(message),
    };
    Some(((link, addr), neighbour))
}

fn read_entry(host: &mut ObservedHost, message: &NeighbourMessage) {
    let (Ok(link), Some(mac)) = (IfIndex::try_from(message.header.ifindex), mac(message)) else {
        return;
    };
    let master = message.attributes.iter().find_map(|part| match part {
        NeighbourAttribute::Controller(master) => IfIndex::try_from(*master).ok(),
        _ => None,
    });
    match master {
        Some(bridge) => {
            // Permanent ones are the addresses of the bridge and its ports.
            if message.header.state != State::Permanent && bridge != link {
                host.bridge_fdb.insert(BridgeEntry {
                    bridge,
                    mac,
                    port: link,
                });
            }
        }
        None => {
            let is_vxlan = host
                .links
                .get(&link)
                .is_some_and(|link| matches!(link.kind, LinkKind::Vxlan(_)));
            if let Some(vtep) = destination(message).filter(|_| is_vxlan) {
                host.tunnel_fdb.insert(TunnelEntry { link, mac }, vtep);
            }
        }
    }
}

fn is_managed(message: &NeighbourMessage) -> bool {
    message.attributes.iter().any(|part| {
        matches!(part, NeighbourAttribute::ExtFlags(flags)
            if flags.contains(NeighbourExtFlags::Managed))
    })
}

fn mac(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|part| match part {
        NeighbourAttribute::LinkLayerAddress(bytes) => bytes.as_slice().try_into().ok().map(Mac),
        _ => None,
    })
}

fn destination(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|part| match part {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(addr)) => Some(IpAddr::V4(*addr)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(addr)) => Some(IpAddr::V6(*addr)),
        // The bridge family does not say which kind its bytes are.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            let bytes = bytes.as_slice();
            <[u8; 4]>::try_from(bytes)
                .map(IpAddr::from)
                .or_else(|_length| <[u8; 16]>::try_from(bytes).map(IpAddr::from))
                .ok()
        }
        _ => None,
    })
}

fn address(addr: IpAddr) -> NeighbourAddress {
    match addr {
        IpAddr::V4(addr) => NeighbourAddress::Inet(addr),
        IpAddr::V6(addr) => NeighbourAddress::Inet6(addr),
    }
}
