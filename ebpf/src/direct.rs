//! Peers that are reached without a tunnel (`DirectRouting`): what the kernel's forwarding does.

use weft_common::{
    endpoint::ENDPOINT_PEER,
    peer::{PEER_DIRECT, PeerEntry},
    settings::DatapathSettings,
    stats::Reason,
    wire::{ETH_LEN, IPV4_LEN},
};

use crate::{
    deliver::{self, Arrival},
    guard,
    packet::Packet,
    parse::{Frame, HEADERS, Ipv4, require_untagged},
    verdict::Verdict,
};

/// Note on a packet that a port's program has routed: where it leaves the host it is none of the
/// stack's.
pub const ROUTED: u32 = 0x7766;
/// Where TTL, protocol and checksum of the IPv4 header are: what a hop changes.
const COUNTED: usize = ETH_LEN + 8;

/// Sends a container's packet on to the peer as it is, one hop on. Its conditions were asked before,
/// and are those of the tunnel.
#[inline(always)]
pub fn send(packet: &Packet<'_>, ip: &Ipv4, peer: &PeerEntry) -> Result<Verdict, Reason> {
    let [_, _, _, _, counted, checksum, ..] = ip.forwarded(ip.tos());
    // The header sums to zero before and after. A refusal leaves the packet as it came.
    if !packet.write_neutral(COUNTED, &[counted, checksum]) {
        return Err(Reason::HelperRefused);
    }
    packet.set_tc_index(ROUTED);
    Ok(Verdict {
        action: packet.send(peer.ifindex, peer.gateway),
        aggregate: packet.gso_size() != 0,
        bytes: packet.len(),
    })
}

/// Takes what the wire brings for a container without a tunnel, or says why it goes on or is dropped.
#[inline(always)]
pub fn receive(packet: &Packet<'_>, settings: &DatapathSettings) -> Result<Verdict, Reason> {
    let frame = Frame::read(packet)?;
    let ip = frame.ip;
    if packet.is_for_another() || !guard::is_ours(settings, ip.destination()) {
        return Err(Reason::NotOverlay);
    }
    let peer = guard::admit_routed(settings, packet, &ip)?;
    // The guard comes first: the stack takes a tag of VLAN 0, and what goes to many, too.
    require_untagged(packet)?;
    if !packet.is_for_host() {
        return Err(Reason::OtherMac);
    }
    // Its way is not the one that ours to it is: a matter of the kernel and its reverse path filter.
    if peer.flags & PEER_DIRECT == 0 {
        return Err(deliver::unknown(ip.destination(), Reason::PeerKernelOnly));
    }
    if peer.ifindex != packet.ifindex() {
        return Err(Reason::OtherDevice);
    }
    let bytes = packet.len();
    let available = bytes.wrapping_sub(ETH_LEN as u32);
    let aggregate = packet.gso_size() != 0;
    // Devices fill up short frames.
    let padded = !aggregate && available > ip.total_len() && ip.total_len() >= IPV4_LEN as u32;
    let arrival = Arrival {
        from: Some(peer),
        ip: &ip,
        available: if padded { ip.total_len() } else { available },
        transport: HEADERS,
        shift: 0,
    };
    let endpoint = deliver::receiver(settings, packet, &arrival)?;
    if aggregate && endpoint.flags & ENDPOINT_PEER == 0 {
        return Err(Reason::PortKind);
    }
    // Cut first, write after: a refusal leaves the packet as it came.
    if padded && !packet.cut(ETH_LEN as u32 + ip.total_len()) {
        return Err(Reason::HelperRefused);
    }
    let action = deliver::deliver(packet, endpoint, ip.tos())?;
    Ok(Verdict {
        action,
        aggregate,
        bytes,
    })
}
