//! Requests side by side, on a socket of their own: many in one system call, answered while it
//! lasts. With thousands of peers a task and a channel for each request cost more than the kernel.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_route::RouteNetlinkMessage;
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::TimeVal,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{calls::refused, nexthops::NextHop};
use crate::netlink::NetlinkError;

/// Requests in one system call. The answers of so many fit into the socket's usual buffer.
const AT_ONCE: usize = 64;
/// The kernel fills dumps up to 32 KiB a datagram.
const DATAGRAM_LEN: usize = 64 << 10;
/// It answers within the call that asks; an answer that is not there then is lost.
const ANSWER: i64 = 10;

/// A request with the flags that it has beside those of every request.
#[derive(Clone, Debug)]
pub(super) struct Request {
    /// For errors.
    pub(super) call: String,
    pub(super) message: Message,
    pub(super) flags: u16,
    /// Errors that are none.
    pub(super) accept: &'static [i32],
}

/// What the crate has a type for, and what it has none for.
#[derive(Clone, Debug)]
pub(super) enum Message {
    Route(Box<RouteNetlinkMessage>),
    NextHop(NextHop),
}

impl From<RouteNetlinkMessage> for Message {
    fn from(message: RouteNetlinkMessage) -> Self {
        Self::Route(Box::new(message))
    }
}

impl NetlinkSerializable for Message {
    fn message_type(&self) -> u16 {
        match self {
            Self::Route(message) => message.message_type(),
            Self::NextHop(message) => message.message_type(),
        }
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Route(message) => NetlinkSerializable::buffer_len(&**message),
            Self::NextHop(message) => message.buffer_len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Route(message) => message.serialize(buffer),
            Self::NextHop(message) => message.serialize(buffer),
        }
    }
}

/// The socket. It stays in the network namespace of the thread that opened it.
#[derive(Debug)]
pub(super) struct Direct {
    state: Mutex<State>,
    port: u32,
}

#[derive(Debug)]
struct State {
    socket: Socket,
    sequence: u32,
    datagram: Vec<u8>,
}

type Answer = Result<Option<RouteNetlinkMessage>, NetlinkError>;

impl Direct {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::new(ANSWER, 0))?;
        // As in `ask_for_detail`.
        drop(socket.set_ext_ack(true));
        drop(socket.set_cap_ack(true));
        drop(socket.set_netlink_get_strict_chk(true));
        let state = Mutex::new(State {
            socket,
            sequence: 0,
            datagram: Vec::with_capacity(DATAGRAM_LEN),
        });
        Ok(Self { state, port })
    }

    /// By which the kernel names us in events.
    pub(super) const fn port(&self) -> u32 {
        self.port
    }

    /// Makes changes in their order, and answers for each.
    pub(super) fn act(&self, requests: Vec<Request>) -> Vec<Result<(), NetlinkError>> {
        let answers = self.exchange(requests, NLM_F_REQUEST | NLM_F_ACK);
        answers.into_iter().map(|answer| answer.map(drop)).collect()
    }

    /// Reads an object by each request.
    pub(super) fn ask(&self, requests: Vec<Request>) -> Vec<Answer> {
        self.exchange(requests, NLM_F_REQUEST)
    }

    /// Reads a table, and whether it changed meanwhile.
    pub(super) fn dump(
        &self,
        call: &str,
        message: RouteNetlinkMessage,
    ) -> Result<(Vec<RouteNetlinkMessage>, bool), NetlinkError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source: io::Error| NetlinkError {
            call: call.to_owned(),
            source,
        };
        let first = state.next(1);
        let flags = NLM_F_REQUEST | NLM_F_DUMP;
        state
            .send(vec![(message.into(), flags)], first)
            .map_err(failed)?;
        let (mut rows, mut torn) = (Vec::new(), false);
        loop {
            for answer in state.receive().map_err(failed)? {
                if answer.header.sequence_number != first {
                    continue;
                }
                torn |= answer.header.flags & NLM_F_DUMP_INTR != 0;
                match answer.payload {
                    NetlinkPayload::InnerMessage(row) => rows.push(row),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(NetlinkError::errno(call, done.code.saturating_neg()));
                    }
                    NetlinkPayload::Done(_) => return Ok((rows, torn)),
                    NetlinkPayload::Error(error) => return Err(refused(call, &error)),
                    _ => {}
                }
            }
        }
    }

    fn exchange(&self, requests: Vec<Request>, flags: u16) -> Vec<Answer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut answers = Vec::with_capacity(requests.len());
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            let some: Vec<Request> = requests.by_ref().take(AT_ONCE).collect();
            answers.extend(state.exchange(some, flags));
        }
        answers
    }
}

