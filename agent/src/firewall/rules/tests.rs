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

const OWN: &str = "-s 10.5.1.0/24 -d 10.5.0.0/16 -o flannel.1 -m mark ! --mark 0x4000/0x4000 \
                   -m comment --comment \"weft: containers keep their address\" -j RETURN";

fn nat(config: &FirewallConfig) -> Wanted {
    let [nat, _] = Wanted::all(config);
    nat
}

/// A table as saved, after everything that a repair of an empty one wrote.
fn saved(wanted: &Wanted, before: &[&str], after: &[&str]) -> String {
    let mut lines = vec![
        format!("*{}", wanted.table),
        ":POSTROUTING ACCEPT [1:2]".into(),
    ];
    if !wanted.rules.is_empty() {
        lines.push(format!(":{} - [0:0]", wanted.chain));
    }
    lines.extend(
        before
            .iter()
            .map(|rule| format!("-A {} {rule}", wanted.parent)),
    );
    let first = wanted.first.iter();
    lines.extend(first.map(|rule| format!("-A {} {rule}", wanted.parent)));
    if !wanted.rules.is_empty() {
        lines.push(format!("-A {} {}", wanted.parent, wanted.jump()));
    }
    lines.extend(
        after
            .iter()
            .map(|rule| format!("-A {} {rule}", wanted.parent)),
    );
    let rules = wanted.rules.iter();
    lines.extend(rules.map(|rule| format!("-A {} {rule}", wanted.chain)));
    lines.push("COMMIT".into());
    lines.join("\n")
}

#[test]
fn an_empty_table_gets_everything() {
    let want = format!(
        "*nat\n\
         :FLANNEL-POSTRTG - [0:0]\n\
         -I POSTROUTING 1 {OWN}\n\
         -A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment \"flanneld masq\" -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.5.1.0/24 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.5.0.0/16 -d 10.5.1.0/24 -m comment --comment \"flanneld masq\" -j RETURN\n\
         -A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.1.0/24 -m comment --comment \"flanneld masq\" -j RETURN\n\
         -A FLANNEL-POSTRTG -s 10.5.0.0/16 ! -d 224.0.0.0/4 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully\n\
         -A FLANNEL-POSTRTG ! -s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j MASQUERADE --random-fully\n\
         -A POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
         COMMIT\n"
    );
    let [nat, filter] = Wanted::all(&CONFIG);
    assert_eq!(nat.repair("").as_deref(), Some(want.as_str()));
    let want = "*filter\n\
         :FLANNEL-FWD - [0:0]\n\
         -A FLANNEL-FWD -s 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
         -A FLANNEL-FWD -d 10.5.0.0/16 -m comment --comment \"flanneld forward\" -j ACCEPT\n\
         -A FORWARD -m comment --comment \"flanneld forward\" -j FLANNEL-FWD\n\
         COMMIT\n";
    assert_eq!(filter.repair("").as_deref(), Some(want));
}

#[test]
fn what_is_in_place_stays_untouched() {
    for masquerade in [true, false] {
        let wanted = nat(&FirewallConfig {
            masquerade,
            ..CONFIG
        });
        let others = ["-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"];
        assert_eq!(wanted.repair(&saved(&wanted, &[], &others)), None);
    }
}

#[test]
fn our_rule_goes_back_to_the_front() {
    let wanted = nat(&CONFIG);
    let docker = ["-s 172.17.0.0/16 ! -o docker0 -j MASQUERADE"];
    let want = format!("*nat\n-D POSTROUTING {OWN}\n-I POSTROUTING 1 {OWN}\nCOMMIT\n");
    assert_eq!(wanted.repair(&saved(&wanted, &docker, &[])), Some(want));
}

#[test]
fn rules_of_another_subnet_are_replaced() {
    let before = nat(&CONFIG);
    let after = nat(&FirewallConfig {
        subnet: "10.5.2.0/24".parse().unwrap(),
        ..CONFIG
    });
    let repair = after.repair(&saved(&before, &[], &[])).unwrap();
    let lines: Vec<&str> = repair.lines().collect();
    assert_eq!(lines[1], ":FLANNEL-POSTRTG - [0:0]");
    assert_eq!(lines[2], format!("-D POSTROUTING {OWN}"));
    assert!(
        lines[3].starts_with("-I POSTROUTING 1 -s 10.5.2.0/24 "),
        "{repair}"
    );
    assert_eq!(lines.len(), 4 + 6 + 1, "{repair}");
}

#[test]
fn masquerading_that_was_turned_off_goes() {
    let before = nat(&CONFIG);
    let after = nat(&FirewallConfig {
        masquerade: false,
        ..CONFIG
    });
    let want = "*nat\n\
         -D POSTROUTING -m comment --comment \"flanneld masq\" -j FLANNEL-POSTRTG\n\
         -F FLANNEL-POSTRTG\n-X FLANNEL-POSTRTG\nCOMMIT\n";
    let repair = after.repair(&saved(&before, &[], &[]));
    assert_eq!(repair.as_deref(), Some(want));
}

#[test]
fn removal_leaves_what_is_not_ours() {
    let before = nat(&CONFIG);
    let stranger = "-s 10.9.0.0/16 -m comment --comment \"someone else\" -j RETURN";
    let [none, _] = Wanted::none();
    let repair = none.repair(&saved(&before, &[stranger], &[])).unwrap();
    assert!(!repair.contains("someone else"), "{repair}");
    assert_eq!(repair.matches("\n-D ").count(), 2, "{repair}");
    assert_eq!(none.repair(&saved(&none, &[stranger], &[])), None);
    assert_eq!(none.repair(""), None);
}

