//! The firewall rules against real iptables of both kinds, in a namespace of their own. Needs
//! root.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of this file is tests, which clippy sees only of functions marked so"
)]

mod netns;

use ipnet::Ipv4Net;
use weft::firewall::{FirewallConfig, Iptables, Lost, Nftables};

use self::netns::{in_fresh_netns, run};

const CONFIG: FirewallConfig = FirewallConfig {
    network: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 5, 0, 0), 16),
    subnet: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 5, 1, 0), 24),
    vni: 1,
    direct: None,
    masquerade: true,
    random_fully: true,
    forward: true,
};

/// Runs a test with each kind of iptables that Debian ships.
fn with_each_kind<F>(test: fn(Iptables, &'static str) -> F)
where
    F: Future<Output = ()> + 'static,
{
    for kind in ["iptables-nft", "iptables-legacy"] {
        in_fresh_netns(move || async move {
            test(Iptables::open_named(kind).await.unwrap(), kind).await;
        });
    }
}

fn chain(kind: &str, table: &str, chain: &str) -> Vec<String> {
    let text = run(&format!("{kind} -t {table} -S {chain}"));
    text.lines().skip(1).map(str::to_owned).collect()
}

fn is_first(kind: &str) -> bool {
    let rules = chain(kind, "nat", "POSTROUTING");
    rules[0].contains("-s 10.5.1.0/24 -d 10.5.0.0/16 -o flannel.1 ")
        && rules[0].contains("weft: containers keep their address")
}

#[test]
fn rules_are_made_once_and_removed_without_a_trace() {
    with_each_kind(|iptables, kind| async move {
        assert!(iptables.ensure(&CONFIG).await.unwrap(), "{kind}");
        assert!(!iptables.ensure(&CONFIG).await.unwrap(), "{kind}");
        assert!(is_first(kind), "{kind}");
        assert_eq!(chain(kind, "nat", "FLANNEL-POSTRTG").len(), 6, "{kind}");
        assert_eq!(chain(kind, "filter", "FLANNEL-FWD").len(), 2, "{kind}");
        iptables.remove().await.unwrap();
        iptables.remove().await.unwrap();
        let left = run(&format!("{kind}-save"));
        assert!(
            !left.contains("FLANNEL") && !left.contains("weft"),
            "{left}"
        );
        assert!(!left.contains("\n-A "), "{left}");
    });
}

fn direct() -> FirewallConfig {
    FirewallConfig {
        direct: Some("eth0".to_owned()),
        ..CONFIG
    }
}

/// Which of our own rules are about the way without a tunnel.
fn ways(rules: &[String]) -> Vec<bool> {
    let own = rules.iter();
    let own = own.filter(|rule| rule.contains("weft: containers"));
    own.map(|rule| rule.contains("-o eth0 ")).collect()
}

#[test]
fn a_way_without_a_tunnel_has_its_rule_while_there_is_one() {
    with_each_kind(|iptables, kind| async move {
        for _ in 0..2 {
            assert!(iptables.ensure(&CONFIG).await.unwrap(), "{kind}");
            assert!(iptables.ensure(&direct()).await.unwrap(), "{kind}");
            assert!(!iptables.ensure(&direct()).await.unwrap(), "{kind}");
            let rules = chain(kind, "nat", "POSTROUTING");
            assert_eq!(ways(&rules), [false, true], "{rules:?}");
            assert!(is_first(kind), "{rules:?}");
            assert!(iptables.ensure(&CONFIG).await.unwrap(), "{kind}");
            let rules = chain(kind, "nat", "POSTROUTING");
            assert_eq!(ways(&rules), [false], "{rules:?}");
            assert!(iptables.ensure(&direct()).await.unwrap(), "{kind}");
            iptables.remove().await.unwrap();
            let left = run(&format!("{kind}-save"));
            assert!(!left.contains("weft"), "{left}");
        }
    });
    in_fresh_netns(|| async {
        let mut nft = Nftables::new(1);
        assert!(nft.ensure(&CONFIG).await.unwrap());
        assert!(nft.ensure(&direct()).await.unwrap());
        assert!(!nft.ensure(&direct()).await.unwrap());
        let rules = run("nft list table ip weft-1");
        assert_eq!(rules.matches("oifname").count(), 2, "{rules}");
        assert!(nft.ensure(&CONFIG).await.unwrap());
        let rules = run("nft list table ip weft-1");
        assert!(!rules.contains("eth0"), "{rules}");
        nft.remove().await.unwrap();
    });
}

#[test]
fn a_stranger_at_the_front_is_overtaken() {
    with_each_kind(|iptables, kind| async move {
        iptables.ensure(&CONFIG).await.unwrap();
        run(&format!(
            "{kind} -t nat -I POSTROUTING -s 10.5.1.0/24 ! -o docker0 -j MASQUERADE"
        ));
        assert!(!is_first(kind), "{kind}");
        assert!(iptables.ensure(&CONFIG).await.unwrap(), "{kind}");
        assert!(is_first(kind), "{kind}");
        assert_eq!(chain(kind, "nat", "POSTROUTING").len(), 3, "{kind}");
        assert!(!iptables.ensure(&CONFIG).await.unwrap(), "{kind}");
        iptables.remove().await.unwrap();
        assert_eq!(chain(kind, "nat", "POSTROUTING").len(), 1, "{kind}");
    });
}

#[test]
fn what_a_stranger_removed_comes_back() {
    with_each_kind(|iptables, kind| async move {
        iptables.ensure(&CONFIG).await.unwrap();
        let wanted = run(&format!("{kind}-save"));
        for damage in [
            "-t nat -D FLANNEL-POSTRTG 3",
            "-t nat -F FLANNEL-POSTRTG",
            "-t nat -F POSTROUTING",
            "-F FORWARD",
            "-D FLANNEL-FWD 1",
        ] {
            run(&format!("{kind} {damage}"));
            assert!(iptables.ensure(&CONFIG).await.unwrap(), "{kind} {damage}");
            assert!(!iptables.ensure(&CONFIG).await.unwrap(), "{kind} {damage}");
            let rules = |text: &str| -> Vec<String> {
                text.lines()
                    .filter(|l| l.starts_with("-A"))
                    .map(str::to_owned)
                    .collect()
            };
            assert_eq!(
                rules(&run(&format!("{kind}-save"))),
                rules(&wanted),
                "{damage}"
            );
        }
    });
}

#[test]
fn another_subnet_replaces_the_rules() {
    with_each_kind(|iptables, kind| async move {
        iptables.ensure(&CONFIG).await.unwrap();
        let moved = FirewallConfig {
            network: "10.6.0.0/16".parse().unwrap(),
            subnet: "10.6.9.0/24".parse().unwrap(),
            ..CONFIG
        };
        assert!(iptables.ensure(&moved).await.unwrap(), "{kind}");
        assert!(!iptables.ensure(&moved).await.unwrap(), "{kind}");
        let rules = run(&format!("{kind}-save"));
        assert!(!rules.contains("10.5."), "{rules}");
        let bare = FirewallConfig {
            masquerade: false,
            forward: false,
            ..moved
        };
        assert!(iptables.ensure(&bare).await.unwrap(), "{kind}");
        assert!(!iptables.ensure(&bare).await.unwrap(), "{kind}");
        assert_eq!(chain(kind, "nat", "POSTROUTING").len(), 1, "{kind}");
        assert!(!run(&format!("{kind}-save")).contains("FLANNEL"), "{kind}");
    });
}

#[test]
fn a_table_that_cannot_be_read_back_is_left_alone() {
    in_fresh_netns(|| async {
        let iptables = Iptables::open_named("iptables-nft").await.unwrap();
        iptables.ensure(&CONFIG).await.unwrap();
        run("nft add rule ip nat POSTROUTING meta mark set numgen inc mod 2");
        let before = run("nft list table ip nat");
        let error = iptables.ensure(&CONFIG).await.unwrap_err().to_string();
        assert!(error.contains("table nat"), "{error}");
        assert_eq!(run("nft list table ip nat"), before);
    });
}

fn listed() -> String {
    run("nft -s list ruleset")
}

#[test]
fn nftables_rules_are_made_once_and_removed_without_a_trace() {
    in_fresh_netns(|| async {
        let mut nft = Nftables::new(1);
        assert!(nft.ensure(&CONFIG).await.unwrap());
        let made = listed();
        assert_eq!(made.matches("10.5.0.0/16").count(), 9, "{made}");
        assert!(!nft.ensure(&CONFIG).await.unwrap(), "{made}");
        // A restarted agent finds them as they should be.
        assert!(!Nftables::new(1).ensure(&CONFIG).await.unwrap(), "{made}");
        run("nft add table ip6 flannel-ipv6");
        assert!(nft.remove().await.unwrap());
        assert!(!nft.remove().await.unwrap());
        assert_eq!(listed(), "");
    });
}

#[test]
fn what_a_stranger_does_to_nftables_rules_is_repaired() {
    in_fresh_netns(|| async {
        let mut nft = Nftables::new(1);
        nft.ensure(&CONFIG).await.unwrap();
        let wanted = listed();
        for damage in [
            "flush chain ip flannel-ipv4 postrtg",
            "insert rule ip flannel-ipv4 postrtg return",
            "add rule ip flannel-ipv4 forward drop",
            "delete table ip flannel-ipv4",
            "flush chain ip weft-1 postrouting",
            "delete table ip weft-1",
            "chain ip flannel-ipv4 forward { policy drop; }",
        ] {
            run(&format!("nft {damage}"));
            assert_ne!(listed(), wanted, "{damage}");
            assert!(nft.ensure(&CONFIG).await.unwrap(), "{damage}");
            assert!(!nft.ensure(&CONFIG).await.unwrap(), "{damage}");
            // What was made again is printed after the others.
            let sorted = |text: &str| {
                let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
                lines.sort();
                lines
            };
            assert_eq!(sorted(&listed()), sorted(&wanted), "{damage}");
        }
        run("nft add table ip stranger");
        nft.remove().await.unwrap();
        assert_eq!(listed().trim(), "table ip stranger {\n}");
    });
}

#[test]
fn nftables_rules_of_two_networks_stand_side_by_side() {
    in_fresh_netns(|| async {
        let second = FirewallConfig {
            network: "10.6.0.0/16".parse().unwrap(),
            subnet: "10.6.9.0/24".parse().unwrap(),
            vni: 2,
            ..CONFIG
        };
        let (mut one, mut two) = (Nftables::new(1), Nftables::new(2));
        one.beside(vec![second.network]);
        two.beside(vec![CONFIG.network]);
        assert!(one.ensure(&CONFIG).await.unwrap());
        assert!(two.ensure(&second).await.unwrap());
        assert!(!one.ensure(&CONFIG).await.unwrap(), "{}", listed());
        assert!(!two.ensure(&second).await.unwrap(), "{}", listed());
        one.remove().await.unwrap();
        let left = listed();
        assert!(!left.contains("10.5.") && left.contains("10.6."), "{left}");
        assert!(!two.ensure(&second).await.unwrap(), "{left}");
        // Of an earlier network nothing is left.
        let moved = FirewallConfig {
            network: "10.7.0.0/16".parse().unwrap(),
            subnet: "10.7.9.0/24".parse().unwrap(),
            ..second
        };
        assert!(two.ensure(&moved).await.unwrap());
        assert!(!listed().contains("10.6."), "{}", listed());
    });
}

fn lost(subnets: &[&str]) -> Lost {
    Lost {
        vni: 1,
        network: CONFIG.network,
        direct: Some("eth0".to_owned()),
        subnets: subnets.iter().map(|net| net.parse().unwrap()).collect(),
    }
}

#[test]
fn a_lost_subnet_has_rules_for_as_long_as_it_is_lost() {
    with_each_kind(|iptables, kind| async move {
        let (one, two) = (
            lost(&["10.5.9.0/24"]),
            lost(&["10.5.8.0/24", "10.5.9.0/24"]),
        );
        assert!(!iptables.drop_lost(&lost(&[])).await.unwrap(), "{kind}");
        for wanted in [&one, &two, &one] {
            assert!(iptables.drop_lost(wanted).await.unwrap(), "{kind}");
            let made = chain(kind, "mangle", "WEFT-LOST-1");
            assert!(!iptables.drop_lost(wanted).await.unwrap(), "{made:?}");
        }
        for parent in ["FORWARD", "INPUT", "OUTPUT"] {
            run(&format!("{kind} -t mangle -I {parent} -j ACCEPT"));
            assert!(iptables.drop_lost(&one).await.unwrap(), "{kind}");
            let rules = chain(kind, "mangle", parent);
            assert!(rules[0].ends_with("-j WEFT-LOST-1"), "{rules:?}");
        }
        assert!(iptables.drop_lost(&lost(&[])).await.unwrap(), "{kind}");
        assert!(!iptables.drop_lost(&lost(&[])).await.unwrap(), "{kind}");
        let left = run(&format!("{kind}-save -t mangle"));
        assert!(
            !left.contains("LOST") && left.contains("-j ACCEPT"),
            "{left}"
        );
    });
    in_fresh_netns(|| async {
        let (one, mut nft) = (lost(&["10.5.9.0/24"]), Nftables::new(1));
        assert!(!nft.drop_lost(&lost(&[])).await.unwrap());
        assert!(nft.drop_lost(&one).await.unwrap());
        let made = listed();
        assert!(!nft.drop_lost(&one).await.unwrap(), "{made}");
        // A packet that is counted changes no rule.
        run("ip link set lo up");
        run("ip address add 10.5.9.1/32 dev lo");
        run("ip address add 10.5.1.1/32 dev lo");
        // Refused: by the rule.
        let socket = std::net::UdpSocket::bind("10.5.9.1:0").unwrap();
        socket.send_to(b"x", "10.5.1.1:9").unwrap_err();
        let counted = run("nft list table ip weft-lost-1");
        assert!(counted.contains("packets 1 "), "{counted}");
        assert!(!nft.drop_lost(&one).await.unwrap(), "{counted}");
        run("nft flush chain ip weft-lost-1 input");
        assert!(nft.drop_lost(&one).await.unwrap());
        assert!(nft.drop_lost(&lost(&[])).await.unwrap());
        assert_eq!(listed(), "");
        nft.drop_lost(&one).await.unwrap();
        nft.remove().await.unwrap();
        assert_eq!(listed(), "");
    });
}
