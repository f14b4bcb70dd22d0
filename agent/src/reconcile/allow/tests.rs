//! Who may be sent to past the stack, by rules, IPsec and policy routing.

use super::*;
use crate::{netlink::xfrm::Policy, policy::iptables};

const PEERS: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 3), Ipv4Addr::new(198, 51, 100, 4)];

fn scene() -> Scene {
    Scene {
        network: net("10.1.0.0/16"),
        subnet: net("10.1.2.0/24"),
        vteps: PEERS.to_vec(),
        bridges: vec!["docker0".to_owned()],
        ports: Vec::new(),
        device: "flannel.1".to_owned(),
        uplink: "eth0".to_owned(),
        direct: false,
        vtep: Ipv4Addr::new(192, 0, 2, 1),
        port: 8472,
    }
}

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn filter(lines: &str) -> Rules {
    let saved = format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n{lines}\nCOMMIT\n");
    Rules {
        tables: iptables::tables("iptables", &saved),
        ipsec: Vec::new(),
    }
}

fn policy(source: &str, destination: &str) -> Rules {
    Rules {
        tables: Vec::new(),
        ipsec: vec![Policy {
            source: net(source),
            destination: net(destination),
            protocol: 0,
            port: (0, 0),
        }],
    }
}

fn allow(rules: RulesRead) -> (Allow, watch::Sender<Arc<RulesRead>>) {
    let mut allow = Allow::new(true, "nothing speaks against it".to_owned());
    let (told, rules) = watch::channel(Arc::new(rules));
    allow.filtered = true;
    allow.rules = Some(rules);
    (allow, told)
}

fn slow(decision: &Decision) -> Vec<Ipv4Addr> {
    decision.kernel_only.keys().copied().collect()
}

#[test]
fn a_rule_turns_it_off_and_its_end_on_again() {
    let (mut allow, told) = allow(Ok(filter("")));
    let host = ObservedHost::default();
    assert!(allow.decide(scene(), &host, Obstacles::default()).fast);
    told.send_replace(Arc::new(Ok(filter("-A FORWARD -s 10.1.9.9/32 -j DROP"))));
    let decision = allow.decide(scene(), &host, Obstacles::default());
    assert!(!decision.fast);
    assert_eq!(
        decision.why,
        "iptables -t filter -A FORWARD -s 10.1.9.9/32 -j DROP"
    );
    assert!(slow(decision).is_empty());
    told.send_replace(Arc::new(Ok(filter(""))));
    let decision = allow.decide(scene(), &host, Obstacles::default());
    assert_eq!(
        (decision.fast, decision.why.as_str()),
        (true, "nothing speaks against it")
    );
}

#[test]
fn on_overrides_the_packet_filter_and_nothing_else() {
    let mut rules = filter("-A FORWARD -j DROP\n-A INPUT -j DROP");
    rules.ipsec = policy("192.0.2.1/32", "192.0.2.3/32").ipsec;
    let (mut allow, _told) = allow(Ok(rules));
    allow.filtered = false;
    let decision = allow.decide(scene(), &ObservedHost::default(), Obstacles::default());
    assert!(decision.fast);
    assert_eq!(slow(decision), PEERS[..1]);
}

#[test]
fn off_asks_nobody() {
    let mut allow = Allow::new(false, "--fast-path=off".to_owned());
    let decision = allow.decide(scene(), &ObservedHost::default(), Obstacles::default());
    assert!(!decision.fast && decision.kernel_only.is_empty());
}

#[test]
fn rules_that_cannot_be_read_stop_everything() {
    let (mut allow, _told) = allow(Err("rules cannot be read: no".to_owned()));
    let decision = allow.decide(scene(), &ObservedHost::default(), Obstacles::default());
    assert!(!decision.fast);
    assert_eq!(slow(decision), PEERS);
}