impl State {
    fn exchange(&mut self, requests: Vec<Request>, flags: u16) -> Vec<Answer> {
        let mut asked = Vec::with_capacity(requests.len());
        let mut messages = Vec::with_capacity(requests.len());
        for request in requests {
            messages.push((request.message, flags | request.flags));
            asked.push((request.call, request.accept));
        }
        let first = self.next(asked.len());
        let mut answers: Vec<Option<Answer>> = asked.iter().map(|_| None).collect();
        let mut trouble = self.send(messages, first).err();
        while trouble.is_none() && answers.iter().any(Option::is_none) {
            let heard = match self.receive() {
                Ok(heard) => heard,
                Err(error) => {
                    trouble = Some(error);
                    break;
                }
            };
            for message in heard {
                let place = message.header.sequence_number.wrapping_sub(first);
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                if let (Some(answer), Some(asked)) = (answers.get_mut(place), asked.get(place))
                    && let Some(said) = judge(message, asked)
                {
                    *answer = Some(said);
                }
            }
        }
        let errno = trouble.and_then(|error| error.raw_os_error());
        let lost = |call: String| Err(NetlinkError::errno(call, errno.unwrap_or(libc::EIO)));
        let answers = asked.into_iter().zip(answers);
        answers
            .map(|((call, _), answer)| answer.unwrap_or_else(|| lost(call)))
            .collect()
    }

    /// The first number of so many.
    fn next(&mut self, count: usize) -> u32 {
        let first = self.sequence;
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.sequence = first.wrapping_add(count);
        first
    }

    fn send(&mut self, messages: Vec<(Message, u16)>, first: u32) -> io::Result<()> {
        let mut bytes = Vec::new();
        let mut sequence = first;
        for (message, flags) in messages {
            let payload = NetlinkPayload::InnerMessage(message);
            let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
            message.header.flags = flags;
            message.header.sequence_number = sequence;
            message.finalize();
            let (from, length) = (bytes.len(), message.buffer_len());
            bytes.resize(from + length.next_multiple_of(4), 0);
            if let Some(to) = bytes.get_mut(from..from + length) {
                message.serialize(to);
            }
            sequence = sequence.wrapping_add(1);
        }
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&mut self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        self.datagram.clear();
        self.socket.recv(&mut self.datagram, 0)?;
        let mut messages = Vec::new();
        let mut rest = self.datagram.as_slice();
        while let Some(length) = rest.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)) {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let Some(message) = rest.get(..length).filter(|message| !message.is_empty()) else {
                break;
            };
            // A row that the crate cannot read is left out, as one of a kind that we do not know.
            messages.extend(NetlinkMessage::deserialize(message));
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
        Ok(messages)
    }
}

/// What a message says of its request; `None` where more will come.
fn judge(
    message: NetlinkMessage<RouteNetlinkMessage>,
    (call, accept): &(String, &'static [i32]),
) -> Option<Answer> {
    match message.payload {
        NetlinkPayload::InnerMessage(found) => Some(Ok(Some(found))),
        NetlinkPayload::Error(error) => Some(match error.code {
            None => Ok(None),
            Some(code) if accept.contains(&code.get().saturating_neg()) => Ok(None),
            Some(_) => Err(refused(call, &error)),
        }),
        _ => None,
    }
}
