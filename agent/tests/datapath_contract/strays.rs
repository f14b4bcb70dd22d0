//! Programs of ours that no pin in reach leads to: under another bpffs, and copies.

use std::{collections::BTreeSet, fs, path::PathBuf};

use weft::datapath::{
    Attachment, Datapath as _, DatapathOp,
    ebpf::{Way, leftovers, pins::PinDir},
};
use weft_common::{settings::DatapathSettings, stats::Hook};

use super::{
    kernel::{at, device, holder, ids, network, open_by, ways},
    links::{attach, attached, sweep},
    netns::{run, with_bpffs},
    suite::{apply, content, puts, settings},
};

/// Runs a test where the kernel has links at devices at all.
fn by_links(test: impl FnOnce() + Send + 'static) {
    if ways().contains(&Way::Tcx) {
        with_bpffs(test);
    } else {
        println!("NOT TRIED by TCX: a kernel before 6.6");
    }
}

fn pin_of(at: &Attachment) -> PathBuf {
    PinDir::new(network(1)).link(at.hook, at.link)
}

#[test]
fn another_bpffs_over_ours_costs_no_link_and_makes_no_second_program() {
    by_links(|| {
        device("one0");
        let all = [Hook::FromUplink, Hook::ToContainer].map(|hook| at(hook, "one0"));
        let mut first = open_by(Way::Tcx, 1);
        apply(&mut first, &puts(&content()));
        all.iter().for_each(|at| attach(&mut first, at));
        let links = all.clone().map(|at| holder(Way::Tcx, &at));
        // The one who runs pins again what is hidden, and packets never miss a program.
        run("mount -t bpf none /sys/fs/bpf");
        assert!(attached(&first).is_empty());
        assert!(first.keep_pins().unwrap() > 0);
        all.iter().for_each(|at| attach(&mut first, at));
        assert_eq!(attached(&first), BTreeSet::from(all.clone()));
        assert_eq!(all.clone().map(|at| holder(Way::Tcx, &at)), links);
        drop(first);
        // Who starts where nothing is pinned finds the links by their numbers.
        run("mount -t bpf none /sys/fs/bpf");
        let mut second = open_by(Way::Tcx, 1);
        all.iter().for_each(|at| attach(&mut second, at));
        for (at, (link, program)) in all.iter().zip(links) {
            let (same, other) = holder(Way::Tcx, at);
            assert_eq!((same, ids(at)), (link, vec![other]));
            assert_ne!(other, program);
        }
        assert_eq!(sweep(&mut second), 0);
        run("umount /sys/fs/bpf");
        run("umount /sys/fs/bpf");
    });
}

#[test]
fn copies_of_our_programs_go_and_others_stay() {
    by_links(|| {
        device("one0");
        let at = at(Hook::FromUplink, "one0");
        let mut stale = open_by(Way::Tcx, 1);
        apply(&mut stale, &puts(&content()));
        attach(&mut stale, &at);
        // In a filter of a priority that is nobody's, as an upgrade that went wrong leaves it.
        let program = ids(&at)[0];
        run(&format!("bpftool prog pin id {program} /sys/fs/bpf/stale"));
        run("tc qdisc add dev one0 clsact");
        run(
            "tc filter add dev one0 ingress pref 9 bpf direct-action object-pinned /sys/fs/bpf/stale",
        );
        run("tc filter add dev one0 ingress pref 7 protocol ip u32 match u32 0 0 flowid 1:1");
        fs::remove_file("/sys/fs/bpf/stale").unwrap();
        // Another network's, at the same device.
        let mut theirs = open_by(Way::Tcx, 2);
        let settings = DatapathSettings {
            vni: 2,
            ..settings()
        };
        apply(&mut theirs, &[DatapathOp::PutSettings(settings)]);
        attach(&mut theirs, &at);
        assert_eq!(ids(&at).len(), 3);
        // A second one of ours in the chain: its pin goes, and somebody holds it.
        fs::remove_file(pin_of(&at)).unwrap();
        let mut ours = open_by(Way::Tcx, 1);
        fs::remove_file(pin_of(&at)).unwrap();
        attach(&mut ours, &at);
        assert_eq!(ids(&at).len(), 4);
        assert_eq!(sweep(&mut ours), 2);
        let left = ids(&at);
        assert!(left.contains(&holder(Way::Tcx, &at).1) && !left.contains(&program));
        assert_eq!(left.len(), 2, "and the other network's");
        assert_eq!(attached(&theirs), BTreeSet::from([at.clone()]));
        let filters = run("tc filter show dev one0 ingress");
        assert!(
            filters.contains("u32") && !filters.contains("pref 9"),
            "{filters}"
        );
        assert_eq!(sweep(&mut ours), 0);
        // What is cleaned up leaves nothing, pinned or not.
        fs::remove_file(pin_of(&at)).unwrap();
        assert!(leftovers::remove(network(1)).unwrap());
        assert_eq!(ids(&at).len(), 1);
    });
}
