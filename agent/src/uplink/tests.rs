//! The choice of the uplink, as tables.

use super::*;
use crate::netlink::{LinkKind, Route};

fn index(number: u32) -> IfIndex {
    IfIndex::try_from(number).unwrap()
}

/// `lo`, `eth0` with a private and a second address, `eth1` with the default route, `wg0` without
/// Ethernet, `empty` without an address.
fn host() -> ObservedHost {
    let mut host = ObservedHost::default();
    let links: [(&str, &[&str]); 5] = [
        ("lo", &["127.0.0.1/8"]),
        ("eth0", &["169.254.7.7/16", "10.0.0.5/24", "10.0.0.4/24"]),
        ("eth1", &["192.0.2.9/24"]),
        ("wg0", &["172.16.0.1/32", "fd00::1/64"]),
        ("empty", &[]),
    ];
    for (number, (name, nets)) in (1..).zip(links) {
        let ethernet = name.starts_with("eth");
        host.links.insert(
            index(number),
            Link {
                index: index(number),
                name: name.to_owned(),
                kind: LinkKind::Other(String::new()),
                mac: ethernet.then_some(Mac([2, 0, 0, 0, 0, 1])),
                ethernet,
                mtu: 1400 + number,
                up: true,
                carrier: true,
                master: None,
                qdisc: None,
            },
        );
        for (position, net) in (0..).zip(nets) {
            let net: IpNet = net.parse().unwrap();
            host.addresses.insert((index(number), net));
            host.standings.insert(
                (index(number), net.addr()),
                AddressStanding {
                    position,
                    ..AddressStanding::default()
                },
            );
        }
    }
    for (link, metric) in [(2, 200), (3, 100)] {
        host.routes.insert(Route {
            destination: "0.0.0.0/0".parse().unwrap(),
            gateway: None,
            link: index(link),
            onlink: false,
            metric,
            mtu: None,
            protocol: 3,
        });
    }
    host
}

fn request(ifaces: &[&str], regexes: &[&str]) -> UplinkRequest {
    UplinkRequest {
        ifaces: ifaces.iter().map(ToString::to_string).collect(),
        iface_regexes: regexes
            .iter()
            .map(|text| Regex::new(text).unwrap())
            .collect(),
        ..UplinkRequest::default()
    }
}

#[test]
fn the_interface_that_fits_is_chosen() {
    let cases: &[(&[&str], &[&str], &str, &str)] = &[
        // Nothing asked: the default route with the lowest metric.
        (&[], &[], "eth1", "192.0.2.9"),
        // A name: global before link-local, then the kernel's order.
        (&["eth0"], &[], "eth0", "10.0.0.5"),
        // An address: that very one.
        (&["10.0.0.4"], &[], "eth0", "10.0.0.4"),
        (&["169.254.7.7"], &[], "eth0", "169.254.7.7"),
        // The first that resolves.
        (&["eth9", "empty", "wg0", "eth0"], &[], "wg0", "172.16.0.1"),
        // Names come before patterns.
        (&["eth0"], &["eth1"], "eth0", "10.0.0.5"),
        (&["eth9"], &["^eth1$"], "eth1", "192.0.2.9"),
        // Addresses of all interfaces before any name: `1` is in the name eth1 too.
        (&[], &["^10\\.0\\.0\\.4$"], "eth0", "10.0.0.4"),
        (&[], &["1"], "eth0", "10.0.0.5"),
        (&[], &["^e"], "eth0", "10.0.0.5"),
        (&[], &["nothing", "^wg"], "wg0", "172.16.0.1"),
    ];
    for (ifaces, regexes, name, address) in cases {
        let chosen = choose(&host(), &request(ifaces, regexes)).unwrap();
        let case = format!("{ifaces:?} {regexes:?}");
        assert_eq!(chosen.name, *name, "{case}");
        assert_eq!(chosen.address.to_string(), *address, "{case}");
        assert_eq!(chosen.public_ip, chosen.address, "{case}");
    }
}

