//! Wake-ups from the kernel: that something changed, not what.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};

use crate::netlink::{HostChange, NetlinkError, grow_receive_buffer};

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

/// Nobody reads an event: what does not fit is cut off.
const EVENT_LEN: usize = 64;

/// Events that are taken as one change, so that a storm cannot keep the consumer out.
const BURST: usize = 4096;

/// Changes of the namespace in which it was opened. The socket is the queue: nothing runs, and
/// nothing is stored, until the consumer asks. Ends when the socket breaks.
pub struct Changes {
    socket: Option<TokioSocket>,
    event: Vec<u8>,
}

impl Changes {
    pub(super) fn open() -> Result<Self, NetlinkError> {
        let socket = subscribe().map_err(|source| NetlinkError {
            call: "subscribe to rtnetlink events".to_owned(),
            source,
        })?;
        Ok(Self {
            socket: Some(socket),
            event: Vec::with_capacity(EVENT_LEN),
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
        let Self { socket, event } = &mut *self;
        let Some(open) = socket else {
            return Poll::Ready(None);
        };
        let mut changed = false;
        for _ in 0..BURST {
            event.clear();
            match open.poll_recv(cx, event) {
                Poll::Ready(Ok(())) => changed = true,
                // Events were lost, so something did change.
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changed = true;
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "rtnetlink events ended");
                    *socket = None;
                    return Poll::Ready(changed.then_some(HostChange));
                }
                Poll::Pending if changed => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Some(HostChange))
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
