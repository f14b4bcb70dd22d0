//! Who may speak: only peers, and only for themselves.

use weft_common::{settings::DatapathSettings, stats::Reason};

use crate::maps;

/// Whether an address is inside this host's subnet.
#[inline(always)]
pub fn is_ours(settings: &DatapathSettings, address: [u8; 4]) -> bool {
    let mask = u32::from_ne_bytes(settings.subnet_mask);
    u32::from_ne_bytes(address) & mask == u32::from_ne_bytes(settings.subnet)
}

/// A tunnel packet from `outer`, with these inner addresses: the sender must be a peer, speak for
/// its own lease or for its node address, and to us.
#[inline(always)]
pub fn admit_tunnelled(
    settings: &DatapathSettings,
    outer: [u8; 4],
    source: [u8; 4],
    destination: [u8; 4],
) -> Result<(), Reason> {
    match maps::peer_of(source) {
        Some(peer) if peer.vtep_addr == outer => {}
        // One node may hold several leases for a while: after a change of its subnet.
        _ if !maps::is_vtep(outer) => return Err(Reason::DropUnknownPeer),
        _ if source == outer => {}
        _ => return Err(Reason::DropSpoofedInner),
    }
    if !is_ours(settings, destination) {
        return Err(Reason::DropNotOurs);
    }
    Ok(())
}

/// A packet that the kernel decapsulated: the outer source is gone, so some peer must own the
/// inner one.
#[inline(always)]
pub fn admit_decapsulated(
    settings: &DatapathSettings,
    source: [u8; 4],
    destination: [u8; 4],
) -> Result<(), Reason> {
    if is_ours(settings, source) || !(maps::peer_of(source).is_some() || maps::is_vtep(source)) {
        return Err(Reason::DropSpoofedInner);
    }
    if !is_ours(settings, destination) {
        return Err(Reason::DropNotOurs);
    }
    Ok(())
}
