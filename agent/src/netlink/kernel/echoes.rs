//! Events of what we have changed ourselves: there is nothing to look for. With thousands of peers
//! each of them would bring a look at all tables, just after they were written.
//!
//! Of routes and new neighbours the kernel says who asked for it. Of forwarding entries and of
//! neighbours that go it does not: these are known by what they say, each once.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    model::net::Mac,
    netlink::{HostOp, raw},
};

const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;
pub(super) const RTM_NEWNEIGH: u16 = 28;
pub(super) const RTM_DELNEIGH: u16 = 29;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const AF_BRIDGE: u8 = 7;
/// Of the header of a message, and of `struct ndmsg`.
const HEADER: usize = 16;
const NEIGHBOUR: usize = 12;
/// Where the latter has the link.
const NDM_IFINDEX: usize = HEADER + 4;

/// What we await.
#[derive(Debug)]
pub(super) struct Echoes {
    /// The socket whose changes are ours.
    port: u32,
    awaited: Mutex<BTreeSet<Echo>>,
}

/// A change of which the kernel does not say who asked for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Echo {
    Tunnel(u32, Mac, IpAddr),
    TunnelGone(u32, Mac),
    NeighbourGone(u32, IpAddr),
}

impl Echoes {
    pub(super) fn new(port: u32) -> Self {
        Self {
            port,
            awaited: Mutex::default(),
        }
    }

    /// Before the change is made.
    pub(super) fn expect(&self, ops: &[HostOp]) {
        self.awaited().extend(ops.iter().filter_map(echo));
    }

    /// The kernel said that nothing came of it: an event that looks the same is somebody else's.
    pub(super) fn nothing(&self, op: &HostOp) {
        if let Some(echo) = echo(op) {
            self.awaited().remove(&echo);
        }
    }

    /// What has not come until all tables are read does not come: nothing was changed by it.
    pub(super) fn forget(&self) {
        self.awaited().clear();
    }

    /// Whether an event, or its beginning, is about a change of ours.
    pub(super) fn is_ours(&self, event: &[u8]) -> bool {
        let (Some(kind), Some(asked)) = (kind_of(event), long(event, 12)) else {
            return false;
        };
        match kind {
            RTM_NEWROUTE | RTM_DELROUTE => asked == self.port,
            RTM_NEWNEIGH if asked == self.port => true,
            RTM_NEWNEIGH | RTM_DELNEIGH => {
                let echo = read(event, kind == RTM_NEWNEIGH);
                echo.is_some_and(|echo| self.awaited().remove(&echo))
            }
            _ => false,
        }
    }

    fn awaited(&self) -> MutexGuard<'_, BTreeSet<Echo>> {
        // At worst one event is taken for somebody else's.
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a change will be heard as, if the kernel does not say that it is ours.
fn echo(op: &HostOp) -> Option<Echo> {
    match op {
        HostOp::PutTunnel(entry, vtep) => Some(Echo::Tunnel(entry.link.get(), entry.mac, *vtep)),
        HostOp::DeleteTunnel(entry) => Some(Echo::TunnelGone(entry.link.get(), entry.mac)),
        HostOp::DeleteNeighbour(link, addr) => Some(Echo::NeighbourGone(link.get(), *addr)),
        _ => None,
    }
}

/// What an event is about (`RTM_*`).
pub(super) fn kind_of(event: &[u8]) -> Option<u16> {
    short(event, 4)
}

/// The link of a neighbour's event.
pub(super) fn link_of(event: &[u8]) -> Option<u32> {
    long(event, NDM_IFINDEX)
}

/// What a neighbour's event says.
fn read(event: &[u8], new: bool) -> Option<Echo> {
    let tunnel = *event.get(HEADER)? == AF_BRIDGE;
    let link = link_of(event)?;
    let (mut address, mut mac) = (None, None);
    for (kind, value) in raw::attributes(event.get(HEADER + NEIGHBOUR..)?) {
        match kind {
            NDA_DST => address = ip(value),
            NDA_LLADDR => mac = value.try_into().ok().map(Mac),
            _ => {}
        }
    }
    match (tunnel, new) {
        (true, true) => Some(Echo::Tunnel(link, mac?, address?)),
        (true, false) => Some(Echo::TunnelGone(link, mac?)),
        (false, false) => Some(Echo::NeighbourGone(link, address?)),
        (false, true) => None,
    }
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    <[u8; 4]>::try_from(value)
        .map(IpAddr::from)
        .or_else(|_length| <[u8; 16]>::try_from(value).map(IpAddr::from))
        .ok()
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    let two = bytes.get(at..at + 2)?.try_into().ok()?;
    Some(u16::from_ne_bytes(two))
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(four))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::net::IfIndex;

    /// What the kernel tells of a neighbour that went.
    fn neighbour_gone(link: u32, addr: [u8; 4]) -> Vec<u8> {
        let mut event = vec![0; HEADER + NEIGHBOUR];
        event[4..6].copy_from_slice(&RTM_DELNEIGH.to_ne_bytes());
        event[HEADER] = 2;
        event[HEADER + 4..HEADER + 8].copy_from_slice(&link.to_ne_bytes());
        event.extend(8_u16.to_ne_bytes());
        event.extend(NDA_DST.to_ne_bytes());
        event.extend(addr);
        event
    }

    #[test]
    fn nothing_is_awaited_of_a_change_that_found_nothing() {
        let echoes = Echoes::new(77);
        let (link, addr) = (IfIndex::try_from(5).unwrap(), [10, 1, 2, 0]);
        let op = HostOp::DeleteNeighbour(link, addr.into());
        let event = neighbour_gone(5, addr);
        echoes.expect(std::slice::from_ref(&op));
        assert!(echoes.is_ours(&event));
        assert!(!echoes.is_ours(&event));
        echoes.expect(std::slice::from_ref(&op));
        echoes.nothing(&op);
        assert!(!echoes.is_ours(&event));
    }
}
