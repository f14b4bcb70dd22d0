//! The way out: a container's packet to a peer's subnet.

use weft_common::{
    endpoint::ENDPOINT_HOOKED,
    peer::{PEER_DIRECT, PEER_FAST, PeerEntry},
    settings::{DatapathSettings, FAST_PATH},
    stats::Reason,
    wire::{ETH_LEN, Encapsulation, OVERHEAD, Outer, source_port},
};

use crate::{
    arp, deliver, direct,
    flow::{Local, require_stackless},
    guard, maps,
    packet::{Packet, random},
    parse::{Frame, HEADERS, is_hidden, mac, require_untagged, segment_len},
    record::{Tracking, tracking_of},
    verdict::Verdict,
};

/// Note on a packet for the overlay that a port's program has passed on: what meets the bridge
/// or the overlay device without it was rewritten on its way.
pub const PASSED_OVERLAY: u32 = 0x7765;
/// The largest length that an IPv4 header can state.
const MAX_IP_LEN: u32 = 0xffff;

/// Where the program hangs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A port of a bridge.
    Port,
    /// The bridge itself, for what came in by a port without a program.
    Bridge,
}

/// Takes the packet, or says why not. Leaves a note on what it passes on.
#[inline(always)]
pub fn from_container(packet: &Packet<'_>, place: Place) -> Result<Verdict, Reason> {
    let mut overlay = false;
    let outcome = take(packet, place, &mut overlay);
    if place == Place::Port && outcome.is_err() {
        packet.set_tc_index(if overlay { PASSED_OVERLAY } else { 0 });
    }
    outcome
}

#[inline(always)]
fn take(packet: &Packet<'_>, place: Place, overlay: &mut bool) -> Result<Verdict, Reason> {
    let settings = maps::settings().ok_or(Reason::NotReady)?;
    if settings.ready == 0 {
        return Err(Reason::NotReady);
    }
    if place == Place::Port && packet.protocol() == arp::PROTOCOL {
        return Err(arp::heard(settings, packet));
    }
    if is_hidden(packet) {
        return Err(guard::tagged(settings));
    }
    let frame = Frame::read(packet)?;
    let ip = frame.ip;
    let Some(peer) = maps::peer_of(ip.destination()) else {
        guard::admit_outside(settings, packet, &ip, ETH_LEN + ip.header_len())?;
        return Err(Reason::NotOverlay);
    };
    *overlay = true;
    if place == Place::Bridge && packet.tc_index() == PASSED_OVERLAY {
        return Err(Reason::PortPassed);
    }
    guard::admit_source(settings, &ip)?;
    require_untagged(packet)?;
    let bytes = packet.len();
    ip.require_plain(bytes.wrapping_sub(ETH_LEN as u32))?;
    if peer.flags & (PEER_FAST | PEER_DIRECT) == 0 {
        return Err(Reason::PeerKernelOnly);
    }
    let segment = segment_len(packet, &ip, HEADERS).ok_or(Reason::OtherAggregate)?;
    // What needs no tunnel need not fit into one.
    let tunnelled = |peer: &PeerEntry| peer.flags & PEER_DIRECT == 0;
    let unfit = segment > settings.mtu || ip.total_len() + OVERHEAD as u32 > MAX_IP_LEN;
    if segment > peer.mtu || (unfit && tunnelled(peer)) {
        return Err(Reason::TooBig);
    }

    if settings.flags & FAST_PATH == 0 {
        return Err(Reason::FastPathOff);
    }
    let Some(endpoint) = maps::endpoint(ip.source()) else {
        return Err(deliver::unknown(ip.source(), Reason::NoSourceEndpoint));
    };
    deliver::require_free_port(endpoint)?;
    // What the stack rewrote between port and bridge has no note of the port's program.
    if place == Place::Bridge && endpoint.flags & ENDPOINT_HOOKED != 0 {
        return Err(Reason::PortPassed);
    }
    if frame.destination_mac != mac(&endpoint.bridge_mac) {
        return Err(Reason::OtherMac);
    }
    let in_place = match place {
        Place::Port => endpoint.ifindex == packet.ifindex(),
        Place::Bridge => endpoint.bridge == packet.ifindex(),
    };
    if !in_place || frame.source_mac != mac(&endpoint.mac) {
        return Err(Reason::WrongPort);
    }
    // Bridge netfilter runs before the bridge's own hook: what it rewrote is the stack's.
    if place == Place::Bridge && tracking_of(packet) != Tracking::None {
        return Err(Reason::RecordedFlow);
    }
    require_stackless(packet, &ip, HEADERS, Local::Source)?;

    if !tunnelled(peer) {
        return direct::send(packet, &ip, peer);
    }
    let outer = outer(settings, peer.vtep_addr, peer.vtep_mac, packet, &ip);
    let aggregate = packet.gso_size() != 0;
    // Grow first, write after: a refusal leaves the packet as it came.
    if !packet.grow() {
        return Err(Reason::HelperRefused);
    }
    let [a, b, c, d, e, f, g, ..] = ip.forwarded(ip.tos());
    let headers = Encapsulation::new(&outer, [a, b, c, d, e, f, g]);
    if !packet.write(ETH_LEN, &headers) {
        return Err(Reason::DropNoMemory);
    }
    let action = packet.send(peer.ifindex, peer.gateway);
    Ok(Verdict {
        action,
        aggregate,
        bytes,
    })
}

#[inline(always)]
fn outer(
    settings: &DatapathSettings,
    vtep_addr: [u8; 4],
    vtep_mac: [u8; 6],
    packet: &Packet<'_>,
    ip: &crate::parse::Ipv4,
) -> Outer {
    Outer {
        source: settings.vtep_addr,
        destination: vtep_addr,
        source_port: source_port(packet.hash(), settings.port_min, settings.port_max),
        port: settings.port,
        vni: settings.vni,
        source_mac: settings.vtep_mac,
        destination_mac: vtep_mac,
        inner_len: ip.total_len(),
        inner_tos: ip.tos(),
        ttl: settings.ttl as u8,
        id: random() as u16,
    }
}
