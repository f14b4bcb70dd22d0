//! One host: its settings, a peer, two containers, and devices to run the programs at.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use aya::maps::{Array, Map, MapData};
use ipnet::Ipv4Net;
use nix::net::if_::if_nametoindex;
use weft::datapath::{
    Counters, Datapath, DatapathOp, DatapathState,
    ebpf::{EbpfDatapath, pins::PinDir, trial::Trial},
};
use weft_common::{
    abi,
    endpoint::{ENDPOINT_HOOKED, ENDPOINT_PEER, EndpointEntry, PortEntry},
    flow::{FLOW_NATED, FLOW_SEEN, FlowEntry, FlowKey, FlowState},
    peer::{PEER_FAST, PeerEntry, VtepEntry},
    settings::{DatapathSettings, FAST_PATH, GUARD_PEERS, GUARD_STRICT},
    stats::{Count, Fate, Hook, Reason},
};

use super::{
    frames::TCP,
    netns::{run, with_bpffs},
    packets::{
        BOX, BOX_MAC, BRIDGE, BRIDGE_MAC, OUR_VTEP, OUR_VTEP_MAC, PEER_VTEP, PEER_VTEP_MAC,
        PLAIN_BOX, PLAIN_MAC, PORT, REMOTE, SLOW_VTEP, SOURCE_PORTS, UPLINK_MAC,
    },
};

/// Where a program is run.
#[derive(Clone, Copy, Debug)]
pub enum At {
    Uplink,
    BoxPort,
    PlainPort,
    Bridge,
    Overlay,
}

pub struct World {
    pub datapath: EbpfDatapath,
    /// What is being tried, for the messages of failures.
    pub doing: &'static str,
}

impl World {
    /// Runs a test in a host of its own.
    pub fn with(test: impl FnOnce(&mut World) + Send + 'static) {
        with_bpffs(|| test(&mut World::new(1024)));
    }

    /// In the namespaces of the calling thread.
    pub fn new(flows: u32) -> Self {
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        for (name, address) in [("up0", UPLINK_MAC), ("over0", OUR_VTEP_MAC)] {
            let address = mac(address);
            run(&format!(
                "ip link add {name} address {address} type veth peer name far-{name}"
            ));
        }
        // A router, so that it shows what the host takes in and what it passes on.
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap();
        for name in ["up0", "far-up0"] {
            run(&format!("ip link set {name} up"));
        }
        let address = Ipv4Addr::from(OUR_VTEP);
        run(&format!("ip address add {address}/24 dev up0"));
        run("ip route add default dev up0");
        let bridge = mac(BRIDGE_MAC);
        run(&format!("ip link add br0 address {bridge} type bridge"));
        for name in ["port0", "port1"] {
            run(&format!("ip link add {name} type veth peer name in-{name}"));
            run(&format!("ip link set {name} master br0"));
        }
        let mut world = Self {
            datapath: EbpfDatapath::open(1u64.try_into().unwrap(), flows).unwrap(),
            doing: "",
        };
        world.reset();
        world
    }

