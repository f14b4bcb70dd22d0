//! The rules as text, and what is repaired.

use super::*;

fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

fn lost(subnets: &[&str]) -> Lost {
    Lost {
        vni: 1,
        network: net("10.5.0.0/16"),
        direct: None,
        subnets: subnets.iter().map(|text| net(text)).collect(),
    }
}

const EMPTY: &str = "*mangle\n:PREROUTING ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\nCOMMIT\n";
const JUMP: &str = "-m comment --comment \"weft: drop_subnet_lost\" -j WEFT-LOST-1";

/// What `iptables-save` prints after a repair of an empty table.
fn saved(lost: &Lost) -> String {
    let repair = lost.repair(EMPTY).unwrap();
    let lines = repair.lines().map(|line| match line.strip_prefix("-I ") {
        Some(rest) => format!("-A {}", rest.replacen(" 1 ", " ", 1)),
        None => line.to_owned(),
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn what_bears_an_old_address_is_dropped_and_its_containers_keep_their_host() {
    let want = "*mangle
:WEFT-LOST-1 - [0:0]
-I FORWARD 1 -m comment --comment \"weft: drop_subnet_lost\" -j WEFT-LOST-1
-I INPUT 1 -m comment --comment \"weft: drop_subnet_lost\" -j WEFT-LOST-1
-I OUTPUT 1 -m comment --comment \"weft: drop_subnet_lost\" -j WEFT-LOST-1
-A WEFT-LOST-1 -d 10.5.9.0/24 -i flannel.1 -m comment --comment \"weft: drop_subnet_lost\" -j DROP
-A WEFT-LOST-1 -i flannel.1 -m comment --comment \"weft: drop_subnet_lost\" -j RETURN
-A WEFT-LOST-1 -s 10.5.9.0/24 -d 10.5.9.0/24 -m comment --comment \"weft: drop_subnet_lost\" -j RETURN
-A WEFT-LOST-1 -s 10.5.9.0/24 -d 10.5.0.0/16 -m comment --comment \"weft: drop_subnet_lost\" -j DROP
-A WEFT-LOST-1 -s 10.5.9.0/24 -o flannel.1 -m comment --comment \"weft: drop_subnet_lost\" -j DROP
COMMIT
";
    let one = lost(&["10.5.9.0/24"]);
    assert_eq!(one.repair(EMPTY).as_deref(), Some(want));
    assert_eq!(one.repair(&saved(&one)), None);
    let wire = Lost {
        direct: Some("eth0".to_owned()),
        ..one.clone()
    };
    let repair = wire.repair(&saved(&one)).unwrap();
    assert!(
        repair.contains("-s 10.5.0.0/16 -d 10.5.9.0/24 -i eth0 ")
            && repair.contains("-i eth0 -m comment --comment \"weft: drop_subnet_lost\" -j RETURN"),
        "{repair}"
    );
    assert!(!repair.contains("-I "), "{repair}");
}

#[test]
fn two_subnets_do_not_reach_each_other() {
    let both = lost(&["10.5.8.0/24", "10.5.9.0/24"]);
    let verdict = |source: &str, destination: &str| {
        let (source, destination) = (net(source), net(destination));
        let met = both.matches().into_iter().find(|rule| {
            let source = rule.source.is_none_or(|net| net.contains(&source));
            let destination = rule
                .destination
                .is_none_or(|net| net.contains(&destination));
            source && destination && rule.input.is_none() && rule.output.is_none()
        });
        met.is_some_and(|rule| rule.drops)
    };
    assert!(!verdict("10.5.9.2/32", "10.5.9.3/32"));
    assert!(verdict("10.5.9.2/32", "10.5.8.2/32"));
    assert!(verdict("10.5.8.2/32", "10.5.1.2/32"));
    assert!(!verdict("10.5.9.2/32", "192.0.2.1/32"));
    assert!(!verdict("10.5.1.2/32", "10.5.2.2/32"));
}

#[test]
fn what_a_stranger_does_is_repaired_and_what_is_over_goes() {
    let one = lost(&["10.5.9.0/24"]);
    let there = saved(&one);
    // Something before the jump, a second jump, a rule that is gone.
    let before = there.replacen("-A FORWARD ", "-A FORWARD -j ACCEPT\n-A FORWARD ", 1);
    let want = format!("*mangle\n-D FORWARD {JUMP}\n-I FORWARD 1 {JUMP}\nCOMMIT\n");
    assert_eq!(one.repair(&before), Some(want));
    let twice = there.replacen("-A INPUT ", &format!("-A INPUT {JUMP}\n-A INPUT "), 1);
    let want = format!("*mangle\n-D INPUT {JUMP}\n-D INPUT {JUMP}\n-I INPUT 1 {JUMP}\nCOMMIT\n");
    assert_eq!(one.repair(&twice), Some(want));
    let lines = there.lines().filter(|line| !line.contains("-o flannel.1"));
    let short = lines.collect::<Vec<_>>().join("\n");
    let repair = one.repair(&short).unwrap();
    assert!(repair.starts_with("*mangle\n:WEFT-LOST-1 - [0:0]\n-A WEFT-LOST-1 "));
    // Another network's jump may stand before ours, and stays.
    let other = JUMP.replace("LOST-1", "LOST-2");
    let beside = there.replacen(
        "-A FORWARD ",
        &format!("-A FORWARD {other}\n-A FORWARD "),
        1,
    );
    assert_eq!(one.repair(&beside), None);

    let none = lost(&[]);
    let repair = none.repair(&beside).unwrap();
    let want = format!(
        "*mangle\n-D FORWARD {JUMP}\n-D INPUT {JUMP}\n-D OUTPUT {JUMP}\n-F WEFT-LOST-1\n-X WEFT-LOST-1\nCOMMIT\n"
    );
    assert_eq!(repair, want);
    assert_eq!(none.repair(EMPTY), None);
}
