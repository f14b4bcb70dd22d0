//! Provisional endpoints: a new container's first packet follows its ARP by microseconds, which
//! netlink always loses.

use weft_common::{
    endpoint::{ENDPOINT_PROVISIONAL, EndpointEntry},
    settings::{DatapathSettings, FAST_PATH},
    stats::Reason,
    wire::ETH_LEN,
};

use crate::{guard, maps, packet::Packet};

/// ARP as the kernel writes it into the context.
pub const PROTOCOL: u16 = 0x0806u16.to_be();
/// Ethernet header and ARP for IPv4 over Ethernet (RFC 826).
const LEN: usize = ETH_LEN + 28;
/// Hardware Ethernet, protocol IPv4, and the lengths of their addresses.
const KIND: [u8; 6] = [0, 1, 8, 0, 6, 4];

/// Enters the sender of an ARP packet where nobody is known at its address. The agent confirms the
/// entry from the kernel's tables, or takes it back.
#[inline(always)]
pub fn heard(settings: &DatapathSettings, packet: &Packet<'_>) -> Reason {
    match endpoint(settings, packet) {
        Some((address, entry)) if maps::enter_endpoint(address, &entry) => Reason::Provisional,
        _ => Reason::NotIpv4,
    }
}

#[inline(always)]
fn endpoint(settings: &DatapathSettings, packet: &Packet<'_>) -> Option<([u8; 4], EndpointEntry)> {
    let b = packet.read::<[u8; LEN]>(0)?;
    let sender = [b[22], b[23], b[24], b[25], b[26], b[27]];
    let address = [b[28], b[29], b[30], b[31]];
    let operation = [b[20], b[21]];
    let sound = settings.flags & FAST_PATH != 0
        && !packet.has_vlan()
        && b[ETH_LEN..ETH_LEN + 6] == KIND
        && (operation == [0, 1] || operation == [0, 2])
        && b[6..12] == sender
        && sender[0] & 1 == 0
        && guard::is_ours(settings, address)
        && !maps::is_local(address);
    if !sound {
        return None;
    }
    let port = maps::port(packet.ifindex())?;
    let entry = EndpointEntry {
        ifindex: packet.ifindex(),
        mac: sender,
        bridge_mac: port.bridge_mac,
        bridge_mtu: port.bridge_mtu,
        bridge: port.bridge,
        flags: port.flags | ENDPOINT_PROVISIONAL,
    };
    Some((address, entry))
}
