//! A far bridge whose MTU is smaller than the overlay's: its host refuses what does not fit.

use weft_tests::craft::{Aggregate, Segment, Sum, payload};

use crate::{
    case::{Case, From, ROUND, out},
    place::{MTU, flow, link},
};

/// Of the far bridge.
const SMALL: usize = 1400;
/// The far host's kernel says so.
const REFUSED: &str = "A out taken; B in too_big; B over too_big; B by no_flow; \
    A in udp_checksum; A over taken";

/// What shows whether the bridge is small.
pub fn too_wide() -> Case {
    out(
        "DF for a small bridge",
        &flow().udp(&payload(MTU - 28)),
        REFUSED,
    )
}

/// And that it no longer is.
pub fn wide() -> Case {
    out(
        "DF for a bridge of the usual size",
        &flow().udp(&payload(MTU - 28)),
        ROUND,
    )
}

pub fn cases() -> Vec<Case> {
    let udp = |size: usize| flow().udp(&payload(size - 28));
    let aggregate = |name: &str, size: usize, counts: &str| {
        let packet = flow().tcp(&Segment::data(), &payload(3 * size));
        let frame = link(0).ip(&packet.sum(Sum::Partial));
        let size = u16::try_from(size).expect("a constant");
        let frames = vec![frame.aggregate(Aggregate::Tcp4, size)];
        Case::new(name, From::A, frames, counts)
    };
    let (fits, large) = (SMALL - 52, SMALL - 51);
    vec![
        too_wide(),
        out("DF that fits a small bridge", &udp(SMALL), ROUND),
        out("DF one byte too long", &udp(SMALL + 1), REFUSED),
        out(
            "no DF one byte too long",
            &udp(SMALL + 1).but(|ip| ip.fragment = 0),
            "A out taken; B in too_big; B over too_big; B to untracked; B to no_flow; \
             B out taken; A in taken",
        ),
        aggregate(
            "an aggregate that fits a small bridge",
            fits,
            "A out taken_aggregate; B in aggregate; B over taken_aggregate; B out taken; A in taken",
        ),
        aggregate(
            "an aggregate one byte too long",
            large,
            "A out taken_aggregate; B in aggregate; B over too_big; B by no_flow; \
             A in udp_checksum; A over taken",
        ),
        aggregate(
            "segments that fit a small bridge",
            fits,
            "A out taken_aggregate; B in taken*3; B out taken*3; A in taken*3",
        )
        .cut(),
        aggregate(
            "segments one byte too long",
            large,
            "A out taken_aggregate; B in too_big*3; B over too_big*3; B by no_flow*3; \
             A in udp_checksum*3; A over taken*3",
        )
        .cut(),
    ]
}
