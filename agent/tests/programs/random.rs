//! Damaged frames: whatever comes, one counter moves and what is not taken is not touched.

use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{Config, TestRunner},
};
use weft_common::stats::{Fate, Hook};

use crate::{
    frames::{ETH, ICMP, Ip, UDP, checksum, icmp, udp},
    packets::{BOX, REMOTE, error_about, from_box, from_peer, incoming, outgoing, tunnel},
    world::{At, World},
};

#[derive(Clone, Debug)]
enum Damage {
    /// One bit of the headers, or of anything.
    Flip(Index, u8),
    /// A byte of the first hundred.
    Set(usize, u8),
    /// The end is missing.
    Cut(Index),
    /// There is more than there should be.
    Grow(Vec<u8>),
    /// Checksums of the outermost header put right again, so that damage gets further.
    Repair,
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 0u8..8).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        (0usize..100, any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        any::<Index>().prop_map(Damage::Cut),
        vec(any::<u8>(), 1..80).prop_map(Damage::Grow),
        Just(Damage::Repair),
    ]
}

fn apply(frame: &mut Vec<u8>, damage: &Damage) {
    match damage {
        Damage::Flip(at, bit) => {
            let at = at.index(frame.len());
            frame[at] ^= 1 << bit;
        }
        Damage::Set(at, byte) => {
            if let Some(old) = frame.get_mut(*at) {
                *old = *byte;
            }
        }
        Damage::Cut(at) => {
            let shortest = ETH + 20;
            frame.truncate(shortest + at.index(frame.len() - shortest + 1));
        }
        Damage::Grow(more) => frame.extend(more),
        Damage::Repair => {
            for start in [ETH, ETH + 50] {
                if let Some(header) = frame.get_mut(start..start + 20) {
                    header[10..12].fill(0);
                    let sum = checksum(header);
                    header[10..12].copy_from_slice(&sum.to_be_bytes());
                }
            }
        }
    }
}

/// Bodies of packets between the container and the peer's, by their sender.
fn packets(source: [u8; 4], destination: [u8; 4], answer: &Ip) -> Vec<Ip> {
    let ip = |protocol, payload| Ip::new(source, destination, protocol, payload);
    vec![
        if source == BOX {
            outgoing()
        } else {
            incoming()
        },
        ip(UDP, udp(40000, 53, b"a question")),
        ip(ICMP, icmp(8, 77, b"ping")),
        error_about(answer, source, destination, 3),
    ]
}

fn holds(hook: Hook, at: At, frames: Vec<Vec<u8>>) {
    World::with(move |world| {
        let config = Config {
            cases: 200,
            failure_persistence: None,
            ..Config::default()
        };
        let case = (
            any::<Index>(),
            vec(damage(), 1..5),
            prop_oneof![4 => Just(0u32), 1 => 1u32..1500],
        );
        let taken = std::cell::Cell::new(0);
        TestRunner::new(config)
            .run(&case, |(frame, damages, gso_size)| {
                let mut frame = frame.get(&frames).clone();
                damages.iter().for_each(|damage| apply(&mut frame, damage));
                // `trial` holds the answer, the counters and the frame to their reason.
                let (reason, _) = world.trial(hook, at, &frame, gso_size);
                taken.set(taken.get() + u32::from(reason.fate() == Fate::Taken));
                Ok(())
            })
            .unwrap();
        assert!(taken.get() < 200, "no damage was noticed");
    });
}

#[test]
fn from_containers() {
    let packets = packets(BOX, REMOTE, &incoming());
    let frames = packets.iter().map(from_box).collect();
    holds(Hook::FromContainer, At::BoxPort, frames);
}

#[test]
fn from_the_uplink() {
    let packets = packets(REMOTE, BOX, &outgoing());
    let frames = packets.iter().map(|packet| tunnel().frame(&packet.bytes()));
    holds(Hook::FromUplink, At::Uplink, frames.collect());
}

#[test]
fn from_the_overlay() {
    let packets = packets(REMOTE, BOX, &outgoing());
    let frames = packets.iter().map(from_peer).collect();
    holds(Hook::FromOverlay, At::Overlay, frames);
}
