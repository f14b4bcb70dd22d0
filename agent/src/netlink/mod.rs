//! The second seam: links, addresses, routes, neighbours, forwarding entries and connections.

use std::{collections::BTreeSet, future::Future, io, net::IpAddr, os::fd::AsFd};

use futures::Stream;
use nix::sys::socket::{setsockopt, sockopt};

use self::conntrack::{Tracked, Tuple};
use crate::model::{net::IfIndex, peer::Hop};

pub mod clsact;
pub mod conntrack;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;
#[cfg(feature = "fakes")]
pub mod fuzzing;
pub mod guest;
mod host;
pub mod kernel;
pub mod nftables;
mod op;
mod raw;
pub mod xfrm;

pub use self::{
    host::{
        AddressStanding, BridgeEntry, Link, LinkKind, Neighbour, NeighbourState, ObservedHost,
        Route, RoutingRule, Side, TunnelEntry, VxlanAttrs,
    },
    op::{HostOp, VxlanDevice},
};

/// A netlink call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct NetlinkError {
    /// What was asked, and of what.
    pub call: String,
    /// The kernel's answer.
    #[source]
    pub source: std::io::Error,
}

impl NetlinkError {
    /// An answer by number.
    pub(crate) fn errno(call: impl Into<String>, errno: i32) -> Self {
        Self {
            call: call.into(),
            source: std::io::Error::from_raw_os_error(errno),
        }
    }
}

/// That something changed, and where to look: never what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostChange {
    /// Neighbours or forwarding entries of these links, and nothing else.
    Neighbours(BTreeSet<IfIndex>),
    /// Anything. An overrun of the event socket is a change too.
    Any,
}

/// Which way the kernel would send a packet, and from which address; `None` when there is no route.
pub type Way = Result<Option<(Hop, Option<IpAddr>)>, NetlinkError>;

/// Links, addresses, routes, neighbours, forwarding entries and connections of one network
/// namespace.
pub trait Netlink: Send + Sync + 'static {
    /// Wake-ups.
    type Changes: Stream<Item = HostChange> + Send + Unpin;

    /// Reads all of it.
    fn observe(&self) -> impl Future<Output = Result<ObservedHost, NetlinkError>> + Send;

    /// Reads the neighbours and forwarding entries of these links again.
    fn observe_neighbours(
        &self,
        host: &mut ObservedHost,
        links: &BTreeSet<IfIndex>,
    ) -> impl Future<Output = Result<(), NetlinkError>> + Send;

    /// Makes one change.
    fn apply(&self, op: &HostOp) -> impl Future<Output = Result<(), NetlinkError>> + Send;

    /// Makes changes in their order, whatever becomes of those before, and answers for each. Between
    /// spells of them others may run.
    fn apply_all(
        &self,
        ops: &[HostOp],
    ) -> impl Future<Output = Vec<Result<(), NetlinkError>>> + Send;

    /// Which way the kernel would send a packet, and the source address that it would choose;
    /// `None` when there is no route.
    fn route_to(&self, destination: IpAddr) -> impl Future<Output = Way> + Send {
        async move {
            let ways = self.ways_to(&[destination]).await;
            ways.into_iter().next().unwrap_or(Ok(None))
        }
    }

    /// The same for many.
    fn ways_to(&self, destinations: &[IpAddr]) -> impl Future<Output = Vec<Way>> + Send;

    /// All IPv4 connections that conntrack keeps.
    fn connections(&self) -> impl Future<Output = Result<Vec<Tracked>, NetlinkError>> + Send;

    /// The IPv4 connection that has this tuple in one of its two directions.
    fn connection(
        &self,
        protocol: u8,
        tuple: &Tuple,
    ) -> impl Future<Output = Result<Option<Tracked>, NetlinkError>> + Send;

    /// Has conntrack forget a connection, and says whether there was one. The next packet of it
    /// starts afresh.
    fn forget_connection(
        &self,
        tracked: &Tracked,
    ) -> impl Future<Output = Result<bool, NetlinkError>> + Send;

    /// Starts to follow changes.
    fn changes(&self) -> impl Future<Output = Result<Self::Changes, NetlinkError>> + Send;
}

/// Makes room for events that come faster than they are read. Beyond the system's limit where we
/// may, up to it where not.
fn grow_receive_buffer(socket: &impl AsFd, bytes: usize) -> io::Result<()> {
    if setsockopt(socket, sockopt::RcvBufForce, &bytes).is_err() {
        setsockopt(socket, sockopt::RcvBuf, &bytes)?;
    }
    Ok(())
}