#[test]
fn the_link_is_described() {
    let chosen = choose(&host(), &request(&["eth1"], &[])).unwrap();
    let want = Uplink {
        link: index(3),
        name: "eth1".to_owned(),
        mtu: 1403,
        address: Ipv4Addr::new(192, 0, 2, 9),
        public_ip: Ipv4Addr::new(192, 0, 2, 9),
        ethernet: true,
        mac: Some(Mac([2, 0, 0, 0, 0, 1])),
    };
    assert_eq!(chosen, want);
    let tunnel = choose(&host(), &request(&["wg0"], &[])).unwrap();
    assert!(!tunnel.ethernet);
    assert_eq!(tunnel.mac, None);
}

#[test]
fn the_public_address_decides_only_alone() {
    let mut asked = request(&[], &[]);
    asked.public_ip = Some(Ipv4Addr::new(10, 0, 0, 4));
    let chosen = choose(&host(), &asked).unwrap();
    assert_eq!(
        (chosen.name.as_str(), chosen.address.octets()[3]),
        ("eth0", 4)
    );

    asked.public_ip = Some(Ipv4Addr::new(203, 0, 113, 1));
    let error = choose(&host(), &asked).unwrap_err().to_string();
    assert!(
        error.contains("--public-ip 203.0.113.1; pass --iface"),
        "{error}"
    );

    asked.ifaces = vec!["eth1".to_owned()];
    let chosen = choose(&host(), &asked).unwrap();
    assert_eq!(chosen.address, Ipv4Addr::new(192, 0, 2, 9));
    assert_eq!(chosen.public_ip, Ipv4Addr::new(203, 0, 113, 1));
}

#[test]
fn what_reaches_an_address_is_tried_last() {
    let source: IpAddr = "10.0.0.4".parse().unwrap();
    let mut asked = request(&["eth9"], &[]);
    asked.can_reach = Some((index(2), source));
    let chosen = choose(&host(), &asked).unwrap();
    assert_eq!(
        (chosen.name.as_str(), IpAddr::V4(chosen.address)),
        ("eth0", source)
    );
    asked.ifaces = vec!["eth1".to_owned()];
    assert_eq!(choose(&host(), &asked).unwrap().name, "eth1");
    asked.ifaces.clear();
    asked.can_reach = Some((index(99), source));
    assert!(choose(&host(), &asked).is_err());
}

#[test]
fn passing_addresses_come_after_lasting_ones() {
    let mut host = host();
    let first = (index(2), "10.0.0.5".parse().unwrap());
    host.standings.get_mut(&first).unwrap().dynamic = true;
    let chosen = choose(&host, &request(&["eth0"], &[])).unwrap();
    assert_eq!(chosen.address, Ipv4Addr::new(10, 0, 0, 4));
    let second = (index(2), "10.0.0.4".parse().unwrap());
    host.standings.get_mut(&second).unwrap().deprecated = true;
    let chosen = choose(&host, &request(&["eth0"], &[])).unwrap();
    assert_eq!(chosen.address, Ipv4Addr::new(10, 0, 0, 5));
}

#[test]
fn errors_say_what_was_asked_and_what_there_is() {
    let there = "there are: lo (no address), eth0 (10.0.0.5, 10.0.0.4, 169.254.7.7), \
                 eth1 (192.0.2.9), wg0 (172.16.0.1), empty (no address)";
    let error = choose(&host(), &request(&["eth9"], &["^x"])).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "--iface eth9, --iface-regex ^x matches no interface with an IPv4 address; {there}"
        ),
    );
    let mut host = host();
    host.routes.clear();
    let error = choose(&host, &request(&[], &[])).unwrap_err().to_string();
    assert!(error.contains("pass --iface"), "{error}");
    assert!(error.contains(there), "{error}");
    host.routes.insert(Route {
        destination: "0.0.0.0/0".parse().unwrap(),
        gateway: None,
        link: index(5),
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: 3,
    });
    let error = choose(&host, &request(&[], &[])).unwrap_err().to_string();
    assert!(
        error.contains("through empty, which has no IPv4 address"),
        "{error}"
    );
}
