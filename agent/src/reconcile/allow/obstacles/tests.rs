//! What is seen as an obstacle, and what is not.

use super::*;
use crate::{
    model::{
        lease::{Backend, Lease, LeaseAttrs, Revision},
        net::Subnet,
    },
    netlink::{Link, LinkKind},
};

const PEER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 3);
const SUBNET: &str = "10.1.3.0/24";

#[test]
fn what_is_in_the_way() {
    let index = |number: u32| IfIndex::try_from(number).unwrap();
    let link = |number: u32, name: &str| Link {
        index: index(number),
        name: name.to_owned(),
        kind: LinkKind::Other(String::new()),
        mac: None,
        ethernet: true,
        mtu: 1500,
        up: true,
        carrier: true,
        master: None,
        qdisc: Some("noqueue".to_owned()),
    };
    let mut host = ObservedHost::default();
    for link in [link(2, "eth0"), link(3, "flannel.1"), link(4, "veth1")] {
        host.links.insert(link.index, link);
    }
    let said = |host: &ObservedHost| {
        let foreign = foreign(host, None);
        in_the_way(host, &foreign, "flannel.1", index(2)).unwrap_or_default()
    };
    assert_eq!(said(&host), "");
    for (number, side, expected) in [
        (2, Side::Ingress, "the filter \"u32\" of others is at eth0"),
        // The way out of the uplink is taken by all.
        (2, Side::Egress, ""),
        (
            3,
            Side::Egress,
            "the filter \"u32\" of others is at flannel.1",
        ),
        (
            3,
            Side::Ingress,
            "the filter \"u32\" of others is at flannel.1",
        ),
        (4, Side::Ingress, ""),
    ] {
        host.filters = [((index(number), side), "u32".to_owned())].into();
        assert_eq!(said(&host), expected, "{number} {side:?}");
    }
    host.filters.clear();
    host.links.get_mut(&index(3)).unwrap().qdisc = Some("tbf".to_owned());
    assert_eq!(said(&host), "flannel.1 has the queueing discipline tbf");
}

#[test]
fn routes_into_a_nodes_subnet() {
    let subnet: Subnet = SUBNET.parse::<IpNet>().unwrap().try_into().unwrap();
    let lease = Lease {
        subnet,
        attrs: LeaseAttrs {
            public_ip: PEER.into(),
            backend: Backend::Other("any".to_owned()),
        },
        store_lease: None,
        created: Revision(1),
        modified: Revision(1),
    };
    let mut leases = Snapshot::default();
    leases.leases.insert(subnet, lease);
    for (route, expected) in [
        ("10.1.3.7/32", Some("route to 10.1.3.7/32")),
        ("10.1.3.128/25", Some("route to 10.1.3.128/25")),
        ("10.1.3.0/24", None),
        ("10.1.0.0/16", None),
        ("10.1.4.7/32", None),
    ] {
        let mut host = ObservedHost::default();
        host.nowhere.insert(route.parse().unwrap());
        let found = diverted(&host, &leases, "flannel.1");
        assert_eq!(found.get(&PEER).map(String::as_str), expected, "{route}");
    }
}
