//! The way in by the uplink: a tunnel packet for us, or what [`direct`] takes without one.

use weft_common::{
    peer::{PEER_DIRECT, PEER_FAST, PeerEntry},
    settings::{DIRECT_ROUTING, DatapathSettings},
    stats::Reason,
    wire::{
        ETH_LEN, ETHERTYPE_IPV4, IPV4_LEN, OVERHEAD, PROTO_UDP, UDP_LEN, VXLAN_FLAG_VNI, VXLAN_LEN,
        merged_tos,
    },
};
use zerocopy::FromBytes;

use crate::{
    deliver::{self, Arrival},
    direct, guard, maps,
    packet::Packet,
    parse::{Frame, HEADERS, Ipv4, Mac, is_hidden, mac, require_untagged},
    verdict::Verdict,
};

/// Everything behind the outer IPv4 header that the program reads, as words of network order.
#[derive(FromBytes)]
#[repr(C)]
struct Tunnel {
    _gap: u16,
    _ports: [u16; 2],
    udp_len: u16,
    udp_checksum: u16,
    vxlan: [[u16; 2]; 2],
    destination_mac: Mac,
    source_mac: Mac,
    ethertype: u16,
    inner: Ipv4,
}
const _: () = assert!(size_of::<Tunnel>() == 2 + UDP_LEN + VXLAN_LEN + ETH_LEN + IPV4_LEN);
/// Where the inner packet starts.
const INNER_IP: usize = ETH_LEN + OVERHEAD;
/// Where its transport header starts when it has no options.
const INNER_TRANSPORT: usize = INNER_IP + IPV4_LEN;

/// Takes the packet, or says why it goes on or is dropped.
#[inline(always)]
pub fn from_uplink(packet: &Packet<'_>) -> Result<Verdict, Reason> {
    let settings = maps::settings().ok_or(Reason::NotReady)?;
    if settings.ready == 0 {
        return Err(Reason::NotReady);
    }
    if is_hidden(packet) {
        return Err(guard::tagged(settings));
    }
    match tunnelled(packet, settings) {
        Err(Reason::NotOverlay) if settings.flags & DIRECT_ROUTING != 0 => {
            direct::receive(packet, settings)
        }
        outcome => outcome,
    }
}

#[inline(always)]
fn tunnelled(packet: &Packet<'_>, settings: &DatapathSettings) -> Result<Verdict, Reason> {
    let frame = Frame::read(packet)?;
    let outer = frame.ip;
    if outer.protocol() != PROTO_UDP {
        return Err(Reason::NotOverlay);
    }
    if outer.is_fragment() {
        return Err(admit_unusual(packet, settings, &outer, Reason::Fragment));
    }
    if outer.version_ihl() != 0x45 {
        return Err(admit_unusual(packet, settings, &outer, Reason::IpOptions));
    }
    let port = packet
        .read::<[u8; 2]>(HEADERS + 2)
        .ok_or(Reason::NotOverlay)?;
    if port != settings.port || !is_heard(packet, settings, &outer) {
        return Err(Reason::NotOverlay);
    }
    let tunnel = packet
        .read_behind::<Tunnel, 2>(HEADERS)
        .ok_or(Reason::BadHeader)?;
    take(packet, settings, &outer, &tunnel)
}

/// Whether the kernel's VXLAN socket hears it; the stack may take what the link layer says is for
/// many, too.
#[inline(always)]
fn is_heard(packet: &Packet<'_>, settings: &DatapathSettings, outer: &Ipv4) -> bool {
    !(packet.is_for_host() || packet.is_for_another()) || guard::is_heard(settings, packet, outer)
}

