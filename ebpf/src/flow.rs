//! Which flow a packet belongs to, as the record of the stack's flows names it.

use weft_common::{
    flow::FlowKey,
    stats::Reason,
    wire::{IPV4_LEN, PROTO_DCCP, PROTO_ICMP, PROTO_SCTP, PROTO_TCP, PROTO_UDP, PROTO_UDPLITE},
};

use crate::{maps, packet::Packet, parse::Ipv4};

/// ICMP types (RFC 792).
const ECHO_REPLY: u8 = 0;
const UNREACHABLE: u8 = 3;
const SOURCE_QUENCH: u8 = 4;
const ECHO: u8 = 8;
const TIME_EXCEEDED: u8 = 11;
const PARAMETER_PROBLEM: u8 = 12;

const TIMESTAMP: u8 = 13;
const MASK_REPLY: u8 = 18;

/// Which end of the packet is the container.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// It sends.
    Source,
    /// It receives.
    Destination,
}

/// Ports as they stand in the packet.
#[derive(Clone, Copy)]
struct Ports {
    source: [u8; 2],
    destination: [u8; 2],
}

/// What kind of packet the key was made from.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One of the flow's own packets.
    Own,
    /// An ICMP error that quotes one of the flow's packets.
    Error,
}

/// The flow of the packet whose IPv4 header is `ip` and whose transport starts at `transport`.
/// `None` when it is too short to tell.
#[inline(always)]
pub fn key_of(
    packet: &Packet<'_>,
    ip: &Ipv4,
    transport: usize,
    local: Local,
) -> Option<(FlowKey, Kind)> {
    if ip.protocol() != PROTO_ICMP {
        let ports = ports_of(packet, ip.protocol(), transport)?;
        return Some((key(ip, ip.protocol(), ports, local), Kind::Own));
    }
    let icmp = packet.read::<[u8; 8]>(transport)?;
    match icmp[0] {
        // Queries and their answers, all with an identifier in one place (RFC 792, RFC 950).
        ECHO | ECHO_REPLY | TIMESTAMP..=MASK_REPLY => {
            let id = [icmp[4], icmp[5]];
            let ports = Ports {
                source: id,
                destination: id,
            };
            Some((key(ip, PROTO_ICMP, ports, local), Kind::Own))
        }
        UNREACHABLE | SOURCE_QUENCH | TIME_EXCEEDED | PARAMETER_PROBLEM => {
            // The quoted packet went the other way: what it came from is who the error goes to.
            let at = transport + 8;
            let quoted = packet.read::<Ipv4>(at)?;
            let inner = at + IPV4_LEN;
            let ports = if quoted.version_ihl() != 0x45 {
                return None;
            } else if quoted.protocol() == PROTO_ICMP {
                let echo = packet.read::<[u8; 8]>(inner)?;
                Ports {
                    source: [echo[4], echo[5]],
                    destination: [echo[4], echo[5]],
                }
            } else {
                ports_of(packet, quoted.protocol(), inner)?
            };
            let opposite = match local {
                Local::Source => Local::Destination,
                Local::Destination => Local::Source,
            };
            Some((
                key(&quoted, quoted.protocol(), ports, opposite),
                Kind::Error,
            ))
        }
        _ => {
            let none = Ports {
                source: [0; 2],
                destination: [0; 2],
            };
            Some((key(ip, PROTO_ICMP, none, local), Kind::Own))
        }
    }
}

/// Refuses a packet whose flow the stack carries, or while the record is not complete. Fragments go
/// by their pair of addresses: only the first has ports, and all must take one way.
#[inline(always)]
pub fn require_stackless(
    packet: &Packet<'_>,
    ip: &Ipv4,
    transport: usize,
    local: Local,
) -> Result<(), Reason> {
    if maps::flows_full() {
        return Err(Reason::FlowsFull);
    }
    if ip.is_fragment() {
        let none = Ports {
            source: [0; 2],
            destination: [0; 2],
        };
        let pair = key(ip, ip.protocol(), none, local).pair();
        return if maps::is_nated_pair(&pair) {
            Err(Reason::RecordedFlow)
        } else {
            Ok(())
        };
    }
    let (key, _) = key_of(packet, ip, transport, local).ok_or(Reason::BadHeader)?;
    match maps::recorded(&key) {
        Some(_) => Err(Reason::RecordedFlow),
        None => Ok(()),
    }
}

#[inline(always)]
fn ports_of(packet: &Packet<'_>, protocol: u8, transport: usize) -> Option<Ports> {
    match protocol {
        PROTO_TCP | PROTO_UDP | PROTO_SCTP | PROTO_DCCP | PROTO_UDPLITE => {
            let [source, destination] = packet.read::<[u16; 2]>(transport)?;
            Some(Ports {
                source: source.to_ne_bytes(),
                destination: destination.to_ne_bytes(),
            })
        }
        _ => Some(Ports {
            source: [0; 2],
            destination: [0; 2],
        }),
    }
}

#[inline(always)]
fn key(ip: &Ipv4, protocol: u8, ports: Ports, local: Local) -> FlowKey {
    let (local, remote, local_port, remote_port) = match local {
        Local::Source => (
            ip.source(),
            ip.destination(),
            ports.source,
            ports.destination,
        ),
        Local::Destination => (
            ip.destination(),
            ip.source(),
            ports.destination,
            ports.source,
        ),
    };
    // As words: three bytes of padding at once would be a loop.
    let [a, b] = local_port;
    let [c, d] = remote_port;
    zerocopy::transmute!([local, remote, [a, b, c, d], [protocol, 0, 0, 0]].map(u32::from_ne_bytes))
}
