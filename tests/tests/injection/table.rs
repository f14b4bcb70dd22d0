//! The forgeries, what refuses each, and where it would arrive if nobody did.

use std::net::Ipv4Addr;

use weft_tests::craft::{Frame, TAG, Tunnel};

use crate::scene::{LISTENING, STRANGER, Scene, THIRD_GATEWAY, To, flow};

/// An address outside of the overlay.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(8, 8, 8, 8);

/// Who sends the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Wire,
    Container,
    /// A network at another interface of the victim.
    Beside,
}

#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// And the content of the forged datagram.
    pub(crate) name: &'static str,
    pub(crate) from: From,
    pub(crate) frames: Vec<Frame>,
    pub(crate) to: To,
    /// The hook and the reason that strict mode counts it under, once.
    pub(crate) refused: (&'static str, &'static str),
    /// Whether it arrives when nobody guards, with `rp_filter` 0, 1 and 2.
    pub(crate) arrives: [bool; 3],
}

impl Case {
    /// The kernel itself refuses it, in every mode; the program only counts why it left it alone.
    pub(crate) fn is_the_kernels(&self) -> bool {
        !self.refused.1.starts_with("drop_")
    }
}

const UNKNOWN: (&str, &str) = ("from_uplink", "drop_unknown_peer");
const SPOOFED: (&str, &str) = ("from_uplink", "drop_spoofed_inner");
const NOT_OURS: (&str, &str) = ("from_uplink", "drop_not_ours");
const TUNNEL: (&str, &str) = ("from_container", "drop_container_tunnel");
const FOREIGN: (&str, &str) = ("from_container", "drop_foreign_source");
const OTHER: (&str, &str) = ("from_uplink", "other_vxlan");

const ALWAYS: [bool; 3] = [true; 3];
const NEVER: [bool; 3] = [false; 3];
/// The source is not to be reached by `flannel.<VNI>`, but it is by another way.
const NOT_STRICT: [bool; 3] = [true, false, true];

pub(crate) fn cases(scene: &Scene) -> Vec<Case> {
    let mut all = strangers(scene);
    all.extend(peers(scene));
    all.extend(headers(scene));
    all.extend(containers(scene));
    all
}

/// A datagram in a tunnel packet from a node, or from nobody.
fn forged(
    scene: &Scene,
    name: &'static str,
    (outer, inner, to): (Ipv4Addr, Ipv4Addr, To),
    refused: (&'static str, &'static str),
    arrives: [bool; 3],
) -> Case {
    let packet = scene.datagram(name, inner, to);
    Case {
        name,
        from: From::Wire,
        frames: vec![scene.tunnel(outer).ip(&packet)],
        to,
        refused,
        arrives,
    }
}

/// From a host that is no peer.
fn strangers(scene: &Scene) -> Vec<Case> {
    let peer = scene.of_lease(1);
    let ours = scene.hostile();
    let case =
        |name, inner, to, arrives| forged(scene, name, (STRANGER, inner, to), UNKNOWN, arrives);
    let mut all = vec![
        case(
            "stranger as a peer's container",
            peer,
            To::Container,
            ALWAYS,
        ),
        case("stranger as anybody", ELSEWHERE, To::Container, NOT_STRICT),
        case("stranger as our own", ours, To::Container, NOT_STRICT),
        case("stranger to a third network", peer, To::Third, ALWAYS),
        case("stranger to the host", peer, To::Host, ALWAYS),
    ];
    // The kernel's socket hears every address of the host, and what is for all on the wire, in
    // whatever frame it comes.
    for (name, to) in [
        ("stranger to the bridge's address", scene.gateway()),
        ("stranger to all on the wire", Ipv4Addr::new(192, 0, 2, 255)),
        ("stranger to all on the bridge", scene.broadcast()),
        ("stranger to all of all", Ipv4Addr::BROADCAST),
        ("stranger to all hosts", Ipv4Addr::new(224, 0, 0, 1)),
    ] {
        let packet = scene.datagram(name, peer, To::Container);
        let tunnel = scene.tunnel(STRANGER);
        let tunnel = tunnel.but(|tunnel| tunnel.outer.destination = to);
        all.push(Case {
            name,
            frames: vec![tunnel.ip(&packet)],
            ..case("", peer, To::Container, ALWAYS)
        });
    }
    // And on every interface.
    for (name, to) in [
        ("stranger by another interface", scene.victim()),
        ("stranger to another interface", THIRD_GATEWAY),
    ] {
        let packet = scene.datagram(name, peer, To::Container);
        all.push(Case {
            name,
            from: From::Beside,
            frames: vec![scene.beside(to).ip(&packet)],
            ..case("", peer, To::Container, ALWAYS)
        });
    }
    let name = "stranger in pieces";
    all.push(Case {
        name,
        frames: pieces(&scene.tunnel(STRANGER), scene, name, peer),
        ..case("", peer, To::Container, ALWAYS)
    });
    all
}

