//! What two pairs showed, held against each other.

use weft_tests::craft::{Frame, IPV4, Partial, UDP, internet, internet_of, put, word};

use crate::{
    allowed::Allowed,
    case::{Case, From},
    pair::Observed,
    place::OVERLAY_PORT,
};

/// The id of every crafted packet: another was chosen by somebody's kernel.
const CRAFTED_ID: u16 = 0x1234;

/// What a kernel leaves to the device: the outer UDP checksum.
const OUTER_UDP: Partial = Partial {
    start: 34,
    offset: 6,
};

/// Where frames were seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    A,
    B,
    There,
    Back,
}

/// A way in which two frames, or the lists of them, can differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    OuterId,
    OuterUdpSum,
    /// The id of a packet that a container's or host's own kernel made.
    OwnId,
    /// Only the kernel's pair shows the frame.
    Missing,
    /// Only ours does.
    Extra,
    /// Only ours does, and the kernel's did before it dropped what belongs to no connection.
    Invalid,
    Order,
    Bytes,
    Offload,
}

/// What one case showed on all pairs.
pub struct Shown {
    pub kernel: Observed,
    /// The kernel's, on hosts that follow no connections, where the others do.
    pub bare: Option<Observed>,
    pub ours: Observed,
}

/// Every difference that is not allowed, for people.
pub fn observed(shown: &Shown, allowed: &mut Allowed, case: &Case) -> Vec<String> {
    let Shown { kernel, bare, ours } = shown;
    let mut wrong = Vec::new();
    for point in [Point::A, Point::B, Point::There, Point::Back] {
        // What was put there, and the kernel writes into what a capture still holds.
        let there = (point, case.from) == (Point::There, From::Wire);
        // The same with what is put together and forwarded on.
        let followed = bare.is_some() && matches!(point, Point::There | Point::Back);
        if there || followed {
            continue;
        }
        let bare = bare.as_ref().map_or(&[][..], |bare| bare.at(point));
        for (what, text) in lists(kernel.at(point), bare, ours.at(point)) {
            if !allowed.meets(what, point, &case.name) {
                wrong.push(format!("  {point:?} {what:?} {text}"));
            }
        }
    }
    wrong
}

/// Pairs the frames that are equal but for what is free, then those that are left in their order.
fn lists(kernel: &[Frame], bare: &[Frame], ours: &[Frame]) -> Vec<(What, String)> {
    let mut differences = Vec::new();
    let mut left: Vec<(usize, &Frame)> = ours.iter().enumerate().collect();
    let mut unpaired = Vec::new();
    let mut last = 0;
    for frame in kernel {
        match left.iter().position(|(_, other)| same(frame, other)) {
            Some(at) => {
                let (place, other) = left.remove(at);
                differences.extend(frames(frame, other));
                if place < last {
                    differences.push((What::Order, line(other)));
                }
                last = last.max(place);
            }
            None => unpaired.push(frame),
        }
    }
    let left = left.into_iter().map(|(_, frame)| frame);
    let (invalid, left): (Vec<_>, Vec<_>) =
        left.partition(|frame| bare.iter().any(|other| same(other, frame)));
    differences.extend(invalid.iter().map(|frame| (What::Invalid, line(frame))));
    let mut left = left.into_iter();
    for frame in unpaired {
        match left.next() {
            Some(other) => differences.extend(frames(frame, other)),
            None => differences.push((What::Missing, line(frame))),
        }
    }
    differences.extend(left.map(|frame| (What::Extra, line(frame))));
    differences
}

/// Whether two frames differ in nothing but what is free.
fn same(kernel: &Frame, ours: &Frame) -> bool {
    let free = |what| matches!(what, What::OuterId | What::OuterUdpSum | What::OwnId);
    frames(kernel, ours).iter().all(|(what, _)| free(*what))
}

fn frames(kernel: &Frame, ours: &Frame) -> Vec<(What, String)> {
    let mut differences = Vec::new();
    let (mut k, mut o) = (kernel.bytes.clone(), ours.bytes.clone());
    if is_tunnel(&k) && is_tunnel(&o) {
        outer(kernel, ours, (&mut k, &mut o), &mut differences);
        own_id(64, (&mut k, &mut o), &mut differences);
    } else {
        own_id(14, (&mut k, &mut o), &mut differences);
    }
    let (mut kernel_offload, our_offload) = (kernel.offload, ours.offload);
    if is_tunnel(&k) && kernel_offload.partial == Some(OUTER_UDP) && our_offload.partial.is_none() {
        // It is the device that computes it.
        kernel_offload.partial = None;
    }
    if k != o {
        let text = format!("\n    kernel {}\n    ours   {}", line(kernel), line(ours));
        differences.push((What::Bytes, text));
    }
    if kernel_offload != our_offload {
        let text = format!("{kernel_offload:?} and ours {our_offload:?}");
        differences.push((What::Offload, text));
    }
    differences
}

/// A VXLAN packet that is no fragment and has no options outside.
fn is_tunnel(bytes: &[u8]) -> bool {
    word(bytes, 12) == Some(IPV4)
        && bytes.get(14) == Some(&0x45)
        && word(bytes, 20).is_some_and(|fragment| fragment & 0x3fff == 0)
        && bytes.get(23) == Some(&UDP)
        && word(bytes, 36) == Some(OVERLAY_PORT)
}

