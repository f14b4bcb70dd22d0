//! Who packets are for and who they say they are from: unknown, the hosts' own, groups, everybody.

use std::net::Ipv4Addr;

use weft_tests::craft::{Ip, Link, Segment, Sum, payload};

use crate::{
    case::{BACK, Case, ELSEWHERE, FAR_HOST, FAR_NOBODY, From, KERNEL_SENT, all, echo, out},
    place::{OVERLAY_PORT, Owner, VTEPS, flow, inside, link, mac, to},
};

pub fn cases() -> Vec<Case> {
    let mut cases = destinations();
    cases.extend(groups());
    cases.extend(sources());
    cases.extend(machines());
    cases
}

fn destinations() -> Vec<Case> {
    let answered = all(&[ELSEWHERE, "A to no_flow"]);
    let ping = |name: &str, address: Ipv4Addr, counts: &str| out(name, &echo(to(address)), counts);
    let udp = |name: &str, address: Ipv4Addr, counts: &str| {
        out(name, &to(address).udp(&payload(20)), counts)
    };
    let tunnel = Ip::new(*flow().source.ip(), VTEPS[1], 17, {
        let mut to_port = to(VTEPS[1]);
        to_port.destination.set_port(OVERLAY_PORT);
        to_port.udp(&[8, 0, 0, 0, 0, 0, 1, 0]).payload
    });
    vec![
        ping("an address that nobody has", inside(1, 77), FAR_NOBODY).late(1),
        udp(
            "UDP to an address that nobody has",
            inside(1, 78),
            FAR_NOBODY,
        )
        .late(1),
        ping("the far bridge", inside(1, 1), FAR_HOST),
        udp("UDP to the far bridge", inside(1, 1), FAR_HOST),
        ping("the far .0", inside(1, 0), FAR_HOST),
        udp("UDP to the far .0", inside(1, 0), FAR_HOST),
        ping(
            "the far subnet's broadcast",
            inside(1, 255),
            "A out taken; B in no_endpoint; B over no_endpoint",
        ),
        ping("the own bridge", inside(0, 1), &answered),
        ping("the own .0", inside(0, 0), &answered),
        ping(
            "the own neighbour",
            inside(0, 3),
            "A out not_overlay*2; A bridge not_overlay; A to no_flow*3",
        ),
        ping(
            "a subnet that nobody has",
            Ipv4Addr::new(188, 172, 99, 5),
            ELSEWHERE,
        ),
        ping(
            "the far node",
            VTEPS[1],
            "A out not_overlay; A bridge not_overlay; B by no_flow; A in udp_checksum; A over host_traffic; A to no_flow",
        ),
        ping("outside", Ipv4Addr::new(203, 0, 113, 9), ELSEWHERE),
        ping("loopback", Ipv4Addr::LOCALHOST, ELSEWHERE),
        ping("class E", Ipv4Addr::new(240, 0, 0, 1), ELSEWHERE),
        ping("no address", Ipv4Addr::UNSPECIFIED, ELSEWHERE),
        out(
            "a tunnel of its own to the far node",
            &tunnel,
            "A out drop_container_tunnel",
        ),
    ]
}

fn groups() -> Vec<Case> {
    let flooded = all(&[ELSEWHERE, "A to no_flow"]);
    let to_mac = |destination, packet: &Ip| {
        let link = Link {
            destination,
            ..link(0)
        };
        vec![link.ip(packet)]
    };
    let case = |name: &str, frames, counts: &str| Case::new(name, From::A, frames, counts);
    let group = Ipv4Addr::new(224, 0, 0, 251);
    let wide = Ipv4Addr::new(239, 1, 2, 3);
    let group_mac = [1, 0, 0x5e, 0, 0, 251];
    let everybody = [0xff; 6];
    vec![
        case(
            "multicast",
            to_mac(group_mac, &echo(to(group)).but(|ip| ip.ttl = 1)),
            &flooded,
        ),
        case(
            "multicast that is routed",
            to_mac([1, 0, 0x5e, 1, 2, 3], &echo(to(wide))),
            &flooded,
        ),
        case(
            "multicast to the bridge",
            to_mac(link(0).destination, &echo(to(wide))),
            ELSEWHERE,
        ),
        case(
            "broadcast to all",
            to_mac(everybody, &echo(to(Ipv4Addr::BROADCAST))),
            &flooded,
        ),
        case(
            "broadcast of the own subnet",
            to_mac(everybody, &echo(to(inside(0, 255)))),
            &flooded,
        ),
        case(
            "the own broadcast, to the bridge",
            to_mac(link(0).destination, &echo(to(inside(0, 255)))),
            ELSEWHERE,
        ),
        case(
            "a container, to all machines",
            to_mac(everybody, &echo(flow())),
            "A out other_mac; A bridge port_passed; A to no_flow",
        ),
        case(
            "a container, to a group of machines",
            to_mac(group_mac, &echo(flow())),
            "A out other_mac; A bridge port_passed; A to no_flow",
        ),
    ]
}

fn sources() -> Vec<Case> {
    let from = |name: &str, source: Ipv4Addr, counts: &str| {
        // Nobody answers it: the answer would be for somebody else.
        let reset = Segment {
            flags: Segment::RST,
            ..Segment::data()
        };
        let packet = flow().tcp(&reset, &[]).but(|ip| ip.source = source);
        out(name, &packet.sum(Sum::Right), counts)
    };
    vec![
        from(
            "as an unknown neighbour",
            inside(0, 99),
            &all(&["A out no_source_endpoint", KERNEL_SENT]),
        ),
        from(
            "as a known neighbour",
            inside(0, 3),
            &all(&["A out wrong_port", KERNEL_SENT]),
        ),
        from(
            "as the own bridge",
            inside(0, 1),
            "A out host_traffic; A bridge port_passed",
        ),
        from(
            "as the own .0",
            inside(0, 0),
            "A out host_traffic; A bridge port_passed",
        ),
        from(
            "as the far container",
            inside(1, 2),
            "A out drop_foreign_source",
        ),
        from(
            "as somebody outside",
            Ipv4Addr::new(10, 9, 9, 9),
            "A out drop_foreign_source",
        ),
        from(
            "as nobody",
            Ipv4Addr::UNSPECIFIED,
            "A out drop_foreign_source",
        ),
        from(
            "as loopback",
            Ipv4Addr::LOCALHOST,
            "A out drop_foreign_source",
        ),
        from(
            "as a group",
            Ipv4Addr::new(224, 0, 0, 1),
            "A out drop_foreign_source",
        ),
        from(
            "as the subnet's broadcast",
            inside(0, 255),
            &all(&["A out no_source_endpoint", KERNEL_SENT]),
        ),
    ]
}

fn machines() -> Vec<Case> {
    let case = |name: &str, link: Link, counts: &str| {
        Case::new(name, From::A, vec![link.ip(&echo(flow()))], counts)
    };
    let stranger = [2, 0, 0, 0, 9, 9];
    vec![
        case(
            "to another machine",
            Link {
                destination: stranger,
                ..link(0)
            },
            "A out other_mac; A to no_flow",
        ),
        case(
            "to the neighbour's machine",
            Link {
                destination: mac(Owner::Uplink, 1),
                ..link(0)
            },
            "A out other_mac; A to no_flow",
        ),
        case(
            "from another machine",
            Link {
                source: stranger,
                ..link(0)
            },
            &all(&["A out wrong_port", KERNEL_SENT, BACK]),
        ),
    ]
}
