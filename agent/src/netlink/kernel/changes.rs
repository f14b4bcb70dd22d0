//! Wake-ups from the kernel: that something changed, and whether it was only a neighbour.

use std::{
    collections::BTreeSet,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::Stream;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use super::echoes::Echoes;
use crate::{
    model::net::IfIndex,
    netlink::{HostChange, NetlinkError, grow_receive_buffer},
};

const GROUPS: [MulticastGroup; 8] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Tc,
];

/// Room for the events of a few hundred containers that start at once.
const RECEIVE_BUFFER: usize = 4 << 20;

/// Only the beginning of an event is read: what does not fit is cut off.
const EVENT_LEN: usize = 64;

const RTM_NEWNEIGH: u16 = 28;
const RTM_DELNEIGH: u16 = 29;
/// Where `struct ndmsg` has the link, behind the header.
const NDM_IFINDEX: std::ops::Range<usize> = 20..24;

/// Events that are taken as one change, so that a storm cannot keep the consumer out.
const BURST: usize = 4096;

/// Changes of the namespace in which it was opened. The socket is the queue: nothing runs, and
/// nothing is stored, until the consumer asks. Ends when the socket breaks.
pub struct Changes {
    socket: Option<TokioSocket>,
    event: Vec<u8>,
    echoes: Arc<Echoes>,
}

impl Changes {
    pub(super) fn open(echoes: Arc<Echoes>) -> Result<Self, NetlinkError> {
        let socket = subscribe().map_err(|source| NetlinkError {
            call: "subscribe to rtnetlink events".to_owned(),
            source,
        })?;
        Ok(Self {
            socket: Some(socket),
            event: Vec::with_capacity(EVENT_LEN),
            echoes,
        })
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl Stream for Changes {
    type Item = HostChange;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<HostChange>> {
        let Self {
            socket,
            event,
            echoes,
        } = &mut *self;
        let Some(open) = socket else {
            return Poll::Ready(None);
        };
        let mut changed = None;
        for _ in 0..BURST {
            event.clear();
            match open.poll_recv(cx, event) {
                Poll::Ready(Ok(())) if echoes.is_ours(event) => {}
                Poll::Ready(Ok(())) => changed = Some(join(changed, link_of(event))),
                // Events were lost, so something did change.
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changed = Some(HostChange::Any);
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "rtnetlink events ended");
                    *socket = None;
                    return Poll::Ready(changed);
                }
                Poll::Pending if changed.is_some() => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        if changed.is_none() {
            // So many of our own: others get their turn before the rest.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(changed)
    }
}

/// The link whose neighbour an event is about; `None` where it is about something else.
fn link_of(event: &[u8]) -> Option<IfIndex> {
    let kind = event.get(4..6)?.try_into().ok().map(u16::from_ne_bytes)?;
    if !matches!(kind, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return None;
    }
    let link = event.get(NDM_IFINDEX)?.try_into().ok();
    IfIndex::try_from(link.map(u32::from_ne_bytes)?).ok()
}

fn join(before: Option<HostChange>, link: Option<IfIndex>) -> HostChange {
    match (before, link) {
        (None, Some(link)) => HostChange::Neighbours(BTreeSet::from([link])),
        (Some(HostChange::Neighbours(mut links)), Some(link)) => {
            links.insert(link);
            HostChange::Neighbours(links)
        }
        (Some(HostChange::Any), _) | (_, None) => HostChange::Any,
    }
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    grow_receive_buffer(inner, RECEIVE_BUFFER)?;
    inner.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        inner.add_membership(group as u32)?;
    }
    Ok(socket)
}
