//! A sample of a dropped packet, for the log: who it was from, and why it was dropped.

use weft_common::{
    refusal::Refusal,
    stats::{Hook, Reason},
    wire::{ETH_LEN, OVERHEAD},
};

use crate::{
    maps,
    packet::{Packet, now},
};

/// Place of the source address in an IPv4 header; the destination follows.
const ADDRESSES: usize = 12;

/// Sends a sample, unless one was sent a moment ago.
#[inline(always)]
pub fn refused(packet: &Packet<'_>, hook: Hook, reason: Reason) {
    let mac = packet.read::<[u8; 6]>(6).unwrap_or_default();
    let (source, destination) = addresses(packet, ETH_LEN);
    let (inner_source, inner_destination) = match hook {
        Hook::FromUplink => addresses(packet, ETH_LEN + OVERHEAD),
        _ => ([0; 4], [0; 4]),
    };
    let refusal = Refusal {
        hook: hook as u32,
        reason: reason as u32,
        ifindex: packet.ifindex(),
        mac,
        _pad: [0; 2],
        source,
        destination,
        inner_source,
        inner_destination,
    };
    maps::sample(now(), &refusal);
}

#[inline(always)]
fn addresses(packet: &Packet<'_>, ip: usize) -> ([u8; 4], [u8; 4]) {
    let b = packet.read::<[u8; 8]>(ip + ADDRESSES).unwrap_or_default();
    ([b[0], b[1], b[2], b[3]], [b[4], b[5], b[6], b[7]])
}
