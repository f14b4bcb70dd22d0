//! When readiness and the file are given out, and how long a status gets.

use super::*;
use crate::outputs::subnet_env::SubnetEnv;

/// Whoever starts containers by the file, or by readiness, must find all in place.
#[tokio::test(start_paused = true)]
async fn nobody_is_told_to_start_before_the_rules_were_tried() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("subnet.env");
    let env = SubnetEnv {
        network: "10.1.0.0/16".parse().unwrap(),
        subnet: "10.1.2.0/24".parse().unwrap(),
        mtu: 1450.try_into().unwrap(),
        ip_masq: true,
    };
    let (told, mut status) = watch::channel(Status::default());
    let (reports, report) = watch::channel(Report::default());
    let (_way, way) = watch::channel(Health::default());
    let (_kept, kept) = watch::channel(0);
    let (_narrow, paths) = watch::channel(Narrow::default());
    let (_outcome, lease) = watch::channel(OwnLease::Held);
    let (rules_tried, rules) = watch::channel(None);
    let (_network, network) = watch::channel(Ok("as it was".to_owned()));
    let file = SubnetFile::new(path.clone(), env);
    let (way, words) = ((way, kept, paths), (rules, network));
    tokio::spawn(tell(
        told,
        Status::default(),
        file,
        report,
        way,
        lease,
        words,
    ));
    let mut next = async || {
        status.changed().await.unwrap();
        let now = status.borrow_and_update().clone();
        (now.ready, path.exists(), now.table())
    };
    let (ready, written, _) = next().await;
    assert_eq!((ready, written), (false, false));
    reports.send_modify(|report| report.complete = true);
    let (ready, written, table) = next().await;
    assert_eq!((ready, written), (false, false), "{table}");
    assert!(table.contains("rules not looked at yet"), "{table}");
    // Those that cannot be made are no reason to wait for ever, and are told.
    rules_tried.send_replace(Some(Err("no iptables".to_owned())));
    let (ready, written, table) = next().await;
    assert_eq!((ready, written), (true, true), "{table}");
    assert!(table.starts_with("ready, degraded"), "{table}");
    rules_tried.send_replace(Some(Ok("in place".to_owned())));
    let (ready, _, table) = next().await;
    assert!(ready && table.contains("in place"), "{table}");
    reports.send_modify(|report| report.complete = false);
    assert!(!next().await.0);
}

/// Names that scripts and people look for, and whether the node may be used.
#[test]
fn each_state_of_the_lease_has_its_name_and_its_readiness() {
    let told = |lease: OwnLease| Told {
        report: Report {
            complete: true,
            ..Report::default()
        },
        way: Health::default(),
        kept: 0,
        narrow: Narrow::default(),
        lease,
        rules: Some(Ok(String::new())),
        network: Ok(String::new()),
        subnet_file: Ok(String::new()),
    };
    let silent = OwnLease::Unconfirmed {
        since: "2026-01-01T00:00:00Z".to_owned(),
        why: "no answer".to_owned(),
    };
    for (lease, ready, ok, said) in [
        (OwnLease::Held, true, true, "held"),
        (
            silent,
            true,
            false,
            "degraded: lease unconfirmed since 2026-01-01T00:00:00Z: no answer",
        ),
        (
            OwnLease::Missing("gone".to_owned()),
            false,
            false,
            "lease_missing: gone",
        ),
        (
            OwnLease::Lost("by".to_owned()),
            false,
            false,
            "subnet_lost: by",
        ),
        (
            OwnLease::Conflict("two".to_owned()),
            false,
            false,
            "public_ip_conflict: two",
        ),
    ] {
        let status = status(&Status::default(), &told(lease));
        assert_eq!(status.ready, ready, "{said}");
        let part = status.components.iter().find(|part| part.name == "lease");
        let part = part.expect("the lease");
        assert_eq!((part.ok, part.detail.as_str()), (ok, said));
    }
}

#[test]
fn long_lists_are_cut_off_and_short_ones_are_whole() {
    assert_eq!(listed::<u8, u8>([]), "none");
    assert_eq!(listed([(1, 2), (3, 4)]), "1: 2; 3: 4");
    let names = |count: usize| some(0..count, ", ");
    assert!(names(NAMED).ends_with(", 18, 19"));
    assert!(names(10_000).ends_with(", 18, 19, and 9980 more"));
}
