//! Many segments in one, over a wire that carries them whole and over one that does not.

use weft_tests::craft::{Aggregate, Frame, Ip, Segment, Sum, payload};

use crate::{
    case::{Case, FAR_EXPIRED, From, REFUSED, all},
    place::{flow, inside, link, to},
};

/// What the container makes of one, and of many, and answers.
enum Fate {
    /// Taken; the container answers every segment that it sees.
    Taken(usize),
    /// Taken, and cut before it leaves, whatever the wire.
    Split(usize),
    /// Our host's kernel cuts it, and takes the pieces that come.
    Cut(usize),
    /// The kernel cuts it into segments, and each of those in two pieces.
    Pieces(usize),
    /// Our host's kernel answers.
    Refused(&'static str),
    /// The far host's does.
    Expired(usize),
    /// The container's own kernel has cut it.
    Before(usize),
}

impl Fate {
    fn whole(&self) -> String {
        match self {
            Self::Taken(_) => "A out taken_aggregate; B in aggregate; B over taken_aggregate; \
                B out taken; A in taken"
                .to_owned(),
            Self::Expired(_) => FAR_EXPIRED
                .replace("out taken", "out taken_aggregate")
                .replace("in ttl_expiring", "in aggregate"),
            _ => self.cut(),
        }
    }

    fn cut(&self) -> String {
        match self {
            Self::Taken(n) | Self::Split(n) => {
                format!("A out taken_aggregate; B in taken*{n}; B out taken*{n}; A in taken*{n}")
            }
            Self::Cut(n) => format!(
                "A out too_big; A bridge port_passed; A by untracked; B in udp_checksum*{n}; \
                 B over taken*{n}; B out taken*{n}; A in taken*{n}"
            ),
            Self::Pieces(n) => {
                let m = 2 * n;
                format!(
                    "A out too_big; A bridge port_passed; A by untracked*{n}; A by no_flow*{n}; \
                     B in udp_checksum*{m}; B over taken*{m}; B out taken*{n}; A in taken*{n}"
                )
            }
            Self::Refused(reason) => all(&[&format!("A out {reason}"), REFUSED]),
            Self::Expired(n) => format!(
                "A out taken_aggregate; B in ttl_expiring*{n}; B over ttl_expiring*{n}; \
                 B by no_flow*{n}; A in udp_checksum*{n}; A over taken*{n}"
            ),
            Self::Before(n) => {
                format!("A out taken*{n}; B in taken*{n}; B out taken*{n}; A in taken*{n}")
            }
        }
    }
}

fn aggregate(packet: Ip, kind: Aggregate, size: u16) -> Frame {
    link(0).ip(&packet.sum(Sum::Partial)).aggregate(kind, size)
}

fn tcp(len: usize, size: u16, change: fn(&mut Ip)) -> Frame {
    let packet = flow().tcp(&Segment::data(), &payload(len)).but(change);
    aggregate(packet, Aggregate::Tcp4, size)
}

fn udp(len: usize, size: u16, change: fn(&mut Ip)) -> Frame {
    let packet = flow().udp(&payload(len)).but(change);
    aggregate(packet, Aggregate::Udp, size)
}

pub fn cases() -> Vec<Case> {
    use Fate::*;
    let no_df = |ip: &mut Ip| ip.fragment = 0;
    // Payload that, with its headers and the outer ones, is as long as IPv4 can say.
    let longest = 65535 - 50 - 52;
    let table = [
        ("64 KB of TCP", tcp(longest - 14, 1398, |_| {}), Taken(47)),
        // With its Ethernet header it is longer than a device takes whole.
        (
            "TCP that fills IPv4 outside",
            tcp(longest, 1398, |_| {}),
            Split(47),
        ),
        ("a little more TCP", tcp(longest + 1, 1398, |_| {}), Cut(47)),
        (
            "TCP that fills IPv4",
            tcp(longest + 50, 1398, |_| {}),
            Before(47),
        ),
        ("two segments of TCP", tcp(2 * 1398, 1398, |_| {}), Taken(2)),
        (
            "TCP with a short end",
            tcp(1398 + 1, 1398, |_| {}),
            Taken(2),
        ),
        (
            "TCP segments too big",
            tcp(4 * 1399, 1399, |_| {}),
            Refused("too_big"),
        ),
        (
            "TCP segments too big, no DF",
            tcp(4 * 1399, 1399, no_df),
            Pieces(4),
        ),
        ("TCP without DF", tcp(4 * 1398, 1398, no_df), Taken(4)),
        ("TCP in small segments", tcp(4000, 500, |_| {}), Taken(8)),
        (
            "TCP with a congestion mark",
            tcp(4000, 1398, |ip| ip.tos = 3),
            Taken(3),
        ),
        (
            "TCP with DSCP and ECT",
            tcp(4000, 1398, |ip| ip.tos = 0xba),
            Taken(3),
        ),
        (
            "TCP with TTL 1",
            tcp(4000, 1398, |ip| ip.ttl = 1),
            Refused("ttl_expiring"),
        ),
        (
            "TCP with TTL 2",
            tcp(4000, 1398, |ip| ip.ttl = 2),
            Expired(3),
        ),
        ("UDP segments", udp(16 * 1422, 1422, |_| {}), Taken(16)),
        (
            "UDP segments with a short end",
            udp(1422 + 7, 1422, |_| {}),
            Taken(2),
        ),
        (
            "UDP segments too big",
            udp(2 * 1423, 1423, |_| {}),
            Refused("too_big"),
        ),
        (
            "UDP segments too big, no DF",
            udp(2 * 1423, 1423, no_df),
            Pieces(2),
        ),
        ("UDP in small segments", udp(3000, 100, no_df), Taken(30)),
    ];
    let mut cases = Vec::new();
    for (name, frame, fate) in table {
        let case = |how: &str, counts: &str| {
            let frames = vec![frame.clone()];
            Case::new(&format!("{name}, {how}"), From::A, frames, counts)
        };
        cases.push(case("whole", &fate.whole()));
        cases.push(case("cut", &fate.cut()).cut());
    }
    cases.extend(aside());
    cases
}

/// Aggregates that do not take the whole way.
fn aside() -> Vec<Case> {
    let reset = Segment {
        flags: Segment::RST,
        ..Segment::data()
    };
    let packet = to(inside(1, 1)).tcp(&Segment::data(), &payload(4000));
    let bridge = aggregate(packet, Aggregate::Tcp4, 1398);
    let packet = flow().tcp(&reset, &payload(4000));
    let packet = packet.but(|ip| ip.source = inside(0, 99));
    let unknown = aggregate(packet, Aggregate::Tcp4, 1398);
    let packet = flow().tcp(&reset, &payload(4000));
    let options = aggregate(
        packet.but(|ip| ip.options = vec![1; 4]),
        Aggregate::Tcp4,
        1394,
    );
    vec![
        Case::new(
            "an aggregate for the far bridge",
            From::A,
            vec![bridge],
            "A out taken_aggregate; B in aggregate; B over host_traffic; B by no_flow; \
             A in udp_checksum; A over taken",
        ),
        Case::new(
            "an aggregate from an unknown neighbour",
            From::A,
            vec![unknown],
            "A out no_source_endpoint; A bridge port_passed; A by untracked; B in aggregate; \
             B over taken_aggregate",
        ),
        Case::new(
            "an aggregate with options",
            From::A,
            vec![options],
            "A out ip_options; A bridge port_passed; A by no_flow; B in aggregate; \
             B over ip_options; B to no_flow",
        ),
    ]
}
