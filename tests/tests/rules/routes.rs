//! Ways that an administrator has chosen for the containers' packets.

use crate::{At, Case, Way};

pub(crate) const CASES: &[Case] = &[
    Case {
        what: "policy routing by the containers' mark",
        at: At::Near,
        commands: &[
            "iptables -t mangle -A PREROUTING -i cni0 -j MARK --set-mark 7",
            "ip rule add fwmark 7 blackhole priority 90",
        ],
        undo: &[
            "iptables -t mangle -D PREROUTING -i cni0 -j MARK --set-mark 7",
            "ip rule del priority 90",
        ],
        passes: false,
        way: Way::Kernel("ip rule with priority 90"),
    },
    Case {
        what: "policy routing by a container's address",
        at: At::Near,
        commands: &["ip rule add from {a} blackhole priority 90"],
        undo: &["ip rule del priority 90"],
        passes: false,
        way: Way::Kernel("ip rule with priority 90"),
    },
    Case {
        what: "policy routing by the other container's address",
        at: At::Far,
        commands: &["ip rule add to {b} blackhole priority 90"],
        undo: &["ip rule del priority 90"],
        passes: false,
        way: Way::Kernel("ip rule with priority 90"),
    },
    Case {
        what: "a route to nowhere for one container of the other node",
        at: At::Near,
        commands: &["ip route add blackhole {b}"],
        undo: &["ip route del blackhole {b}"],
        passes: false,
        way: Way::Kernel("route to"),
    },
    Case {
        what: "the same for a container of this node",
        at: At::Far,
        commands: &["ip route add prohibit {b}"],
        undo: &["ip route del prohibit {b}"],
        passes: false,
        way: Way::NoEndpoint,
    },
    Case {
        what: "another way for one container of the other node",
        at: At::Near,
        commands: &["ip route add {b} via 192.0.2.1"],
        undo: &["ip route del {b} via 192.0.2.1"],
        passes: false,
        way: Way::Kernel("route to"),
    },
    Case {
        what: "policy routing by the bridge",
        at: At::Near,
        commands: &["ip rule add iif cni0 blackhole priority 90"],
        undo: &["ip rule del priority 90"],
        passes: false,
        way: Way::Kernel("ip rule with priority 90"),
    },
];
