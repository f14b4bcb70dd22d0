//! A path between the hosts that is narrower than their links: a router says so about a packet of
//! the tunnel, and the hosts' kernels believe it.

use std::net::SocketAddrV4;

use weft_tests::{
    craft::{Aggregate, Flow, Link, Segment, Sum, payload},
    lab::SWITCH,
};

use crate::{
    case::{Case, From, ROUND, out},
    place::{Owner, VTEPS, flow, link, mac, tunnel},
};

/// What the router says that fits; and what of it is left inside.
const PATH: u16 = 1300;
pub const TOLD: u32 = PATH as u32 - 50;
const INSIDE: usize = TOLD as usize;

/// The router's word.
pub fn told() -> Case {
    let lost = flow().udp(&payload(1400));
    let lost = tunnel().packet(&tunnel().inner.ip(&lost).bytes);
    let router = Flow {
        source: SocketAddrV4::new(SWITCH, 0),
        destination: SocketAddrV4::new(VTEPS[0], 0),
    };
    let [high, low] = PATH.to_be_bytes();
    let error = router.error(3, 4, [0, 0, high, low], &lost, 64);
    let wire = Link {
        source: mac(Owner::Switch, 0),
        destination: mac(Owner::Uplink, 0),
    };
    Case::new("a narrow path", From::Near, vec![wire.ip(&error)], "")
}

pub fn cases() -> Vec<Case> {
    let udp = |size: usize| flow().udp(&payload(size - 28));
    let no_df = |size: usize| udp(size).but(|ip| ip.fragment = 0);
    // The kernel sends the outer packet in pieces, and says nothing to the container.
    let pieces = |n: usize| {
        format!(
            "A out too_big; A bridge port_passed; A by untracked; B in fragment*{}; \
             B over taken*{n}; B out taken*{n}; A in taken*{n}",
            2 * n
        )
    };
    let aggregate = |size: u16| {
        let packet = flow().tcp(&Segment::data(), &payload(3 * usize::from(size)));
        let frame = link(0).ip(&packet.sum(Sum::Partial));
        vec![frame.aggregate(Aggregate::Tcp4, size)]
    };
    let fits = u16::try_from(INSIDE - 52).expect("a constant");
    vec![
        out("no DF on a narrow path", &no_df(1450), &pieces(1)),
        out("DF on a narrow path", &udp(1450), &pieces(1)),
        out(
            "DF that does not fit a narrow path",
            &udp(INSIDE + 1),
            &pieces(1),
        ),
        out("DF that fits a narrow path", &udp(INSIDE), ROUND),
        out("no DF that fits a narrow path", &no_df(INSIDE), ROUND),
        Case::new(
            "an aggregate that fits a narrow path",
            From::A,
            aggregate(fits),
            "A out taken_aggregate; B in aggregate; B over taken_aggregate; B out taken; A in taken",
        ),
        Case::new(
            "an aggregate that does not fit a narrow path",
            From::A,
            aggregate(fits + 1),
            &pieces(3),
        ),
    ]
}
