//! Damage to the outer packet, and what the kernel makes of it.

use std::net::Ipv4Addr;

use weft_tests::craft::{Frame, SERVICE_TAG, Sum, TAG, Tunnel, put};

use crate::{
    scene::{Scene, To},
    table::From,
};

/// Frames that all count under one reason.
#[derive(Clone, Debug)]
pub(crate) struct Series {
    /// And the beginning of the datagram inside.
    pub(crate) name: &'static str,
    pub(crate) from: From,
    pub(crate) frames: Vec<Frame>,
    pub(crate) to: To,
    pub(crate) counted: (&'static str, &'static str),
    /// How many of the datagrams arrive all the same.
    pub(crate) arrives: usize,
}

/// The length of an Ethernet header, and with the outer IPv4 header.
const ETHERNET: usize = 14;
const HEADERS: usize = 34;

/// A datagram of the real peer's to the container that listens.
pub(crate) fn honest(scene: &Scene, name: &str, change: impl FnOnce(&mut Tunnel)) -> Frame {
    let packet = scene.datagram(name, scene.of_lease(1), To::Container);
    let tunnel = scene.tunnel(scene.peer(1));
    tunnel.but(change).ip(&packet)
}

pub(crate) fn uplink(
    name: &'static str,
    reason: &'static str,
    arrives: usize,
    frames: Vec<Frame>,
) -> Series {
    Series {
        name,
        from: From::Wire,
        frames,
        to: To::Container,
        counted: ("from_uplink", reason),
        arrives,
    }
}

pub(crate) fn series(scene: &Scene) -> Vec<Series> {
    let mut all = lengths(scene);
    all.extend(outer(scene));
    all.extend(addresses(scene));
    all.extend(tags(scene));
    all.extend(vxlan(scene));
    all
}

/// Every length that a frame can have, but the right one.
fn lengths(scene: &Scene) -> Vec<Series> {
    let of = |name, lengths: std::ops::Range<usize>| -> Vec<Frame> {
        let cut = |len| honest(scene, name, |_| {}).but(|frame| frame.bytes.resize(len, 0));
        lengths.map(cut).collect()
    };
    let whole = |name| honest(scene, name, |_| {}).bytes.len();
    let (cut, more) = ("cut behind the port", "longer than it says");
    vec![
        uplink(
            "cut in the IP header",
            "bad_header",
            0,
            of("", ETHERNET..HEADERS),
        ),
        uplink(
            "cut before the port",
            "not_overlay",
            0,
            of("", HEADERS..HEADERS + 4),
        ),
        uplink(cut, "bad_header", 0, of(cut, HEADERS + 4..whole(cut))),
        // The kernel throws away what is too much, as it does with the padding of short frames.
        uplink(
            more,
            "bad_header",
            100,
            of(more, whole(more) + 1..whole(more) + 101),
        ),
    ]
}

/// Fields of the outer headers.
fn outer(scene: &Scene) -> Vec<Series> {
    let one = |name, reason, arrives, change: fn(&mut Tunnel)| {
        uplink(name, reason, arrives, vec![honest(scene, name, change)])
    };
    let set = |name, reason, at: usize, values: &[u8]| {
        let frame = |value: &u8| {
            honest(scene, name, |_| {}).but(|frame| put(&mut frame.bytes, at, &[*value]))
        };
        uplink(name, reason, 0, values.iter().map(frame).collect())
    };
    let udp_length = |name, length: fn(usize) -> u16| {
        let frame = honest(scene, name, |_| {}).but(|frame| {
            let stated = length(frame.bytes.len() - HEADERS).to_be_bytes();
            put(&mut frame.bytes, HEADERS + 4, &stated);
        });
        uplink(name, "bad_header", 0, vec![frame])
    };
    vec![
        // Neither an IPv4 header nor as long as one.
        set(
            "a short or long header",
            "ip_options",
            ETHERNET,
            &[0x44, 0x4f],
        ),
        one("outer options", "ip_options", 1, |tunnel| {
            tunnel.outer.options = vec![1; 8];
        }),
        one("total length too small", "bad_header", 0, |tunnel| {
            tunnel.outer.total_len = Some(60);
        }),
        one("total length too large", "bad_header", 0, |tunnel| {
            tunnel.outer.total_len = Some(1000);
        }),
        one("outer checksum wrong", "bad_header", 0, |tunnel| {
            tunnel.outer.checksum = Some(0x1234);
        }),
        one("outer checksum zero", "bad_header", 0, |tunnel| {
            tunnel.outer.checksum = Some(0);
        }),
        udp_length("UDP length zero", |_| 0),
        udp_length("UDP length seven", |_| 7),
        udp_length("UDP length too large", |right| {
            u16::try_from(right + 1).unwrap_or(0)
        }),
        one("UDP checksum right", "udp_checksum", 1, |tunnel| {
            tunnel.sum = Sum::Right;
        }),
        one("UDP checksum wrong", "udp_checksum", 0, |tunnel| {
            tunnel.sum = Sum::Wrong;
        }),
        // Its own way ends here: nobody asks how far it might have gone.
        one("outer TTL one", "taken", 1, |tunnel| tunnel.outer.ttl = 1),
        one("outer TTL zero", "taken", 1, |tunnel| tunnel.outer.ttl = 0),
        one(
            "congestion that nobody can be told of",
            "ecn_conflict",
            0,
            |tunnel| {
                tunnel.outer.tos = 3;
            },
        ),
        one("a first piece without the rest", "fragment", 0, |tunnel| {
            tunnel.outer.fragment = 0x2000;
        }),
        one("a last piece without the rest", "fragment", 0, |tunnel| {
            tunnel.outer.fragment = 0x0100;
        }),
    ]
}

