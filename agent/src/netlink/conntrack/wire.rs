//! Conntrack's messages, read and written.

use std::net::IpAddr;

use netlink_packet_core::{DefaultNla, NetlinkBuffer, NetlinkMessage, NetlinkPayload, Nla};
use netlink_packet_netfilter::{
    NetfilterMessage, NetfilterMessageInner,
    conntrack::{
        ConntrackAttribute, ConntrackMessage, IPTuple, ProtoInfo, ProtoInfoTCP, ProtoTuple,
        Protocol, Status, Tuple as TuplePart,
    },
};

use super::{Tracked, Tuple};

const CTA_PROTO_ICMP_ID: u16 = 4;
const CTA_PROTO_ICMP_TYPE: u16 = 5;
const CTA_PROTO_ICMP_CODE: u16 = 6;
const ICMP_ECHO: u8 = 8;
const TCP: u8 = 6;
const UDP: u8 = 17;
/// `TCP_CONNTRACK_ESTABLISHED` of `enum tcp_conntrack`.
const ESTABLISHED: u8 = 3;
/// Attributes that somebody's interest in the entry shows by (`enum ctattr_type`).
const CTA_HELP: u16 = 5;
const CTA_TUPLE_MASTER: u16 = 14;
const CTA_ZONE: u16 = 18;
const CTA_LABELS: u16 = 22;

/// `NLMSG_MIN_TYPE`: what is below is netlink's own.
const FIRST_OF_A_FAMILY: u16 = 16;
const NFNL_SUBSYS_CTNETLINK: u16 = 1;

/// The messages of a datagram. One that cannot be read is left out; the rest still counts.
pub(super) fn messages(mut bytes: &[u8]) -> Vec<NetlinkMessage<NetfilterMessage>> {
    let mut found = Vec::new();
    while let Ok(buffer) = NetlinkBuffer::new_checked(bytes) {
        let length = usize::try_from(buffer.length()).unwrap_or(usize::MAX);
        let Some(message) = bytes.get(..length) else {
            break;
        };
        match is_ours(buffer.message_type()).then(|| NetlinkMessage::deserialize(message)) {
            None => {}
            Some(Ok(message)) => found.push(message),
            Some(Err(error)) => tracing::debug!(%error, "unreadable conntrack message"),
        }
        // Messages begin at multiples of four; the last need not be filled up.
        bytes = bytes
            .get(length.next_multiple_of(4)..)
            .filter(|_| length > 0)
            .unwrap_or_default();
    }
    found
}

/// Conntrack's messages and netlink's own. The library's parser of nftables' messages panics on
/// some that are cut short.
fn is_ours(kind: u16) -> bool {
    kind < FIRST_OF_A_FAMILY || kind >> 8 == NFNL_SUBSYS_CTNETLINK
}

pub(super) fn ended(datagram: &[u8]) -> impl Iterator<Item = Tracked> {
    messages(datagram)
        .into_iter()
        .filter_map(|message| match message.payload {
            NetlinkPayload::InnerMessage(message) => match message.inner {
                NetfilterMessageInner::Conntrack(ConntrackMessage::Delete(_)) => read(&message),
                _ => None,
            },
            _ => None,
        })
}

pub(super) fn read(message: &NetfilterMessage) -> Option<Tracked> {
    let (attributes, living) = match &message.inner {
        NetfilterMessageInner::Conntrack(ConntrackMessage::New(attributes)) => (attributes, true),
        NetfilterMessageInner::Conntrack(ConntrackMessage::Delete(attributes)) => {
            (attributes, false)
        }
        _ => return None,
    };
    let mut original = None;
    let mut reply = None;
    let mut found = Status::empty();
    let mut established = false;
    let mut claimed = false;
    for attribute in attributes {
        match attribute {
            ConntrackAttribute::CtaTupleOrig(parts) => original = tuple(parts),
            ConntrackAttribute::CtaTupleReply(parts) => reply = tuple(parts),
            ConntrackAttribute::CtaStatus(status) => found = *status,
            ConntrackAttribute::CtaProtoInfo(parts) => established = is_established(parts),
            ConntrackAttribute::CtaMark(mark) => claimed |= *mark != 0,
            ConntrackAttribute::Other(other) => claimed |= is_claim(other),
            ConntrackAttribute::CtaTimeout(_) | _ => {}
        }
    }
    let (protocol, original) = original?;
    let (_, reply) = reply?;
    let natted = found.intersects(Status::NatMask);
    let both_ways =
        found.contains(Status::Assured) && !found.intersects(Status::Offload | Status::SeqAdjust);
    let lasting = protocol == UDP || (protocol == TCP && established);
    Some(Tracked {
        protocol,
        original,
        reply,
        natted,
        settled: living && both_ways && lasting && !natted && !claimed,
    })
}