    pub fn name(at: At) -> &'static str {
        match at {
            At::Uplink => "up0",
            At::BoxPort => "port0",
            At::PlainPort => "port1",
            At::Bridge => "br0",
            At::Overlay => "over0",
        }
    }

    pub fn ifindex(at: At) -> u32 {
        if_nametoindex(Self::name(at)).unwrap()
    }

    pub fn put(&mut self, op: DatapathOp) {
        self.datapath.apply(&op).unwrap();
    }

    /// Back to where every test starts.
    pub fn reset(&mut self) {
        let found = self.datapath.observe().unwrap();
        let base = base();
        for net in found.peers.into_keys() {
            self.put(DatapathOp::DeletePeer(net));
        }
        for addr in found.vteps.into_keys() {
            self.put(DatapathOp::DeleteVtep(addr));
        }
        for addr in found.endpoints.into_keys() {
            self.put(DatapathOp::DeleteEndpoint(addr));
        }
        for addr in found.locals.into_keys() {
            self.put(DatapathOp::DeleteLocal(addr));
        }
        self.put(DatapathOp::PutSettings(base.settings.unwrap()));
        for (net, peer) in base.peers {
            self.put(DatapathOp::PutPeer(net, peer));
        }
        for (addr, leases) in base.vteps {
            self.put(DatapathOp::PutVtep(addr, leases));
        }
        for (addr, endpoint) in base.endpoints {
            self.put(DatapathOp::PutEndpoint(addr, endpoint));
        }
        for (addr, device) in base.locals {
            self.put(DatapathOp::PutLocal(addr, device));
        }
        for (link, port) in base.ports {
            self.put(DatapathOp::PutPort(link, port));
        }
        for flow in self.datapath.flows().unwrap().into_keys() {
            self.datapath.forget_flow(&flow).unwrap();
        }
        self.datapath.tend_pairs().unwrap();
        self.datapath.flows_full(true).unwrap();
    }

    pub fn settings(&mut self, change: impl FnOnce(&mut DatapathSettings)) {
        let mut settings = base().settings.unwrap();
        change(&mut settings);
        self.put(DatapathOp::PutSettings(settings));
    }

    pub fn peer(&mut self, change: impl FnOnce(&mut PeerEntry)) {
        let mut entry = peer(3, PEER_VTEP, PEER_FAST);
        change(&mut entry);
        self.put(DatapathOp::PutPeer("10.1.3.0/24".parse().unwrap(), entry));
    }

    pub fn endpoint(&mut self, change: impl FnOnce(&mut EndpointEntry)) {
        let mut endpoint = base().endpoints[&BOX.into()];
        change(&mut endpoint);
        self.put(DatapathOp::PutEndpoint(BOX.into(), endpoint));
    }

    /// Gives every container's port these flags.
    pub fn flag_endpoints(&mut self, flags: u32) {
        for (address, mut endpoint) in base().endpoints {
            endpoint.flags = flags;
            self.put(DatapathOp::PutEndpoint(address, endpoint));
        }
    }

    /// Another lease of a node, for 10.1.`third`.0/24.
    pub fn lease(&mut self, third: u8, vtep: [u8; 4]) {
        self.lease_of(&format!("10.1.{third}.0/24"), vtep);
    }

    pub fn lease_of(&mut self, net: &str, vtep: [u8; 4]) {
        let net: Ipv4Net = net.parse().unwrap();
        let entry = PeerEntry {
            subnet: net.addr().octets(),
            subnet_len: u32::from(net.prefix_len()),
            ..peer(0, vtep, PEER_FAST)
        };
        self.put(DatapathOp::PutPeer(net, entry));
    }

    /// Our usual subnet is somebody else's.
    pub fn lost(&mut self, vtep: [u8; 4], flags: u32) {
        let net = "10.1.2.0/24".parse().unwrap();
        self.put(DatapathOp::PutPeer(net, peer(2, vtep, flags)));
    }

    /// The usual container, at another address.
    pub fn container(&mut self, address: [u8; 4]) {
        let endpoint = base().endpoints[&BOX.into()];
        self.put(DatapathOp::PutEndpoint(address.into(), endpoint));
    }

    /// Records a flow of the usual container.
    pub fn record(&mut self, protocol: u8, local_port: u16, remote_port: u16) {
        self.record_of(BOX, protocol, local_port, remote_port);
    }

    pub fn record_of(&mut self, local: [u8; 4], protocol: u8, local_port: u16, remote_port: u16) {
        let key = key(local, protocol, local_port, remote_port);
        let entry = FlowEntry { why: FLOW_SEEN };
        self.datapath.record_flow(&key, entry).unwrap();
    }

    pub fn record_why(&mut self, protocol: u8, local_port: u16, remote_port: u16, why: u32) {
        let key = key(BOX, protocol, local_port, remote_port);
        self.datapath.record_flow(&key, FlowEntry { why }).unwrap();
    }

    /// The stack translates a flow between the container and the peer's.
    pub fn translate(&mut self, local: [u8; 4], protocol: u8) {
        let key = key(local, protocol, 40000, 53);
        let entry = FlowEntry { why: FLOW_NATED };
        self.datapath.record_flow(&key, entry).unwrap();
    }

    /// Fills a record that has room for two.
    pub fn fill(&mut self) {
        self.record(TCP, 1, 1);
        self.record(TCP, 2, 2);
    }

    /// Says what a program says when the record has no room.
    pub fn overflow(&mut self) {
        let path = PinDir::new(1u64.try_into().unwrap()).map(abi::FLOW_STATE);
        let map = Map::from_map_data(MapData::from_pin(path).unwrap()).unwrap();
        let mut state: Array<MapData, FlowState> = map.try_into().unwrap();
        state.set(0, FlowState { full: 1 }, 0).unwrap();
    }

    /// Runs a program and holds it to what is true of every packet: one counter moves, by one and
    /// by the frame's length, the answer is that of the reason's fate, and a frame that is not
    /// taken comes out as it went in.
    pub fn trial(&self, hook: Hook, at: At, frame: &[u8], gso_size: u32) -> (Reason, Trial) {
        let before = self.datapath.counters().unwrap();
        let doing = self.doing;
        let trial = self
            .datapath
            .try_packet(hook, frame, Self::ifindex(at), gso_size)
            .unwrap_or_else(|error| panic!("{doing}: {error}"));
        let moved = moved(&before, &self.datapath.counters().unwrap());
        let [((counted_at, reason), count)] = moved[..] else {
            panic!("{doing}: one counter must move, not {moved:?}");
        };
        assert_eq!(counted_at, hook, "{doing}");
        let bytes = frame.len() as u64;
        let once = Count { packets: 1, bytes };
        assert_eq!(count, once, "{doing}: {reason:?}");
        let action = match reason.fate() {
            Fate::Taken => 7,
            Fate::Dropped => 2,
            Fate::Passed | Fate::Missed | Fate::Recorded => -1,
        };
        assert_eq!(trial.action, action, "{doing}: {reason:?}");
        if reason.fate() != Fate::Taken {
            assert_eq!(trial.frame, frame, "{doing}: {reason:?} and changed");
        }
        (reason, trial)
    }

    /// Runs a packet that must be taken; answers with what became of it.
    pub fn taken(&self, hook: Hook, at: At, frame: &[u8]) -> Vec<u8> {
        let (reason, trial) = self.trial(hook, at, frame, 0);
        assert_eq!(reason, Reason::Taken);
        trial.frame
    }
}

