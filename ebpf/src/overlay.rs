//! The way in by `flannel.<VNI>`: what the kernel decapsulated, aggregates above all.

use weft_common::{endpoint::ENDPOINT_PEER, stats::Reason, wire::ETH_LEN};

use crate::{
    deliver::{self, Arrival},
    guard, maps,
    packet::Packet,
    parse::{Frame, HEADERS, is_tagged_twice, require_untagged},
    verdict::Verdict,
};

/// Takes the packet, or says why it goes on or is dropped.
#[inline(always)]
pub fn from_overlay(packet: &Packet<'_>) -> Result<Verdict, Reason> {
    let settings = maps::settings().ok_or(Reason::NotReady)?;
    if settings.ready == 0 {
        return Err(Reason::NotReady);
    }
    if is_tagged_twice(packet) {
        return Err(guard::tagged(settings));
    }
    let frame = Frame::read(packet)?;
    if packet.is_for_another() {
        return Err(Reason::OtherMac);
    }
    let ip = frame.ip;
    if ip.version_ihl() >> 4 != 4 {
        return Err(Reason::BadHeader);
    }
    let from = guard::admit_decapsulated(settings, packet, &ip, ETH_LEN + ip.header_len())?;
    // The guard comes first: the stack takes a tag of VLAN 0, and what goes to many, too.
    require_untagged(packet)?;
    if !packet.is_for_host() {
        return Err(Reason::OtherMac);
    }
    let bytes = packet.len();
    let arrival = Arrival {
        from,
        ip: &ip,
        available: bytes.wrapping_sub(ETH_LEN as u32),
        transport: HEADERS,
        shift: 0,
    };
    let endpoint = deliver::receiver(settings, packet, &arrival)?;
    let aggregate = packet.gso_size() != 0;
    if aggregate && endpoint.flags & ENDPOINT_PEER == 0 {
        return Err(Reason::PortKind);
    }
    // The kernel has merged the outer congestion mark already.
    let action = deliver::deliver(packet, endpoint, ip.tos())?;
    Ok(Verdict {
        action,
        aggregate,
        bytes,
    })
}
