//! Who may speak: only peers, and only for themselves; and no container for the tunnel.

use weft_common::{
    peer::{PEER_LOST, PeerEntry},
    settings::{DatapathSettings, GUARD_PEERS, GUARD_STRICT},
    stats::Reason,
    wire::PROTO_UDP,
};

use crate::{maps, packet::Packet, parse::Ipv4};

/// Whether an address is inside this host's subnet.
#[inline(always)]
pub fn is_ours(settings: &DatapathSettings, address: [u8; 4]) -> bool {
    within(address, settings.subnet, settings.subnet_mask)
}

/// Whether an address is inside the overlay.
#[inline(always)]
pub fn is_overlay(settings: &DatapathSettings, address: [u8; 4]) -> bool {
    within(address, settings.network, settings.network_mask)
}

#[inline(always)]
fn within(address: [u8; 4], net: [u8; 4], mask: [u8; 4]) -> bool {
    u32::from_ne_bytes(address) & u32::from_ne_bytes(mask) == u32::from_ne_bytes(net)
}

/// The reason as the guard's mode has it: a drop only where one of the `modes` is on.
#[inline(always)]
fn refusal(settings: &DatapathSettings, modes: u32, reason: Reason) -> Reason {
    if settings.flags & modes != 0 {
        reason
    } else {
        Reason::Unguarded
    }
}

/// The refusal of a sender that is no peer.
#[inline(always)]
pub fn unknown_peer(settings: &DatapathSettings) -> Reason {
    refusal(
        settings,
        GUARD_PEERS | GUARD_STRICT,
        Reason::DropUnknownPeer,
    )
}

/// A tunnel packet from `outer` with this packet inside, whose transport starts at `transport`: the
/// sender must be a peer, speak for its own lease or for its node address, and to us. The peer whose
/// lease it is; `None` for the node itself.
#[inline(always)]
pub fn admit_tunnelled(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    outer: [u8; 4],
    inner: &Ipv4,
    transport: usize,
) -> Result<Option<&'static PeerEntry>, Reason> {
    let peer = match holder_of(inner.source()) {
        Some(peer) if peer.vtep_addr == outer => Some(peer),
        // One node may hold several leases for a while: after a change of its subnet.
        _ if !maps::is_vtep(outer) => return Err(unknown_peer(settings)),
        _ if inner.source() == outer => None,
        _ => return Err(refusal(settings, GUARD_STRICT, Reason::DropSpoofedInner)),
    };
    admit_inside(settings, packet, inner, transport)?;
    Ok(peer)
}

/// The peer whose lease holds the address. A subnet that was ours and is nobody's has an entry too.
#[inline(always)]
fn holder_of(address: [u8; 4]) -> Option<&'static PeerEntry> {
    maps::peer_of(address).filter(|peer| peer.vtep_addr != [0; 4])
}

/// A packet that the kernel decapsulated: the outer source is gone, so some peer must own the
/// inner one. The peer whose lease it is; `None` for a node itself.
#[inline(always)]
pub fn admit_decapsulated(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    inner: &Ipv4,
    transport: usize,
) -> Result<Option<&'static PeerEntry>, Reason> {
    let source = inner.source();
    let peer = holder_of(source);
    if is_ours(settings, source) || !(peer.is_some() || maps::is_vtep(source)) {
        return Err(refusal(settings, GUARD_STRICT, Reason::DropSpoofedInner));
    }
    admit_inside(settings, packet, inner, transport)?;
    Ok(peer)
}

/// A packet for a container that a device brought without a tunnel: an address of the overlay is a
/// peer's, or nobody can have sent it. Which way a peer takes is its own routes' matter, so that the
/// peer may be one that we reach by a tunnel. The peer whose subnet holds the source.
///
/// Our own addresses come from the wire by no right; other devices may lead to containers that stand
/// by themselves. A node's own address is its to use where the overlay covers it.
#[inline(always)]
pub fn admit_routed(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    ip: &Ipv4,
) -> Result<&'static PeerEntry, Reason> {
    let source = ip.source();
    if !is_overlay(settings, source) || maps::is_vtep(source) {
        return Err(Reason::NotOverlay);
    }
    if is_ours(settings, source) {
        return Err(if by_uplink(settings, packet) {
            refusal(settings, GUARD_STRICT, Reason::DropSpoofedPlain)
        } else {
            Reason::NotOverlay
        });
    }
    holder_of(source).ok_or_else(|| refusal(settings, GUARD_STRICT, Reason::DropSpoofedPlain))
}

