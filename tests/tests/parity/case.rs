//! One case: what is sent, from where, and which way it must take on our pair.

use weft_tests::craft::{Flow, Frame, Ip, Tunnel};

use crate::place::{link, tunnel};

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// The first host's container.
    A,
    /// The second host's.
    B,
    /// The wire, at the second host's uplink.
    Wire,
    /// The wire, at the first host's.
    Near,
}

/// How the uplinks treat aggregates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// They cross whole, as between machines of one hypervisor.
    Whole,
    /// They are cut before they leave, as by a card.
    Cut,
}

#[derive(Clone, Debug)]
pub struct Case {
    pub name: String,
    pub from: From,
    pub wire: Wire,
    pub frames: Vec<Frame>,
    /// Exactly the counters that must move on our pair; see [`crate::counts`].
    pub counts: String,
    /// Frames that the first container gets only after a time: of resolution, of reassembly.
    pub late: usize,
    /// Not for hosts that follow connections: pieces are put together there, and cut otherwise; or
    /// what comes late does not come at all, and cannot be waited for.
    pub stateless: bool,
}

impl Case {
    pub fn new(name: &str, from: From, frames: Vec<Frame>, counts: &str) -> Self {
        Self {
            name: name.to_owned(),
            from,
            wire: Wire::Whole,
            frames,
            counts: counts.to_owned(),
            late: 0,
            stateless: false,
        }
    }

    pub fn late(mut self, frames: usize) -> Self {
        self.late = frames;
        self
    }

    pub fn stateless(mut self) -> Self {
        self.stateless = true;
        self
    }

    pub fn cut(mut self) -> Self {
        self.wire = Wire::Cut;
        self
    }
}

/// The first container sends a packet.
pub fn out(name: &str, packet: &Ip, counts: &str) -> Case {
    outs(name, std::slice::from_ref(packet), counts)
}

pub fn outs(name: &str, packets: &[Ip], counts: &str) -> Case {
    let frames = packets.iter().map(|packet| link(0).ip(packet)).collect();
    Case::new(name, From::A, frames, counts)
}

/// The second container sends a packet.
pub fn back(name: &str, packet: &Ip, counts: &str) -> Case {
    Case::new(name, From::B, vec![link(1).ip(packet)], counts)
}

/// A tunnel packet comes to the second host.
pub fn inward(name: &str, tunnel: &Tunnel, packet: &Ip, counts: &str) -> Case {
    Case::new(name, From::Wire, vec![tunnel.ip(packet)], counts)
}

/// The usual tunnel packet, with a difference.
pub fn tunnelled(name: &str, change: impl FnOnce(&mut Tunnel), packet: &Ip, counts: &str) -> Case {
    inward(name, &tunnel().but(change), packet, counts)
}

/// An echo request of the usual size.
pub fn echo(flow: Flow) -> Ip {
    flow.echo(1, &weft_tests::craft::payload(56))
}

/// Both of our hosts take it, one way or the other.
pub const THERE: &str = "A out taken; B in taken";
pub const BACK: &str = "B out taken; A in taken";
/// A packet and the answer to it.
pub const ROUND: &str = "A out taken; B in taken; B out taken; A in taken";
/// The first host's kernel answers its container.
pub const REFUSED: &str = "A bridge port_passed; A to no_flow";
/// What a kernel encapsulated has a checksum that no device has verified here: the kernel takes it
/// in, and the overlay's program delivers it.
pub const KERNEL_SENT: &str =
    "A bridge port_passed; A by untracked; B in udp_checksum; B over taken";

/// For the far host itself, which answers by its kernel.
pub const FAR_HOST: &str = "A out taken; B in host_traffic; B over host_traffic; B by no_flow; \
    A in udp_checksum; A over taken";
/// For an address that nobody has: the far host's kernel says so.
pub const FAR_NOBODY: &str = "A out taken; B in no_endpoint; B over no_endpoint; B by no_flow; \
    A in udp_checksum; A over taken";
/// The far host's kernel says that the TTL has expired.
pub const FAR_EXPIRED: &str = "A out taken; B in ttl_expiring; B over ttl_expiring; B by no_flow; \
    A in udp_checksum; A over taken";
/// Not for the overlay.
pub const ELSEWHERE: &str = "A out not_overlay; A bridge not_overlay";

/// Several of these.
pub fn all(parts: &[&str]) -> String {
    parts.join("; ")
}
