//! Attached programs over restarts, devices that come and go, and strangers; by TCX and by clsact.

use std::{
    collections::BTreeSet,
    fs,
    net::UdpSocket,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use weft::datapath::{
    Attachment, Datapath, DatapathOp,
    ebpf::{EbpfDatapath, Way, leftovers, pins::PinDir},
};
use weft_common::stats::{Hook, Reason};

use super::{
    kernel::{at, device, each_way, holder, ids, index_of, network, open_by},
    netns::{run, undisturbed},
    suite::{apply, content, puts},
};

pub fn attach(datapath: &mut EbpfDatapath, at: &Attachment) {
    undisturbed(|| datapath.apply(&DatapathOp::Attach(at.clone()))).unwrap();
}

fn detach(datapath: &mut EbpfDatapath, at: &Attachment) {
    undisturbed(|| datapath.apply(&DatapathOp::Detach(at.clone()))).unwrap();
}

pub fn sweep(datapath: &mut EbpfDatapath) -> usize {
    undisturbed(|| datapath.sweep()).unwrap()
}

pub fn attached(datapath: &EbpfDatapath) -> BTreeSet<Attachment> {
    datapath.observe().unwrap().attachments
}

#[test]
fn a_restart_replaces_the_program_and_keeps_the_link() {
    each_way(|way| {
        device("one0");
        for hook in Hook::ALL {
            let at = at(*hook, "one0");
            let mut first = open_by(way, 1);
            apply(&mut first, &puts(&content()));
            attach(&mut first, &at);
            let (link, program) = holder(way, &at);
            assert!(ids(&at).contains(&program));
            drop(first);
            assert_eq!(
                holder(way, &at),
                (link, program),
                "the end detaches nothing"
            );
            let mut second = open_by(way, 1);
            assert_eq!(holder(way, &at), (link, program), "neither does a start");
            assert!(attached(&second).is_empty());
            attach(&mut second, &at);
            let (same, other) = holder(way, &at);
            assert_eq!(same, link, "one link all along, so never a gap");
            assert_ne!(other, program);
            assert!(ids(&at).contains(&other) && !ids(&at).contains(&program));
            let mut want = content();
            want.attachments.insert(at.clone());
            assert_eq!(second.observe().unwrap(), want);
            detach(&mut second, &at);
            assert!(ids(&at).is_empty());
        }
    });
}

#[test]
fn what_a_device_leaves_behind_is_seen_and_removed() {
    each_way(|way| {
        device("one0");
        let mut datapath = open_by(way, 1);
        let port = at(Hook::FromContainer, "one0");
        attach(&mut datapath, &port);
        assert!(datapath.observe().unwrap().dead.is_empty());
        run("ip link delete one0");
        let seen = datapath.observe().unwrap();
        assert!(seen.attachments.is_empty(), "{seen:?}");
        assert_eq!(seen.dead, BTreeSet::from([port.clone()]));
        let pin = PinDir::new(network(1)).link(port.hook, port.link);
        assert_eq!(pin.exists(), way == Way::Tcx);
        detach(&mut datapath, &port);
        assert!(datapath.observe().unwrap().dead.is_empty());
        assert!(!pin.exists());
    });
}

#[test]
fn a_device_made_again_is_attached_anew() {
    each_way(|way| {
        device("one0");
        let before = at(Hook::FromUplink, "one0");
        let mut datapath = open_by(way, 1);
        attach(&mut datapath, &before);
        // Under the same number a pin is still there, with a dead link behind it; a filter is not.
        let remake = || {
            let index = index_of("one0");
            run("ip link del one0");
            run(&format!(
                "ip link add one0 index {index} type veth peer name peer-one0"
            ));
            assert_eq!(index_of("one0"), index);
        };
        remake();
        let pin = PinDir::new(network(1)).link(before.hook, before.link);
        assert_eq!(pin.exists(), way == Way::Tcx);
        assert!(attached(&datapath).is_empty());
        attach(&mut datapath, &before);
        assert_eq!(attached(&datapath), BTreeSet::from([before.clone()]));
        assert_eq!(ids(&before).len(), 1);
        drop(datapath);
        // The same over a restart, where only the pin is left to know it by.
        remake();
        let mut second = open_by(way, 1);
        attach(&mut second, &before);
        assert_eq!(attached(&second), BTreeSet::from([before.clone()]));
        assert_eq!(ids(&before), [holder(way, &before).1]);
        drop(second);
        // And under another number: the old pin is nobody's, and goes with the sweep.
        run("ip link del one0");
        device("fill0");
        device("one0");
        let after = at(Hook::FromUplink, "one0");
        assert_ne!(after.link, before.link);
        let mut third = open_by(way, 1);
        attach(&mut third, &after);
        assert_eq!(sweep(&mut third), usize::from(way == Way::Tcx));
        assert_eq!(attached(&third), BTreeSet::from([after]));
        assert!(!pin.exists());
    });
}

#[test]
fn a_renamed_device_is_no_longer_the_one_attached_to() {
    each_way(|way| {
        device("one0");
        let before = at(Hook::FromUplink, "one0");
        let mut datapath = open_by(way, 1);
        attach(&mut datapath, &before);
        run("ip link set one0 down");
        run("ip link set one0 name new0");
        assert!(attached(&datapath).is_empty());
        let after = at(Hook::FromUplink, "new0");
        attach(&mut datapath, &after);
        assert_eq!(attached(&datapath), BTreeSet::from([after.clone()]));
        assert_eq!(ids(&after).len(), 1);
    });
}

#[test]
fn a_missing_device_is_an_error_and_leaves_nothing() {
    each_way(|way| {
        let mut datapath = open_by(way, 1);
        let nowhere = Attachment {
            hook: Hook::FromUplink,
            link: 77.try_into().unwrap(),
            name: "none0".to_owned(),
        };
        let error = datapath
            .apply(&DatapathOp::Attach(nowhere.clone()))
            .unwrap_err();
        assert_eq!(error.errno, Some(libc::ENODEV), "{error}");
        assert!(attached(&datapath).is_empty());
        assert!(PinDir::new(network(1)).links().unwrap().is_empty());
        datapath.apply(&DatapathOp::Detach(nowhere)).unwrap();
    });
}

#[test]
fn what_a_stranger_removed_is_noticed() {
    each_way(|way| {
        device("one0");
        let at = at(Hook::FromUplink, "one0");
        let mut datapath = open_by(way, 1);
        attach(&mut datapath, &at);
        let left = match way {
            Way::Tcx => {
                fs::remove_file(PinDir::new(network(1)).link(at.hook, at.link)).unwrap();
                // The program hangs there as long as we live.
                1
            }
            Way::Clsact => {
                run("tc filter del dev one0 ingress");
                0
            }
        };
        assert!(attached(&datapath).is_empty());
        assert_eq!(ids(&at).len(), left);
        attach(&mut datapath, &at);
        assert_eq!(attached(&datapath), BTreeSet::from([at.clone()]));
        assert_eq!(ids(&at), [holder(way, &at).1]);
    });
}

#[test]
fn a_sweep_takes_off_what_was_not_attached_again() {
    each_way(|way| {
        for name in ["one0", "two0", "gone0"] {
            device(name);
        }
        let all = [
            at(Hook::FromUplink, "one0"),
            at(Hook::ToContainer, "one0"),
            at(Hook::FromUplink, "two0"),
            at(Hook::FromContainer, "gone0"),
        ];
        let mut first = open_by(way, 1);
        all.iter().for_each(|at| attach(&mut first, at));
        assert_eq!(sweep(&mut first), 0);
        drop(first);
        run("ip link del gone0");
        let mut second = open_by(way, 1);
        attach(&mut second, &all[0]);
        // A filter goes with its device.
        let swept = if way == Way::Tcx { 3 } else { 2 };
        assert_eq!(sweep(&mut second), swept);
        assert_eq!(attached(&second), BTreeSet::from([all[0].clone()]));
        assert_eq!(ids(&all[0]).len(), 1);
        assert!(ids(&all[1]).is_empty() && ids(&all[2]).is_empty());
        let left = match way {
            Way::Tcx => PinDir::new(network(1)).links().unwrap().len(),
            Way::Clsact => leftovers::filters(network(1)).unwrap().len(),
        };
        assert_eq!(left, 1);
        assert_eq!(sweep(&mut second), 0);
    });
}

#[test]
fn what_is_taken_off_is_off_at_once() {
    each_way(|way| {
        device("one0");
        let at = at(Hook::FromUplink, "one0");
        for _ in 0..3 {
            let mut datapath = open_by(way, 1);
            for _ in 0..50 {
                attach(&mut datapath, &at);
                detach(&mut datapath, &at);
                assert!(ids(&at).is_empty(), "after a detach");
            }
            attach(&mut datapath, &at);
            drop(datapath);
            let mut second = open_by(way, 1);
            assert_eq!(sweep(&mut second), 1);
            assert!(ids(&at).is_empty(), "after a sweep");
            attach(&mut second, &at);
            drop(second);
            detach(&mut open_by(way, 1), &at);
            assert!(ids(&at).is_empty(), "after the detach of an earlier run's");
        }
    });
}

#[test]
fn another_program_at_the_same_place_sees_every_packet_too() {
    each_way(|way| {
        device("one0");
        run("ip addr add 192.0.2.2/24 dev peer-one0");
        let at = at(Hook::FromUplink, "one0");
        let mut ours = open_by(way, 1);
        let mut other = open_by(way, 2);
        attach(&mut other, &at);
        attach(&mut ours, &at);
        assert_eq!(ids(&at).len(), 2);
        let met = |datapath: &EbpfDatapath| {
            let counters = datapath.counters().unwrap();
            let count = counters.get(&(Hook::FromUplink, Reason::NotReady));
            count.map_or(0, |count| count.packets)
        };
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.set_broadcast(true).unwrap();
        setsockopt(&socket, BindToDevice, &"peer-one0".into()).unwrap();
        let before = (met(&ours), met(&other));
        let deadline = Instant::now() + Duration::from_secs(5);
        while met(&ours) == before.0 || met(&other) == before.1 {
            assert!(Instant::now() < deadline, "a packet stopped at the first");
            socket.send_to(b"all", "192.0.2.255:9").unwrap();
        }
        detach(&mut ours, &at);
        assert_eq!(ids(&at).len(), 1);
        assert_eq!(attached(&other), BTreeSet::from([at]));
    });
}
