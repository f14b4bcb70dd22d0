//! Netlink families that need no more than a dump and a wake-up: requests and answers as bytes.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures::Stream;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket};
use tokio::time::timeout;

use super::NetlinkError;

const HEADER_LEN: usize = 16;
pub(super) const NLMSG_ERROR: u16 = 2;
pub(super) const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
pub(super) const NLM_F_DUMP: u16 = 0x300;
const NLM_F_DUMP_INTR: u16 = 0x10;
/// Flags of an attribute's type: nested, and in network order.
const ATTRIBUTE_FLAGS: u16 = 0xc000;

/// The kernel fills dumps up to 32 KiB a datagram.
const DATAGRAM_LEN: usize = 64 << 10;
/// Nobody reads an event: what does not fit is cut off.
const EVENT_LEN: usize = 64;
/// The kernel answers at once; an answer that takes longer is lost.
const ANSWER: Duration = Duration::from_secs(10);
/// A table that changes under a dump is read again.
const DUMPS: u32 = 4;

/// Whether a kernel without that family, or that part of it, answers like this.
pub(super) fn is_unsupported(error: &NetlinkError) -> bool {
    matches!(
        error.source.raw_os_error(),
        Some(
            libc::EPROTONOSUPPORT
                | libc::EOPNOTSUPP
                | libc::EINVAL
                | libc::ENOENT
                | libc::EAFNOSUPPORT
        )
    )
}

/// Reads a whole table: the bodies of all answers.
pub(super) async fn dump(
    call: &str,
    protocol: isize,
    kind: u16,
    body: &[u8],
) -> Result<Vec<Vec<u8>>, NetlinkError> {
    let failed = |source: io::Error| NetlinkError {
        call: call.to_owned(),
        source,
    };
    let mut attempt = 1;
    loop {
        let answer = timeout(ANSWER, dump_once(protocol, kind, body)).await;
        let (rows, torn) = answer
            .map_err(|_elapsed| NetlinkError::errno(call, libc::ETIMEDOUT))?
            .map_err(failed)?;
        if !torn || attempt == DUMPS {
            return Ok(rows);
        }
        attempt += 1;
    }
}

/// Reads a table, and whether it changed meanwhile.
async fn dump_once(protocol: isize, kind: u16, body: &[u8]) -> io::Result<(Vec<Vec<u8>>, bool)> {
    let mut socket = TokioSocket::new(protocol)?;
    let inner = socket.socket_mut();
    inner.bind_auto()?;
    inner.connect(&SocketAddr::new(0, 0))?;
    socket.send(&request(kind, NLM_F_DUMP, body)).await?;
    let mut rows = Vec::new();
    let mut torn = false;
    let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
    loop {
        datagram.clear();
        socket.recv(&mut datagram).await?;
        let mut rest = datagram.as_slice();
        while let Some((kind, flags, body, next)) = message(rest) {
            torn |= flags & NLM_F_DUMP_INTR != 0;
            match kind {
                NLMSG_DONE => return Ok((rows, torn)),
                NLMSG_ERROR => return outcome(body).map(|()| (rows, torn)),
                _ => rows.push(body.to_vec()),
            }
            rest = next;
        }
    }
}

/// A request as bytes; `flags` come on top of the one of every request.
pub(super) fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER_LEN + body.len()).unwrap_or(u32::MAX);
    let mut request = Vec::with_capacity(HEADER_LEN + body.len());
    request.extend(length.to_ne_bytes());
    request.extend(kind.to_ne_bytes());
    request.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    request.extend([0; 8]);
    request.extend(body);
    request
}

/// What an acknowledgement, or the end of a dump, says.
pub(super) fn outcome(body: &[u8]) -> io::Result<()> {
    let code = body.get(..4).and_then(|bytes| bytes.try_into().ok());
    match code.map_or(0, i32::from_ne_bytes) {
        code if code < 0 => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        _ => Ok(()),
    }
}

/// Type, flags and body of the first message, and what is behind it.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(bytes.get(..4)?.try_into().ok()?);
    let length = usize::try_from(length).ok()?;
    let number = |at: usize| Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let body = bytes.get(HEADER_LEN..length)?;
    let next = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    Some((number(4)?, number(6)?, body, next))
}

/// The attributes in a body, by type.
pub(super) fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut found = Vec::new();
    while let Some(&[l0, l1, k0, k1]) = bytes.first_chunk() {
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let kind = u16::from_ne_bytes([k0, k1]) & !ATTRIBUTE_FLAGS;
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        found.push((kind, value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    found
}

/// That something of a family changed. The socket is the queue; it ends when the socket breaks.
pub struct Events {
    socket: Option<TokioSocket>,
    event: Vec<u8>,
}

impl Events {
    pub(super) fn open(call: &str, protocol: isize, group: u32) -> Result<Self, NetlinkError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(protocol)?;
            let inner = socket.socket_mut();
            inner.bind(&SocketAddr::new(0, 0))?;
            inner.add_membership(group)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| NetlinkError {
            call: call.to_owned(),
            source,
        })?;
        Ok(Self {
            socket: Some(socket),
            event: Vec::with_capacity(EVENT_LEN),
        })
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

impl Stream for Events {
    type Item = ();

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<()>> {
        let Self { socket, event } = &mut *self;
        let Some(open) = socket else {
            return Poll::Ready(None);
        };
        event.clear();
        match open.poll_recv(cx, event) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(())) => Poll::Ready(Some(())),
            // Events were lost, so something did change.
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                Poll::Ready(Some(()))
            }
            Poll::Ready(Err(error)) => {
                tracing::warn!(%error, "netlink events ended");
                *socket = None;
                Poll::Ready(None)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_and_attributes_are_taken_apart() {
        let mut bytes = Vec::new();
        for body in [&[1u8, 2, 3, 4][..], &[9]] {
            bytes.extend(
                u32::try_from(HEADER_LEN + body.len())
                    .unwrap()
                    .to_ne_bytes(),
            );
            bytes.extend(7u16.to_ne_bytes());
            bytes.extend([0; 10]);
            bytes.extend(body);
        }
        let (kind, flags, body, rest) = message(&bytes).unwrap();
        assert_eq!((kind, flags, body), (7, 0, &[1u8, 2, 3, 4][..]));
        let (_, _, body, rest) = message(rest).unwrap();
        assert_eq!((body, rest.len()), (&[9u8][..], 0));
        assert!(message(&bytes[..19]).is_none());

        let nested = 5u16 | 0x8000;
        let mut list = vec![5, 0, 1, 0, b'x', 0, 0, 0, 4, 0];
        list.extend(nested.to_ne_bytes());
        assert_eq!(attributes(&list), [(1, &b"x"[..]), (5, &b""[..])]);
        assert_eq!(attributes(&[1, 0, 1, 0]), []);
    }
}
