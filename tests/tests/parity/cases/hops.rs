//! TTLs: where a packet ends, and who says so. A traceroute is three of these.

use weft_tests::craft::{Flow, Ip, Segment, payload};

use crate::{
    case::{Case, FAR_EXPIRED, REFUSED, ROUND, all, back, echo, out},
    place::{flow, to},
};

fn kinds(flow: Flow) -> Vec<(&'static str, Ip)> {
    let traced = Flow {
        destination: std::net::SocketAddrV4::new(*flow.destination.ip(), 33434),
        ..flow
    };
    vec![
        ("ping", echo(flow)),
        ("UDP", traced.udp(&payload(32))),
        ("TCP", flow.tcp(&Segment::data(), b"")),
    ]
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, packet) in kinds(flow()) {
        for (ttl, counts) in [
            (0, all(&["A out ttl_expiring", REFUSED])),
            (1, all(&["A out ttl_expiring", REFUSED])),
            (2, FAR_EXPIRED.to_owned()),
            (3, ROUND.to_owned()),
            (255, ROUND.to_owned()),
        ] {
            let packet = packet.clone().but(|ip| ip.ttl = ttl);
            cases.push(out(&format!("{kind} with TTL {ttl}"), &packet, &counts));
        }
        for (ttl, counts) in [
            (1, all(&["A out ttl_expiring", REFUSED])),
            (2, FAR_EXPIRED.to_owned()),
        ] {
            let packet = packet.clone().but(|ip| (ip.ttl, ip.fragment) = (ttl, 0));
            cases.push(out(
                &format!("{kind} with TTL {ttl}, no DF"),
                &packet,
                &counts,
            ));
        }
    }
    for (kind, packet) in kinds(flow().back()) {
        let swapped = |counts: &str| {
            let other = |part: &str| match part.split_once(' ') {
                Some(("A", rest)) => format!("B {rest}"),
                Some((_, rest)) => format!("A {rest}"),
                None => part.to_owned(),
            };
            let parts: Vec<_> = counts.split(';').map(|part| other(part.trim())).collect();
            parts.join("; ")
        };
        for (ttl, counts) in [
            (1, swapped(&all(&["A out ttl_expiring", REFUSED]))),
            (2, swapped(FAR_EXPIRED)),
            (3, ROUND.to_owned()),
        ] {
            for (words, fragment) in [("DF", 0x4000), ("no DF", 0)] {
                let name = format!("{kind} back with TTL {ttl}, {words}");
                let change = |ip: &mut Ip| (ip.ttl, ip.fragment) = (ttl, fragment);
                cases.push(back(&name, &packet.clone().but(change), &counts));
            }
        }
    }
    let large = to(*flow().destination.ip()).udp(&payload(1451 - 28));
    let too_big = all(&["A out ttl_expiring", REFUSED]);
    cases.push(out(
        "TTL 1 and too big",
        &large.clone().but(|ip| ip.ttl = 1),
        &too_big,
    ));
    let too_big = all(&["A out too_big", REFUSED]);
    cases.push(out(
        "TTL 2 and too big",
        &large.but(|ip| ip.ttl = 2),
        &too_big,
    ));
    // A container may have its own answer to this: the error comes with the TTL that it was sent.
    let late = flow().error(11, 0, [0; 4], &flow().back().udp(&payload(8)), 8);
    cases.push(out(
        "an error about a TTL, TTL 2",
        &late.but(|ip| ip.ttl = 2),
        "A out taken; B in ttl_expiring; B over ttl_expiring",
    ));
    cases
}
