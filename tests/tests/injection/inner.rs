//! Damage to what is inside the tunnel, and to what a container sends.

use std::net::Ipv4Addr;

use weft_tests::craft::{ARP, Frame, Ip, Link, TAG};

use crate::{
    damaged::{Series, uplink},
    scene::{Scene, To, flow},
    table::From,
};

pub(crate) fn series(scene: &Scene) -> Vec<Series> {
    let mut all = packets(scene);
    all.extend(frames(scene));
    all.extend(ends(scene));
    all.extend(outward(scene));
    all.extend(outward_frames(scene));
    all
}

/// A datagram inside, from the real peer, with a difference.
fn inside(scene: &Scene, name: &str, change: impl FnOnce(&mut Ip)) -> Frame {
    let packet = scene.datagram(name, scene.of_lease(1), To::Container);
    scene.tunnel(scene.peer(1)).ip(&packet.but(change))
}

/// The inner header.
fn packets(scene: &Scene) -> Vec<Series> {
    let one = |name, reason, arrives, change: fn(&mut Ip)| {
        uplink(name, reason, arrives, vec![inside(scene, name, change)])
    };
    vec![
        one("inner version six", "bad_header", 0, |ip| ip.version = 6),
        one("inner options", "ip_options", 1, |ip| {
            ip.options = vec![1; 8];
        }),
        one("inner length too large", "bad_header", 0, |ip| {
            ip.total_len = Some(1400);
        }),
        one("inner length too small", "bad_header", 0, |ip| {
            ip.total_len = Some(24);
        }),
        one("inner checksum wrong", "bad_header", 0, |ip| {
            ip.checksum = Some(0x1234);
        }),
        one("inner TTL one", "ttl_expiring", 0, |ip| ip.ttl = 1),
        one("inner TTL zero", "ttl_expiring", 0, |ip| ip.ttl = 0),
    ]
}

/// The inner frame.
fn frames(scene: &Scene) -> Vec<Series> {
    let tunnel = scene.tunnel(scene.peer(1));
    let link = tunnel.inner;
    let kind = |name: &'static str, kind, bytes: &[u8]| {
        // As long as an IPv4 packet would be.
        let mut bytes = bytes.to_vec();
        bytes.resize(46, 0);
        let frame = tunnel.frame(&link.frame(kind, &bytes).bytes);
        uplink(name, "not_ipv4", 0, vec![frame])
    };
    let to = |name, destination| {
        let packet = scene.datagram(name, scene.of_lease(1), To::Container);
        let inner = Link {
            destination,
            ..link
        };
        let tunnel = scene
            .tunnel(scene.peer(1))
            .but(|tunnel| tunnel.inner = inner);
        uplink(name, "other_mac", 0, vec![tunnel.ip(&packet)])
    };
    let tagged = "inner tag";
    let packet = scene.datagram(tagged, scene.of_lease(1), To::Container);
    let inner = link.ip(&packet).tagged(TAG, 7);
    vec![
        kind("inner ARP", ARP, &[0, 1, 8, 0, 6, 4, 0, 1]),
        kind("inner LLDP", 0x88cc, &[2, 7]),
        kind("inner 802.3", 40, &[0x42, 0x42, 3]),
        kind("inner IPv6", 0x86dd, &[0x60]),
        uplink(tagged, "not_ipv4", 0, vec![tunnel.frame(&inner.bytes)]),
        to("inner frame for another VTEP", [2, 0, 0, 0, 9, 9]),
        to("inner frame for all", [0xff; 6]),
        to("inner frame for many", [1, 0, 0x5e, 0, 0, 1]),
    ]
}

/// Inner sources and destinations, and tunnels in tunnels.
fn ends(scene: &Scene) -> Vec<Series> {
    let peer = scene.peer(1);
    let spoofed = "inner sources that are nobody's";
    let sources = [
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
        scene.victim(),
        scene.gateway(),
        scene.overlay(),
    ];
    let spoofing = |source: &Ipv4Addr| inside(scene, spoofed, |ip| ip.source = *source);
    let astray = "inner destinations elsewhere";
    let destinations = [
        scene.of_lease(1),
        scene.of_lease(2),
        scene.victim(),
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
    ];
    let straying = |to: &Ipv4Addr| inside(scene, astray, |ip| ip.destination = *to);
    let all = "inner destination is all of the subnet";
    let everybody = inside(scene, all, |ip| ip.destination = scene.broadcast());
    let nested = "tunnels in tunnels for our socket";
    let own = scene.of_lease(1);
    let mut packet = scene.datagram(nested, scene.of_lease(2), To::Container);
    let mut deep = Vec::new();
    for _ in 0..8 {
        let tunnel = scene.tunnel(peer);
        packet = tunnel.packet(&tunnel.inner.ip(&packet).bytes).but(|ip| {
            ip.source = own;
            ip.destination = scene.overlay();
        });
        deep.push(tunnel.ip(&packet));
    }
    vec![
        uplink(
            spoofed,
            "drop_spoofed_inner",
            0,
            sources.iter().map(spoofing).collect(),
        ),
        uplink(
            astray,
            "drop_not_ours",
            0,
            destinations.iter().map(straying).collect(),
        ),
        uplink(all, "no_endpoint", 0, vec![everybody]),
        uplink(nested, "drop_container_tunnel", 0, deep),
    ]
}