fn is_established(parts: &[ProtoInfo]) -> bool {
    let states = parts.iter().flat_map(|part| match part {
        ProtoInfo::TCP(fields) => fields.as_slice(),
        _ => &[],
    });
    states
        .into_iter()
        .any(|field| *field == ProtoInfoTCP::State(ESTABLISHED))
}

/// Labels are there, all zero, wherever a rule of connlabel is.
fn is_claim(attribute: &DefaultNla) -> bool {
    let mut value = vec![0; attribute.value_len()];
    attribute.emit_value(&mut value);
    match attribute.kind() {
        CTA_HELP | CTA_TUPLE_MASTER => true,
        CTA_ZONE | CTA_LABELS => value.iter().any(|byte| *byte != 0),
        _ => false,
    }
}

/// Protocol and tuple; `None` for IPv6.
fn tuple(parts: &[TuplePart]) -> Option<(u8, Tuple)> {
    let mut source = None;
    let mut destination = None;
    let mut protocol = None;
    let mut ports = (0, 0);
    for part in parts {
        match part {
            TuplePart::Ip(addresses) => {
                for address in addresses {
                    match address {
                        IPTuple::SourceAddress(IpAddr::V4(addr)) => source = Some(*addr),
                        IPTuple::DestinationAddress(IpAddr::V4(addr)) => destination = Some(*addr),
                        _ => {}
                    }
                }
            }
            TuplePart::Proto(fields) => {
                for field in fields {
                    match field {
                        ProtoTuple::Protocol(number) => protocol = Some(u8::from(*number)),
                        ProtoTuple::SourcePort(port) => ports.0 = *port,
                        ProtoTuple::DestinationPort(port) => ports.1 = *port,
                        ProtoTuple::Other(other) => {
                            if let Some(id) = icmp_id(other) {
                                ports = (id, id);
                            }
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    let tuple = Tuple {
        source: source?,
        destination: destination?,
        source_port: ports.0,
        destination_port: ports.1,
    };
    Some((protocol?, tuple))
}

fn icmp_id(field: &DefaultNla) -> Option<u16> {
    if field.kind() != CTA_PROTO_ICMP_ID || field.value_len() != 2 {
        return None;
    }
    let mut bytes = [0; 2];
    field.emit_value(&mut bytes);
    Some(u16::from_be_bytes(bytes))
}

/// The tuple as the kernel wants to be asked for it. ICMP is taken for an echo, the only kind
/// that lasts.
pub(super) fn tuple_parts(protocol: u8, tuple: &Tuple) -> Vec<TuplePart> {
    let protocol = Protocol::from(protocol);
    let mut fields = vec![ProtoTuple::Protocol(protocol)];
    if protocol == Protocol::Icmp {
        let field = |kind, value: &[u8]| ProtoTuple::Other(DefaultNla::new(kind, value.to_vec()));
        fields.extend([
            field(CTA_PROTO_ICMP_ID, &tuple.source_port.to_be_bytes()),
            field(CTA_PROTO_ICMP_TYPE, &[ICMP_ECHO]),
            field(CTA_PROTO_ICMP_CODE, &[0]),
        ]);
    } else {
        fields.extend([
            ProtoTuple::SourcePort(tuple.source_port),
            ProtoTuple::DestinationPort(tuple.destination_port),
        ]);
    }
    vec![
        TuplePart::Ip(vec![
            IPTuple::SourceAddress(IpAddr::V4(tuple.source)),
            IPTuple::DestinationAddress(IpAddr::V4(tuple.destination)),
        ]),
        TuplePart::Proto(fields),
    ]
}
