//! Tunnel packets from the wire, right ones and others.

use std::net::Ipv4Addr;

use weft_tests::craft::{ARP, Sum, Tunnel, payload};

use crate::{
    case::{Case, From, echo, tunnelled},
    place::{Owner, flow, inside, mac, tunnel},
};

/// Taken, and answered.
const ANSWERED: &str = "B in taken; B out taken; A in taken";

/// Its checksum has not been verified by any device: the kernel takes it in.
const SUMMED: &str = "B in udp_checksum; B over taken; B out taken; A in taken";
/// Not for the VTEP's address, but the kernel's socket hears it.
const BY_KERNEL: &str = "B over taken; B out taken; A in taken";

pub fn cases() -> Vec<Case> {
    let mut cases = outside();
    cases.extend(headers());
    cases.extend(pieces());
    cases
}

fn usual(name: &str, change: impl FnOnce(&mut Tunnel), counts: &str) -> Case {
    tunnelled(name, change, &echo(flow()), counts)
}

/// The outer headers.
fn outside() -> Vec<Case> {
    let wrong_sum = tunnel().packet(&tunnel().inner.ip(&echo(flow())).bytes);
    let wrong_sum = tunnel().link.ip(&wrong_sum.header_sum(Sum::Wrong));
    let padded = tunnel()
        .ip(&echo(flow()))
        .but(|frame| frame.bytes.extend([0; 9]));
    let cut = tunnel()
        .ip(&echo(flow()))
        .but(|frame| frame.bytes.truncate(100));
    let raw = |name: &str, frame, counts: &str| Case::new(name, From::Wire, vec![frame], counts);
    vec![
        usual("as the kernel sends it", |_| {}, ANSWERED),
        usual("outer TTL 1", |t| t.outer.ttl = 1, ANSWERED),
        usual("outer DF", |t| t.outer.fragment = 0x4000, ANSWERED),
        usual("an outer checksum", |t| t.sum = Sum::Right, SUMMED),
        usual(
            "a wrong outer checksum",
            |t| t.sum = Sum::Wrong,
            "B in udp_checksum",
        ),
        usual(
            "an outer checksum to be computed",
            |t| t.sum = Sum::Partial,
            SUMMED,
        ),
        usual(
            "outer options",
            |t| t.outer.options = vec![1; 4],
            "B in ip_options; B over taken; B out taken; A in taken",
        ),
        usual("another source port", |t| t.source_port = 1, ANSWERED),
        usual("another port", |t| t.port = 4789, ""),
        usual(
            "an outer length too long",
            |t| t.outer.total_len = Some(1000),
            "B in bad_header",
        ),
        raw(
            "a wrong outer header checksum",
            wrong_sum,
            "B in bad_header",
        ),
        raw(
            "bytes behind the outer packet",
            padded,
            "B in bad_header; B over taken; B out taken; A in taken",
        ),
        raw("an outer packet cut off", cut, "B in bad_header"),
        usual(
            "to another machine of the wire",
            |t| t.link.destination = mac(Owner::Bridge, 0),
            "B in other_mac",
        ),
        usual(
            "to all machines of the wire",
            |t| t.link.destination = [255; 6],
            "B in other_mac; B over taken; B out taken; A in taken",
        ),
        usual(
            "to the bridge's address",
            |t| t.outer.destination = inside(1, 1),
            BY_KERNEL,
        ),
        usual(
            "to the wire's broadcast",
            |t| {
                t.link.destination = [255; 6];
                t.outer.destination = Ipv4Addr::new(192, 0, 2, 255);
            },
            BY_KERNEL,
        ),
        usual(
            "from nobody's node",
            |t| t.outer.source = Ipv4Addr::new(192, 0, 2, 99),
            "B in drop_unknown_peer",
        ),
    ]
}

/// VXLAN and the inner Ethernet header.
fn headers() -> Vec<Case> {
    let raw = |name: &str, inner: &[u8], counts: &str| {
        Case::new(name, From::Wire, vec![tunnel().frame(inner)], counts)
    };
    let mut ask = vec![0, 1, 8, 0, 6, 4, 0, 1];
    ask.resize(28, 0);
    let arp = tunnel().inner.frame(ARP, &ask).bytes;
    let short = echo(flow()).bytes();
    vec![
        usual("another VNI", |t| t.vxlan[6] = 2, "B in other_vxlan"),
        usual("no VNI", |t| t.vxlan[0] = 0, "B in other_vxlan"),
        usual("a reserved flag", |t| t.vxlan[0] = 0x0c, "B in other_vxlan"),
        usual("a group policy", |t| t.vxlan[0] = 0x88, "B in other_vxlan"),
        usual("reserved bytes", |t| t.vxlan[7] = 1, "B in other_vxlan"),
        usual(
            "to another VTEP",
            |t| t.inner.destination = [2, 0, 0, 0, 7, 7],
            "B in other_mac; B over other_mac",
        ),
        usual(
            "to all VTEPs",
            |t| t.inner.destination = [255; 6],
            "B in other_mac; B over other_mac",
        ),
        usual(
            "to a group of VTEPs",
            |t| t.inner.destination = [1, 0, 0x5e, 0, 0, 1],
            "B in other_mac; B over other_mac",
        ),
        usual(
            "from another VTEP's MAC",
            |t| t.inner.source = [2, 0, 0, 0, 7, 7],
            ANSWERED,
        ),
        usual("from no MAC", |t| t.inner.source = [0; 6], ANSWERED),
        usual(
            "from a group's MAC",
            |t| t.inner.source = [1, 0, 0x5e, 0, 0, 1],
            ANSWERED,
        ),
        usual(
            "from the own VTEP's MAC",
            |t| t.inner.source = crate::place::vtep_mac(1),
            "B in other_mac",
        ),
        raw("ARP inside", &arp, ""),
        raw("nothing inside", &[], "B in bad_header"),
        raw("an Ethernet header inside", &arp[..14], "B in bad_header"),
        raw(
            "half an IPv4 header inside",
            &tunnel().inner.frame(0x0800, &short[..10]).bytes,
            "B in bad_header",
        ),
    ]
}

/// The outer packet in pieces.
fn pieces() -> Vec<Case> {
    let packet = tunnel().packet(&tunnel().inner.ip(&flow().echo(1, &payload(1200))).bytes);
    let frames: Vec<_> = packet
        .fragments(600)
        .iter()
        .map(|ip| tunnel().link.ip(ip))
        .collect();
    let reversed = frames.iter().rev().cloned().collect();
    let counts = "B in fragment*3; B over taken; B out taken; A in taken";
    vec![
        Case::new("outer pieces", From::Wire, frames, counts),
        Case::new("outer pieces, the last first", From::Wire, reversed, counts),
    ]
}
