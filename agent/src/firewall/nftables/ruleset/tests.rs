//! The rules as text, and what is repaired.

use super::*;

const CONFIG: FirewallConfig = FirewallConfig {
    network: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 5, 0, 0), 16),
    subnet: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 5, 1, 0), 24),
    vni: 1,
    direct: None,
    masquerade: true,
    random_fully: true,
    forward: true,
};

#[test]
fn names_rules_and_order_are_flannels() {
    let want = "add table ip flannel-ipv4 { comment \"rules for flannel-ipv4\"; }
add chain ip flannel-ipv4 forward { type filter hook forward priority filter; policy accept; comment \"chain to accept flannel traffic\"; }
add rule ip flannel-ipv4 forward ip saddr 10.5.0.0/16 accept
add rule ip flannel-ipv4 forward ip daddr 10.5.0.0/16 accept
add chain ip flannel-ipv4 postrtg { type nat hook postrouting priority srcnat; policy accept; comment \"chain to manage traffic masquerading by flannel\"; }
insert rule ip flannel-ipv4 postrtg meta mark 0x4000 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr 10.5.1.0/24 return
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.1.0/24 ip daddr 10.5.0.0/16 return
add rule ip flannel-ipv4 postrtg ip saddr 10.5.0.0/16 ip daddr != 224.0.0.0/4 masquerade fully-random
add rule ip flannel-ipv4 postrtg ip saddr != 10.5.0.0/16 ip daddr 10.5.0.0/16 masquerade fully-random
";
    assert_eq!(flannels(&CONFIG).repair(None, &[]).as_deref(), Some(want));
}

#[test]
fn our_own_rule_comes_before_all_source_translation() {
    let want = "add table ip weft-1 {  }
add chain ip weft-1 postrouting { type nat hook postrouting priority srcnat - 1; policy accept; comment \"weft: containers keep their address\"; }
add rule ip weft-1 postrouting ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 oifname \"flannel.1\" meta mark & 0x4000 == 0 snat to ip saddr
";
    assert_eq!(ours(&CONFIG).repair(None, &[]).as_deref(), Some(want));
    let direct = ours(&FirewallConfig {
        direct: Some("eth0".to_owned()),
        ..CONFIG
    });
    let more = "add rule ip weft-1 postrouting ip saddr 10.5.1.0/24 ip daddr 10.5.0.0/16 oifname \"eth0\" meta mark & 0x4000 == 0 snat to ip saddr\n";
    let want = format!("{want}{more}");
    assert_eq!(direct.repair(None, &[]), Some(want));
}

#[test]
fn masquerading_is_random_only_where_asked() {
    let plain = FirewallConfig {
        random_fully: false,
        ..CONFIG
    };
    let script = flannels(&plain).repair(None, &[]).unwrap();
    assert!(
        script.contains("masquerade\n") && !script.contains("random"),
        "{script}"
    );
}

/// One rule of a listing, in both forms of the flags.
#[test]
fn both_forms_of_flags_are_known() {
    for flags in [json!("fully-random"), json!(["fully-random"])] {
        let rule = json!({ "expr": [{ "masquerade": { "flags": flags } }] });
        let want = Rule(vec![Masquerade { random: true }]).json();
        assert_eq!(expressions(&rule), want);
    }
}
