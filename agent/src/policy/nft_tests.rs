//! Rulesets of nftables as hosts have them, and single statements.

use std::net::Ipv4Addr;

use serde_json::json;

use super::*;
use crate::policy::{Rules, RulesRead, Scene, Verdict, containers, tunnels};

/// firewalld with Docker's bridge and the overlay in the trusted zone.
const FIREWALLD: &str = include_str!("nft_tests/firewalld.json");
/// kube-proxy's nftables mode beside flannel's.
const KUBE_PROXY: &str = include_str!("nft_tests/kube_proxy.json");
const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);

fn scene() -> Scene {
    Scene {
        network: "10.1.0.0/16".parse().unwrap(),
        subnet: "10.1.2.0/24".parse().unwrap(),
        vteps: vec![PEER],
        bridges: vec!["docker0".to_owned()],
        ports: vec!["veth1".to_owned()],
        device: "flannel.1".to_owned(),
        uplink: "eth0".to_owned(),
        direct: false,
        vtep: Ipv4Addr::new(192, 0, 2, 2),
        port: 8472,
    }
}

fn read(ruleset: &str) -> RulesRead {
    tables(ruleset, &|_, _| false).map(|tables| Rules {
        tables,
        ipsec: Vec::new(),
    })
}

fn blocking(ruleset: &str) -> Option<String> {
    match containers(&read(ruleset), &scene()) {
        Verdict::Harmless => None,
        Verdict::Blocks { rule } => Some(rule),
    }
}

/// A ruleset with one base chain and one rule in it.
fn one(chain: Value, rule: Value) -> String {
    let mut chain = chain;
    chain["name"] = json!("c");
    chain["table"] = json!("t");
    let family = chain["family"].clone();
    json!({"nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": family, "name": "t"}},
        {"map": {"family": family, "table": "t", "name": "m", "type": "ipv4_addr", "map": "verdict",
            "elem": [["10.1.2.9", {"drop": null}]]}},
        {"map": {"family": family, "table": "t", "name": "n", "type": "ipv4_addr", "map": "verdict",
            "elem": [[{"prefix": {"addr": "172.16.0.0", "len": 12}}, {"drop": null}]]}},
        {"chain": chain},
        {"rule": {"family": family, "table": "t", "chain": "c", "handle": 5, "expr": rule}},
    ]})
    .to_string()
}

fn forward() -> Value {
    json!({"family": "inet", "type": "filter", "hook": "forward", "prio": 0, "policy": "accept"})
}

#[test]
fn well_known_rulesets() {
    assert_eq!(blocking(FIREWALLD), None);
    assert_eq!(
        tunnels(&read(FIREWALLD), &scene(), &[PEER]),
        Verdict::Harmless
    );
    assert_eq!(blocking(KUBE_PROXY), None);
    let in_public = FIREWALLD.replace("flannel.1", "flannel.7");
    assert_eq!(
        blocking(&in_public).as_deref(),
        Some("nft inet firewalld chain filter_FWDI_public handle 46: reject")
    );
    let closed = FIREWALLD.replace("8472", "4789");
    assert_eq!(
        tunnels(&read(&closed), &scene(), &[PEER]),
        Verdict::Blocks {
            rule: "nft inet firewalld chain filter_INPUT handle 25: reject".to_owned()
        }
    );
    // The same chains under another name are an operator's.
    let copied = KUBE_PROXY.replace("kube-proxy", "mine");
    assert!(blocking(&copied).is_some());
}

