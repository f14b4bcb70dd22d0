//! Connections as conntrack has them: all of them, and those that end.

mod wire;

use std::{
    collections::VecDeque,
    fmt, io,
    net::Ipv4Addr,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_netfilter::{
    NetfilterHeader, NetfilterMessage, NetfilterProtoFamily,
    conntrack::{ConntrackAttribute, ConntrackMessage},
};
use rtnetlink::sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER,
};

use self::wire::{ended, messages, read, tuple_parts};
use super::{NetlinkError, grow_receive_buffer};

const NFNLGRP_CONNTRACK_DESTROY: u32 = 3;

/// Room for some ten thousand connections that end at once.
const RECEIVE_BUFFER: usize = 8 << 20;

/// The kernel fills dumps up to 32 KiB a datagram.
const DATAGRAM_LEN: usize = 64 << 10;

const REMEDY: &str = "load nf_conntrack_netlink, or run with --datapath=kernel";

/// One direction of a connection. ICMP has its identifier in both ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tuple {
    /// Where packets come from.
    pub source: Ipv4Addr,
    /// Where they go.
    pub destination: Ipv4Addr,
    /// Port that they come from.
    pub source_port: u16,
    /// Port that they go to.
    pub destination_port: u16,
}

/// A connection that conntrack keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tracked {
    /// IP protocol number.
    pub protocol: u8,
    /// The direction of the first packet, as it came.
    pub original: Tuple,
    /// The way back, as answers come: not the mirror image where NAT is at work.
    pub reply: Tuple,
    /// Addresses or ports are rewritten on the way (`IPS_SRC_NAT`, `IPS_DST_NAT`).
    pub natted: bool,
    /// Conntrack may forget it without anybody noticing: UDP or established TCP with traffic both
    /// ways, not marked, not handed to a helper, a zone or a flow table. Only dumps and look-ups
    /// tell; an event never does.
    pub settled: bool,
}

/// What became of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConntrackEvent {
    /// Conntrack keeps it no longer.
    Destroyed(Tracked),
    /// Events were lost: only a dump can tell what is left.
    Overrun,
}

/// Whether conntrack is there at all.
#[must_use]
pub fn is_loaded() -> bool {
    Path::new("/proc/sys/net/netfilter/nf_conntrack_max").exists()
}

/// All IPv4 connections of the calling thread's network namespace.
pub async fn dump() -> Result<Vec<Tracked>, NetlinkError> {
    let call = "read conntrack";
    let socket = open(call)?;
    let request = ConntrackMessage::Get(Vec::new());
    send(&socket, call, request, NLM_F_REQUEST | NLM_F_DUMP).await?;
    let mut found = Vec::new();
    let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
    loop {
        datagram.clear();
        socket
            .recv(&mut datagram)
            .await
            .map_err(|source| failed(call, source))?;
        for message in messages(&datagram) {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => found.extend(read(&message)),
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(failed(call, error.to_io())),
                _ => {}
            }
        }
    }
}

/// The connection that has this tuple in one of its two directions.
pub async fn find(protocol: u8, tuple: &Tuple) -> Result<Option<Tracked>, NetlinkError> {
    let call = format!(
        "look for the conntrack entry {} to {}",
        tuple.source, tuple.destination
    );
    let socket = open(&call)?;
    let parts = ConntrackAttribute::CtaTupleOrig(tuple_parts(protocol, tuple));
    let request = ConntrackMessage::Get(vec![parts]);
    send(&socket, &call, request, NLM_F_REQUEST).await?;
    let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
    loop {
        datagram.clear();
        socket
            .recv(&mut datagram)
            .await
            .map_err(|source| failed(&call, source))?;
        for message in messages(&datagram) {
            match message.payload {
                NetlinkPayload::InnerMessage(message) => return Ok(read(&message)),
                NetlinkPayload::Error(error) => {
                    return match error.raw_code().saturating_neg() {
                        libc::ENOENT => Ok(None),
                        _ => Err(failed(&call, error.to_io())),
                    };
                }
                _ => {}
            }
        }
    }
}

