//! Devices, pins and kernel objects of one test's namespaces.

use aya::{
    maps::{Array, Map, MapData},
    programs::{
        ProgramInfo, SchedClassifier,
        links::{FdLink, PinnedLink},
    },
};
use nix::net::if_::if_nametoindex;
use weft::{
    datapath::{
        Attachment,
        ebpf::{EbpfDatapath, pins::PinDir},
    },
    model::net::{IfIndex, Vni},
};
use weft_common::{abi, flow::FlowState, stats::Hook};

use super::netns::run;

/// Capacity of the flow record in these tests.
pub const FLOWS: u32 = 64;

pub fn network(vni: u64) -> Vni {
    vni.try_into().unwrap()
}

pub fn open() -> EbpfDatapath {
    EbpfDatapath::open(network(1), FLOWS).unwrap()
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

/// The programs at a hook's place, first to last.
pub fn chain(at: &Attachment) -> Vec<ProgramInfo> {
    let direction = match at.hook {
        Hook::ToContainer | Hook::ToOverlay => aya::programs::TcAttachType::Egress,
        Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => {
            aya::programs::TcAttachType::Ingress
        }
    };
    SchedClassifier::query_tcx(&at.name, direction).unwrap().1
}

/// Numbers of the pinned link and of the program behind it.
pub fn pinned(at: &Attachment) -> (u32, u32) {
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
