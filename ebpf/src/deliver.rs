//! The last step of the way in: a bare packet to the container that it is for.

use weft_common::{
    endpoint::{ENDPOINT_KERNEL, ENDPOINT_PEER, EndpointEntry},
    peer::{PEER_DIRECT, PEER_FAST, PeerEntry},
    settings::{DatapathSettings, FAST_PATH},
    stats::Reason,
    wire::{ETH_LEN, ETHERTYPE_IPV4},
};
use zerocopy::IntoBytes;

use crate::{
    flow::{Local, require_stackless},
    maps,
    packet::{Fit, Packet},
    parse::{Ipv4, Mac, mac, segment_len},
};

/// Ethernet header and as much of the IPv4 header as holds TOS, TTL and checksum, in network order.
#[derive(IntoBytes)]
#[repr(C)]
struct Delivery {
    macs: [Mac; 2],
    ethertype: u16,
    ip: [u16; 6],
}

/// A packet for a container of ours, as the tunnel brought it.
pub struct Arrival<'a> {
    /// The peer whose lease the source is in; `None` for a node itself.
    pub from: Option<&'a PeerEntry>,
    /// The inner IPv4 header.
    pub ip: &'a Ipv4,
    /// Bytes from that header on.
    pub available: u32,
    /// Where its payload starts.
    pub transport: usize,
    /// Bytes that the packet will be longer (or shorter) by when it is delivered.
    pub shift: i32,
}

/// The container that the packet may be put to, past the stack; or why not.
#[inline(always)]
pub fn receiver(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    arrival: &Arrival<'_>,
) -> Result<&'static EndpointEntry, Reason> {
    let Arrival {
        from,
        ip,
        available,
        transport,
        shift,
    } = *arrival;
    ip.require_plain(available)?;
    if settings.flags & FAST_PATH == 0 {
        return Err(unknown(ip.destination(), Reason::FastPathOff));
    }
    // A flow takes one way: what does not go out fast must not come in fast, and what does must,
    // with a tunnel or without. The way to a node's own address is never ours.
    match from {
        Some(peer) if peer.flags & (PEER_FAST | PEER_DIRECT) != 0 => {}
        Some(_) => return Err(unknown(ip.destination(), Reason::PeerKernelOnly)),
        None => return Err(Reason::HostTraffic),
    }
    let Some(endpoint) = maps::endpoint(ip.destination()) else {
        return Err(unknown(ip.destination(), Reason::NoEndpoint));
    };
    require_free_port(endpoint)?;
    let segment = segment_len(packet, ip, transport).ok_or(Reason::OtherAggregate)?;
    if segment > endpoint.bridge_mtu {
        return Err(Reason::TooBig);
    }
    require_stackless(packet, ip, transport, Local::Destination)?;
    // While no agent runs, a container may have been replaced: its port is then another.
    match packet.fits(endpoint.ifindex, shift) {
        Fit::Fits => Ok(endpoint),
        Fit::TooBig => Err(Reason::TooBig),
        Fit::Gone => Err(Reason::NoEndpoint),
    }
}

/// Whether packets from and to the container's port may pass the stack by. That a port of the wrong
/// kind is not served is our shortcoming; that shaping and other programs see their packets is meant.
#[inline(always)]
pub fn require_free_port(endpoint: &EndpointEntry) -> Result<(), Reason> {
    if endpoint.flags & ENDPOINT_KERNEL == 0 {
        Ok(())
    } else if endpoint.flags & ENDPOINT_PEER == 0 {
        Err(Reason::PortKind)
    } else {
        Err(Reason::PortKept)
    }
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

/// Addresses the bare packet to the container, takes one hop off and puts it there. The header is
/// read once more: kept until here, each of its bytes would take a word of the stack, and kernels
/// like 6.1 count that more narrowly.
#[inline(always)]
pub fn deliver(packet: &Packet<'_>, endpoint: &EndpointEntry, tos: u8) -> Result<i32, Reason> {
    let inner = packet.read::<Ipv4>(ETH_LEN).ok_or(Reason::DropNoMemory)?;
    let [a, b, c, d, e, f, ..] = inner.forwarded(tos);
    let store = Delivery {
        macs: [mac(&endpoint.mac), mac(&endpoint.bridge_mac)],
        ethertype: ETHERTYPE_IPV4.to_be(),
        ip: [a, b, c, d, e, f],
    };
    // The IPv4 header sums to zero before and after, and the Ethernet header is in no checksum.
    if !packet.write_neutral(0, &store) {
        return Err(Reason::DropNoMemory);
    }
    packet.clear_mark();
    Ok(if endpoint.flags & ENDPOINT_PEER == 0 {
        packet.deliver_to_port(endpoint.ifindex)
    } else {
        packet.deliver_to_peer(endpoint.ifindex)
    })
}