fn from_container(
    name: &'static str,
    reason: &'static str,
    arrives: usize,
    frames: Vec<Frame>,
) -> Series {
    Series {
        name,
        from: From::Container,
        frames,
        to: To::Peer,
        counted: ("from_container", reason),
        arrives,
    }
}

/// What a container sends to a peer's container.
fn outward(scene: &Scene) -> Vec<Series> {
    let link = scene.port();
    let honest = |name: &str, change: &dyn Fn(&mut Ip)| {
        let packet = scene.datagram(name, scene.hostile(), To::Peer);
        link.ip(&packet.but(|ip| change(ip)))
    };
    let one = |name, reason, arrives, change: &dyn Fn(&mut Ip)| {
        from_container(name, reason, arrives, vec![honest(name, change)])
    };
    let cut = "cut on the way out";
    let whole = honest(cut, &|_| {}).bytes.len();
    let cuts = (34..whole).map(|len| honest(cut, &|_| {}).but(|frame| frame.bytes.truncate(len)));
    let sibling = "another container's address";
    let lie = scene.datagram(sibling, scene.target(), To::Peer);
    vec![
        one("nothing wrong on the way out", "taken", 1, &|_| {}),
        one("options on the way out", "ip_options", 1, &|ip| {
            ip.options = vec![1; 8];
        }),
        // By way of the third network: the kernel refuses to be told ways.
        one("a source route", "ip_options", 0, &|ip| {
            ip.options = vec![131, 7, 4, 203, 0, 113, 7, 0];
        }),
        one("TTL one on the way out", "ttl_expiring", 0, &|ip| {
            ip.ttl = 1
        }),
        one("TTL zero on the way out", "ttl_expiring", 0, &|ip| {
            ip.ttl = 0
        }),
        one("checksum wrong on the way out", "bad_header", 0, &|ip| {
            ip.checksum = Some(0x1234);
        }),
        one("length too large on the way out", "bad_header", 0, &|ip| {
            ip.total_len = Some(1400);
        }),
        from_container(cut, "bad_header", 0, cuts.collect()),
        // A container may lie about which of its host's containers it is: flannel does not ask.
        from_container(sibling, "wrong_port", 1, vec![link.ip(&lie)]),
    ]
}

/// Frames that a container puts on its bridge.
fn outward_frames(scene: &Scene) -> Vec<Series> {
    let link = scene.port();
    let packet = |name| scene.datagram(name, scene.hostile(), To::Peer);
    let (mac, for_all) = ("another's hardware address", "for all on the bridge");
    let lying = Link {
        source: [2, 0, 0, 0, 9, 8],
        ..link
    };
    let all = Link {
        destination: [0xff; 6],
        ..link
    };
    let tagged = "a tag on the way out";
    let arp = "an ARP in the bridge's name";
    let mut claim = vec![0, 1, 8, 0, 6, 4, 0, 2];
    claim.extend(link.source);
    claim.extend(scene.gateway().octets());
    claim.extend([0; 6]);
    claim.extend(scene.target().octets());
    let dhcp = "a DHCP request";
    let ask = flow(Ipv4Addr::UNSPECIFIED, 68, Ipv4Addr::BROADCAST, 67).udp(dhcp.as_bytes());
    let ra = "a router's word in IPv6";
    vec![
        from_container(mac, "wrong_port", 1, vec![lying.ip(&packet(mac))]),
        from_container(for_all, "other_mac", 0, vec![all.ip(&packet(for_all))]),
        from_container(
            tagged,
            "vlan",
            0,
            vec![link.ip(&packet(tagged)).tagged(TAG, 7)],
        ),
        from_container(arp, "not_ipv4", 0, vec![link.frame(ARP, &claim)]),
        from_container(dhcp, "not_overlay", 0, vec![all.ip(&ask)]),
        from_container(ra, "not_ipv4", 0, vec![all.frame(0x86dd, &[0x60; 60])]),
        from_container(
            "a word of no kind",
            "not_ipv4",
            0,
            vec![link.frame(0x9999, &[0; 46])],
        ),
    ]
}
