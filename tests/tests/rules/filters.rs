//! Rules on the containers' packets.

use crate::{At, Case, Way};

pub(crate) const CASES: &[Case] = &[
    Case {
        what: "by hand in DOCKER-USER, new connections only",
        at: At::Far,
        commands: &[
            "iptables -N DOCKER-USER",
            "iptables -I FORWARD -j DOCKER-USER",
            "iptables -A DOCKER-USER -d {b} -m conntrack --ctstate NEW -j DROP",
        ],
        undo: &[
            "iptables -D FORWARD -j DOCKER-USER",
            "iptables -F DOCKER-USER",
            "iptables -X DOCKER-USER",
        ],
        passes: false,
        way: Way::Off("DOCKER-USER"),
    },
    Case {
        what: "firewalld with the overlay in no zone",
        at: At::Far,
        commands: &[
            "nft add table inet fw",
            "nft add chain inet fw forward { type filter hook forward priority 10 ; }",
            "nft add rule inet fw forward ct state established,related accept",
            "nft add rule inet fw forward iifname lo accept",
            "nft add rule inet fw forward reject with icmpx admin-prohibited",
        ],
        undo: &["nft delete table inet fw"],
        passes: false,
        way: Way::Off("nft inet fw chain forward"),
    },
    Case {
        what: "mangle, by the interface",
        at: At::Near,
        commands: &["iptables -t mangle -A POSTROUTING -o flannel.1 -p icmp -j DROP"],
        undo: &["iptables -t mangle -D POSTROUTING -o flannel.1 -p icmp -j DROP"],
        passes: false,
        way: Way::Off("POSTROUTING"),
    },
    Case {
        what: "raw, before conntrack",
        at: At::Far,
        commands: &["iptables -t raw -A PREROUTING -i flannel.1 -d {b} -j DROP"],
        undo: &["iptables -t raw -D PREROUTING -i flannel.1 -d {b} -j DROP"],
        passes: false,
        way: Way::Off("PREROUTING"),
    },
    Case {
        what: "frames on the bridge",
        at: At::Near,
        commands: &[
            "nft add table bridge fw",
            "nft add chain bridge fw in { type filter hook prerouting priority 0 ; }",
            "nft add rule bridge fw in ip daddr {b} drop",
        ],
        undo: &["nft delete table bridge fw"],
        passes: false,
        way: Way::Off("nft bridge fw chain in"),
    },
    Case {
        what: "frames at the container's port",
        at: At::Near,
        commands: &[
            "nft add table netdev fw",
            "nft add chain netdev fw in { type filter hook ingress device veth1 priority 0 ; }",
            "nft add rule netdev fw in ip daddr {b} drop",
        ],
        undo: &["nft delete table netdev fw"],
        passes: false,
        way: Way::Off("nft netdev fw chain in"),
    },
];
