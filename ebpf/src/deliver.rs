//! The last step of the way in: a bare packet to the container that it is for.

use weft_common::{
    endpoint::{ENDPOINT_PEER, EndpointEntry},
    settings::{DatapathSettings, FAST_PATH},
    stats::Reason,
    wire::ETH_LEN,
};

use crate::{
    flow::{Local, require_stackless},
    maps,
    packet::Packet,
    parse::{Ipv4, segment_len},
};

/// Ethernet header and the first three words of the IPv4 header, which hold TOS, TTL and checksum.
const STORE: usize = ETH_LEN + 12;

/// The container that the packet may be put to, past the stack; or why not. `available` is the
/// number of bytes from the inner IPv4 header on, `transport` where its payload starts.
#[inline(always)]
pub fn receiver(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    ip: &Ipv4,
    available: u32,
    transport: usize,
) -> Result<&'static EndpointEntry, Reason> {
    ip.require_plain(available)?;
    if settings.flags & FAST_PATH == 0 {
        return Err(unknown(ip.destination(), Reason::FastPathOff));
    }
    let Some(endpoint) = maps::endpoint(ip.destination()) else {
        return Err(unknown(ip.destination(), Reason::NoEndpoint));
    };
    let segment = segment_len(packet, ip, transport).ok_or(Reason::OtherAggregate)?;
    if segment > endpoint.bridge_mtu {
        return Err(Reason::TooBig);
    }
    require_stackless(packet, ip, transport, Local::Destination)?;
    Ok(endpoint)
}

/// Why a packet of this address is not taken: the host's own are never endpoints, so they are asked
/// for last.
#[inline(always)]
pub fn unknown(address: [u8; 4], otherwise: Reason) -> Reason {
    if maps::is_local(address) {
        Reason::HostTraffic
    } else {
        otherwise
    }
}

/// Addresses the bare packet to the container, takes one hop off and puts it there.
#[inline(always)]
pub fn deliver(packet: &Packet<'_>, endpoint: &EndpointEntry, ip: &Ipv4, tos: u8) -> i32 {
    let inner = ip.forwarded(tos);
    let mut store = [0u8; STORE];
    store[..6].copy_from_slice(&endpoint.mac);
    store[6..12].copy_from_slice(&endpoint.bridge_mac);
    store[12] = 0x08;
    store[13] = 0x00;
    store[ETH_LEN..].copy_from_slice(&inner.bytes[..12]);
    // The IPv4 header sums to zero before and after, and the Ethernet header is in no checksum.
    packet.write_neutral(0, &store);
    packet.clear_mark();
    if endpoint.flags & ENDPOINT_PEER == 0 {
        packet.deliver_to_port(endpoint.ifindex)
    } else {
        packet.deliver_to_peer(endpoint.ifindex)
    }
}
