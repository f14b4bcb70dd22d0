//! The record of the flows that the stack carries: written where packets leave the stack.
//!
//! Conntrack must see both directions of a flow or neither, so a flow that it follows stays with
//! the stack for as long as it does. The agent ends records when conntrack's entries end.

use weft_common::{
    flow::{FLOW_NATED, FLOW_SEEN},
    stats::Reason,
};

use crate::{
    direct::ROUTED,
    encap::PASSED_OVERLAY,
    flow::{Kind, Local, key_of},
    guard, maps,
    packet::{Packet, kernel_word},
    parse::{Frame, HEADERS, require_untagged},
};

/// `IPS_SRC_NAT` and `IPS_DST_NAT` of `enum ip_conntrack_status`.
const NAT_BITS: u64 = 1 << 4 | 1 << 5;
/// The low bits of `_nfct` say in which state the packet is; the rest is the pointer.
const NFCT_POINTER: u64 = !7;

/// What conntrack says of a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tracking {
    /// It does not follow it.
    None,
    /// It follows it, without NAT.
    Seen,
    /// It follows and translates it.
    Nated,
}

/// Reads conntrack's entry off the packet. Where its place is not known, a packet without the note
/// of a port's program counts as translated, and one with it as seen.
#[inline(always)]
pub fn tracking_of(packet: &Packet<'_>) -> Tracking {
    let offsets = maps::conntrack();
    if offsets.known == 0 {
        return if packet.tc_index() == PASSED_OVERLAY {
            Tracking::Seen
        } else {
            Tracking::Nated
        };
    }
    let Some(entry) = packet.kernel_word_of_skb(offsets.skb_nfct) else {
        return Tracking::Nated;
    };
    let entry = entry & NFCT_POINTER;
    if entry == 0 {
        return Tracking::None;
    }
    match kernel_word(entry + u64::from(offsets.status)) {
        Some(status) if status & NAT_BITS == 0 => Tracking::Seen,
        _ => Tracking::Nated,
    }
}

/// Egress of `flannel.<VNI>`, and of the uplink where peers may be reached without a tunnel: a
/// container's packet that the stack sends to a peer. What bears an address of a subnet that is not ours any more ends here, whichever way it came.
#[inline(always)]
pub fn to_overlay(packet: &Packet<'_>) -> Reason {
    record(packet, Local::Source).unwrap_or_else(|reason| reason)
}

/// Egress of a bridge port: a peer's packet that the stack brings to a container.
#[inline(always)]
pub fn to_container(packet: &Packet<'_>) -> Reason {
    record(packet, Local::Destination).unwrap_or_else(|reason| reason)
}

#[inline(always)]
fn record(packet: &Packet<'_>, local: Local) -> Result<Reason, Reason> {
    let settings = maps::settings().ok_or(Reason::NotReady)?;
    if settings.ready == 0 {
        return Err(Reason::NotReady);
    }
    let frame = Frame::read(packet)?;
    require_untagged(packet)?;
    let ip = frame.ip;
    if local == Local::Source {
        // At the uplink most packets are none of a container.
        if !guard::is_ours(settings, ip.source()) {
            let lost =
                guard::is_overlay(settings, ip.source()) && guard::lost(ip.source()).is_some();
            return Err(if lost {
                Reason::DropSubnetLost
            } else {
                Reason::NoFlow
            });
        }
        if packet.tc_index() == ROUTED {
            return Err(Reason::Untracked);
        }
    }
    let (ours, theirs) = match local {
        Local::Source => (ip.source(), ip.destination()),
        Local::Destination => (ip.destination(), ip.source()),
    };
    let flow = guard::is_ours(settings, ours)
        && maps::peer_of(theirs).is_some()
        && !maps::is_local(ours)
        && ip.version_ihl() == 0x45
        && !ip.is_later_fragment();
    if !flow {
        return Err(Reason::NoFlow);
    }
    let why = match tracking_of(packet) {
        Tracking::None => return Err(Reason::Untracked),
        Tracking::Seen => FLOW_SEEN,
        Tracking::Nated => FLOW_NATED,
    };
    let (key, kind) = key_of(packet, &ip, HEADERS, local).ok_or(Reason::BadHeader)?;
    // An error about a flow says nothing of who carries that flow.
    if kind == Kind::Error {
        return Err(Reason::NoFlow);
    }
    let known = maps::recorded(&key);
    if known != Some(why) && known != Some(FLOW_NATED) {
        // The flow first: whoever takes a pair back looks for its flows afterwards.
        let noted =
            maps::record(&key, why) && (why != FLOW_NATED || maps::mark_nated_pair(&key.pair()));
        if !noted {
            maps::set_flows_full();
            return Err(Reason::RecordFailed);
        }
    }
    Ok(if why == FLOW_NATED {
        Reason::RecordedNat
    } else {
        Reason::Recorded
    })
}