#[test]
fn agents_of_two_networks_leave_each_other_alone() {
    let others = FirewallConfig {
        network: "10.6.0.0/16".parse().unwrap(),
        subnet: "10.6.1.0/24".parse().unwrap(),
        vni: 2,
        ..CONFIG
    };
    for table in 0..2 {
        let of = |config: &FirewallConfig, beside: &FirewallConfig| {
            let [nat, filter] = Wanted::all(config);
            let wanted = if table == 0 { nat } else { filter };
            wanted.beside(&[beside.network])
        };
        let (one, other) = (of(&CONFIG, &others), of(&others, &CONFIG));
        let mut kernel = Kernel::default();
        kernel.restore(&one.repair(&kernel.save(&one)).unwrap());
        assert_eq!(one.repair(&kernel.save(&one)), None);
        kernel.restore(&other.repair(&kernel.save(&one)).unwrap());
        let both = kernel.save(&one);
        assert_eq!(
            (one.repair(&both), other.repair(&both)),
            (None, None),
            "{both}"
        );
        for network in [CONFIG.network, others.network] {
            assert!(both.contains(&format!(" {network} ")), "{both}");
        }
        // The end of one leaves the other.
        let mut ended = Wanted::none().into_iter();
        let none = ended.nth(table).unwrap().beside(&[others.network]);
        kernel.restore(&none.repair(&both).unwrap());
        let left = kernel.save(&one);
        assert!(!left.contains("10.5."), "{left}");
        assert_eq!(other.repair(&left), None, "{left}");
    }
}

/// As much of `iptables-restore` as the repairs use.
#[derive(Default)]
struct Kernel(std::collections::BTreeMap<String, Vec<String>>);

impl Kernel {
    fn save(&self, wanted: &Wanted) -> String {
        let mut text = format!("*{}\n:{} ACCEPT [0:0]\n", wanted.table, wanted.parent);
        for chain in self.0.keys().filter(|chain| **chain != wanted.parent) {
            text.push_str(&format!(":{chain} - [0:0]\n"));
        }
        for (chain, rules) in &self.0 {
            for rule in rules {
                text.push_str(&format!("-A {chain} {rule}\n"));
            }
        }
        text
    }

    fn restore(&mut self, text: &str) {
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let (chain, rule) = rest.split_once(' ').unwrap_or((rest, ""));
            let rules = || self.0.get(chain).cloned().unwrap_or_default();
            let mut rules = rules();
            match word {
                "-A" => rules.push(rule.to_owned()),
                "-I" => rules.insert(0, rule.strip_prefix("1 ").unwrap().to_owned()),
                "-D" => {
                    let at = rules.iter().position(|other| other == rule).unwrap();
                    rules.remove(at);
                }
                "-F" => rules.clear(),
                "-X" => {
                    assert!(rules.is_empty());
                    self.0.remove(chain);
                    continue;
                }
                _ if word.starts_with(':') => {
                    self.0
                        .insert(word.trim_start_matches(':').to_owned(), Vec::new());
                    continue;
                }
                _ => continue,
            }
            self.0.insert(chain.to_owned(), rules);
        }
    }
}

#[test]
fn duplicates_and_flannels_older_rules_go() {
    let wanted = nat(&CONFIG);
    let jump = wanted.jump();
    let old = "-s 10.5.0.0/16 -d 10.5.0.0/16 -m comment --comment \"flanneld masq\" -j RETURN";
    let repair = wanted
        .repair(&saved(&wanted, &[], &[&jump, old, OWN]))
        .unwrap();
    let want = format!(
        "*nat\n\
         -D POSTROUTING {OWN}\n\
         -D POSTROUTING {jump}\n\
         -D POSTROUTING {old}\n\
         -D POSTROUTING {OWN}\n\
         -I POSTROUTING 1 {OWN}\n\
         COMMIT\n"
    );
    assert_eq!(repair, want);
}

/// With another interface by which containers of other nodes are reached.
#[test]
fn every_way_has_its_rule_and_loses_it() {
    let plain = nat(&CONFIG);
    let direct = nat(&FirewallConfig {
        direct: Some("eth0".to_owned()),
        ..CONFIG
    });
    let other = nat(&FirewallConfig {
        direct: Some("eth1".to_owned()),
        ..CONFIG
    });
    let own = |way: &str| OWN.replace("flannel.1", way);
    assert_eq!(direct.repair(&saved(&direct, &[], &[])), None);
    // What is missing, one by one and in order.
    let want = format!(
        "*nat\n-D POSTROUTING {OWN}\n-I POSTROUTING 1 {OWN}\n-I POSTROUTING 2 {}\nCOMMIT\n",
        own("eth0")
    );
    assert_eq!(direct.repair(&saved(&plain, &[], &[])), Some(want));
    // What is not wanted any more; the rest is not touched.
    let want = format!("*nat\n-D POSTROUTING {}\nCOMMIT\n", own("eth0"));
    assert_eq!(plain.repair(&saved(&direct, &[], &[])), Some(want));
    let repair = other.repair(&saved(&direct, &[], &[])).unwrap();
    assert!(
        repair.contains(&format!("-D POSTROUTING {}\n", own("eth0"))),
        "{repair}"
    );
    assert!(
        repair.contains(&format!("-I POSTROUTING 2 {}\n", own("eth1"))),
        "{repair}"
    );
    // A stranger between the two is overtaken, and one behind them is left there.
    let stranger = "-s 10.5.1.0/24 ! -o docker0 -j MASQUERADE";
    assert!(direct.repair(&saved(&direct, &[stranger], &[])).is_some());
    assert_eq!(direct.repair(&saved(&direct, &[], &[stranger])), None);
}
