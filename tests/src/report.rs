//! What the probe measured, as it prints it and as the tests read it.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// One side of a UDP exchange in which both sides send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Udp {
    pub sent: u64,
    /// What the other side says it sent; zero when it was never heard of.
    pub peer_sent: u64,
    /// Distinct numbered packets of the other side.
    pub received: u64,
    pub duplicates: u64,
    /// Sends that the kernel refused.
    pub refused: u64,
    /// The longest time without a packet, between the first and the last.
    pub longest_gap_ms: u64,
    /// The longest time between two sends: a pause of the sender's own is nobody's fault.
    #[serde(default)]
    pub longest_pause_ms: u64,
    /// Packets of anybody that the queues in front of the machine's cores dropped meanwhile: all
    /// hosts share them. No probe knows of it; who runs an exchange fills it in.
    #[serde(skip)]
    pub backlog_drops: u64,
}

impl Udp {
    pub fn lost(&self) -> u64 {
        self.peer_sent.saturating_sub(self.received)
    }

    /// Lost where the machine's own queues cannot have been the reason.
    pub fn lost_on_the_way(&self) -> u64 {
        self.lost().saturating_sub(self.backlog_drops)
    }
}

/// What hangs at one side of a device by TCX, in its order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hooked {
    pub device: String,
    /// `ingress` or `egress`.
    pub side: String,
    pub programs: Vec<u32>,
    pub links: Vec<u32>,
}

/// Questions and what came back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    pub asked: u32,
    pub answered: u32,
    /// An ICMP error said that nobody listens.
    pub refused: u32,
    /// The first other error.
    pub trouble: Option<String>,
}

/// One round with all that a probe holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub held: u64,
    pub answered: u64,
    /// Why the first of the others did not answer.
    pub trouble: Option<String>,
}

impl Round {
    /// All answered, and there were that many.
    pub fn is_complete(&self, held: u64) -> bool {
        self.held == held && self.answered == held
    }
}

/// A transfer over one TCP connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tcp {
    pub sent: u64,
    pub received: u64,
    /// Both ends hashed the same content.
    pub equal: bool,
    /// Segments sent again, for whatever reason.
    pub retransmits: u64,
    /// Those of them that had arrived all the same: on a busy machine the acknowledgement is late.
    pub needless: u64,
    pub milliseconds: u64,
    /// The longest time that one write was held up.
    pub longest_stall_ms: u64,
}

impl Tcp {
    pub fn complete(&self) -> bool {
        self.equal && self.sent == self.received
    }

    /// Segments that had to be sent again.
    pub fn repaired(&self) -> u64 {
        self.retransmits.saturating_sub(self.needless)
    }

    pub fn mbit(&self) -> u64 {
        self.received.saturating_mul(8) / self.milliseconds.max(1) / 1000
    }
}

/// Frames that the probe was given to send.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    pub sent: u64,
    /// Sends that the kernel refused.
    pub refused: u64,
}

/// Datagrams sent or received, hashed in their order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagrams {
    pub count: u64,
    pub bytes: u64,
    pub hash: u64,
}

/// What the receiving end of a transfer answers to the sending end.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct TcpSink {
    pub bytes: u64,
    pub hash: u64,
}

/// Echo requests and what came back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    pub sent: u32,
    pub replies: u32,
    /// Sends refused with `EMSGSIZE`: the path MTU is known here and smaller.
    pub too_big: u32,
    /// Sends refused otherwise.
    pub refused: u32,
    pub errors: Vec<IcmpError>,
}

/// An ICMP error that quotes one of our requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IcmpError {
    pub from: Ipv4Addr,
    pub kind: u8,
    pub code: u8,
    /// For "fragmentation needed" only.
    pub mtu: Option<u16>,
}

impl IcmpError {
    pub fn is_too_big(&self) -> bool {
        (self.kind, self.code) == (3, 4)
    }

    pub fn is_ttl_exceeded(&self) -> bool {
        (self.kind, self.code) == (11, 0)
    }
}
