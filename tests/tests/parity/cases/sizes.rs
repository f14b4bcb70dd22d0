//! Sizes around every boundary, with and without DF, and lengths that are not what they say.

use weft_tests::craft::{Sum, payload};

use crate::{
    case::{Case, From, KERNEL_SENT, REFUSED, ROUND, THERE, all, out},
    place::{MTU, WIDE, flow, link},
};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [28, 29, 48, 576, MTU - 1, MTU] {
        for (words, fragment) in [("DF", 0x4000), ("no DF", 0)] {
            let packet = flow()
                .udp(&payload(size - 28))
                .but(|ip| ip.fragment = fragment);
            cases.push(out(
                &format!("UDP of {size} bytes, {words}"),
                &packet,
                ROUND,
            ));
        }
    }
    for size in [MTU - 1, MTU] {
        for (words, fragment) in [("DF", 0x4000), ("no DF", 0)] {
            let packet = flow()
                .echo(1, &payload(size - 28))
                .but(|ip| ip.fragment = fragment);
            cases.push(out(
                &format!("ping of {size} bytes, {words}"),
                &packet,
                ROUND,
            ));
        }
    }
    for size in [MTU + 1, WIDE] {
        let packet = flow().udp(&payload(size - 28));
        let refused = all(&["A out too_big", REFUSED]);
        cases.push(out(&format!("UDP of {size} bytes, DF"), &packet, &refused));
        // The kernel sends two pieces; the answer fits.
        let pieces = "A out too_big; A bridge port_passed; A by untracked; A by no_flow; \
            B in udp_checksum*2; B over taken*2; B out taken; A in taken";
        let packet = packet.but(|ip| ip.fragment = 0);
        cases.push(out(&format!("UDP of {size} bytes, no DF"), &packet, pieces));
    }
    let packet = flow().echo(1, &payload(WIDE - 28));
    let refused = all(&["A out too_big", REFUSED]);
    cases.push(out("ping of 1500 bytes, DF", &packet, &refused));
    let there = "A out too_big; A bridge port_passed; A by untracked; A by no_flow; \
        B in udp_checksum*2; B over taken*2";
    // The container cuts its answer itself.
    let back = "B out taken*2; A in taken*2";
    let packet = packet.but(|ip| ip.fragment = 0);
    cases.push(out(
        "ping of 1500 bytes, no DF",
        &packet,
        &all(&[there, back]),
    ));
    cases.extend(wrong());
    cases
}

/// Lengths that do not describe the frame.
fn wrong() -> Vec<Case> {
    let packet = flow().udp(&payload(64));
    let frame = link(0).ip(&packet);
    let padded = frame.clone().but(|frame| frame.bytes.extend([0xaa; 20]));
    let cut = frame.but(|frame| frame.bytes.truncate(80));
    let kernel = all(&["A out bad_header", KERNEL_SENT, "B out taken; A in taken"]);
    // Bridge netfilter drops it.
    let dropped = "A out bad_header";
    let arrives = all(&["A out bad_header", KERNEL_SENT]);
    let unreadable = "A out bad_header; A bridge port_passed; A by untracked; B in udp_checksum; \
        B over bad_header; B to untracked";
    let but = |name: &str, change: fn(&mut weft_tests::craft::Ip), counts: &str| {
        out(name, &packet.clone().but(change), counts)
    };
    vec![
        Case::new("bytes behind the packet", From::A, vec![padded], &kernel),
        Case::new("a packet that is cut off", From::A, vec![cut], dropped),
        but(
            "a length longer than the packet",
            |ip| ip.total_len = Some(93),
            dropped,
        ),
        but(
            "a length shorter than the packet",
            |ip| ip.total_len = Some(91),
            &arrives,
        ),
        but(
            "a length shorter than the header",
            |ip| ip.total_len = Some(19),
            dropped,
        ),
        but("version 5", |ip| ip.version = 5, dropped),
        out(
            "a wrong header checksum",
            &packet.clone().header_sum(Sum::Wrong),
            dropped,
        ),
        out(
            "no header checksum",
            &packet.clone().header_sum(Sum::Zero),
            dropped,
        ),
        out(
            "nothing behind the header",
            &flow().ip(253, Vec::new()),
            ROUND,
        ),
        out(
            "a UDP header cut off",
            &flow().ip(17, vec![0, 1, 0, 2, 0]),
            THERE,
        ),
        out("not even ports", &flow().ip(17, vec![0, 1]), unreadable),
    ]
}
