//! The promises, over any data path.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use weft::{
    datapath::{Attachment, Datapath, DatapathOp, DatapathState},
    model::net::IfIndex,
};
use weft_common::{
    endpoint::{ENDPOINT_HOOKED, ENDPOINT_PEER, EndpointEntry, PortEntry},
    flow::{FLOW_NATED, FLOW_SEEN, FlowEntry, FlowKey},
    peer::{PEER_FAST, PeerEntry, VtepEntry},
    settings::{DatapathSettings, FAST_PATH},
    stats::Hook,
};

use super::netns::undisturbed;

/// A data path and the devices that it can attach to.
pub struct World<D> {
    pub datapath: D,
    pub devices: [(&'static str, IfIndex); 2],
    /// Makes the record of flows overflow.
    pub overflow: fn(&mut D),
}

impl<D> World<D> {
    fn at(&self, hook: Hook, device: usize) -> Attachment {
        let (name, link) = self.devices[device];
        Attachment {
            hook,
            link,
            name: name.to_owned(),
        }
    }
}

pub fn settings() -> DatapathSettings {
    DatapathSettings {
        subnet: [10, 1, 2, 0],
        subnet_mask: [255, 255, 255, 0],
        network: [10, 1, 0, 0],
        network_mask: [255, 255, 0, 0],
        vtep_addr: [192, 0, 2, 1],
        vtep_mac: [2, 0, 0, 0, 0, 1],
        port: 8472u16.to_be_bytes(),
        vni: 1,
        mtu: 1450,
        port_min: 32768,
        port_max: 60999,
        ttl: 64,
        flags: FAST_PATH,
        ready: 1,
    }
}

pub fn peer(third: u8) -> PeerEntry {
    PeerEntry {
        subnet: [10, 1, third, 0],
        subnet_len: 24,
        vtep_addr: [192, 0, 2, third],
        vtep_mac: [2, 0, 0, 0, 1, third],
        _pad: [0; 2],
        gateway: [192, 0, 2, 254],
        ifindex: 3,
        mtu: 1450,
        flags: PEER_FAST,
    }
}

pub fn vtep(leases: u32) -> VtepEntry {
    VtepEntry { leases, _pad: 0 }
}

fn endpoint(last: u8) -> EndpointEntry {
    EndpointEntry {
        ifindex: u32::from(last),
        mac: [2, 66, 10, 1, 2, last],
        bridge_mac: [2, 66, 0, 0, 0, 1],
        bridge_mtu: 1450,
        bridge: 5,
        flags: ENDPOINT_PEER | ENDPOINT_HOOKED,
    }
}

pub fn port(bridge: u32) -> PortEntry {
    PortEntry {
        bridge,
        bridge_mac: [2, 66, 0, 0, 0, 1],
        _pad: [0; 2],
        bridge_mtu: 1450,
        flags: ENDPOINT_PEER,
    }
}

pub fn flow(port: u16) -> FlowKey {
    FlowKey {
        local: [10, 1, 2, 5],
        remote: [10, 1, 3, 7],
        local_port: port.to_be_bytes(),
        remote_port: 80u16.to_be_bytes(),
        protocol: 6,
        _pad: [0; 3],
    }
}

/// Something of everything but attachments.
pub fn content() -> DatapathState {
    let own = |last| Ipv4Addr::new(10, 1, 2, last);
    DatapathState {
        settings: Some(settings()),
        peers: BTreeMap::from([
            ("10.1.3.0/24".parse().unwrap(), peer(3)),
            ("10.1.4.0/24".parse().unwrap(), peer(4)),
            // Inside another's: the longest prefix wins, and both are kept.
            ("10.1.4.128/25".parse().unwrap(), peer(5)),
            ("0.0.0.0/0".parse().unwrap(), peer(6)),
        ]),
        vteps: BTreeMap::from([
            (Ipv4Addr::new(192, 0, 2, 3), vtep(1)),
            (Ipv4Addr::new(192, 0, 2, 4), vtep(2)),
        ]),
        endpoints: BTreeMap::from([(own(5), endpoint(5)), (own(6), endpoint(6))]),
        locals: BTreeMap::from([(own(0), 4), (own(1), 5)]),
        ports: BTreeMap::from([(5, port(1)), (6, port(2))]),
        attachments: BTreeSet::new(),
        dead: BTreeSet::new(),
        foreign: BTreeMap::new(),
    }
}

pub fn puts(state: &DatapathState) -> Vec<DatapathOp> {
    let mut ops = Vec::new();
    ops.extend(state.settings.map(DatapathOp::PutSettings));
    ops.extend(state.peers.iter().map(|(k, v)| DatapathOp::PutPeer(*k, *v)));
    ops.extend(state.vteps.iter().map(|(k, v)| DatapathOp::PutVtep(*k, *v)));
    let endpoints = state.endpoints.iter();
    ops.extend(endpoints.map(|(k, v)| DatapathOp::PutEndpoint(*k, *v)));
    let locals = state.locals.iter();
    ops.extend(locals.map(|(k, v)| DatapathOp::PutLocal(*k, *v)));
    ops.extend(state.ports.iter().map(|(k, v)| DatapathOp::PutPort(*k, *v)));
    ops
}

fn deletes(state: &DatapathState) -> Vec<DatapathOp> {
    let mut ops = Vec::new();
    ops.extend(state.peers.keys().map(|k| DatapathOp::DeletePeer(*k)));
    ops.extend(state.vteps.keys().map(|k| DatapathOp::DeleteVtep(*k)));
    let endpoints = state.endpoints.keys();
    ops.extend(endpoints.map(|k| DatapathOp::DeleteEndpoint(*k)));
    ops.extend(state.locals.keys().map(|k| DatapathOp::DeleteLocal(*k)));
    ops.extend(state.ports.keys().map(|k| DatapathOp::DeletePort(*k)));
    ops
}

pub fn apply(datapath: &mut impl Datapath, ops: &[DatapathOp]) {
    for op in ops {
        datapath.apply(op).unwrap();
    }
}

pub fn it_starts_empty<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    assert_eq!(datapath.observe().unwrap(), DatapathState::default());
    assert!(datapath.counters().unwrap().is_empty());
    assert!(datapath.flows().unwrap().is_empty());
    assert!(!datapath.flows_full(false).unwrap());
    assert_eq!(datapath.sweep().unwrap(), 0);
}

pub fn everything_put_reads_back<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    apply(&mut datapath, &puts(&content()));
    assert_eq!(datapath.observe().unwrap(), content());
    apply(&mut datapath, &puts(&content()));
    assert_eq!(datapath.observe().unwrap(), content());
}

