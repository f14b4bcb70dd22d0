//! Queues and filters at devices. This kernel has no filter that drops by itself: that the packets
//! are left to the stack is seen.

use crate::{At, Case, Way};

pub(crate) const CASES: &[Case] = &[
    Case {
        what: "a filter at the container's port",
        at: At::Near,
        commands: &[
            "tc qdisc add dev veth1 clsact",
            "tc filter add dev veth1 ingress protocol ip u32 match ip dst {b} flowid 1:1",
        ],
        undo: &["tc qdisc del dev veth1 clsact"],
        passes: true,
        way: Way::Kept("veth1"),
    },
    Case {
        what: "a queue at the container's bridge",
        at: At::Far,
        commands: &["tc qdisc add dev cni0 root tbf rate 90mbit burst 64k latency 90ms"],
        undo: &["tc qdisc del dev cni0 root"],
        passes: true,
        way: Way::Kept("tbf"),
    },
    Case {
        what: "a filter at the overlay's device",
        at: At::Near,
        commands: &[
            "tc qdisc add dev flannel.1 clsact",
            "tc filter add dev flannel.1 egress protocol ip u32 match ip dst {b} flowid 1:1",
        ],
        undo: &["tc qdisc del dev flannel.1 clsact"],
        passes: true,
        way: Way::Off("u32"),
    },
    Case {
        what: "a queue at the overlay's device",
        at: At::Near,
        commands: &["tc qdisc add dev flannel.1 root tbf rate 90mbit burst 64k latency 90ms"],
        undo: &["tc qdisc del dev flannel.1 root"],
        passes: true,
        way: Way::Off("tbf"),
    },
    Case {
        what: "a filter where tunnel packets come in",
        at: At::Far,
        commands: &[
            "tc qdisc add dev eth0 clsact",
            "tc filter add dev eth0 ingress protocol ip u32 match ip src {near} flowid 1:1",
        ],
        undo: &["tc qdisc del dev eth0 clsact"],
        passes: true,
        way: Way::Off("at eth0"),
    },
    Case {
        what: "one where they go out sees them all the same",
        at: At::Near,
        commands: &[
            "tc qdisc add dev eth0 clsact",
            "tc filter add dev eth0 egress protocol ip u32 match ip dst {far} flowid 1:1",
        ],
        undo: &["tc qdisc del dev eth0 clsact"],
        passes: true,
        way: Way::Fast,
    },
];