/// Has conntrack forget a connection, and says whether there was one. The next packet of it
/// starts afresh.
pub async fn delete(tracked: &Tracked) -> Result<bool, NetlinkError> {
    let call = format!(
        "delete conntrack entry {} to {}",
        tracked.original.source, tracked.original.destination
    );
    let socket = open(&call)?;
    let tuple = ConntrackAttribute::CtaTupleOrig(tuple_parts(tracked.protocol, &tracked.original));
    let request = ConntrackMessage::Delete(vec![tuple]);
    send(&socket, &call, request, NLM_F_REQUEST | NLM_F_ACK).await?;
    let mut datagram = Vec::with_capacity(DATAGRAM_LEN);
    loop {
        datagram.clear();
        socket
            .recv(&mut datagram)
            .await
            .map_err(|source| failed(&call, source))?;
        for message in messages(&datagram) {
            if let NetlinkPayload::Error(error) = message.payload {
                return match error.raw_code().saturating_neg() {
                    0 => Ok(true),
                    libc::ENOENT => Ok(false),
                    _ => Err(failed(&call, error.to_io())),
                };
            }
        }
    }
}

/// Connections of the calling thread's network namespace that end from now on. Needs a tokio
/// runtime.
///
/// Kernels from 5.19 (`nf_conntrack_events=2`, their default) report only connections that began
/// while somebody was listening: the end of older ones shows in dumps alone.
pub fn destroyed() -> Result<Destroyed, NetlinkError> {
    let call = "subscribe to conntrack events";
    let mut socket = open(call)?;
    let inner = socket.socket_mut();
    grow_receive_buffer(inner, RECEIVE_BUFFER)
        .and_then(|()| inner.add_membership(NFNLGRP_CONNTRACK_DESTROY))
        .map_err(|source| failed(call, source))?;
    Ok(Destroyed {
        socket: Some(socket),
        datagram: Vec::with_capacity(DATAGRAM_LEN),
        pending: VecDeque::new(),
    })
}

/// The stream of [`destroyed`]. The socket is the queue; it closes with the stream.
pub struct Destroyed {
    socket: Option<TokioSocket>,
    datagram: Vec<u8>,
    pending: VecDeque<Tracked>,
}

impl fmt::Debug for Destroyed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Destroyed").finish_non_exhaustive()
    }
}

impl Stream for Destroyed {
    type Item = ConntrackEvent;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<ConntrackEvent>> {
        let Self {
            socket,
            datagram,
            pending,
        } = &mut *self;
        loop {
            if let Some(tracked) = pending.pop_front() {
                return Poll::Ready(Some(ConntrackEvent::Destroyed(tracked)));
            }
            let Some(open) = socket else {
                return Poll::Ready(None);
            };
            datagram.clear();
            match open.poll_recv(cx, datagram) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Ok(())) => pending.extend(ended(datagram)),
                Poll::Ready(Err(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    return Poll::Ready(Some(ConntrackEvent::Overrun));
                }
                Poll::Ready(Err(error)) => {
                    tracing::warn!(%error, "conntrack events ended");
                    *socket = None;
                }
            }
        }
    }
}

fn open(call: &str) -> Result<TokioSocket, NetlinkError> {
    let mut socket = TokioSocket::new(NETLINK_NETFILTER).map_err(|source| failed(call, source))?;
    let inner = socket.socket_mut();
    inner
        .bind_auto()
        .and_then(|_own| inner.connect(&SocketAddr::new(0, 0)))
        .map_err(|source| failed(call, source))?;
    Ok(socket)
}

async fn send(
    socket: &TokioSocket,
    call: &str,
    request: ConntrackMessage,
    flags: u16,
) -> Result<(), NetlinkError> {
    let header = NetfilterHeader::new(NetfilterProtoFamily::IPv4, 0, 0);
    let mut message = NetlinkMessage::from(NetfilterMessage::new(header, request));
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    socket
        .send(&bytes)
        .await
        .map(drop)
        .map_err(|source| failed(call, source))
}

/// Names the remedy where the answer is that of a kernel without the module.
fn failed(call: &str, source: io::Error) -> NetlinkError {
    let call = match source.raw_os_error() {
        Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP) => {
            format!("{call} ({REMEDY})")
        }
        _ => call.to_owned(),
    };
    NetlinkError { call, source }
}
/// Any bytes as a datagram.
#[cfg(feature = "fakes")]
pub fn read_any(datagram: &[u8]) {
    for message in messages(datagram) {
        if let netlink_packet_core::NetlinkPayload::InnerMessage(message) = &message.payload
            && let Some(tracked) = read(message)
        {
            drop(tuple_parts(tracked.protocol, &tracked.original));
        }
    }
    ended(datagram).for_each(drop);
}
