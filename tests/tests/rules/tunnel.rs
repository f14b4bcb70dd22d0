//! What is done to tunnel packets between the nodes.

use crate::{At, Case, Way};

pub(crate) const CASES: &[Case] = &[
    Case {
        what: "IPsec that refuses what comes in",
        at: At::Far,
        commands: &["ip xfrm policy add src {near} dst {far} dir in action block"],
        undo: &["ip xfrm policy flush"],
        passes: false,
        way: Way::Kernel("xfrm policy"),
    },
    Case {
        what: "IPsec that wants the tunnel encrypted, and has no key",
        at: At::Near,
        commands: &[
            "ip xfrm policy add src {near} dst {far} proto udp dport 8472 dir out \
                     tmpl src {near} dst {far} proto esp mode transport",
        ],
        undo: &["ip xfrm policy flush", "ip xfrm state flush"],
        passes: false,
        way: Way::Kernel("xfrm policy"),
    },
    Case {
        what: "a firewall on the port of the overlay, before conntrack",
        at: At::Far,
        commands: &["iptables -t raw -A PREROUTING -p udp --dport 8472 -j DROP"],
        undo: &["iptables -t raw -D PREROUTING -p udp --dport 8472 -j DROP"],
        passes: false,
        way: Way::Kernel("PREROUTING"),
    },
    Case {
        what: "the same at the uplink",
        at: At::Far,
        commands: &[
            "nft add table netdev fw",
            "nft add chain netdev fw in { type filter hook ingress device eth0 priority 0 ; }",
            "nft add rule netdev fw in udp dport 8472 drop",
        ],
        undo: &["nft delete table netdev fw"],
        passes: false,
        way: Way::Kernel("nft netdev fw chain in"),
    },
    Case {
        what: "policy routing by the tunnel packets' mark",
        at: At::Near,
        commands: &[
            "iptables -t mangle -A OUTPUT -p udp --dport 8472 -j MARK --set-mark 7",
            "ip rule add fwmark 7 blackhole priority 90",
        ],
        undo: &[
            "iptables -t mangle -D OUTPUT -p udp --dport 8472 -j MARK --set-mark 7",
            "ip rule del priority 90",
        ],
        passes: false,
        way: Way::Kernel("ip rule with priority 90"),
    },
];
