//! Random leases, containers, bridges and ports.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use proptest::{collection::vec, prelude::*};
use weft::{
    model::{
        lease::{Backend, Lease, LeaseAttrs, Revision, Snapshot},
        net::{IfIndex, Mac, Subnet},
        network::NetworkConfig,
    },
    netlink::{BridgeEntry, Link, LinkKind, Neighbour, NeighbourState, ObservedHost, Route},
};

pub const OWN: &str = "10.1.2.0/24";
pub const OWN_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OWN_MAC: Mac = Mac([2, 0xaa, 0, 0, 0, 1]);
pub const UPLINK: u32 = 1;
pub const BRIDGE: u32 = 2;
pub const FOREIGN_BRIDGE: u32 = 3;
pub const PORTS: std::ops::Range<u32> = 4..9;
pub const DEVICE: u32 = 20;

/// What is wrong with a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    Outside,
    Overlaps,
    OurAddress,
    OurMac,
    Backend,
}

/// A node, by a number that gives its subnet, address and MAC.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    pub number: u8,
    pub routed: bool,
    pub flaw: Option<Flaw>,
}

impl Node {
    pub fn lease(&self) -> Lease {
        let number = self.number;
        let subnet = match self.flaw {
            Some(Flaw::Outside) => format!("10.77.{number}.0/24"),
            Some(Flaw::Overlaps) => format!("10.1.2.{}/30", u32::from(number) % 64 * 4),
            _ => format!("10.1.{number}.0/24"),
        };
        let address = match (self.flaw, self.routed) {
            (Some(Flaw::OurAddress), _) => OWN_ADDRESS,
            (_, true) => Ipv4Addr::new(198, 51, 100, number),
            (_, false) => Ipv4Addr::new(192, 0, 2, number),
        };
        let backend = match self.flaw {
            Some(Flaw::Backend) => Backend::Other("host-gw".to_owned()),
            Some(Flaw::OurMac) => vxlan(OWN_MAC),
            _ => vxlan(Mac([2, 9, 0, 0, 0, number])),
        };
        lease(&subnet, address, backend, number.into())
    }
}

fn vxlan(vtep_mac: Mac) -> Backend {
    Backend::Vxlan {
        vni: 1.try_into().unwrap(),
        vtep_mac,
    }
}

pub fn lease(subnet: &str, address: Ipv4Addr, backend: Backend, modified: i64) -> Lease {
    Lease {
        subnet: self::subnet(subnet),
        attrs: LeaseAttrs {
            public_ip: address.into(),
            backend,
        },
        store_lease: Some(modified),
        created: Revision(modified),
        modified: Revision(modified),
    }
}

pub fn subnet(text: &str) -> Subnet {
    Subnet::try_from(net(text)).unwrap()
}

pub fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub fn index(number: u32) -> IfIndex {
    IfIndex::try_from(number).unwrap()
}

