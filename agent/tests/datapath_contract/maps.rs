//! Pinned maps over restarts, and what bpftool shows of them.

use std::{collections::BTreeMap, fs};

use nix::sys::statfs::statfs;
use weft::datapath::{
    Datapath, DatapathState,
    ebpf::{
        EbpfDatapath,
        pins::{PinDir, pinned_shape},
    },
};
use weft_common::{
    abi,
    flow::{FLOW_NATED, FlowEntry},
};

use super::{
    kernel::{FLOWS, network, open, overflow},
    netns::{run, with_bpffs, without_bpffs},
    suite::{apply, content, flow, puts},
};

const NATED: FlowEntry = FlowEntry { why: FLOW_NATED };

/// A data path that holds something of everything, left behind by a process that ended.
fn leave_content() {
    let mut datapath = open();
    apply(&mut datapath, &puts(&content()));
    datapath.record_flow(&flow(1), NATED).unwrap();
    overflow(network(1));
}

#[test]
fn a_restart_adopts_the_maps() {
    with_bpffs(|| {
        leave_content();
        let mut second = open();
        assert_eq!(second.observe().unwrap(), content());
        assert_eq!(second.flows().unwrap(), BTreeMap::from([(flow(1), NATED)]));
        assert!(second.flows_full(true).unwrap());
    });
}

#[test]
fn a_pin_that_a_stranger_removed_comes_back_for_the_same_map() {
    with_bpffs(|| {
        leave_content();
        let mut datapath = open();
        assert_eq!(datapath.keep_pins().unwrap(), 0);
        let pins = PinDir::new(network(1));
        fs::remove_file(pins.map(abi::PEERS)).unwrap();
        fs::remove_file(pins.map(abi::FLOWS)).unwrap();
        assert_eq!(datapath.keep_pins().unwrap(), 2);
        drop(datapath);
        let second = open();
        assert_eq!(second.observe().unwrap(), content());
        assert_eq!(second.flows().unwrap(), BTreeMap::from([(flow(1), NATED)]));
    });
}

#[test]
fn networks_do_not_share_maps() {
    with_bpffs(|| {
        leave_content();
        let other = EbpfDatapath::open(network(2), FLOWS).unwrap();
        assert_eq!(other.observe().unwrap(), DatapathState::default());
        PinDir::new(network(2)).remove().unwrap();
        assert_eq!(open().observe().unwrap(), content());
        PinDir::new(network(1)).remove().unwrap();
        assert!(!fs::exists("/sys/fs/bpf/weft").unwrap());
    });
}

#[test]
fn a_map_of_another_shape_is_replaced_and_the_rest_kept() {
    // Another type, another key, another value, another capacity.
    for planted in [
        "hash key 8 value 36 entries 16384",
        "lpm_trie key 8 value 40 entries 16384",
        "lpm_trie key 20 value 36 entries 16384",
        "lpm_trie key 8 value 36 entries 8",
    ] {
        with_bpffs(move || {
            leave_content();
            let path = PinDir::new(network(1)).map(abi::PEERS);
            let right = pinned_shape(&path).unwrap().unwrap();
            fs::remove_file(&path).unwrap();
            let map = path.display();
            // A trie takes only the flag that says it is not allocated beforehand.
            run(&format!(
                "bpftool map create {map} type {planted} name planted flags 1"
            ));
            assert_ne!(pinned_shape(&path).unwrap().unwrap(), right, "{planted}");
            let mut second = open();
            assert_eq!(pinned_shape(&path).unwrap().unwrap(), right, "{planted}");
            let mut want = content();
            want.peers.clear();
            assert_eq!(second.observe().unwrap(), want, "{planted}");
            assert_eq!(second.flows().unwrap().len(), 1);
            apply(&mut second, &puts(&content()));
            assert_eq!(second.observe().unwrap(), content(), "{planted}");
        });
    }
}

#[test]
fn a_record_with_more_room_is_adopted_and_one_with_less_replaced() {
    with_bpffs(|| {
        leave_content();
        let path = PinDir::new(network(1)).map(abi::FLOWS);
        let room = || pinned_shape(&path).unwrap().unwrap().entries;
        for (asked, has, flows) in [
            (FLOWS, FLOWS, 1),
            (FLOWS / 2, FLOWS, 1),
            (FLOWS * 2, FLOWS * 2, 0),
            (FLOWS, FLOWS * 2, 0),
        ] {
            let datapath = EbpfDatapath::open(network(1), asked).unwrap();
            assert_eq!(room(), has, "asked for {asked}");
            assert_eq!(datapath.flows().unwrap().len(), flows, "asked for {asked}");
            assert_eq!(datapath.observe().unwrap(), content());
        }
    });
}

#[test]
fn a_full_record_is_an_error_with_its_number() {
    with_bpffs(|| {
        let mut datapath = open();
        let error = (0..=u16::try_from(FLOWS).unwrap())
            .find_map(|port| datapath.record_flow(&flow(port), NATED).err())
            .unwrap();
        assert_eq!(error.errno, Some(libc::E2BIG), "{error}");
        assert_eq!(datapath.flows().unwrap().len(), FLOWS as usize);
        datapath.forget_flow(&flow(0)).unwrap();
        datapath.record_flow(&flow(1000), NATED).unwrap();
    });
}

#[test]
fn a_missing_bpf_file_system_is_mounted() {
    without_bpffs(|| {
        const BPF_FS_MAGIC: i64 = 0xcafe_4a11;
        let magic = || statfs("/sys/fs/bpf").unwrap().filesystem_type().0;
        assert_ne!(magic(), BPF_FS_MAGIC);
        leave_content();
        assert_eq!(magic(), BPF_FS_MAGIC);
        // Once is enough: a second mount would hide the pins.
        assert_eq!(open().observe().unwrap(), content());
    });
}

#[test]
fn bpftool_shows_names() {
    with_bpffs(|| {
        leave_content();
        let pins = PinDir::new(network(1));
        for (map, names) in [
            (abi::PEERS, &["subnet", "vtep_addr", "vtep_mac"][..]),
            (abi::ENDPOINTS, &["ifindex", "bridge_mac"]),
            (abi::SETTINGS, &["port_min", "vtep_mac"]),
            (abi::FLOWS, &["local_port", "why"]),
        ] {
            let dump = run(&format!(
                "bpftool --json map dump pinned {}",
                pins.map(map).display()
            ));
            for name in names {
                assert!(dump.contains(&format!("\"{name}\":")), "{map}: {dump}");
            }
        }
    });
}
