//! Frames cut at every length.

use weft_common::stats::{Fate, Hook, Reason};

use crate::{
    frames::ETH,
    packets::{from_box, from_peer, incoming, outgoing, tunnel},
    world::{At, World},
};

/// Shorter IPv4 frames are refused by the kernel's trial run; no device brings them either: the
/// stack looks at nothing before it has a whole header.
const SHORTEST: usize = ETH + 20;

fn cut(hook: Hook, at: At, frame: Vec<u8>) {
    World::with(move |world| {
        let full = world.taken(hook, at, &frame);
        assert_ne!(full, frame);
        for len in ETH..SHORTEST {
            let refused = world
                .datapath
                .try_packet(hook, &frame[..len], World::ifindex(at), 0)
                .unwrap_err();
            assert_eq!(refused.errno, Some(libc::EINVAL), "{refused}");
        }
        for len in SHORTEST..frame.len() {
            let (reason, _) = world.trial(hook, at, &frame[..len], 0);
            assert_eq!(reason.fate(), Fate::Passed, "{len}: {reason:?}");
            // Nor as an aggregate.
            let (reason, _) = world.trial(hook, at, &frame[..len], 1);
            assert_eq!(reason.fate(), Fate::Passed, "{len}: {reason:?}");
        }
        for more in 1..64 {
            let mut longer = frame.clone();
            longer.resize(frame.len() + more, 0);
            let (reason, _) = world.trial(hook, at, &longer, 0);
            assert_eq!(reason.fate(), Fate::Passed, "{more} more: {reason:?}");
        }
    });
}

#[test]
fn of_a_container() {
    cut(Hook::FromContainer, At::BoxPort, from_box(&outgoing()));
}

#[test]
fn of_the_uplink() {
    let frame = tunnel().frame(&incoming().bytes());
    cut(Hook::FromUplink, At::Uplink, frame);
}

#[test]
fn of_the_overlay() {
    cut(Hook::FromOverlay, At::Overlay, from_peer(&incoming()));
}

/// A frame that is no IPv4 may be as short as its Ethernet header.
#[test]
fn of_no_ipv4() {
    World::with(|world| {
        let places = [
            (Hook::FromContainer, At::BoxPort),
            (Hook::FromBridge, At::Bridge),
            (Hook::FromUplink, At::Uplink),
            (Hook::FromOverlay, At::Overlay),
            (Hook::ToContainer, At::BoxPort),
            (Hook::ToOverlay, At::Overlay),
        ];
        for (hook, at) in places {
            for len in [15, 20, 60] {
                let mut frame = vec![2; len];
                frame[12..14].copy_from_slice(&[0x08, 0x06]);
                let (reason, _) = world.trial(hook, at, &frame, 0);
                assert_eq!(reason, Reason::NotIpv4);
            }
        }
    });
}
