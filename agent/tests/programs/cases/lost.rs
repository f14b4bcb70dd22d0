//! A subnet that was this host's: no packet of the overlay bears its addresses, whatever the guard
//! says.

use weft_common::{
    peer::{PEER_FAST, PEER_LOST},
    settings::FAST_PATH,
    stats::{Hook, Reason},
};

use super::Case;
use crate::{
    frames::{IPV4, Ip, ethernet},
    packets::{
        BOX, BRIDGE, OUR_VTEP, OUR_VTEP_MAC, PEER_VTEP, PEER_VTEP_MAC, PLAIN_BOX, REMOTE,
        SLOW_REMOTE, from_box, from_peer, incoming, outgoing, tunnel,
    },
    world::{At, World},
};

/// A container of the subnet that came after it.
const NEW_BOX: [u8; 4] = [10, 1, 6, 5];

/// Somebody else has our subnet, and we have none.
fn without(world: &mut World) {
    world.settings(|settings| {
        settings.subnet = [0; 4];
        settings.subnet_mask = [255; 4];
    });
    world.lost([0; 4], PEER_LOST);
}

fn unguarded(world: &mut World) {
    without(world);
    world.settings(|settings| {
        settings.subnet = [0; 4];
        settings.subnet_mask = [255; 4];
        settings.flags = FAST_PATH;
    });
}

/// The peer has it, and we have another one.
fn renumbered(world: &mut World) {
    world.settings(|settings| settings.subnet = [10, 1, 6, 0]);
    world.lost(PEER_VTEP, PEER_FAST | PEER_LOST);
    world.container(NEW_BOX);
}

/// Nobody has it, and we have another one.
fn abandoned(world: &mut World) {
    world.settings(|settings| settings.subnet = [10, 1, 6, 0]);
    world.lost([0; 4], PEER_LOST);
    world.container(NEW_BOX);
}

fn sent(name: &'static str, reason: Reason, packet: &Ip) -> [Case; 2] {
    let case = |hook, at| Case::new(name, hook, at, reason, from_box(packet));
    [
        case(Hook::FromContainer, At::BoxPort),
        case(Hook::FromBridge, At::Bridge),
    ]
}

fn brought(name: &'static str, reason: Reason, packet: &Ip) -> [Case; 2] {
    let wire = tunnel().frame(&packet.bytes());
    [
        Case::new(name, Hook::FromUplink, At::Uplink, reason, wire),
        Case::new(
            name,
            Hook::FromOverlay,
            At::Overlay,
            reason,
            from_peer(packet),
        ),
    ]
}

fn left(name: &'static str, reason: Reason, packet: &Ip) -> [Case; 1] {
    let frame = ethernet(PEER_VTEP_MAC, OUR_VTEP_MAC, IPV4, &packet.bytes());
    [Case::new(name, Hook::ToOverlay, At::Overlay, reason, frame)]
}

pub fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for given in [without, unguarded, renumbered] {
        all.extend(dropped().into_iter().map(|case| case.given(given)));
    }
    all.extend(spared().into_iter().map(|case| case.given(without)));
    all.extend(
        renumbered_cases()
            .into_iter()
            .map(|case| case.given(renumbered)),
    );
    all.extend(
        abandoned_cases()
            .into_iter()
            .map(|case| case.given(abandoned)),
    );
    all
}

fn dropped() -> Vec<Case> {
    use Reason::DropSubnetLost;
    let to = |destination| outgoing().but(|ip| ip.destination = destination);
    let mut all = Vec::new();
    all.extend(sent("to a peer", DropSubnetLost, &outgoing()));
    all.extend(sent("to a slow peer", DropSubnetLost, &to(SLOW_REMOTE)));
    all.extend(sent(
        "to nobody's subnet",
        DropSubnetLost,
        &to([10, 1, 99, 8]),
    ));
    all.extend(sent(
        "in pieces",
        DropSubnetLost,
        &outgoing().but(|ip| ip.fragment = 0x2001),
    ));
    all.extend(sent(
        "with options",
        DropSubnetLost,
        &outgoing().but(|ip| ip.options = vec![1; 4]),
    ));
    all.extend(brought("from a peer", DropSubnetLost, &incoming()));
    all.extend(brought(
        "to the bridge",
        DropSubnetLost,
        &incoming().but(|ip| ip.destination = BRIDGE),
    ));
    all.extend(left("by the stack", DropSubnetLost, &outgoing()));
    all.extend(left(
        "of the host itself",
        DropSubnetLost,
        &outgoing().but(|ip| ip.source = [10, 1, 2, 0]),
    ));
    all.extend(left(
        "a piece",
        DropSubnetLost,
        &outgoing().but(|ip| ip.fragment = 0x2001),
    ));
    all
}

/// What is none of the overlay's.
fn spared() -> Vec<Case> {
    use Reason::*;
    let to = |destination| outgoing().but(|ip| ip.destination = destination);
    let mut all = Vec::new();
    all.extend(sent("to a neighbour", NotOverlay, &to(PLAIN_BOX)));
    all.extend(sent("to the bridge", NotOverlay, &to(BRIDGE)));
    all.extend(sent("to the Internet", NotOverlay, &to([203, 0, 113, 8])));
    all.extend(left(
        "of the node's address",
        NoFlow,
        &outgoing().but(|ip| ip.source = OUR_VTEP),
    ));
    all
}

/// The new subnet works, and talks to the old one's new owner.
fn renumbered_cases() -> Vec<Case> {
    use Reason::*;
    let from = |source, destination| {
        outgoing().but(|ip| (ip.source, ip.destination) = (source, destination))
    };
    let mut all = Vec::new();
    all.extend(brought("to a new container", Taken, &from(REMOTE, NEW_BOX)));
    all.extend(brought("of the new owner", Taken, &from(BOX, NEW_BOX)));
    all.extend(left("of a new container", Untracked, &from(NEW_BOX, BOX)));
    all.push(Case::new(
        "to the new owner",
        Hook::FromContainer,
        At::BoxPort,
        // As far as a trial run goes.
        Taken,
        from_box(&from(NEW_BOX, BOX)),
    ));
    all
}

/// Nobody speaks for it, not even who claims to come from nowhere.
fn abandoned_cases() -> Vec<Case> {
    use Reason::*;
    let forged = outgoing().but(|ip| (ip.source, ip.destination) = (BOX, NEW_BOX));
    let mut all = Vec::new();
    all.extend(brought("of nobody", DropSpoofedInner, &forged));
    let nowhere = tunnel().but(|tunnel| tunnel.outer.source = [0; 4]);
    let wire = nowhere.frame(&forged.bytes());
    all.push(Case::new(
        "of nobody, from nowhere",
        Hook::FromUplink,
        At::Uplink,
        DropUnknownPeer,
        wire,
    ));
    all
}