#[test]
fn tunnels_that_something_is_done_to() {
    let none = PEERS[..0].to_vec();
    let (first, both) = (PEERS[..1].to_vec(), PEERS.to_vec());
    for (rules, expected) in [
        (filter("-A INPUT -p udp -m udp --dport 8472 -j DROP"), &both),
        (filter("-A INPUT -s 192.0.2.0/24 -p udp -j DROP"), &first),
        (filter("-A INPUT -p tcp -j DROP"), &none),
        (policy("192.0.2.1/32", "192.0.2.3/32"), &first),
        (policy("192.0.2.3/32", "192.0.2.1/32"), &first),
        (policy("0.0.0.0/0", "0.0.0.0/0"), &both),
        (policy("192.0.2.9/32", "192.0.2.3/32"), &none),
        // Of the packets inside.
        (policy("10.1.2.0/24", "10.1.3.0/24"), &both),
        (policy("10.9.2.0/24", "10.1.3.0/24"), &none),
    ] {
        let said = format!("{rules:?}");
        let (mut allow, _told) = allow(Ok(rules));
        let decision = allow.decide(scene(), &ObservedHost::default(), Obstacles::default());
        assert_eq!(slow(decision), *expected, "{said}");
        assert!(decision.fast);
    }
}

#[test]
fn policy_routing() {
    let rule = |source: Option<&str>, destination: Option<&str>| RoutingRule {
        priority: 100,
        source: source.map(net),
        destination: destination.map(net),
        protocol: None,
        input: None,
        inverted: false,
    };
    let by = |input: &str| RoutingRule {
        input: Some(input.to_owned()),
        ..rule(None, None)
    };
    for (rule, expected) in [
        // By mark alone.
        (rule(None, None), &PEERS[..]),
        (rule(Some("192.0.2.1/32"), None), &PEERS[..]),
        (rule(Some("192.0.2.7/32"), None), &PEERS[..0]),
        (rule(None, Some("192.0.2.0/24")), &PEERS[..1]),
        (
            RoutingRule {
                protocol: Some(6),
                ..rule(Some("192.0.2.1/32"), None)
            },
            &PEERS[..0],
        ),
        (
            RoutingRule {
                inverted: true,
                ..rule(Some("192.0.2.7/32"), None)
            },
            &PEERS[..],
        ),
        // Of the packets inside.
        (rule(Some("10.1.2.7/32"), None), &PEERS[..]),
        (rule(None, Some("10.1.3.7/32")), &PEERS[..]),
        (rule(Some("10.1.3.0/24"), Some("10.1.2.7/32")), &PEERS[..]),
        (rule(Some("10.9.0.0/16"), None), &PEERS[..0]),
        (rule(Some("10.1.2.7/32"), Some("10.9.0.1/32")), &PEERS[..0]),
        (by("docker0"), &PEERS[..]),
        (by("flannel.1"), &PEERS[..]),
        (by("lo"), &PEERS[..]),
        (by("eth0"), &PEERS[..0]),
    ] {
        let (mut allow, _told) = allow(Ok(Rules::default()));
        let host = ObservedHost {
            rules: [rule.clone()].into(),
            ..ObservedHost::default()
        };
        let decision = allow.decide(scene(), &host, Obstacles::default());
        assert_eq!(slow(decision), expected, "{rule:?}");
    }
}

#[test]
fn obstacles() {
    let (mut allow, _told) = allow(Ok(Rules::default()));
    let why = "flannel.1 has the queueing discipline tbf".to_owned();
    let host = ObservedHost::default();
    let obstacles = Obstacles {
        all: Some(why.clone()),
        diverted: [(PEERS[1], "route to 10.1.4.7/32".to_owned())].into(),
    };
    let decision = allow.decide(scene(), &host, obstacles);
    assert!(!decision.fast);
    assert_eq!(decision.why, why);
    assert_eq!(slow(decision), PEERS[1..]);
    assert!(allow.decide(scene(), &host, Obstacles::default()).fast);
}
