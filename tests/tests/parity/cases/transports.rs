//! What IP carries: checksums right, none and wrong, and protocols of all kinds.

use weft_tests::craft::{Ip, Segment, Sum, payload};

use crate::{
    case::{Case, ROUND, THERE, out},
    place::flow,
};

pub fn cases() -> Vec<Case> {
    let mut cases = sums();
    cases.extend(segments());
    cases.extend(protocols());
    cases
}

fn sums() -> Vec<Case> {
    let udp = flow().udp(&payload(101));
    let tcp = flow().tcp(&Segment::data(), &payload(101));
    let ping = flow().echo(1, &payload(101));
    let sctp = flow().sctp(&payload(101));
    let case = |name: &str, packet: &Ip, sum: Sum, counts: &str| {
        out(name, &packet.clone().sum(sum), counts)
    };
    vec![
        case("UDP without a checksum", &udp, Sum::Zero, ROUND),
        case("UDP with a wrong checksum", &udp, Sum::Wrong, THERE),
        case(
            "UDP with a checksum to be computed",
            &udp,
            Sum::Partial,
            ROUND,
        ),
        case("TCP with a wrong checksum", &tcp, Sum::Wrong, THERE),
        case("TCP without a checksum", &tcp, Sum::Zero, THERE),
        case(
            "TCP with a checksum to be computed",
            &tcp,
            Sum::Partial,
            ROUND,
        ),
        case(
            "a checksum to be computed, without a tunnel segment",
            &tcp,
            Sum::Partial,
            ROUND,
        )
        .cut(),
        case("ping with a wrong checksum", &ping, Sum::Wrong, THERE),
        case("ping without a checksum", &ping, Sum::Zero, THERE),
        case("SCTP with its checksum", &sctp, Sum::Right, ROUND),
        case("SCTP with a wrong checksum", &sctp, Sum::Wrong, ROUND),
        case("SCTP without a checksum", &sctp, Sum::Zero, ROUND),
    ]
}

fn segments() -> Vec<Case> {
    let with = |name: &str, change: &dyn Fn(&mut Segment), data: &[u8], counts: &str| {
        let mut segment = Segment::data();
        change(&mut segment);
        out(name, &flow().tcp(&segment, data), counts)
    };
    let syn = vec![
        2, 4, 5, 0x78, 4, 2, 8, 10, 0, 0, 0, 9, 0, 0, 0, 0, 1, 3, 3, 7,
    ];
    let sack = vec![
        1, 1, 8, 10, 0, 0, 0, 3, 0, 0, 0, 4, 1, 1, 5, 10, 0, 0, 0, 9, 0, 0, 0, 99,
    ];
    let short = flow().ip(6, payload(12));
    let long = flow()
        .tcp(&Segment::data(), b"")
        .but(|ip| ip.payload[12] = 0xf0);
    vec![
        with(
            "a SYN with options",
            &|s| (s.flags, s.options) = (Segment::SYN, syn.clone()),
            b"",
            ROUND,
        ),
        with(
            "a SYN with data",
            &|s| (s.flags, s.options) = (Segment::SYN, syn.clone()),
            b"early",
            ROUND,
        ),
        with(
            "time stamps and SACK",
            &|s| s.options = sack.clone(),
            b"data",
            ROUND,
        ),
        with(
            "a FIN",
            &|s| s.flags = Segment::FIN | Segment::ACK,
            b"",
            ROUND,
        ),
        with("a RST", &|s| s.flags = Segment::RST, b"", THERE),
        with("congestion marks", &|s| s.flags |= 0xc0, b"data", ROUND),
        with("every flag", &|s| s.flags = 0xff, b"data", THERE),
        with("a full segment", &|_| {}, &payload(1450 - 52), ROUND),
        out("half a TCP header", &short, THERE),
        out("a TCP header beyond the end", &long.sum(Sum::Right), THERE),
    ]
}

fn protocols() -> Vec<Case> {
    let ip = |name: &str, protocol: u8, counts: &str| {
        out(name, &flow().ip(protocol, payload(40)), counts)
    };
    let lying = |name: &str, len: u16, counts: &str| {
        let packet = flow().udp(&payload(40));
        let change = |ip: &mut Ip| weft_tests::craft::put(&mut ip.payload, 4, &len.to_be_bytes());
        out(name, &packet.but(change).sum(Sum::Right), counts)
    };
    let inner = flow().udp(b"inside").bytes();
    vec![
        ip("UDP-Lite", 136, THERE),
        ip("DCCP", 33, ROUND),
        ip("GRE", 47, ROUND),
        ip("ESP", 50, ROUND),
        ip("AH", 51, ROUND),
        ip("an unknown protocol", 253, ROUND),
        out("IP in IP", &flow().ip(4, inner), ROUND),
        lying("a UDP length too long", 200, THERE),
        lying("a UDP length too short", 20, THERE),
        lying("a UDP length of nothing", 0, THERE),
    ]
}