/// Takes out of both what the outer headers leave free, if it is right in both.
fn outer(
    kernel: &Frame,
    ours: &Frame,
    (k, o): (&mut [u8], &mut [u8]),
    differences: &mut Vec<(What, String)>,
) {
    let (ids, sums) = ((word(k, 18), word(o, 18)), (word(k, 40), word(o, 40)));
    if ids.0 != ids.1 && holds(k, 14) && holds(o, 14) {
        differences.push((What::OuterId, format!("{ids:?}")));
        blank(k, o, 18);
        blank(k, o, 24);
    }
    if sums.0 != sums.1 && udp_sum_holds(kernel) && udp_sum_holds(ours) {
        differences.push((What::OuterUdpSum, format!("{sums:?}")));
        blank(k, o, 40);
    }
}

/// The same for the id that a kernel chose for a packet of its own.
fn own_id(at: usize, (k, o): (&mut [u8], &mut [u8]), differences: &mut Vec<(What, String)>) {
    if word(k, at - 2) != Some(IPV4) || word(o, at - 2) != Some(IPV4) {
        return;
    }
    let ids = (word(k, at + 4), word(o, at + 4));
    let crafted = ids.0 == Some(CRAFTED_ID) || ids.1 == Some(CRAFTED_ID);
    if ids.0 != ids.1 && !crafted && holds(k, at) && holds(o, at) {
        differences.push((What::OwnId, format!("{ids:?}")));
        blank(k, o, at + 4);
        blank(k, o, at + 10);
    }
}

fn blank(k: &mut [u8], o: &mut [u8], at: usize) {
    put(k, at, &[0; 2]);
    put(o, at, &[0; 2]);
}

/// Whether the checksum of the IPv4 header at `at` does.
fn holds(bytes: &[u8], at: usize) -> bool {
    let len = bytes
        .get(at)
        .map_or(0, |first| usize::from(first & 0xf) * 4);
    let header = bytes.get(at..at + len).filter(|header| !header.is_empty());
    header.is_some_and(|header| internet(header) == 0)
}

/// Whether the outer UDP checksum is none, still to be computed, or right.
fn udp_sum_holds(frame: &Frame) -> bool {
    let bytes = &frame.bytes;
    let Some(datagram) = bytes.get(34..) else {
        return false;
    };
    if word(datagram, 6) == Some(0) || frame.offload.partial.is_some() {
        return true;
    }
    let addresses = bytes.get(26..34).unwrap_or_default();
    let len = word(datagram, 4).unwrap_or(0).to_be_bytes();
    internet_of(&[addresses, &[0, UDP], &len, datagram]) == 0
}

fn line(frame: &Frame) -> String {
    let line = frame.line();
    let end = line
        .char_indices()
        .nth(400)
        .map_or(line.len(), |(at, _)| at);
    format!("{} bytes {}", frame.bytes.len(), &line[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        case::echo,
        place::{flow, link, tunnel},
    };
    use weft_tests::craft::Sum;

    fn what(kernel: &[Frame], ours: &[Frame]) -> Vec<What> {
        lists(kernel, &[], ours)
            .into_iter()
            .map(|found| found.0)
            .collect()
    }

    #[test]
    fn every_difference_is_seen() {
        let (a, b) = (echo(flow()), echo(flow()).but(|ip| ip.ttl = 3));
        let [first, second] = [&a, &b].map(|packet| link(0).ip(packet));
        let list = [first.clone(), second.clone()];
        assert_eq!(what(&list, &list), []);
        assert_eq!(what(&list, &list[..1]), [What::Missing]);
        assert_eq!(what(&list[1..], &list), [What::Extra]);
        let dropped = lists(&list[1..], &list, &list);
        assert_eq!(dropped.first().map(|found| found.0), Some(What::Invalid));
        assert_eq!(what(&list, &[second.clone(), first.clone()]), [What::Order]);
        for at in 0..first.bytes.len() {
            let damaged = first.clone().but(|frame| frame.bytes[at] ^= 1);
            let found = what(std::slice::from_ref(&first), &[damaged]);
            assert_eq!(found, [What::Bytes], "byte {at}");
        }
        let offload = first.clone().but(|f| f.offload.partial = Some(OUTER_UDP));
        assert_eq!(what(&[first], &[offload]), [What::Offload]);
    }

    #[test]
    fn only_what_is_free_outside_may_differ() {
        let packet = echo(flow());
        let usual = tunnel().ip(&packet);
        let other = |change: fn(&mut weft_tests::craft::Tunnel)| {
            let frame = tunnel().but(change).ip(&packet);
            what(std::slice::from_ref(&usual), &[frame])
        };
        assert_eq!(other(|t| t.outer.id = 1), [What::OuterId]);
        assert_eq!(other(|t| t.sum = Sum::Right), [What::OuterUdpSum]);
        assert_eq!(other(|t| t.sum = Sum::Wrong), [What::Bytes]);
        assert_eq!(other(|t| t.outer.ttl = 63), [What::Bytes]);
        assert_eq!(other(|t| t.outer.fragment = 0x4000), [What::Bytes]);
        assert_eq!(other(|t| t.source_port += 1), [What::Bytes]);
        assert_eq!(other(|t| t.outer.tos = 0xb8), [What::Bytes]);
    }
}