#[test]
fn statements() {
    let drop = || json!({"drop": null});
    let equal =
        |left: Value, right: Value| json!({"match": {"op": "==", "left": left, "right": right}});
    let source = || json!({"payload": {"protocol": "ip", "field": "saddr"}});
    let target = || json!({"payload": {"protocol": "ip", "field": "daddr"}});
    let input = || json!({"meta": {"key": "iifname"}});
    for (rule, blocks) in [
        (json!([{"counter": {"packets": 3, "bytes": 9}}]), false),
        (json!([drop()]), true),
        (json!([{"reject": {"type": "icmpx"}}]), true),
        (json!([{"queue": {"num": 1}}]), true),
        (json!([{"something": "new"}]), true),
        (json!(["something"]), true),
        (json!([{"xt": {"type": "target", "name": "REJECT"}}]), true),
        (
            json!([{"xt": {"type": "match", "name": "comment"}}, drop()]),
            true,
        ),
        (json!([{"limit": {"rate": 5}}, drop()]), true),
        (json!([{"log": {"prefix": "x"}}, {"accept": null}]), false),
        (json!([equal(source(), json!("@banned")), drop()]), true),
        (
            json!([
                equal(source(), json!({"range": ["172.16.0.0", "172.16.5.5"]})),
                drop()
            ]),
            true,
        ),
        (json!([equal(source(), json!("172.16.0.1")), drop()]), false),
        (
            json!([
                equal(target(), json!({"set": ["172.16.0.1", "10.1.2.9"]})),
                drop()
            ]),
            true,
        ),
        (
            json!([equal(input(), json!({"set": ["eth1", "eth2"]})), drop()]),
            false,
        ),
        (json!([equal(input(), json!("docker*")), drop()]), true),
        (
            json!([
                equal(json!({"meta": {"key": "nfproto"}}), json!("ipv6")),
                drop()
            ]),
            false,
        ),
        (
            json!([
                equal(json!({"meta": {"key": "nfproto"}}), json!("ipv4")),
                drop()
            ]),
            true,
        ),
        (
            json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": "invalid"}}, drop()]),
            false,
        ),
        (
            json!([{"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["invalid", "new"]}}, drop()]),
            true,
        ),
        (json!([{"vmap": {"key": target(), "data": "@m"}}]), true),
        (json!([{"vmap": {"key": target(), "data": "@n"}}]), false),
        (
            json!([{"vmap": {"key": target(), "data": "@missing"}}]),
            true,
        ),
        (
            json!([{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", drop()], ["new", {"accept": null}]]}}}]),
            false,
        ),
        (json!([{"jump": {"target": "missing"}}]), true),
    ] {
        let found = blocking(&one(forward(), rule.clone()));
        assert_eq!(found.is_some(), blocks, "{rule}: {found:?}");
    }
}

#[test]
fn places() {
    let base = |family: &str, hook: &str, dev: Value| {
        json!({"family": family, "type": "filter", "hook": hook, "prio": 0, "policy": "accept",
            "dev": dev})
    };
    for (chain, blocks) in [
        (base("inet", "prerouting", Value::Null), true),
        (base("ip", "postrouting", Value::Null), true),
        (base("inet", "input", Value::Null), false),
        (base("ip6", "forward", Value::Null), false),
        (base("arp", "input", Value::Null), false),
        (base("bridge", "input", Value::Null), true),
        (base("bridge", "forward", Value::Null), true),
        (base("netdev", "ingress", json!("veth1")), true),
        (base("netdev", "ingress", json!(["eth0", "veth9"])), false),
        (base("netdev", "ingress", Value::Null), true),
        (json!({"family": "inet"}), false),
    ] {
        let found = blocking(&one(chain.clone(), json!([{"drop": null}])));
        assert_eq!(found.is_some(), blocks, "{chain}: {found:?}");
    }
    let mut policy = forward();
    policy["policy"] = json!("drop");
    assert_eq!(
        blocking(&one(policy, json!([{"counter": null}]))).as_deref(),
        Some("nft inet t chain c: policy drop")
    );
}

#[test]
fn what_iptables_made_is_not_judged_twice() {
    let mut chain = forward();
    chain["family"] = json!("ip");
    let ruleset = one(chain, json!([{"drop": null}]));
    let known = |table: &str, chain: &str| (table, chain) == ("t", "c");
    let rules = tables(&ruleset, &known).map(|tables| Rules {
        tables,
        ipsec: Vec::new(),
    });
    assert_eq!(containers(&rules, &scene()), Verdict::Harmless);
    assert!(blocking(&ruleset).is_some());
}

#[test]
fn what_is_no_ruleset_is_an_error() {
    for text in ["", "{}", "nope", r#"{"nftables": 3}"#] {
        assert!(tables(text, &|_, _| false).is_err(), "{text}");
    }
}
