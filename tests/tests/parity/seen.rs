//! Which of the frames that a capture saw are the case's.

use weft_tests::{
    capture::Seen,
    craft::{Frame, TCP},
    lab::SWITCH,
};

/// IPv4, tagged or not: the rest is neighbour discovery, and so is what groups are asked for.
pub fn is_ip(seen: &Seen) -> bool {
    const IGMP: Option<&u8> = Some(&2);
    let bytes = &seen.frame.bytes;
    match bytes.get(12..14) {
        Some([0x08, 0x00]) => bytes.get(23) != IGMP && !is_of_the_store(bytes),
        Some([0x08, 0x06] | [0x86, 0xdd]) | None => false,
        Some(_) => true,
    }
}

/// The agents' own TCP connections.
fn is_of_the_store(bytes: &[u8]) -> bool {
    let store = SWITCH.octets();
    let between = [bytes.get(26..30), bytes.get(30..34)];
    bytes.get(23) == Some(&TCP) && between.contains(&Some(&store))
}

/// Without what is the kernel's own affair: how much of the frame is in one piece.
pub fn plain(frame: &Frame) -> Frame {
    frame.clone().but(|frame| frame.offload.header = 0)
}