/// A piece of an outer packet, or one with options: the kernel takes it in, and `from_overlay`
/// guards what was inside. Who sent it shows only here, and only the first piece shows whether it
/// is for the overlay; without it nothing is put together.
#[inline(always)]
fn admit_unusual(
    packet: &Packet<'_>,
    settings: &DatapathSettings,
    outer: &Ipv4,
    reason: Reason,
) -> Reason {
    let transport = ETH_LEN + outer.header_len();
    let ours = !outer.is_later_fragment()
        && packet.read::<[u8; 2]>(transport + 2) == Some(settings.port)
        && is_heard(packet, settings, outer);
    if !ours {
        return if outer.destination() == settings.vtep_addr {
            reason
        } else {
            Reason::NotOverlay
        };
    }
    if !maps::is_vtep(outer.source()) {
        return guard::unknown_peer(settings);
    }
    reason
}

#[inline(always)]
fn take(
    packet: &Packet<'_>,
    settings: &DatapathSettings,
    outer: &Ipv4,
    tunnel: &Tunnel,
) -> Result<Verdict, Reason> {
    let [flags, vni] = tunnel
        .vxlan
        .map(|[high, low]| u32::from(u16::from_be(high)) << 16 | u32::from(u16::from_be(low)));
    if flags != u32::from(VXLAN_FLAG_VNI) << 24 || vni != settings.vni << 8 {
        return Err(Reason::OtherVxlan);
    }
    if packet.is_for_another() {
        return Err(Reason::OtherMac);
    }
    if tunnel.ethertype != ETHERTYPE_IPV4.to_be() {
        return Err(if maps::is_vtep(outer.source()) {
            Reason::NotIpv4
        } else {
            guard::unknown_peer(settings)
        });
    }
    let inner = tunnel.inner;
    if inner.version_ihl() >> 4 != 4 {
        return Err(Reason::BadHeader);
    }
    let transport = INNER_IP + inner.header_len();
    let from = guard::admit_tunnelled(settings, packet, outer.source(), &inner, transport)?;
    if outer.destination() != settings.vtep_addr {
        return Err(Reason::NotOverlay);
    }
    // The guard comes first: the stack takes a tag of VLAN 0, and what goes to many, too.
    require_untagged(packet)?;
    // What bears our own MAC as its sender's the kernel takes for an echo, and drops.
    let own = mac(&settings.vtep_mac);
    let for_us = packet.is_for_host() && tunnel.destination_mac == own;
    if !for_us || tunnel.source_mac == own {
        return Err(Reason::OtherMac);
    }
    // The guard stands at every device; rules and the reverse path filter were judged for the one
    // that peers are reached by.
    let known = |peer: &PeerEntry| peer.flags & (PEER_FAST | PEER_DIRECT) != 0;
    if from.is_some_and(|peer| known(peer) && peer.ifindex != packet.ifindex()) {
        return Err(Reason::OtherDevice);
    }
    if packet.gso_size() != 0 {
        return Err(Reason::Aggregate);
    }

    // Read once more, as in `deliver`: kept until here it would take too much of the stack.
    let outer = packet.read::<Ipv4>(ETH_LEN).ok_or(Reason::BadHeader)?;
    let bytes = packet.len();
    let outer_len = bytes.wrapping_sub(ETH_LEN as u32);
    let udp_len = u32::from(u16::from_be(tunnel.udp_len));
    if outer.total_len() != outer_len
        || udp_len != outer_len.wrapping_sub(IPV4_LEN as u32)
        || !outer.checksum_holds()
    {
        return Err(Reason::BadHeader);
    }
    // The kernel drops what is damaged; a device that has looked already spares us to ask it.
    if tunnel.udp_checksum != 0 && !packet.is_verified() {
        return Err(Reason::UdpChecksum);
    }
    let arrival = Arrival {
        from,
        ip: &inner,
        available: outer_len.wrapping_sub(OVERHEAD as u32),
        transport: INNER_TRANSPORT,
        shift: -(OVERHEAD as i32),
    };
    let endpoint = deliver::receiver(settings, packet, &arrival)?;
    let tos = merged_tos(outer.tos(), inner.tos()).ok_or(Reason::EcnConflict)?;
    // Shrink first, write after: a refusal leaves the packet as it came.
    if !packet.shrink() {
        return Err(Reason::HelperRefused);
    }
    let action = deliver::deliver(packet, endpoint, tos)?;
    Ok(Verdict {
        action,
        aggregate: false,
        bytes,
    })
}
