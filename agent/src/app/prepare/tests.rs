//! Which MAC we publish, and what keeps the programs from taking packets.

use super::*;
use crate::{
    model::{lease::Revision, net::IfIndex},
    netlink::{Link, VxlanAttrs},
};

const NETWORK: &str = r#""Network":"10.3.0.0/16""#;

fn network(backend: &str) -> NetworkConfig {
    let text = format!(r#"{{{NETWORK},"Backend":{{"Type":"vxlan","VNI":7{backend}}}}}"#);
    NetworkConfig::parse(&text).unwrap()
}

fn subnet(text: &str) -> Subnet {
    Subnet::try_from(text.parse::<ipnet::IpNet>().unwrap()).unwrap()
}

fn mac(last: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, last])
}

fn record(net: &str, last: u8) -> Lease {
    Lease {
        subnet: subnet(net),
        attrs: LeaseAttrs {
            public_ip: [192, 0, 2, 1].into(),
            backend: Backend::Vxlan {
                vni: network("").vni,
                vtep_mac: mac(last),
            },
        },
        store_lease: Some(1),
        created: Revision(1),
        modified: Revision(1),
    }
}

fn with_device(name: &str, kind: LinkKind, last: u8) -> ObservedHost {
    let index = IfIndex::try_from(9).unwrap();
    let mut host = ObservedHost::default();
    let link = Link {
        index,
        name: name.to_owned(),
        kind,
        mac: Some(mac(last)),
        ethernet: true,
        mtu: 1450,
        up: true,
        carrier: true,
        master: None,
        qdisc: None,
    };
    host.links.insert(index, link);
    host
}

fn vxlan() -> LinkKind {
    LinkKind::Vxlan(VxlanAttrs {
        vni: network("").vni,
        port: 8472,
        local: None,
        lower: None,
        learning: false,
        gbp: false,
    })
}

/// flanneld's device keeps its MAC; after a reboot the record has it. A clone of this host has the
/// record's address, and not the device.
#[test]
fn the_mac_is_the_devices_or_that_of_our_own_record() {
    let (config, found) = (network(""), record("10.3.5.0/24", 1));
    let own = Some(subnet("10.3.5.0/24"));
    let nothing = ObservedHost::default();
    let chosen = |host: &ObservedHost, found, previous| vtep_mac(host, found, previous, &config);
    let device = with_device("flannel.7", vxlan(), 4);
    assert_eq!(chosen(&device, Some(&found), own), mac(4));
    assert_eq!(chosen(&nothing, Some(&found), own), mac(1));
    // Somebody else's device, whatever its name; another network's; and no device of ours.
    for host in [
        with_device("flannel.7", LinkKind::Other("dummy".to_owned()), 4),
        with_device("flannel.1", vxlan(), 4),
        nothing,
    ] {
        assert_eq!(chosen(&host, Some(&found), own), mac(1));
        for (found, previous) in [
            (None, own),
            (Some(&found), None),
            (Some(&found), Some(subnet("10.3.6.0/24"))),
        ] {
            let made = [0; 8].map(|_| chosen(&host, found, previous));
            assert!(made.iter().all(|made| *made != mac(1) && *made != mac(4)));
            // A unicast address that belongs to no maker, and another each time.
            assert!(made.iter().all(|made| made.0[0] & 3 == 2), "{made:?}");
            assert_ne!(made[0], made[1]);
        }
    }
}

#[test]
fn what_only_the_kernel_does_leaves_every_packet_to_it() {
    let underlay = |ethernet| Underlay {
        link: IfIndex::try_from(2).unwrap(),
        address: [192, 0, 2, 1].into(),
        public_ip: [192, 0, 2, 1].into(),
        mtu: 1500,
        ethernet,
    };
    for (choice, backend, ethernet, fast, said) in [
        (FastPathChoice::Auto, "", true, true, "nothing speaks"),
        (FastPathChoice::On, "", true, true, "--fast-path=on"),
        (FastPathChoice::Off, "", true, false, "--fast-path=off"),
        (FastPathChoice::Auto, "", false, true, "no Ethernet"),
        (FastPathChoice::Auto, r#","GBP":true"#, true, false, "GBP"),
        (FastPathChoice::On, r#","GBP":true"#, true, false, "GBP"),
        (
            FastPathChoice::Auto,
            r#","Learning":true"#,
            true,
            false,
            "Learning",
        ),
        (
            FastPathChoice::On,
            r#","Learning":true"#,
            true,
            false,
            "Learning",
        ),
        (
            FastPathChoice::Off,
            r#","Learning":true"#,
            true,
            false,
            "--fast-path=off",
        ),
    ] {
        let (is, why) = fast_path(choice, &network(backend), &underlay(ethernet));
        assert_eq!(is, fast, "{choice:?} {backend}");
        assert!(why.contains(said), "{choice:?} {backend}: {why}");
    }
}
