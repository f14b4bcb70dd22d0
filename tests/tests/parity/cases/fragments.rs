//! Pieces of packets, in every order.

use weft_tests::craft::{Ip, MORE_FRAGMENTS, NO_FRAGMENT, payload};

use crate::{
    case::{Case, FAR_EXPIRED, all, outs},
    place::{B, MTU, flow},
};

fn there(count: usize) -> String {
    format!("A out taken*{count}; B in taken*{count}")
}

/// The container puts it together and answers in one piece.
fn answered(count: usize) -> String {
    all(&[&there(count), "B out taken; A in taken"])
}

pub fn cases() -> Vec<Case> {
    let whole = flow().udp(&payload(4000)).but(|ip| ip.fragment = 0);
    let [a, b, c] = three(&whole);
    let with_id = |id: u16, pieces: [&Ip; 3]| pieces.map(|ip| ip.clone().but(|ip| ip.id = id));
    let mut cases = Vec::new();
    let orders: [(&str, [&Ip; 3]); 6] = [
        ("1 2 3", [&a, &b, &c]),
        ("1 3 2", [&a, &c, &b]),
        ("2 1 3", [&b, &a, &c]),
        ("2 3 1", [&b, &c, &a]),
        ("3 1 2", [&c, &a, &b]),
        ("3 2 1", [&c, &b, &a]),
    ];
    for (name, pieces) in orders {
        let pieces = with_id(0x1234, pieces);
        cases.push(outs(&format!("pieces {name}"), &pieces, &answered(3)));
    }
    let ping = flow().echo(1, &payload(2000)).but(|ip| ip.fragment = 0);
    let pieces = ping.fragments(MTU - 20);
    // The answer is cut by the container itself.
    let round = all(&[&there(2), "B out taken*2; A in taken*2"]);
    cases.push(outs("a ping in two pieces", &pieces, &round));
    cases.extend(odd(&a, &b, &c));
    cases.into_iter().map(Case::stateless).collect()
}

fn three(whole: &Ip) -> [Ip; 3] {
    let pieces = whole.fragments(MTU - 20);
    pieces.try_into().expect("4,000 bytes are three pieces")
}

fn odd(a: &Ip, b: &Ip, c: &Ip) -> Vec<Case> {
    // Whatever else is with an id of its own, or pieces of two cases would meet.
    let alone = |id: u16, packet: &Ip| vec![packet.clone().but(|ip| ip.id = id)];
    let small = flow()
        .udp(&payload(64))
        .but(|ip| (ip.fragment, ip.id) = (0, 0x2001));
    let overlapping = {
        let mut late = b.clone().but(|ip| ip.id = 0x2002);
        late.fragment -= 2;
        vec![
            a.clone().but(|ip| ip.id = 0x2002),
            late,
            c.clone().but(|ip| ip.id = 0x2002),
        ]
    };
    let doubled = [a, a, b, c].map(|ip| ip.clone().but(|ip| ip.id = 0x2003));
    let large = flow().udp(&payload(MTU + 1 - 28)).but(|ip| {
        (ip.fragment, ip.id) = (MORE_FRAGMENTS, 0x2004);
    });
    let beyond = flow()
        .ip(17, payload(100))
        .but(|ip| (ip.fragment, ip.id) = (0x1fff, 0x2005));
    let with_options = a.clone().but(|ip| {
        (ip.id, ip.options) = (0x2006, vec![1; 4]);
        ip.payload.truncate(800);
    });
    vec![
        outs("only the first piece", &alone(0x2007, a), &there(1)),
        outs("only a middle piece", &alone(0x2008, b), &there(1)),
        outs("only the last piece", &alone(0x2009, c), &there(1)),
        outs("pieces of eight bytes", &small.fragments(8), &answered(9)),
        outs("pieces that overlap", &overlapping, &there(3)),
        outs("the first piece twice", &doubled, &answered(4)),
        outs(
            "a piece with DF",
            &alone(0x200a, &a.clone().but(|ip| ip.fragment |= NO_FRAGMENT)),
            &there(1),
        ),
        outs(
            "a piece that is too big",
            &[large],
            "A out too_big; A bridge port_passed; A by untracked; A by no_flow; B in udp_checksum*2; B over taken*2",
        ),
        outs("a piece beyond the end", &[beyond], &there(1)),
        outs(
            "a piece with options",
            &[with_options],
            "A out ip_options; A bridge port_passed; A by no_flow; B in udp_checksum; B over ip_options; B to no_flow",
        ),
        outs(
            "a piece with TTL 1",
            &alone(0x200b, &a.clone().but(|ip| ip.ttl = 1)),
            "A out ttl_expiring; A bridge port_passed; A to no_flow",
        ),
        outs(
            "a later piece with TTL 1",
            &alone(0x200c, &b.clone().but(|ip| ip.ttl = 1)),
            "A out ttl_expiring; A bridge port_passed",
        ),
        outs(
            "a piece with TTL 2",
            &alone(0x200d, &a.clone().but(|ip| ip.ttl = 2)),
            FAR_EXPIRED,
        ),
        outs(
            "a piece for the far bridge",
            &alone(
                0x200e,
                &a.clone()
                    .but(|ip| ip.destination = crate::place::inside(1, 1)),
            ),
            "A out taken; B in host_traffic; B over host_traffic",
        ),
        outs(
            "a small piece in the middle",
            &alone(
                0x200f,
                &Ip::new(*flow().source.ip(), B, 6, payload(8))
                    .but(|ip| ip.fragment = MORE_FRAGMENTS | 1),
            ),
            &there(1),
        ),
    ]
}
