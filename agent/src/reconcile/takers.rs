//! What lets the programs take packets from the stack, and what must be there before.

use weft_common::{peer::PEER_DIRECT, stats::Hook};

use super::{pass::Memory, plan::records};
use crate::{
    datapath::{Attachment, DatapathOp},
    model::net::IfIndex,
};

/// Whether packets may be taken after it that were not before.
pub(super) fn takes(op: &DatapathOp) -> bool {
    match op {
        DatapathOp::Attach(at) => !records(at.hook),
        DatapathOp::PutEndpoint(..) | DatapathOp::PutPort(..) => true,
        DatapathOp::PutPeer(_, peer) => peer.flags & PEER_DIRECT != 0,
        _ => false,
    }
}

impl Memory {
    /// Whether a program is missing that must be attached before.
    pub(super) fn lacks(&self, op: &DatapathOp, uplink: IfIndex) -> bool {
        match op {
            DatapathOp::Attach(at) => self.lacks_recorder(at, uplink),
            DatapathOp::PutPeer(..) => self.lacks_way(uplink),
            _ => false,
        }
    }

    /// Whether a program that takes packets would miss flows that the stack has already. Without the
    /// recorder of the uplink no peer is [`PEER_DIRECT`].
    fn lacks_recorder(&self, at: &Attachment, uplink: IfIndex) -> bool {
        let fails = |(hook, link): &(Hook, IfIndex)| match hook {
            Hook::ToOverlay => *link != uplink,
            Hook::ToContainer => *link == at.link,
            Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => false,
        };
        self.unhooked.iter().any(fails)
    }

    /// Whether packets without a tunnel would not come in where they go out, or be missed where the
    /// stack sends them.
    fn lacks_way(&self, uplink: IfIndex) -> bool {
        let mut hooks = [Hook::FromUplink, Hook::ToOverlay].iter();
        hooks.any(|hook| self.unhooked.contains(&(*hook, uplink)))
    }
}
