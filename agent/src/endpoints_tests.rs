//! One test for each rule of when an endpoint begins and ends.

use super::*;
use crate::netlink::{Neighbour, Route};

const MAC: Mac = Mac([2, 0, 0, 0, 0, 1]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 2]);

fn index(number: u32) -> IfIndex {
    IfIndex::try_from(number).unwrap()
}

fn link(number: u32, kind: LinkKind, master: Option<u32>) -> Link {
    Link {
        index: index(number),
        name: format!("l{number}"),
        kind,
        mac: Some(Mac([2, 0, 0, 0, 1, u8::try_from(number).unwrap()])),
        ethernet: true,
        mtu: 1450,
        up: true,
        carrier: true,
        master: master.map(index),
        qdisc: None,
    }
}

struct World {
    host: ObservedHost,
    before: Endpoints,
}

impl World {
    /// A bridge 10 with ports 11 and 12, and a container that was known behind port 11.
    fn new() -> Self {
        let mut host = ObservedHost::default();
        for link in [
            link(
                10,
                LinkKind::Bridge {
                    vlan_filtering: false,
                },
                None,
            ),
            link(
                11,
                LinkKind::Veth {
                    peer_elsewhere: true,
                },
                Some(10),
            ),
            link(
                12,
                LinkKind::Veth {
                    peer_elsewhere: true,
                },
                Some(10),
            ),
        ] {
            host.links.insert(link.index, link);
        }
        host.addresses
            .insert((index(10), "10.1.2.1/24".parse().unwrap()));
        let endpoint = Endpoint {
            bridge: index(10),
            port: index(11),
            mac: MAC,
        };
        Self {
            host,
            before: Endpoints::from([(address(), endpoint)]),
        }
    }

    fn neighbour(&mut self, mac: Option<Mac>, state: NeighbourState) {
        let entry = Neighbour {
            mac,
            state,
            managed: false,
        };
        self.host
            .neighbours
            .insert((index(10), IpAddr::V4(address())), entry);
    }

    fn learned(&mut self, mac: Mac, port: u32) {
        self.host.bridge_fdb.insert(BridgeEntry {
            bridge: index(10),
            mac,
            port: index(port),
        });
    }

    fn port(&mut self) -> &mut Link {
        self.host.links.get_mut(&index(11)).unwrap()
    }

    fn now(&self) -> Option<Endpoint> {
        let subnet = subnet();
        let bridges = bridges(&self.host, subnet, index(1));
        join(&self.before, &self.host, subnet, &bridges)
            .get(&address())
            .copied()
    }
}

fn subnet() -> Ipv4Net {
    "10.1.2.0/24".parse().unwrap()
}

fn address() -> Ipv4Addr {
    "10.1.2.7".parse().unwrap()
}

fn behind(port: u32, mac: Mac) -> Option<Endpoint> {
    Some(Endpoint {
        bridge: index(10),
        port: index(port),
        mac,
    })
}

#[test]
fn begins_when_both_halves_are_known() {
    let mut world = World::new();
    world.before.clear();
    world.neighbour(Some(MAC), NeighbourState::Valid);
    assert_eq!(world.now(), None);
    world.learned(MAC, 11);
    assert_eq!(world.now(), behind(11, MAC));
}

#[test]
fn outlives_the_ageing_of_both_entries() {
    assert_eq!(World::new().now(), behind(11, MAC));
}

#[test]
fn ends_with_its_port() {
    let mut world = World::new();
    world.host.links.remove(&index(11));
    assert_eq!(world.now(), None);
    for change in [
        (|port: &mut Link| port.up = false) as fn(&mut Link),
        |port| port.carrier = false,
        |port| port.master = None,
    ] {
        let mut world = World::new();
        change(world.port());
        assert_eq!(world.now(), None);
    }
}

#[test]
fn ends_with_its_bridge_or_the_bridges_address() {
    let mut world = World::new();
    world.host.addresses.clear();
    assert_eq!(world.now(), None);
}

#[test]
fn ends_when_the_neighbour_fails_but_not_while_it_is_asked_for() {
    let mut world = World::new();
    world.neighbour(None, NeighbourState::Incomplete);
    assert_eq!(world.now(), behind(11, MAC));
    world.neighbour(None, NeighbourState::Failed);
    assert_eq!(world.now(), None);
}

#[test]
fn moves_with_its_mac_without_a_neighbour_event() {
    let mut world = World::new();
    world.learned(MAC, 12);
    assert_eq!(world.now(), None, "the neighbour says nothing yet");
    world.neighbour(Some(MAC), NeighbourState::Valid);
    assert_eq!(world.now(), behind(12, MAC));
}

#[test]
fn ends_when_its_address_shows_another_mac() {
    let mut world = World::new();
    world.neighbour(Some(OTHER), NeighbourState::Valid);
    assert_eq!(world.now(), None, "where the new MAC is, nobody knows yet");
    world.learned(OTHER, 12);
    assert_eq!(world.now(), behind(12, OTHER));
}

#[test]
fn stays_when_its_address_is_claimed_at_a_device_that_is_no_bridge_of_ours() {
    let mut world = World::new();
    let claim = Neighbour {
        mac: Some(OTHER),
        state: NeighbourState::Valid,
        managed: false,
    };
    let address = IpAddr::V4(address());
    world.host.neighbours.insert((index(11), address), claim);
    assert_eq!(world.now(), behind(11, MAC));
}

#[test]
fn the_hosts_own_addresses_are_none() {
    let mut world = World::new();
    world
        .host
        .addresses
        .insert((index(10), "10.1.2.7/24".parse().unwrap()));
    assert_eq!(world.now(), None);
}

