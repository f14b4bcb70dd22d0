//! IP options: the kernel's own, there and back.

use weft_tests::craft::Ip;

use crate::{
    case::{Case, ELSEWHERE, all, echo, out},
    place::{B, flow, inside, to},
};

/// The kernel carries it, and its record of flows does not read it.
const THERE: &str = "A out ip_options; A bridge port_passed; A by no_flow; B in udp_checksum; \
    B over ip_options; B to no_flow";
/// And the answer has options too.
const BACK: &str = "B out ip_options; B bridge port_passed; B by no_flow; A in udp_checksum; \
    A over ip_options; A to no_flow";
const OUT: &str = "A out ip_options; A bridge port_passed; A by no_flow; B in udp_checksum";
const COMES: &str = "A in udp_checksum; A over ip_options; A to no_flow";
const PLAIN_BACK: &str = "B out taken; A in taken";
const HERE: &str = "A out ip_options; A bridge port_passed";

fn with(packet: Ip, options: &[u8]) -> Ip {
    packet.but(|ip| {
        ip.options = options.to_vec();
        ip.options.resize(options.len().next_multiple_of(4), 0);
    })
}

pub fn cases() -> Vec<Case> {
    let case =
        |name: &str, options: &[u8], counts: &str| out(name, &with(echo(flow()), options), counts);
    let hop = inside(1, 1).octets();
    let both = all(&[THERE, BACK]);
    let answered = all(&[THERE, PLAIN_BACK]);
    let mut record = vec![7, 39, 4];
    record.resize(39, 0);
    // Its room is used up, or what is written there would be the time.
    let stamps = [0x44, 8, 9, 0, 1, 2, 3, 4];
    let mut full = vec![7, 7, 8];
    full.extend([1, 2, 3, 4]);
    let mut loose = vec![0x83, 7, 4];
    loose.extend(hop);
    let mut strict = vec![0x89, 7, 4];
    strict.extend(B.octets());
    let refused = all(&[HERE, "A to no_flow"]);
    vec![
        case("no-operation", &[1, 1, 1, 1], &answered),
        case("end of options", &[0; 4], &answered),
        case("record route", &record, &both),
        case("record route without room", &full, &both),
        case("time stamps", &stamps, &both),
        case("router alert", &[0x94, 4, 0, 0], &answered),
        case("an unknown option", &[0x9e, 4, 1, 2], &answered),
        case("forty bytes of nothing", &[1; 40], &answered),
        case(
            "an option longer than the header",
            &[7, 200, 4, 0],
            &refused,
        ),
        case("an option of no length", &[7, 0, 4, 0], &refused),
        out(
            "loose source route",
            &with(echo(to(inside(1, 1))), &loose),
            "A out ip_options; A bridge port_passed",
        ),
        out(
            "strict source route",
            &with(echo(to(inside(0, 1))), &strict),
            ELSEWHERE,
        ),
        out(
            "options and TTL 1",
            &with(echo(flow()), &record).but(|ip| ip.ttl = 1),
            &refused,
        ),
        out(
            "options and TTL 2",
            &with(echo(flow()), &record).but(|ip| ip.ttl = 2),
            &all(&[OUT, "B over ip_options; B by no_flow", COMES]),
        ),
        out(
            "options on UDP",
            &with(flow().udp(b"options"), &record),
            &all(&[THERE, BACK]),
        ),
    ]
}