/// Sources that nobody has, and destinations that are nobody's alone.
fn addresses(scene: &Scene) -> Vec<Series> {
    let from = |name, sources: &[Ipv4Addr]| -> Vec<Frame> {
        let frame = |source: &Ipv4Addr| honest(scene, name, |tunnel| tunnel.outer.source = *source);
        sources.iter().map(frame).collect()
    };
    let sources = [
        scene.victim(),
        scene.gateway(),
        Ipv4Addr::UNSPECIFIED,
        Ipv4Addr::LOCALHOST,
        Ipv4Addr::BROADCAST,
        Ipv4Addr::new(224, 0, 0, 1),
    ];
    let mine = "sources that are no host's";
    let all = "a peer to all on the wire";
    let broadcast = honest(scene, all, |tunnel| {
        tunnel.outer.destination = Ipv4Addr::new(192, 0, 2, 255);
    });
    let other = "another machine's frame";
    let stray = honest(scene, other, |tunnel| {
        tunnel.link.destination = [2, 0, 0, 0, 9, 9]
    });
    vec![
        uplink(mine, "drop_unknown_peer", 0, from(mine, &sources)),
        // The kernel's socket hears it, as without us.
        uplink(all, "not_overlay", 1, vec![broadcast]),
        uplink(other, "other_mac", 0, vec![stray]),
    ]
}

fn tags(scene: &Scene) -> Vec<Series> {
    let (once, twice) = ("a tag of another VLAN", "a provider's tag around another");
    let tagged = honest(scene, once, |_| {}).tagged(TAG, 7);
    let stacked = honest(scene, twice, |_| {})
        .tagged(TAG, 7)
        .tagged(SERVICE_TAG, 8);
    vec![
        uplink(once, "vlan", 0, vec![tagged]),
        uplink(twice, "not_ipv4", 0, vec![stacked]),
    ]
}

/// All the flags but the right ones, and networks at the ends of the range.
fn vxlan(scene: &Scene) -> Vec<Series> {
    let header = |name, headers: Vec<[u8; 8]>, arrives, reason| {
        let frames = headers.into_iter();
        let frames = frames.map(|header| honest(scene, name, |tunnel| tunnel.vxlan = header));
        uplink(name, reason, arrives, frames.collect())
    };
    let flags = (0..=255).filter(|flags| *flags != 8);
    let flags = flags.map(|flags| [flags, 0, 0, 0, 0, 0, 1, 0]).collect();
    let networks = vec![[8, 0, 0, 0, 0, 0, 0, 0], [8, 0, 0, 0, 255, 255, 255, 0]];
    let right = vec![[8, 0, 0, 0, 0, 0, 1, 0]];
    vec![
        header("every other flag", flags, 0, "other_vxlan"),
        header("the first and the last network", networks, 0, "other_vxlan"),
        header("nothing wrong with it", right, 1, "taken"),
    ]
}
