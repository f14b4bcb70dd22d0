//! Rulesets as hosts have them, and what is made of them.

mod rulesets;

use self::rulesets::{CALICO, DOCKER_20, DOCKER_28_FILTER, KUBE_PROXY, KUBE_ROUTER};
use super::*;

fn nets(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn scene() -> Scene {
    Scene {
        network: nets("10.1.0.0/16"),
        subnet: nets("10.1.2.0/24"),
        vteps: vec![Ipv4Addr::new(192, 0, 2, 3)],
        bridges: vec!["docker0".to_owned()],
        ports: vec!["veth1".to_owned()],
        device: "flannel.1".to_owned(),
        uplink: "eth0".to_owned(),
        direct: false,
        vtep: Ipv4Addr::new(192, 0, 2, 2),
        port: 8472,
    }
}

fn read(saved: &str) -> RulesRead {
    Ok(Rules {
        tables: iptables::tables("iptables", saved),
        ipsec: Vec::new(),
    })
}

fn blocking(rules: &RulesRead) -> Option<String> {
    match containers(rules, &scene()) {
        Verdict::Harmless => None,
        Verdict::Blocks { rule } => Some(rule),
    }
}

/// A FORWARD chain, and others, with these rules.
fn filter(policy: &str, lines: &[&str]) -> RulesRead {
    let lines = lines.join("\n");
    read(&format!(
        "*filter\n:INPUT ACCEPT [0:0]\n:FORWARD {policy} [0:0]\n:X - [0:0]\n{lines}\nCOMMIT\n"
    ))
}

#[test]
fn well_known_rulesets() {
    let docker_28_raw = format!(
        "*raw\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -d 10.1.2.5/32 ! -i docker0 -j DROP\nCOMMIT\n\
         {DOCKER_20}"
    );
    let user = DOCKER_20.replace(
        "-A DOCKER-USER -j RETURN",
        "-A DOCKER-USER -s 10.1.9.9/32 -j DROP\n-A DOCKER-USER -j RETURN",
    );
    let trusted = DOCKER_28_FILTER.replace(
        "-A DOCKER !",
        "-A DOCKER-USER -i flannel.1 -j ACCEPT\n-A DOCKER !",
    );
    for (name, saved, expected) in [
        ("Docker 20.10", DOCKER_20, None),
        (
            "Docker 28, containers not to be reached from elsewhere",
            DOCKER_28_FILTER,
            Some("iptables -t filter -A DOCKER ! -i docker0 -o docker0 -j DROP"),
        ),
        ("Docker 28 that trusts the overlay", &trusted, None),
        (
            "Docker 28, raw table",
            &docker_28_raw,
            Some("iptables -t raw -A PREROUTING -d 10.1.2.5/32 ! -i docker0 -j DROP"),
        ),
        (
            "the operator's in Docker's chain",
            &user,
            Some("iptables -t filter -A DOCKER-USER -s 10.1.9.9/32 -j DROP"),
        ),
        ("kube-proxy", KUBE_PROXY, None),
        (
            "Calico",
            CALICO,
            Some(
                "iptables -t filter -A cali-fw-cali1234 -m comment --comment \"cali:Dropping\" -m mark \
                 ! --mark 0x10000/0x10000 -j DROP",
            ),
        ),
        (
            "kube-router",
            KUBE_ROUTER,
            Some(
                "iptables -t filter -A KUBE-POD-FW-XYZ -m comment --comment \"rule to REJECT traffic \
                 destined for POD name:web namespace: default\" -m mark ! --mark 0x10000/0x10000 -j \
                 REJECT --reject-with icmp-port-unreachable",
            ),
        ),
        ("nothing", "", None),
    ] {
        assert_eq!(blocking(&read(saved)).as_deref(), expected, "{name}");
    }
}

#[test]
fn single_rules() {
    for (rule, blocks) in [
        ("-A FORWARD -j DROP", true),
        (
            "-A FORWARD -j REJECT --reject-with icmp-port-unreachable",
            true,
        ),
        ("-A FORWARD -j NFQUEUE --queue-num 0", true),
        ("-A FORWARD -j SOMETHING --new", true),
        ("-A FORWARD -j LOG --log-prefix \"DROP it -j DROP\"", false),
        ("-A FORWARD -m conntrack --ctstate INVALID -j DROP", false),
        ("-A FORWARD -m conntrack ! --ctstate INVALID -j DROP", true),
        (
            "-A FORWARD -m conntrack --ctstate INVALID,NEW -j DROP",
            true,
        ),
        // Other addresses.
        ("-A FORWARD -s 172.16.0.0/12 -j DROP", false),
        ("-A FORWARD ! -s 10.0.0.0/8 -j DROP", true),
        ("-A FORWARD ! -s 10.0.0.0/8 ! -d 10.0.0.0/8 -j DROP", false),
        ("-A FORWARD -d 10.1.7.0/24 -j DROP", true),
        ("-A FORWARD -d 10.1.0.0/255.255.0.0 -j DROP", true),
        ("-A FORWARD -d 10.2.0.0/255.255.0.0 -j DROP", false),
        // The node behind the tunnel itself.
        ("-A FORWARD -s 192.0.2.3/32 -j DROP", true),
        ("-A FORWARD -s 192.0.2.7/32 -j DROP", false),
        // Other interfaces.
        ("-A FORWARD -i eth0 -j DROP", false),
        ("-A FORWARD -i virbr+ -j DROP", false),
        ("-A FORWARD -i docker+ -j DROP", true),
        ("-A FORWARD -o flannel.1 -j DROP", true),
        ("-A FORWARD ! -o docker0 -j DROP", true),
        ("-A FORWARD -i docker0 -o docker0 -j DROP", false),
        ("-A FORWARD -i docker0 -o eth0 -j DROP", false),
        // Not understood.
        ("-A FORWARD -m set --match-set banned src -j DROP", true),
        ("-A FORWARD -p tcp -m tcp --dport 25 -j DROP", true),
        ("-A FORWARD -m physdev --physdev-in veth1 -j DROP", true),
        // Never reached, or not what is forwarded.
        ("-A INPUT -j DROP", false),
        ("-A X -j DROP", false),
        ("-A FORWARD -j ACCEPT\n-A FORWARD -j DROP", false),
        ("-A FORWARD -p tcp -j ACCEPT\n-A FORWARD -j DROP", true),
        ("-A FORWARD -j X\n-A X -j RETURN\n-A X -j DROP", false),
        (
            "-A FORWARD -j X\n-A X -i docker0 -j RETURN\n-A X -j DROP",
            true,
        ),
        ("-A FORWARD -g X\n-A FORWARD -j DROP\n-A X -j LOG", false),
        (
            "-A FORWARD -j X\n-A X -s 10.0.0.0/8 -d 10.0.0.0/8 -j ACCEPT\n-A X -j DROP",
            true,
        ),
        (
            "-A FORWARD -j X\n-A X -d 10.0.0.0/8 -j ACCEPT\n-A X -j DROP",
            false,
        ),
        // A loop, which the kernel does not accept.
        ("-A FORWARD -j X\n-A X -j X", true),
    ] {
        let found = blocking(&filter("ACCEPT", &[rule]));
        assert_eq!(found.is_some(), blocks, "{rule}: {found:?}");
    }
}

#[test]
fn a_policy_is_harmless_behind_an_accept_for_the_overlay() {
    let accept = "-A FORWARD -d 10.1.0.0/16 -j ACCEPT";
    assert_eq!(blocking(&filter("DROP", &[accept])), None);
    let blocked = blocking(&filter("DROP", &["-A FORWARD -i docker0 -j ACCEPT"]));
    assert_eq!(
        blocked.as_deref(),
        Some("iptables -t filter chain FORWARD: policy drop")
    );
}

#[test]
fn before_there_is_a_bridge_it_could_be_any() {
    let mut scene = scene();
    scene.bridges.clear();
    let drop = filter("ACCEPT", &["-A FORWARD -i br7 -j DROP"]);
    assert_ne!(containers(&drop, &scene), Verdict::Harmless);
    assert_eq!(containers(&read(DOCKER_20), &scene), Verdict::Harmless);
}

#[test]
fn what_cannot_be_read_blocks() {
    let failed: RulesRead = Err("rules cannot be read: nft: no".to_owned());
    assert_eq!(
        blocking(&failed).as_deref(),
        Some("rules cannot be read: nft: no")
    );
}

#[test]
fn rules_for_tunnel_packets() {
    let peer = [Ipv4Addr::new(192, 0, 2, 3)];
    let saved = |policy: &str, rules: &str| {
        read(&format!(
            "*filter\n:INPUT {policy} [0:0]\n:FORWARD DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n{rules}\nCOMMIT\n"
        ))
    };
    for (policy, rules, blocks) in [
        (
            "ACCEPT",
            "-A INPUT -p udp -m udp --dport 8472 -j DROP",
            true,
        ),
        (
            "ACCEPT",
            "-A INPUT -p udp -m udp --dport 4789 -j DROP",
            false,
        ),
        ("ACCEPT", "-A INPUT -p tcp -m tcp --dport 22 -j DROP", false),
        ("ACCEPT", "-A INPUT -i eth1 -j DROP", false),
        ("ACCEPT", "-A OUTPUT -d 192.0.2.3/32 -j REJECT", true),
        ("ACCEPT", "-A OUTPUT -d 192.0.2.4/32 -j REJECT", false),
        ("DROP", "-A INPUT -i lo -j ACCEPT", true),
        (
            "DROP",
            "-A INPUT -p udp -m multiport --dports 53,8472 -j ACCEPT",
            false,
        ),
        (
            "DROP",
            "-A INPUT -s 192.0.2.0/24 -p udp -m udp --dport 8472 -j ACCEPT",
            false,
        ),
        (
            "DROP",
            "-A INPUT -s 192.0.2.9/32 -p udp -m udp --dport 8472 -j ACCEPT",
            true,
        ),
        (
            "ACCEPT",
            "-A INPUT -m hashlimit --hashlimit-above 9/sec -j DROP",
            true,
        ),
    ] {
        let verdict = tunnels(&saved(policy, rules), &scene(), &peer);
        assert_eq!(
            verdict != Verdict::Harmless,
            blocks,
            "{policy} {rules}: {verdict:?}"
        );
    }
    for harmless in [DOCKER_20, KUBE_PROXY, DOCKER_28_FILTER] {
        assert_eq!(tunnels(&read(harmless), &scene(), &peer), Verdict::Harmless);
    }
    let nobody = saved("DROP", "");
    assert_eq!(tunnels(&nobody, &scene(), &[]), Verdict::Harmless);
}