/// Peers and VTEPs only we write: everything else is read.
pub fn a_near_look_sees_all_that_others_change<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    apply(&mut datapath, &puts(&content()));
    let before = datapath.observe().unwrap();
    let gone = deletes(&content())
        .into_iter()
        .filter(|op| !matches!(op, DatapathOp::DeletePeer(_) | DatapathOp::DeleteVtep(_)));
    apply(&mut datapath, &gone.collect::<Vec<_>>());
    let mut left = content();
    (left.endpoints, left.locals, left.ports) = Default::default();
    assert_eq!(datapath.observe_near(before).unwrap(), left);
}

pub fn settings_that_are_not_ready_are_none<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    let mut off = settings();
    off.ready = 0;
    datapath.apply(&DatapathOp::PutSettings(off)).unwrap();
    assert_eq!(datapath.observe().unwrap().settings, None);
}

pub fn a_second_put_replaces<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    apply(&mut datapath, &puts(&content()));
    let mut other = content();
    let changed = DatapathSettings {
        flags: 0,
        ..settings()
    };
    other.settings = Some(changed);
    other.peers.values_mut().for_each(|peer| peer.flags = 0);
    other.vteps.values_mut().for_each(|vtep| vtep.leases += 1);
    let endpoints = other.endpoints.values_mut();
    endpoints.for_each(|endpoint| endpoint.mac = [2, 0, 0, 0, 9, 9]);
    other.locals.values_mut().for_each(|device| *device += 1);
    other
        .ports
        .values_mut()
        .for_each(|port| port.bridge_mtu = 1400);
    apply(&mut datapath, &puts(&other));
    assert_eq!(datapath.observe().unwrap(), other);
}

