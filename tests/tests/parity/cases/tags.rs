//! VLAN tags, outside and inside the tunnel.

use weft_tests::craft::{Frame, SERVICE_TAG, TAG};

use crate::{
    case::{BACK, Case, From, KERNEL_SENT, all, echo},
    place::{flow, link, tunnel},
};

type Wrap = fn(Frame) -> Frame;

/// Tags, and what moves when they come from a container, outside and inside the tunnel. VLAN 0 is
/// no VLAN: the stack takes such a packet.
const TAGS: [(&str, Wrap, [&str; 3]); 5] = [
    (
        "VLAN 0",
        |frame| frame.tagged(TAG, 0),
        [
            "A out vlan; +",
            "B in vlan; B over taken; -",
            "B over vlan; B to untracked; -",
        ],
    ),
    (
        "VLAN 7",
        |frame| frame.tagged(TAG, 7),
        [
            "A out vlan; A bridge port_passed",
            "B in vlan",
            "B over vlan",
        ],
    ),
    (
        "a provider's VLAN 7",
        |frame| frame.tagged(SERVICE_TAG, 7),
        [
            "A out vlan; A bridge port_passed",
            "B in vlan",
            "B over vlan",
        ],
    ),
    (
        "two VLANs",
        |frame| frame.tagged(TAG, 7).tagged(SERVICE_TAG, 8),
        ["", "", "B over drop_tagged"],
    ),
    (
        "VLAN 0 twice",
        |frame| frame.tagged(TAG, 0).tagged(TAG, 0),
        [
            "A out drop_tagged",
            "B in drop_tagged",
            "B over drop_tagged",
        ],
    ),
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, wrap, counts) in TAGS {
        let counts = counts.map(|text| {
            let text = text.replace('+', &all(&[KERNEL_SENT, BACK]));
            text.replace('-', BACK)
        });
        let inner = wrap(tunnel().inner.ip(&echo(flow())));
        let frames = [
            ("from a container", From::A, wrap(link(0).ip(&echo(flow())))),
            ("outside", From::Wire, wrap(tunnel().ip(&echo(flow())))),
            ("inside", From::Wire, tunnel().frame(&inner.bytes)),
        ];
        for ((place, from, frame), counts) in frames.into_iter().zip(counts) {
            cases.push(Case::new(
                &format!("{name} {place}"),
                from,
                vec![frame],
                &counts,
            ));
        }
    }
    cases
}