/// Whether a packet came by the device that has our VTEP address.
#[inline(always)]
fn by_uplink(settings: &DatapathSettings, packet: &Packet<'_>) -> bool {
    maps::device_of(settings.vtep_addr) == Some(packet.ifindex())
}

/// The refusal of a tagged packet inside the tunnel, or of tags that the stack would take off.
#[inline(always)]
pub fn tagged(settings: &DatapathSettings) -> Reason {
    refusal(settings, GUARD_STRICT, Reason::DropTagged)
}

/// What is inside must be for us, and no tunnel packet for this host's own socket: that would come
/// out of the kernel with no trace of who sent it.
#[inline(always)]
fn admit_inside(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    inner: &Ipv4,
    transport: usize,
) -> Result<(), Reason> {
    if !is_ours(settings, inner.destination()) {
        return Err(not_ours(settings, inner.destination()));
    }
    if is_tunnel(settings, packet, inner, transport) && is_heard(settings, packet, inner) {
        return Err(refusal(settings, GUARD_STRICT, Reason::DropContainerTunnel));
    }
    Ok(())
}

/// The refusal of a packet to an address outside our subnet.
#[inline(always)]
fn not_ours(settings: &DatapathSettings, to: [u8; 4]) -> Reason {
    if lost(to).is_some() {
        Reason::DropSubnetLost
    } else {
        refusal(settings, GUARD_STRICT, Reason::DropNotOurs)
    }
}

/// The subnet that was ours and holds the address. That is no matter of the guard's mode: somebody
/// else may have the address now.
#[inline(always)]
pub fn lost(address: [u8; 4]) -> Option<&'static PeerEntry> {
    maps::peer_of(address).filter(|peer| peer.flags & PEER_LOST != 0)
}

/// What a container sends to somewhere that is no peer's subnet: not a tunnel packet to this host
/// or to a peer. Its other traffic is not ours to judge.
#[inline(always)]
pub fn admit_outside(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    ip: &Ipv4,
    transport: usize,
) -> Result<(), Reason> {
    if is_tunnel(settings, packet, ip, transport)
        && (maps::is_vtep(ip.destination()) || is_heard(settings, packet, ip))
    {
        return Err(refusal(settings, GUARD_STRICT, Reason::DropContainerTunnel));
    }
    admit_source(settings, ip)
}

/// What a container sends into the overlay must be from this host's subnet.
#[inline(always)]
pub fn admit_source(settings: &DatapathSettings, ip: &Ipv4) -> Result<(), Reason> {
    if is_overlay(settings, ip.destination()) && !is_ours(settings, ip.source()) {
        return Err(foreign_source(settings, ip));
    }
    Ok(())
}

/// The refusal of a source outside our subnet. Between two containers of a lost subnet the packet
/// stays on its bridge.
#[inline(always)]
fn foreign_source(settings: &DatapathSettings, ip: &Ipv4) -> Reason {
    if let Some(left) = lost(ip.source()) {
        let mask = u32::MAX.wrapping_shl(32u32.wrapping_sub(left.subnet_len));
        let inside = within(ip.destination(), left.subnet, mask.to_be_bytes());
        return if inside {
            Reason::NotOverlay
        } else {
            Reason::DropSubnetLost
        };
    }
    match refusal(settings, GUARD_STRICT, Reason::DropForeignSource) {
        Reason::Unguarded => Reason::ForeignSource,
        reason => reason,
    }
}

/// Whether the kernel's VXLAN socket hears a packet to the overlay's port. It is bound to no address,
/// so every one of the host's will do, and so will a broadcast or a group that the host is in,
/// whatever the frame around it says. What is routed on is not for us.
#[inline(always)]
pub fn is_heard(settings: &DatapathSettings, packet: &Packet<'_>, ip: &Ipv4) -> bool {
    /// Multicast groups begin here (RFC 5771); the broadcast to all is behind them.
    const GROUPS: u8 = 224;
    let to = ip.destination();
    to == settings.vtep_addr
        || maps::is_local(to)
        || to[0] >= GROUPS
        || !packet.is_routed_on(ip.source(), to)
}

/// Whether a packet is UDP to the overlay's port. Later fragments have no port; without the first
/// they come to nothing.
#[inline(always)]
fn is_tunnel(
    settings: &DatapathSettings,
    packet: &Packet<'_>,
    ip: &Ipv4,
    transport: usize,
) -> bool {
    ip.protocol() == PROTO_UDP
        && !ip.is_later_fragment()
        && packet.read::<[u8; 2]>(transport + 2) == Some(settings.port)
}
