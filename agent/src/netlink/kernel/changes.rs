//! Wake-ups from the kernel: that something changed, and whether it was only a neighbour.

use std::{
    collections::BTreeSet,
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::Stream;
use rtnetlink::{
    MulticastGroup,
    sys::{AsyncSocket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE},
};
use tokio::time::{Sleep, sleep};
use tracing::{debug, info, warn};

use super::echoes::{self, Echoes, RTM_DELNEIGH, RTM_NEWNEIGH};
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

/// Events that are taken as one change, so that a storm cannot keep the consumer out.
const BURST: usize = 4096;

/// How long a socket that broke is given until another one is opened.
const REOPEN: Duration = Duration::from_secs(1);

/// Where events come from.
pub trait Events: Sized {
    /// Subscribes, in the namespace of the calling thread.
    fn open() -> io::Result<Self>;

    /// Reads the beginning of the next event.
    fn poll_event(&mut self, cx: &mut Context<'_>, event: &mut Vec<u8>) -> Poll<io::Result<()>>;
}

impl Events for TokioSocket {
    fn open() -> io::Result<Self> {
        subscribe()
    }

    fn poll_event(&mut self, cx: &mut Context<'_>, event: &mut Vec<u8>) -> Poll<io::Result<()>> {
        self.poll_recv(cx, event)
    }
}

/// Changes of the namespace in which it was opened. The socket is the queue: nothing runs, and
/// nothing is stored, until the consumer asks. A socket that breaks is replaced, and what may have
/// been missed is a change.
pub struct Changes<S = TokioSocket> {
    state: State<S>,
    event: Vec<u8>,
    echoes: Arc<Echoes>,
}

enum State<S> {
    Open(S),
    /// Until the next attempt.
    Broken(Pin<Box<Sleep>>),
}

impl<S: Events> Changes<S> {
    pub(super) fn open(echoes: Arc<Echoes>) -> Result<Self, NetlinkError> {
        let socket = S::open().map_err(|source| NetlinkError {
            call: "subscribe to rtnetlink events".to_owned(),
            source,
        })?;
        Ok(Self {
            state: State::Open(socket),
            event: Vec::with_capacity(EVENT_LEN),
            echoes,
        })
    }

    fn poll_reopened(&mut self, cx: &mut Context<'_>) -> Poll<HostChange> {
        loop {
            let State::Broken(wait) = &mut self.state else {
                return Poll::Ready(HostChange::Any);
            };
            ready!(wait.as_mut().poll(cx));
            match S::open() {
                Ok(socket) => {
                    info!("rtnetlink events come again");
                    self.state = State::Open(socket);
                }
                Err(error) => {
                    debug!(%error, "rtnetlink events cannot be had again: will retry");
                    self.state = State::Broken(Box::pin(sleep(REOPEN)));
                }
            }
        }
    }
}

impl<S> fmt::Debug for Changes<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes").finish_non_exhaustive()
    }
}

impl<S: Events + Unpin> Stream for Changes<S> {
    type Item = HostChange;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<HostChange>> {
        let Self {
            state,
            event,
            echoes,
        } = &mut *self;
        let State::Open(open) = state else {
            return self.poll_reopened(cx).map(Some);
        };
        let mut changed = None;
        for _ in 0..BURST {
            event.clear();
            match open.poll_event(cx, event) {
                Poll::Ready(Ok(())) if echoes.is_ours(event) => {}
                Poll::Ready(Ok(())) => changed = Some(join(changed, link_of(event))),
                // Events were lost, so something did change.
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changed = Some(HostChange::Any);
                }
                Poll::Ready(Err(error)) => {
                    warn!(%error, "rtnetlink events ended: will subscribe again");
                    *state = State::Broken(Box::pin(sleep(REOPEN)));
                    // What came in the same burst, or was missed, is looked for now.
                    return Poll::Ready(Some(HostChange::Any));
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

/// Reads an event, whatever it holds: for the fuzzer.
pub fn read_any(event: &[u8]) {
    let _ = link_of(event);
    let _ = Echoes::new(0).is_ours(event);
}

/// The link whose neighbour an event is about; `None` where it is about something else.
fn link_of(event: &[u8]) -> Option<IfIndex> {
    if !matches!(echoes::kind_of(event)?, RTM_NEWNEIGH | RTM_DELNEIGH) {
        return None;
    }
    IfIndex::try_from(echoes::link_of(event)?).ok()
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

#[cfg(test)]
mod tests {
    use std::{cell::RefCell, collections::VecDeque};

    use futures::StreamExt as _;
    use tokio::time::{Instant, timeout};

    use super::*;

    thread_local! {
        /// What the sockets opened from now on answer, each in turn; none is opened without.
        static NEXT: RefCell<VecDeque<Vec<io::Result<()>>>> = RefCell::default();
    }

    struct Told(std::vec::IntoIter<io::Result<()>>);

    impl Events for Told {
        fn open() -> io::Result<Self> {
            let next = NEXT.with_borrow_mut(VecDeque::pop_front);
            let answers = next.filter(|answers| !answers.is_empty());
            let answers = answers.ok_or(io::ErrorKind::OutOfMemory)?;
            Ok(Self(answers.into_iter()))
        }

        fn poll_event(&mut self, _: &mut Context<'_>, _: &mut Vec<u8>) -> Poll<io::Result<()>> {
            self.0.next().map_or(Poll::Pending, Poll::Ready)
        }
    }

    fn broken() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::ENOMEM))
    }

    #[tokio::test(start_paused = true)]
    async fn a_socket_that_breaks_is_opened_again_until_it_is() {
        let fails = Vec::new;
        NEXT.set(
            [
                vec![Ok(()), broken()],
                fails(),
                fails(),
                vec![Ok(()), Ok(())],
            ]
            .into(),
        );
        let mut changes = Changes::<Told>::open(Arc::new(Echoes::new(0))).unwrap();
        let began = Instant::now();
        for (what, at) in [("it broke", 0), ("it is back", 3), ("and goes on", 3)] {
            let next = timeout(Duration::from_secs(9), changes.next()).await;
            assert_eq!(next, Ok(Some(HostChange::Any)), "{what}");
            assert_eq!(began.elapsed().as_secs(), at, "{what}");
        }
        let next = timeout(Duration::from_secs(9), changes.next()).await;
        assert!(next.is_err(), "nothing more was told: {next:?}");
    }
}