/// From a peer that speaks for another, or to others than us.
fn peers(scene: &Scene) -> Vec<Case> {
    let (peer, second) = (scene.peer(1), scene.of_lease(2));
    let (own, ours) = (scene.of_lease(1), scene.hostile());
    let spoofed =
        |name, inner, arrives| forged(scene, name, (peer, inner, To::Container), SPOOFED, arrives);
    let astray = |name, to| forged(scene, name, (peer, own, to), NOT_OURS, ALWAYS);
    let mut all = vec![
        spoofed("peer as another peer's container", second, ALWAYS),
        spoofed("peer as anybody", ELSEWHERE, NOT_STRICT),
        spoofed("peer as our own", ours, NOT_STRICT),
        astray("peer to a third network", To::Third),
        astray("peer to the host", To::Host),
    ];
    // Who sent it shows on the pieces only; what was inside is judged behind the kernel.
    let name = "peer as anybody, in pieces";
    all.push(Case {
        name,
        frames: pieces(&scene.tunnel(peer), scene, name, ELSEWHERE),
        refused: ("from_overlay", "drop_spoofed_inner"),
        ..spoofed("", ELSEWHERE, NOT_STRICT)
    });
    // A tunnel in the tunnel would come out of the kernel's socket with no trace of its sender.
    for (name, to) in [
        ("peer to the socket, from inside", scene.overlay()),
        ("peer to all, from inside", scene.broadcast()),
    ] {
        let tunnel = scene.tunnel(peer);
        let packet = scene.datagram(name, second, To::Container);
        let nested = tunnel.packet(&tunnel.inner.ip(&packet).bytes).but(|ip| {
            ip.source = own;
            ip.destination = to;
        });
        all.push(Case {
            name,
            frames: vec![tunnel.ip(&nested)],
            refused: ("from_uplink", "drop_container_tunnel"),
            ..spoofed("", second, ALWAYS)
        });
    }
    all
}

/// Headers that no VTEP of this network writes.
fn headers(scene: &Scene) -> Vec<Case> {
    let (peer, own) = (scene.peer(1), scene.of_lease(1));
    let vxlan = |name, header: [u8; 8]| {
        let packet = scene.datagram(name, own, To::Container);
        let tunnel = scene.tunnel(peer).but(|tunnel| tunnel.vxlan = header);
        Case {
            name,
            from: From::Wire,
            frames: vec![tunnel.ip(&packet)],
            to: To::Container,
            refused: OTHER,
            arrives: NEVER,
        }
    };
    let name = "tags that the stack takes off";
    let packet = scene.datagram(name, own, To::Container);
    let tagged = scene.tunnel(STRANGER).ip(&packet);
    let tagged = tagged.tagged(TAG, 0).tagged(TAG, 0);
    vec![
        vxlan("another network", [8, 0, 0, 0, 0, 0, 2, 0]),
        vxlan("no network", [0, 0, 0, 0, 0, 0, 1, 0]),
        vxlan("a reserved bit", [0x88, 0, 0, 0, 0, 0, 1, 0]),
        vxlan("a reserved byte", [8, 0, 0, 0, 0, 0, 1, 1]),
        Case {
            name,
            frames: vec![tagged],
            refused: ("from_uplink", "drop_tagged"),
            arrives: ALWAYS,
            ..vxlan("", [0; 8])
        },
    ]
}

/// From a container of the victim's own.
fn containers(scene: &Scene) -> Vec<Case> {
    let peer = scene.of_lease(1);
    let smuggled = |name, to, arrives| {
        let packet = scene.datagram(name, peer, To::Container);
        Case {
            name,
            from: From::Container,
            frames: vec![scene.smuggled(to).ip(&packet)],
            to: To::Container,
            refused: TUNNEL,
            arrives,
        }
    };
    let name = "container as anybody to a peer's";
    let foreign = flow(ELSEWHERE, 40_001, peer, LISTENING).udp(name.as_bytes());
    vec![
        smuggled("container to the bridge's tunnel", scene.gateway(), ALWAYS),
        smuggled("container to .0's tunnel", scene.overlay(), ALWAYS),
        smuggled("container to all on the bridge", scene.broadcast(), ALWAYS),
        smuggled(
            "container to all hosts",
            Ipv4Addr::new(224, 0, 0, 1),
            ALWAYS,
        ),
        smuggled("container to all of all", Ipv4Addr::BROADCAST, ALWAYS),
        smuggled("container to the node's tunnel", scene.victim(), ALWAYS),
        smuggled("container to a peer's tunnel", scene.peer(1), NEVER),
        Case {
            name,
            frames: vec![scene.port().ip(&foreign)],
            refused: FOREIGN,
            ..smuggled("", peer, NEVER)
        },
    ]
}

/// A tunnel packet whose outer packet comes in two.
fn pieces(tunnel: &Tunnel, scene: &Scene, name: &'static str, inner: Ipv4Addr) -> Vec<Frame> {
    // The listener takes the blanks off again.
    let packet = scene.datagram(&format!("{name:<600}"), inner, To::Container);
    let outer = tunnel.packet(&tunnel.inner.ip(&packet).bytes);
    let pieces = outer.fragments(400);
    pieces.iter().map(|piece| tunnel.link.ip(piece)).collect()
}