pub fn network() -> NetworkConfig {
    NetworkConfig::parse(r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#).unwrap()
}

/// Up to twelve nodes, some with a flaw, none with the number of another.
pub fn nodes() -> impl Strategy<Value = Vec<Node>> {
    let flaw = prop_oneof![
        Just(Flaw::Outside),
        Just(Flaw::Overlaps),
        Just(Flaw::OurAddress),
        Just(Flaw::OurMac),
        Just(Flaw::Backend),
    ];
    let node = (
        10u8..60,
        any::<bool>(),
        proptest::option::weighted(0.4, flaw),
    );
    vec(node, 0..12).prop_map(|nodes| {
        let unique: BTreeMap<u8, _> = nodes.into_iter().map(|node| (node.0, node)).collect();
        unique
            .into_values()
            .map(|(number, routed, flaw)| Node {
                number,
                routed,
                flaw,
            })
            .collect()
    })
}

/// Those nodes' leases and our own.
pub fn snapshot(nodes: &[Node]) -> Snapshot {
    let mut leases: BTreeMap<Subnet, Lease> = nodes
        .iter()
        .map(Node::lease)
        .map(|lease| (lease.subnet, lease))
        .collect();
    let own = lease(OWN, OWN_ADDRESS, vxlan(OWN_MAC), 1);
    leases.insert(own.subnet, own);
    Snapshot {
        revision: Revision(100),
        leases,
        ..Snapshot::default()
    }
}

pub fn link(number: u32, name: &str, kind: LinkKind, master: Option<u32>) -> Link {
    Link {
        index: index(number),
        name: name.to_owned(),
        kind,
        mac: Some(Mac([2, 0, 0, 0, 0, number.to_be_bytes()[3]])),
        ethernet: true,
        mtu: 1500,
        up: true,
        carrier: true,
        master: master.map(index),
        qdisc: None,
    }
}

/// A neighbour, with what the bridge knows of its MAC.
type Seen = (u8, u8, NeighbourState, bool, Option<u32>);

pub fn seen() -> impl Strategy<Value = Seen> {
    let state = prop_oneof![
        4 => Just(NeighbourState::Valid),
        1 => Just(NeighbourState::Permanent),
        1 => Just(NeighbourState::Incomplete),
        1 => Just(NeighbourState::Failed),
        1 => Just(NeighbourState::Other),
    ];
    let port = proptest::option::weighted(0.8, PORTS);
    // Addresses .0 and .1 are the host's own.
    (0u8..8, 0u8..5, state, any::<bool>(), port)
}

/// An uplink with the default route, our bridge, another one, ports in either or none, containers.
pub fn host() -> impl Strategy<Value = ObservedHost> {
    let port = (
        0u32..3,
        prop::bool::weighted(0.8),
        prop::bool::weighted(0.8),
        any::<bool>(),
    );
    let ports = vec(port, PORTS.len());
    (ports, vec(seen(), 0..12), vec(seen(), 0..4), any::<bool>()).prop_map(
        |(ports, ours, theirs, filtering)| {
            let mut host = furnished(filtering);
            for (number, (master, up, carrier, peer_elsewhere)) in PORTS.zip(ports) {
                let master = [None, Some(BRIDGE), Some(FOREIGN_BRIDGE)][master as usize];
                let kind = LinkKind::Veth { peer_elsewhere };
                let mut link = link(number, &format!("veth{number}"), kind, master);
                (link.up, link.carrier) = (up, up && carrier);
                host.links.insert(link.index, link);
            }
            for (bridge, seen) in [(BRIDGE, ours), (FOREIGN_BRIDGE, theirs)] {
                for row in seen {
                    meet(&mut host, bridge, row);
                }
            }
            host
        },
    )
}

fn furnished(vlan_filtering: bool) -> ObservedHost {
    let mut host = ObservedHost::default();
    for link in [
        link(UPLINK, "eth0", LinkKind::Other(String::new()), None),
        link(
            BRIDGE,
            "docker0",
            LinkKind::Bridge {
                vlan_filtering: false,
            },
            None,
        ),
        link(
            FOREIGN_BRIDGE,
            "br0",
            LinkKind::Bridge { vlan_filtering },
            None,
        ),
    ] {
        host.links.insert(link.index, link);
    }
    for (link, address) in [
        (UPLINK, "192.0.2.1/24"),
        (BRIDGE, "10.1.2.1/24"),
        (FOREIGN_BRIDGE, "172.18.0.1/16"),
    ] {
        host.addresses.insert((index(link), net(address)));
        host.routes.insert(Route {
            destination: net(address).trunc(),
            gateway: None,
            link: index(link),
            onlink: false,
            metric: 0,
            mtu: None,
            protocol: 2,
        });
    }
    host.routes.insert(Route {
        destination: net("0.0.0.0/0"),
        gateway: Some("192.0.2.254".parse().unwrap()),
        link: index(UPLINK),
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: 4,
    });
    host
}

/// The kernel learns a neighbour. A bridge knows a MAC at one port.
pub fn meet(host: &mut ObservedHost, bridge: u32, (address, mac, state, managed, port): Seen) {
    let bridge = index(bridge);
    let mac = Mac([2, 1, 0, 0, 0, mac]);
    host.neighbours.insert(
        (bridge, IpAddr::V4(Ipv4Addr::new(10, 1, 2, address))),
        Neighbour {
            mac: (state != NeighbourState::Incomplete).then_some(mac),
            state,
            managed,
        },
    );
    if let Some(port) = port {
        let elsewhere = |entry: &BridgeEntry| (entry.bridge, entry.mac) != (bridge, mac);
        let others: BTreeSet<_> = std::mem::take(&mut host.bridge_fdb);
        host.bridge_fdb = others.into_iter().filter(elsewhere).collect();
        let port = index(port);
        host.bridge_fdb.insert(BridgeEntry { bridge, mac, port });
    }
}
