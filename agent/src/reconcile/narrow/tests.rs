//! What is read off a host that an earlier run has left.

use super::*;
use crate::{
    model::net::Mac,
    netlink::{LinkKind, Neighbour, NeighbourState, VxlanAttrs, fake::FakeHost},
};

fn network(direct: bool) -> NetworkConfig {
    let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;
    NetworkConfig {
        direct_routing: direct,
        ..NetworkConfig::parse(config).unwrap()
    }
}

fn route(third: u8, link: IfIndex, mtu: Option<u32>) -> Route {
    Route {
        destination: format!("10.1.{third}.0/24").parse().unwrap(),
        gateway: Some(format!("10.1.{third}.0").parse().unwrap()),
        link,
        onlink: true,
        metric: 0,
        mtu,
        protocol: 3,
    }
}

#[test]
fn what_an_earlier_run_found_is_read_off_its_routes() {
    let fake = FakeHost::default();
    let uplink = fake.add_link("eth0", LinkKind::Other(String::new()));
    let attrs = VxlanAttrs {
        vni: 1.try_into().unwrap(),
        port: 8472,
        local: None,
        lower: Some(uplink),
        learning: false,
        gbp: false,
    };
    let link = fake.add_link("flannel.1", LinkKind::Vxlan(attrs));
    let direct = Route {
        gateway: Some("192.0.2.7".parse().unwrap()),
        onlink: false,
        ..route(7, uplink, Some(1400))
    };
    let host = fake.edit_quietly(|host| {
        // The fourth is no node's, and the fifth is narrower than any way.
        let widths = [(3, Some(1350)), (4, None), (5, Some(1350)), (6, Some(400))];
        host.routes
            .extend(widths.map(|(third, mtu)| route(third, link, mtu)));
        host.routes.insert(direct);
        host.routes.insert(Route {
            destination: "192.0.2.8/32".parse().unwrap(),
            ..direct
        });
        for third in [3, 4, 6] {
            let mac = Mac([2, 0, 0, 0, 0, third]);
            let addr = IpAddr::V4(Ipv4Addr::new(10, 1, third, 0));
            let entry = Neighbour {
                mac: Some(mac),
                state: NeighbourState::Permanent,
                managed: false,
            };
            host.neighbours.insert((link, addr), entry);
            let vtep = IpAddr::V4(Ipv4Addr::new(192, 0, 2, third));
            host.tunnel_fdb.insert(TunnelEntry { link, mac }, vtep);
        }
        host.clone()
    });
    let at = |last| Ipv4Addr::new(192, 0, 2, last);
    let tunnelled = (at(3), 1400);
    assert_eq!(earlier(&host, &network(false)), [tunnelled].into());
    let both = [tunnelled, (at(7), 1400)];
    assert_eq!(earlier(&host, &network(true)), both.into());
}
