//! What is inside a tunnel packet from the wire.

use std::net::Ipv4Addr;

use weft_tests::craft::{Ip, Sum, payload};

use crate::{
    case::{Case, echo, tunnelled},
    place::{MTU, flow, inside, to},
};

/// Taken, and answered.
const ANSWERED: &str = "B in taken; B out taken; A in taken";

pub fn cases() -> Vec<Case> {
    let case = |name: &str, packet: &Ip, counts: &str| tunnelled(name, |_| {}, packet, counts);
    let ping = |change: fn(&mut Ip)| echo(flow()).but(change);
    let sized = |size: usize, fragment: u16| {
        flow()
            .udp(&payload(size - 28))
            .but(|ip| ip.fragment = fragment)
    };
    vec![
        case(
            "inner TTL 0",
            &ping(|ip| ip.ttl = 0),
            "B in ttl_expiring; B over ttl_expiring; B by no_flow; A in udp_checksum; A over taken",
        ),
        case(
            "inner TTL 1",
            &ping(|ip| ip.ttl = 1),
            "B in ttl_expiring; B over ttl_expiring; B by no_flow; A in udp_checksum; A over taken",
        ),
        case("inner TTL 2", &ping(|ip| ip.ttl = 2), ANSWERED),
        case(
            "inner options",
            &ping(|ip| ip.options = vec![1; 4]),
            "B in ip_options; B over ip_options; B to no_flow; B out taken; A in taken",
        ),
        case(
            "an inner packet that just fits",
            &sized(MTU, 0x4000),
            ANSWERED,
        ),
        case(
            "an inner packet that does not fit, DF",
            &sized(MTU + 1, 0x4000),
            "B in too_big; B over too_big; B by no_flow; A in udp_checksum; A over taken",
        ),
        case(
            "an inner packet that does not fit",
            &sized(MTU + 1, 0),
            "B in too_big; B over too_big; B to no_flow; B to untracked; B out taken; A in taken",
        ),
        case(
            "an inner header with a wrong checksum",
            &echo(flow()).header_sum(Sum::Wrong),
            "B in bad_header; B over bad_header",
        ),
        case(
            "an inner packet with a wrong checksum",
            &flow().udp(b"wrong").sum(Sum::Wrong),
            "B in taken",
        ),
        case(
            "an inner length too long",
            &ping(|ip| ip.total_len = Some(85)),
            "B in bad_header; B over bad_header",
        ),
        case(
            "an inner length too short",
            &ping(|ip| ip.total_len = Some(83)),
            "B in bad_header; B over bad_header; B to untracked",
        ),
        case(
            "inner version 6",
            &ping(|ip| ip.version = 6),
            "B in bad_header; B over bad_header",
        ),
        case(
            "for the far bridge",
            &echo(to(inside(1, 1))),
            "B in host_traffic; B over host_traffic; B by no_flow; A in udp_checksum; A over taken",
        ),
        case(
            "for the far .0",
            &echo(to(inside(1, 0))),
            "B in host_traffic; B over host_traffic; B by no_flow; A in udp_checksum; A over taken",
        ),
        case(
            "for the far broadcast",
            &echo(to(inside(1, 255))),
            "B in no_endpoint; B over no_endpoint",
        ),
        case(
            "for nobody",
            &echo(to(inside(1, 79))),
            "B in no_endpoint; B over no_endpoint; B by no_flow; A in udp_checksum; A over taken",
        )
        .late(1)
        .stateless(),
        case(
            "for another subnet",
            &echo(to(Ipv4Addr::new(188, 172, 99, 5))),
            "B in drop_not_ours",
        ),
        case(
            "for the sender",
            &echo(to(inside(0, 3))),
            "B in drop_not_ours",
        ),
        case(
            "for outside",
            &echo(to(Ipv4Addr::new(203, 0, 113, 9))),
            "B in drop_not_ours",
        ),
        case(
            "from the far .0",
            &ping(|ip| ip.source = inside(0, 0)),
            "B in taken; B out taken; A in host_traffic; A over host_traffic",
        ),
        case(
            "from the far node",
            &ping(|ip| ip.source = crate::place::VTEPS[0]),
            "B in host_traffic; B over host_traffic; B to no_flow; B out not_overlay; B bridge not_overlay",
        ),
        case(
            "from another subnet",
            &ping(|ip| ip.source = Ipv4Addr::new(188, 172, 99, 5)),
            "B in drop_spoofed_inner",
        ),
        case(
            "from the receiver",
            &ping(|ip| ip.source = inside(1, 2)),
            "B in drop_spoofed_inner",
        ),
    ]
}
