//! Lines of `iptables-save`.

use super::*;

fn only(line: &str) -> Rule {
    let saved = format!("*filter\n:FORWARD ACCEPT [0:0]\n{line}\nCOMMIT\n");
    let tables = tables("iptables", &saved);
    tables[0].chains["FORWARD"].rules[0].clone()
}

#[test]
fn words_are_taken_apart_as_a_shell_would() {
    for (line, expected) in [
        ("-j DROP", vec!["-j", "DROP"]),
        (
            r#"--comment "two words" -j X"#,
            vec!["--comment", "two words", "-j", "X"],
        ),
        (r#"--comment "a \" b""#, vec!["--comment", "a \" b"]),
        (r#"--comment """#, vec!["--comment", ""]),
        ("", vec![]),
    ] {
        assert_eq!(words(line), expected, "{line}");
    }
}

#[test]
fn a_comment_is_no_rule() {
    let rule = only(r#"-A FORWARD -m comment --comment "-j DROP ! -s 10.0.0.0/8" -j ACCEPT"#);
    assert_eq!((rule.when, rule.then), (vec![], Action::Accept));
}

#[test]
fn negation_is_for_one_condition() {
    let rule = only("-A FORWARD ! -s 10.1.0.0/16 -d 10.1.0.0/16 -j DROP");
    let net = vec!["10.1.0.0/16".parse().unwrap()];
    let expected = [
        Condition::Source(true, net.clone()),
        Condition::Destination(false, net),
    ];
    assert_eq!(
        (rule.when.as_slice(), rule.then),
        (&expected[..], Action::Stop)
    );
}

#[test]
fn counters_do_not_matter() {
    let saved = |count: u32| {
        tables(
            "iptables",
            &format!("*raw\n:OUTPUT ACCEPT [{count}:9]\n-A OUTPUT -j X\nCOMMIT\n"),
        )
    };
    assert_eq!(saved(1), saved(2));
}

#[test]
fn chains_that_packets_enter_are_told_from_others() {
    let saved =
        "*raw\n:PREROUTING ACCEPT [0:0]\n:X - [0:0]\nCOMMIT\n*filter\n:FORWARD DROP [0:0]\n";
    let found: Vec<_> = base_chains(saved).collect();
    assert_eq!(found, [("raw", "PREROUTING"), ("filter", "FORWARD")]);
    let tables = tables("iptables", saved);
    assert_eq!(tables.len(), 2, "cut off");
    assert!(tables[1].chains["FORWARD"].base.as_ref().unwrap().drops);
    assert_eq!(tables[0].chains["X"].base, None);
}

#[test]
fn what_kube_proxy_drops_is_no_containers() {
    let saved = "*filter\n:KUBE-FIREWALL - [0:0]\n:KUBE-ROUTER-FORWARD - [0:0]\n\
                 -A KUBE-FIREWALL -j DROP\n-A KUBE-ROUTER-FORWARD -j DROP\nCOMMIT\n";
    let tables = tables("iptables", saved);
    let then = |chain: &str| tables[0].chains[chain].rules[0].then.clone();
    assert_eq!(then("KUBE-FIREWALL"), Action::Continue);
    assert_eq!(then("KUBE-ROUTER-FORWARD"), Action::Stop);
}
