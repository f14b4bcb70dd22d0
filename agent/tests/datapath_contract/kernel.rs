//! Devices, pins and kernel objects of one test's namespaces.

use aya::{
    maps::{Array, Map, MapData},
    programs::{
        SchedClassifier, TcAttachType,
        links::{FdLink, PinnedLink},
    },
};
use nix::net::if_::if_nametoindex;
use weft::{
    datapath::{
        Attachment,
        ebpf::{AttachBy, EbpfDatapath, Way, leftovers, pins::PinDir},
    },
    model::net::{IfIndex, Vni},
};
use weft_common::{abi, flow::FlowState, stats::Hook};

use super::netns::{run, with_bpffs};

/// Capacity of the flow record in these tests.
pub const FLOWS: u32 = 64;

pub fn network(vni: u64) -> Vni {
    vni.try_into().unwrap()
}

pub fn open() -> EbpfDatapath {
    EbpfDatapath::open(network(1), FLOWS).unwrap()
}

pub fn open_by(way: Way, vni: u64) -> EbpfDatapath {
    let by = match way {
        Way::Tcx => AttachBy::Tcx,
        Way::Clsact => AttachBy::Clsact,
    };
    let datapath = EbpfDatapath::open_by(network(vni), FLOWS, by).unwrap();
    assert_eq!(datapath.way(), way);
    datapath
}

/// The ways to attach that this kernel must have. By its version, not by what it answers: that
/// TCX is found is part of what is tested.
pub fn ways() -> Vec<Way> {
    let release = nix::sys::utsname::uname().unwrap();
    let release = release.release().to_str().unwrap().to_owned();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|word| word.parse::<u32>().ok());
    let version = (numbers.next().unwrap(), numbers.next().unwrap());
    if version >= (6, 6) {
        return vec![Way::Tcx, Way::Clsact];
    }
    vec![Way::Clsact]
}

/// Runs a test by each way, in fresh namespaces.
pub fn each_way(test: impl FnOnce(Way) + Send + Copy + 'static) {
    let ways = ways();
    if !ways.contains(&Way::Tcx) {
        println!("NOT TRIED by TCX: a kernel before 6.6");
    }
    for way in ways {
        println!("by {way}");
        with_bpffs(move || test(way));
    }
}

/// One end of a new veth pair; the other has `peer-` in front of its name. Both are up.
pub fn device(name: &'static str) -> (&'static str, IfIndex) {
    run(&format!(
        "ip link add {name} type veth peer name peer-{name}"
    ));
    run(&format!("ip link set peer-{name} up"));
    run(&format!("ip link set {name} up"));
    (name, index_of(name))
}

pub fn index_of(name: &str) -> IfIndex {
    if_nametoindex(name).unwrap().try_into().unwrap()
}

pub fn at(hook: Hook, name: &str) -> Attachment {
    Attachment {
        hook,
        link: index_of(name),
        name: name.to_owned(),
    }
}

/// Numbers of the programs at a hook's place, by whichever way, as others see them.
pub fn ids(at: &Attachment) -> Vec<u32> {
    let (direction, side) = match at.hook {
        Hook::ToContainer | Hook::ToOverlay => (TcAttachType::Egress, "egress"),
        Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => {
            (TcAttachType::Ingress, "ingress")
        }
    };
    let chain = SchedClassifier::query_tcx(&at.name, direction).map(|(_, chain)| chain);
    let mut ids: Vec<u32> = match chain {
        Ok(chain) => chain.iter().map(|program| program.id()).collect(),
        Err(_) if !ways().contains(&Way::Tcx) => Vec::new(),
        Err(error) => panic!("{error}"),
    };
    let name = &at.name;
    let filters = run(&format!("tc filter show dev {name} {side}"));
    ids.extend(filters.lines().filter_map(|line| {
        let rest = line.split_once(" id ")?.1;
        rest.split(' ').next()?.parse::<u32>().ok()
    }));
    ids
}

/// What stays over a restart, and the number of the program behind it: the pinned link, or the
/// filter of that handle.
pub fn holder(way: Way, at: &Attachment) -> (u32, u32) {
    match way {
        Way::Tcx => pinned(at),
        Way::Clsact => {
            let mut filters = leftovers::filters(network(1)).unwrap();
            filters.retain(|(hook, place)| *hook == at.hook && place.link == at.link);
            let [(_, place)] = filters[..] else {
                panic!("not one filter: {filters:?}");
            };
            (place.handle, ids(at)[0])
        }
    }
}

fn pinned(at: &Attachment) -> (u32, u32) {
    let path = PinDir::new(network(1)).link(at.hook, at.link);
    let link = FdLink::from(PinnedLink::from_pin(path).unwrap());
    let info = link.info().unwrap();
    (info.id(), info.program_id())
}

/// Says what a program says when the record has no room.
pub fn overflow(vni: Vni) {
    let path = PinDir::new(vni).map(abi::FLOW_STATE);
    let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
    let mut state: Array<MapData, FlowState> = map.try_into().unwrap();
    state.set(0, FlowState { full: 1 }, 0).unwrap();
}