pub fn deletes_take_one_away<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    apply(&mut datapath, &puts(&content()));
    let mut left = content();
    for op in deletes(&content()) {
        datapath.apply(&op).unwrap();
        match &op {
            DatapathOp::DeletePeer(net) => _ = left.peers.remove(net),
            DatapathOp::DeleteVtep(addr) => _ = left.vteps.remove(addr),
            DatapathOp::DeleteEndpoint(addr) => _ = left.endpoints.remove(addr),
            DatapathOp::DeleteLocal(addr) => _ = left.locals.remove(addr),
            DatapathOp::DeletePort(link) => _ = left.ports.remove(link),
            other => panic!("{other} deletes nothing"),
        }
        assert_eq!(datapath.observe().unwrap(), left, "after: {op}");
    }
}

pub fn deleting_what_is_gone_succeeds<D: Datapath>(world: World<D>) {
    let at = world.at(Hook::FromUplink, 0);
    let mut datapath = world.datapath;
    apply(&mut datapath, &deletes(&content()));
    datapath.apply(&DatapathOp::Detach(at)).unwrap();
    datapath.forget_flow(&flow(1)).unwrap();
    assert_eq!(datapath.observe().unwrap(), DatapathState::default());
}

pub fn programs_are_attached_and_detached<D: Datapath>(mut world: World<D>) {
    let mut attached = BTreeSet::new();
    for hook in Hook::ALL {
        for device in 0..2 {
            let at = world.at(*hook, device);
            attached.insert(at.clone());
            world.datapath.apply(&DatapathOp::Attach(at)).unwrap();
        }
    }
    assert_eq!(world.datapath.observe().unwrap().attachments, attached);
    for at in attached.clone() {
        attached.remove(&at);
        world.datapath.apply(&DatapathOp::Detach(at)).unwrap();
        assert_eq!(world.datapath.observe().unwrap().attachments, attached);
    }
}

pub fn attaching_twice_is_attaching_once<D: Datapath>(mut world: World<D>) {
    let at = world.at(Hook::FromUplink, 0);
    for _ in 0..2 {
        let attach = DatapathOp::Attach(at.clone());
        undisturbed(|| world.datapath.apply(&attach)).unwrap();
        let attached = world.datapath.observe().unwrap().attachments;
        assert_eq!(attached, BTreeSet::from([at.clone()]));
    }
    world.datapath.apply(&DatapathOp::Detach(at)).unwrap();
    assert!(world.datapath.observe().unwrap().attachments.is_empty());
}

pub fn a_sweep_leaves_what_this_run_attached<D: Datapath>(mut world: World<D>) {
    let at = world.at(Hook::FromUplink, 0);
    let attach = DatapathOp::Attach(at.clone());
    world.datapath.apply(&attach).unwrap();
    assert_eq!(world.datapath.sweep().unwrap(), 0);
    let attached = world.datapath.observe().unwrap().attachments;
    assert_eq!(attached, BTreeSet::from([at]));
}

pub fn flows_are_recorded_and_forgotten<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    let mut flows = BTreeMap::new();
    for (port, why) in [(1, FLOW_SEEN), (2, FLOW_NATED), (3, FLOW_SEEN)] {
        flows.insert(flow(port), FlowEntry { why });
        datapath
            .record_flow(&flow(port), FlowEntry { why })
            .unwrap();
    }
    assert_eq!(datapath.flows().unwrap(), flows);
    datapath.forget_flow(&flow(2)).unwrap();
    flows.remove(&flow(2));
    assert_eq!(datapath.flows().unwrap(), flows);
    datapath.forget_flow(&flow(2)).unwrap();
    assert_eq!(datapath.flows().unwrap(), flows);
}

pub fn a_record_of_nat_is_never_weakened<D: Datapath>(world: World<D>) {
    let mut datapath = world.datapath;
    let steps = [
        (FLOW_SEEN, FLOW_SEEN),
        (FLOW_NATED, FLOW_NATED),
        (FLOW_SEEN, FLOW_NATED),
        (FLOW_NATED, FLOW_NATED),
    ];
    for (why, want) in steps {
        datapath.record_flow(&flow(1), FlowEntry { why }).unwrap();
        assert_eq!(datapath.flows().unwrap()[&flow(1)].why, want);
    }
}

pub fn an_overflow_lasts_until_it_is_cleared<D: Datapath>(mut world: World<D>) {
    (world.overflow)(&mut world.datapath);
    for (clear, full) in [(false, true), (false, true), (true, true), (false, false)] {
        assert_eq!(world.datapath.flows_full(clear).unwrap(), full);
    }
}
