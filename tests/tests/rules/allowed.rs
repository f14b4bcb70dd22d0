//! What flannel let pass: common rules and switches, and those that are about others.

use crate::{At, Case, Way};

pub(crate) const CASES: &[Case] = &[
    Case {
        what: "reverse path filter 0",
        at: At::Far,
        commands: &[
            "sysctl -qw net/ipv4/conf/all/rp_filter=0",
            "sysctl -qw net/ipv4/conf/eth0/rp_filter=0",
            "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=0",
            "sysctl -qw net/ipv4/conf/cni0/rp_filter=0",
        ],
        undo: &[],
        passes: true,
        way: Way::Fast,
    },
    Case {
        what: "reverse path filter 2",
        at: At::Far,
        commands: &[
            "sysctl -qw net/ipv4/conf/all/rp_filter=2",
            "sysctl -qw net/ipv4/conf/eth0/rp_filter=2",
            "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=2",
            "sysctl -qw net/ipv4/conf/cni0/rp_filter=2",
        ],
        undo: &[],
        passes: true,
        way: Way::Fast,
    },
    Case {
        what: "reverse path filter 1",
        at: At::Far,
        commands: &[
            "sysctl -qw net/ipv4/conf/all/rp_filter=1",
            "sysctl -qw net/ipv4/conf/eth0/rp_filter=1",
            "sysctl -qw net/ipv4/conf/flannel.1/rp_filter=1",
            "sysctl -qw net/ipv4/conf/cni0/rp_filter=1",
        ],
        undo: &[],
        passes: true,
        way: Way::Fast,
    },
    Case {
        what: "Docker's policy",
        at: At::Far,
        commands: &["iptables -P FORWARD DROP"],
        undo: &["iptables -P FORWARD ACCEPT"],
        passes: true,
        way: Way::Fast,
    },
    Case {
        what: "firewalld with the overlay in its trusted zone",
        at: At::Far,
        commands: TRUSTED,
        undo: &["nft delete table inet fw"],
        passes: true,
        way: Way::Fast,
    },
    Case {
        what: "rules and routes about others",
        at: At::Near,
        commands: &[
            "iptables -A FORWARD -s 10.99.0.0/16 -j DROP",
            "iptables -A INPUT -p udp --dport 4789 -j DROP",
            "ip xfrm policy add src 10.99.0.1 dst 10.99.0.2 dir out action block",
            "ip rule add from 10.99.0.0/16 blackhole priority 90",
            "ip route add blackhole 10.99.0.0/16",
        ],
        undo: &[
            "iptables -D FORWARD -s 10.99.0.0/16 -j DROP",
            "iptables -D INPUT -p udp --dport 4789 -j DROP",
            "ip xfrm policy flush",
            "ip rule del priority 90",
            "ip route del blackhole 10.99.0.0/16",
        ],
        passes: true,
        way: Way::Fast,
    },
];

const TRUSTED: &[&str] = &[
    "nft add table inet fw",
    "nft add chain inet fw trusted",
    "nft add rule inet fw trusted accept",
    "nft add chain inet fw zones",
    "nft add rule inet fw zones iifname cni0 goto trusted",
    "nft add rule inet fw zones iifname flannel.1 goto trusted",
    "nft add chain inet fw forward { type filter hook forward priority 10 ; policy accept ; }",
    "nft add rule inet fw forward ct state established,related accept",
    "nft add rule inet fw forward ct status dnat accept",
    "nft add rule inet fw forward iifname lo accept",
    "nft add rule inet fw forward ct state invalid drop",
    "nft add rule inet fw forward jump zones",
    "nft add rule inet fw forward reject with icmpx admin-prohibited",
];