fn key(local: [u8; 4], protocol: u8, local_port: u16, remote_port: u16) -> FlowKey {
    FlowKey {
        local,
        remote: REMOTE,
        local_port: local_port.to_be_bytes(),
        remote_port: remote_port.to_be_bytes(),
        protocol,
        _pad: [0; 3],
    }
}

fn moved(before: &Counters, after: &Counters) -> Vec<((Hook, Reason), Count)> {
    let zero = Count::default();
    let change = after.iter().map(|(place, new)| {
        let old = before.get(place).unwrap_or(&zero);
        let count = Count {
            packets: new.packets - old.packets,
            bytes: new.bytes - old.bytes,
        };
        (*place, count)
    });
    change.filter(|(_, count)| *count != zero).collect()
}

fn peer(third: u8, vtep_addr: [u8; 4], flags: u32) -> PeerEntry {
    PeerEntry {
        subnet: [10, 1, third, 0],
        subnet_len: 24,
        vtep_addr,
        vtep_mac: PEER_VTEP_MAC,
        _pad: [0; 2],
        gateway: vtep_addr,
        ifindex: World::ifindex(At::Uplink),
        mtu: 1450,
        flags,
    }
}

fn port_entry() -> PortEntry {
    PortEntry {
        bridge: World::ifindex(At::Bridge),
        bridge_mac: BRIDGE_MAC,
        _pad: [0; 2],
        bridge_mtu: 1450,
        flags: ENDPOINT_PEER | ENDPOINT_HOOKED,
    }
}

fn base() -> DatapathState {
    let endpoint = |port, mac, flags| EndpointEntry {
        ifindex: World::ifindex(port),
        mac,
        bridge_mac: BRIDGE_MAC,
        bridge_mtu: 1450,
        bridge: World::ifindex(At::Bridge),
        flags,
    };
    let hooked = endpoint(At::BoxPort, BOX_MAC, ENDPOINT_PEER | ENDPOINT_HOOKED);
    let plain = endpoint(At::PlainPort, PLAIN_MAC, 0);
    let local = |last| [10, 1, 2, last].into();
    let uplink = World::ifindex(At::Uplink);
    DatapathState {
        settings: Some(DatapathSettings {
            subnet: [10, 1, 2, 0],
            subnet_mask: [255, 255, 255, 0],
            network: [10, 1, 0, 0],
            network_mask: [255, 255, 0, 0],
            vtep_addr: OUR_VTEP,
            vtep_mac: OUR_VTEP_MAC,
            port: PORT.to_be_bytes(),
            vni: 1,
            mtu: 1450,
            port_min: u32::from(*SOURCE_PORTS.start()),
            port_max: u32::from(*SOURCE_PORTS.end()),
            ttl: 64,
            flags: FAST_PATH | GUARD_STRICT | GUARD_PEERS,
            ready: 1,
        }),
        peers: [
            (
                "10.1.3.0/24".parse().unwrap(),
                peer(3, PEER_VTEP, PEER_FAST),
            ),
            ("10.1.5.0/24".parse().unwrap(), peer(5, SLOW_VTEP, 0)),
        ]
        .into(),
        vteps: [(PEER_VTEP.into(), vtep()), (SLOW_VTEP.into(), vtep())].into(),
        endpoints: [(BOX.into(), hooked), (PLAIN_BOX.into(), plain)].into(),
        locals: [(local(0), 9), (BRIDGE.into(), 9), (OUR_VTEP.into(), uplink)].into(),
        ports: [(World::ifindex(At::BoxPort), port_entry())].into(),
        attachments: BTreeSet::new(),
        dead: BTreeSet::new(),
        foreign: BTreeMap::new(),
    }
}

fn vtep() -> VtepEntry {
    VtepEntry { leases: 1, _pad: 0 }
}