#[test]
fn an_address_that_is_routed_elsewhere_is_none() {
    let net = |text: &str| text.parse::<IpNet>().unwrap();
    for (nowhere, routes, is_one) in [
        (vec![], vec![], true),
        (vec!["10.1.2.7/32"], vec![], false),
        (vec!["10.1.2.8/32", "10.1.0.0/16"], vec![], true),
        (vec![], vec![("10.1.2.0/28", 12)], false),
        (vec![], vec![("10.1.2.0/28", 12), ("10.1.2.7/32", 10)], true),
        (vec!["10.1.2.0/28"], vec![("10.1.2.7/32", 10)], true),
        (vec!["10.1.2.7/32"], vec![("10.1.2.0/28", 10)], false),
        (vec!["10.1.2.7/32"], vec![("10.1.2.7/32", 10)], false),
        (vec![], vec![("10.1.2.7/32", 8), ("10.1.2.7/32", 10)], false),
    ] {
        let mut world = World::new();
        let said = format!("{nowhere:?} {routes:?}");
        world.host.nowhere = nowhere.into_iter().map(net).collect();
        world.host.routes = routes
            .into_iter()
            .map(|(destination, link)| Route {
                destination: net(destination),
                gateway: None,
                link: index(link),
                onlink: false,
                metric: 0,
                mtu: None,
                protocol: 4,
            })
            .collect();
        assert_eq!(world.now().is_some(), is_one, "kept: {said}");
        world.before.clear();
        world.neighbour(Some(MAC), NeighbourState::Valid);
        world.learned(MAC, 11);
        assert_eq!(world.now().is_some(), is_one, "begun: {said}");
    }
}

#[test]
fn bridges_are_found_by_address_and_kind() {
    let mut world = World::new();
    assert_eq!(
        bridges(&world.host, subnet(), index(1)),
        BTreeSet::from([index(10)])
    );
    assert!(
        bridges(&world.host, subnet(), index(10)).is_empty(),
        "the uplink is none"
    );
    world.host.links.get_mut(&index(10)).unwrap().kind = LinkKind::Bridge {
        vlan_filtering: true,
    };
    assert!(
        bridges(&world.host, subnet(), index(1)).is_empty(),
        "VLANs are the kernel's"
    );
}

#[test]
fn side_entrances_are_all_that_is_not_ours() {
    let mut world = World::new();
    let own = BTreeSet::from([index(10)]);
    for number in 1..=4 {
        let other = link(number, LinkKind::Other("veth".to_owned()), None);
        world.host.links.insert(other.index, other);
    }
    world.host.links.get_mut(&index(2)).unwrap().up = false;
    world.host.links.get_mut(&index(3)).unwrap().ethernet = false;
    let found = |bridges| -> Vec<u32> {
        let links = side_entrances(&world.host, bridges, "l4");
        links.map(|link| link.index.get()).collect()
    };
    assert_eq!(found(&own), [1], "neither the bridge nor its ports");
    assert_eq!(found(&BTreeSet::new()), [1, 10], "another's bridge is one");
}

#[test]
fn only_a_veth_to_elsewhere_takes_peer_redirect() {
    let mut world = World::new();
    let endpoint = world.now().unwrap();
    let entry = endpoint
        .to_entry(&world.host, true, &Foreign::new())
        .unwrap();
    assert_eq!(entry.flags, ENDPOINT_PEER | ENDPOINT_HOOKED);
    assert_eq!(Endpoint::from_entry(&entry), Some(endpoint));
    world.port().kind = LinkKind::Veth {
        peer_elsewhere: false,
    };
    let entry = endpoint.to_entry(&world.host, false, &Foreign::new());
    assert_eq!(entry.unwrap().flags, ENDPOINT_KERNEL);
}

#[test]
fn a_port_with_something_on_it_is_the_kernels() {
    let mut port = link(
        7,
        LinkKind::Veth {
            peer_elsewhere: true,
        },
        Some(2),
    );
    let nobody = Foreign::new();
    let host = ObservedHost::default();
    for (queue, is_kept) in [
        (None, false),
        (Some("noqueue"), false),
        (Some("noop"), false),
        (Some("tbf"), true),
        (Some("fq_codel"), true),
    ] {
        port.qdisc = queue.map(str::to_owned);
        assert_eq!(kept(&host, &port, &nobody).is_some(), is_kept, "{queue:?}");
    }
    port.qdisc = None;
    let mut host = ObservedHost::default();
    for (queue, is_kept) in [("noqueue", false), ("tbf", true)] {
        let mut bridge = link(
            2,
            LinkKind::Bridge {
                vlan_filtering: false,
            },
            None,
        );
        bridge.qdisc = Some(queue.to_owned());
        host.links.insert(bridge.index, bridge);
        assert_eq!(kept(&host, &port, &nobody).is_some(), is_kept, "{queue}");
    }
    let host = ObservedHost::default();
    for (device, is_kept) in [(7, true), (2, true), (3, false)] {
        let device = IfIndex::try_from(device).unwrap();
        let foreign = Foreign::from([(device, "\"shaper\"".to_owned())]);
        assert_eq!(kept(&host, &port, &foreign).is_some(), is_kept, "{device}");
    }
    for kind in [
        LinkKind::Veth {
            peer_elsewhere: false,
        },
        LinkKind::Other("tun".to_owned()),
    ] {
        assert!(kept(&host, &link(7, kind, Some(2)), &nobody).is_some());
    }
}
