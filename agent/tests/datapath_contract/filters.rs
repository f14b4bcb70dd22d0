//! Attaching as classic filters: what others have at a device stays, and a change of the way
//! leaves nothing behind.

use std::{
    collections::BTreeSet,
    net::UdpSocket,
    time::{Duration, Instant},
};

use nix::sys::socket::{setsockopt, sockopt::BindToDevice};
use weft::{
    datapath::{
        Attachment, Datapath, DatapathOp,
        ebpf::{EbpfDatapath, Way, leftovers, pins::PinDir},
    },
    netlink::{Netlink, kernel::Rtnetlink},
};
use weft_common::stats::Hook;

use super::{
    kernel::{at, device, ids, network, open_by, ways},
    netns::{run, undisturbed, with_bpffs},
};

fn attach(datapath: &mut EbpfDatapath, at: &Attachment) {
    datapath.apply(&DatapathOp::Attach(at.clone())).unwrap();
}

fn detach(datapath: &mut EbpfDatapath, at: &Attachment) {
    datapath.apply(&DatapathOp::Detach(at.clone())).unwrap();
}

fn qdiscs(name: &str) -> String {
    run(&format!("tc qdisc show dev {name}"))
}

fn filters(name: &str) -> String {
    run(&format!("tc filter show dev {name} ingress"))
}

/// Adds a filter of others that every IPv4 packet matches.
fn stranger(priority: u16) -> String {
    format!("tc filter add dev one0 ingress prio {priority} protocol ip u32 match u32 0 0")
}

#[test]
fn the_other_ways_programs_go_with_the_sweep() {
    if let [Way::Clsact] = ways()[..] {
        println!("NOT TRIED: a kernel before 6.6 has one way alone");
        return;
    }
    for (before, after) in [(Way::Tcx, Way::Clsact), (Way::Clsact, Way::Tcx)] {
        with_bpffs(move || {
            device("one0");
            let both = [Hook::FromUplink, Hook::ToContainer].map(|hook| at(hook, "one0"));
            let mut first = open_by(before, 1);
            both.iter().for_each(|at| attach(&mut first, at));
            drop(first);
            let mut second = open_by(after, 1);
            both.iter().for_each(|at| attach(&mut second, at));
            // Never none: the old ones stay until the new ones hang.
            both.iter().for_each(|at| assert_eq!(ids(at).len(), 2));
            assert_eq!(undisturbed(|| second.sweep()).unwrap(), 2);
            both.iter().for_each(|at| assert_eq!(ids(at).len(), 1));
            assert_eq!(second.observe().unwrap().attachments, BTreeSet::from(both));
            let is_clsact = after == Way::Clsact;
            assert_eq!(qdiscs("one0").contains("clsact"), is_clsact);
        });
    }
}

#[test]
fn the_qdisc_goes_with_the_last_filter_if_it_was_ours() {
    with_bpffs(|| {
        device("one0");
        device("two0");
        run("tc qdisc add dev two0 clsact");
        let mut datapath = open_by(Way::Clsact, 1);
        for name in ["one0", "two0"] {
            attach(&mut datapath, &at(Hook::FromUplink, name));
            attach(&mut datapath, &at(Hook::ToContainer, name));
            detach(&mut datapath, &at(Hook::FromUplink, name));
            assert_eq!(ids(&at(Hook::ToContainer, name)).len(), 1);
        }
        for name in ["one0", "two0"] {
            detach(&mut datapath, &at(Hook::ToContainer, name));
        }
        assert!(!qdiscs("one0").contains("clsact"));
        assert!(qdiscs("two0").contains("clsact"));
        // A filter of others in a qdisc of ours keeps it.
        attach(&mut datapath, &at(Hook::FromUplink, "one0"));
        run(&stranger(7));
        detach(&mut datapath, &at(Hook::FromUplink, "one0"));
        assert!(filters("one0").contains("u32"));
        // And without it, over a restart, the qdisc goes.
        drop(datapath);
        run("tc filter del dev one0 ingress prio 7");
        assert!(leftovers::remove(network(1)).unwrap());
        assert!(!qdiscs("one0").contains("clsact"));
        assert!(qdiscs("two0").contains("clsact"));
    });
}

#[test]
fn a_network_is_removed_without_its_neighbours() {
    with_bpffs(|| {
        device("one0");
        let uplink = at(Hook::FromUplink, "one0");
        let mut one = open_by(Way::Clsact, 1);
        let mut two = open_by(Way::Clsact, 2);
        attach(&mut one, &uplink);
        attach(&mut two, &uplink);
        run(&stranger(7));
        drop((one, two));
        assert!(leftovers::are_there(network(1)));
        assert!(leftovers::remove(network(1)).unwrap());
        assert!(!leftovers::are_there(network(1)));
        assert!(!PinDir::new(network(1)).path().exists());
        assert!(!leftovers::remove(network(1)).unwrap(), "once is enough");
        assert_eq!(leftovers::filters(network(2)).unwrap().len(), 1);
        assert_eq!(ids(&uplink).len(), 1);
        assert!(filters("one0").contains("u32"));
        // The qdisc that the first one made is now the second one's to remove.
        run("tc filter del dev one0 ingress prio 7");
        assert!(leftovers::remove(network(2)).unwrap());
        assert!(!qdiscs("one0").contains("clsact"));
    });
}

#[test]
fn our_filters_are_not_foreign_and_pass_packets_on() {
    with_bpffs(|| {
        device("one0");
        device("two0");
        run("ip addr add 192.0.2.2/24 dev peer-one0");
        let mut datapath = open_by(Way::Clsact, 1);
        for hook in Hook::ALL {
            attach(&mut datapath, &at(*hook, "one0"));
        }
        let foreign = || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            let host = runtime.block_on(async { Rtnetlink::new().unwrap().observe().await });
            host.unwrap().filters
        };
        assert!(foreign().is_empty());
        // Behind ours: it is asked only if ours say "go on".
        run(&format!(
            "{} action mirred egress mirror dev two0",
            stranger(65000)
        ));
        assert_eq!(foreign().len(), 1);
        let socket = UdpSocket::bind("192.0.2.2:0").unwrap();
        socket.set_broadcast(true).unwrap();
        setsockopt(&socket, BindToDevice, &"peer-one0".into()).unwrap();
        let deadline = Instant::now() + Duration::from_secs(5);
        let mirrored = || {
            let shown = run("tc -s filter show dev one0 ingress");
            let sent = shown.split_once("Sent ").unwrap().1.to_owned();
            !sent.starts_with("0 bytes")
        };
        while !mirrored() {
            assert!(Instant::now() < deadline, "a packet stopped at ours");
            socket.send_to(b"all", "192.0.2.255:9").unwrap();
        }
    });
}

#[test]
fn the_qdisc_ingress_of_others_will_do_for_one_side() {
    with_bpffs(|| {
        device("one0");
        run("tc qdisc add dev one0 ingress");
        let mut datapath = open_by(Way::Clsact, 1);
        let inward = at(Hook::FromUplink, "one0");
        attach(&mut datapath, &inward);
        // There is no other side: the kernel would put it among those of this one.
        let outward = DatapathOp::Attach(at(Hook::ToContainer, "one0"));
        let error = datapath.apply(&outward).unwrap_err();
        assert!(error.to_string().contains("clsact"), "{error}");
        assert_eq!(ids(&inward).len(), 1);
        let attached = datapath.observe().unwrap().attachments;
        assert_eq!(attached, BTreeSet::from([inward.clone()]));
        detach(&mut datapath, &inward);
        assert!(qdiscs("one0").contains("ingress"));
    });
}
