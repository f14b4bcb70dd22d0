//! ICMP errors about packets that were tunnelled, and other messages.

use weft_tests::craft::{Ip, Segment, payload};

use crate::{
    case::{BACK, Case, THERE, back, out},
    place::flow,
};

pub fn cases() -> Vec<Case> {
    let far = flow().back();
    let abouts: [(&str, Ip); 5] = [
        ("UDP", far.udp(&payload(64))),
        ("TCP", far.tcp(&Segment::data(), &payload(64))),
        ("ping", far.echo(7, &payload(64))),
        ("SCTP", far.sctp(&payload(64))),
        (
            "a piece",
            far.udp(&payload(64)).but(|ip| ip.fragment = 0x2000),
        ),
    ];
    let kinds: [(&str, u8, u8, [u8; 4]); 5] = [
        ("port unreachable", 3, 3, [0; 4]),
        ("too big", 3, 4, [0, 0, 5, 0]),
        ("TTL exceeded", 11, 0, [0; 4]),
        ("parameter problem", 12, 0, [20, 0, 0, 0]),
        ("source quench", 4, 0, [0; 4]),
    ];
    let mut cases = Vec::new();
    for (about, packet) in &abouts {
        for (kind, number, code, rest) in kinds {
            if *about != "UDP" && number > 3 {
                continue;
            }
            let error = flow().error(number, code, rest, packet, 8);
            cases.push(out(&format!("{kind} about {about}"), &error, THERE));
        }
    }
    // Which flow it is about cannot be told: the kernel carries it.
    let unreadable = "A out bad_header; A bridge port_passed; A by untracked; B in udp_checksum; \
        B over bad_header; B to untracked";
    let packet = far.udp(&payload(600));
    let whole = flow().error(3, 3, [0; 4], &packet, 548);
    cases.push(out("an error with a long quote", &whole, THERE));
    let options = packet.clone().but(|ip| ip.options = vec![1; 4]);
    cases.push(out(
        "an error about options",
        &flow().error(3, 3, [0; 4], &options, 8),
        unreadable,
    ));
    let cut = flow().icmp(3, 3, [0; 4], &packet.bytes()[..12]);
    cases.push(out("an error that quotes too little", &cut, unreadable));
    let to_far = far.error(3, 3, [0; 4], &flow().udp(&payload(64)), 8);
    cases.push(back("an error back", &to_far, BACK));
    cases.push(out(
        "a redirect",
        &flow().error(5, 1, [1, 2, 3, 4], &packet, 8),
        THERE,
    ));
    cases.push(out(
        "a time stamp",
        &flow().icmp(14, 0, [0, 1, 0, 2], &[0; 12]),
        THERE,
    ));
    cases.push(out(
        "an unknown message",
        &flow().icmp(77, 0, [0; 4], b"what?"),
        THERE,
    ));
    cases.push(out(
        "an answer that nobody asked for",
        &flow().icmp(0, 0, [0; 4], b"what?"),
        THERE,
    ));
    cases.push(out(
        "half a message",
        &flow().ip(1, vec![8, 0, 0]),
        unreadable,
    ));
    cases
}
