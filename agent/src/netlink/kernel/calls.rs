//! Requests to the kernel and what comes of them: the answer, or the errno with the kernel's words.

use std::{io, sync::Arc, time::Duration};

use futures::StreamExt;
use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::Handle;
use tokio::{task::yield_now, time::timeout};

use super::direct::{Direct, Request};
use crate::netlink::NetlinkError;

/// The kernel answers at once. One that takes longer has lost the answer, and waiting for ever
/// would stop the reconciler.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A table that changes under a dump is read again; what keeps changing is taken as it came,
/// because every change is also a wake-up to look once more.
const DUMP_ATTEMPTS: u32 = 4;

/// What a removal finds when there is nothing left to remove.
pub(super) const GONE: [i32; 3] = [libc::ENOENT, libc::ESRCH, libc::ENODEV];

/// Length of `struct nlmsghdr`, which an error repeats in front of its attributes.
const HEADER_LEN: usize = 16;
const NLMSGERR_ATTR_MSG: u16 = 1;

/// The requests of one connection.
#[derive(Clone, Debug)]
pub(super) struct Calls {
    handle: Handle,
    direct: Arc<Direct>,
}

impl Calls {
    pub(super) fn new(handle: Handle, direct: Direct) -> Self {
        let direct = Arc::new(direct);
        Self { handle, direct }
    }

    /// Makes changes side by side, in their order.
    pub(super) fn act_all(&self, requests: Vec<Request>) -> Vec<Result<(), NetlinkError>> {
        self.direct.act(requests)
    }

    /// Reads an object by each request.
    pub(super) fn ask_all(
        &self,
        requests: Vec<Request>,
    ) -> Vec<Result<Option<RouteNetlinkMessage>, NetlinkError>> {
        self.direct.ask(requests)
    }

    /// Reads a whole table.
    pub(super) async fn dump(
        &self,
        call: &str,
        request: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut attempt = 1;
        loop {
            let (rows, torn) = self.direct.dump(call, request.clone())?;
            if !torn || attempt == DUMP_ATTEMPTS {
                return Ok(rows);
            }
            attempt += 1;
            yield_now().await;
        }
    }

    /// Reads one object.
    pub(super) async fn ask(
        &self,
        call: &str,
        request: RouteNetlinkMessage,
    ) -> Result<RouteNetlinkMessage, NetlinkError> {
        let mut answers = self.send(call, request, NLM_F_REQUEST)?;
        while let Some(answer) = next(call, &mut answers).await? {
            match answer.payload {
                NetlinkPayload::InnerMessage(found) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(refused(call, &error)),
                _ => {}
            }
        }
        Err(closed(call))
    }

    /// Changes something; `flags` come on top of those of every request.
    pub(super) async fn act(
        &self,
        call: &str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<(), NetlinkError> {
        let mut answers = self.send(call, request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        while let Some(answer) = next(call, &mut answers).await? {
            if let NetlinkPayload::Error(error) = answer.payload {
                return match error.code {
                    None => Ok(()),
                    Some(_) => Err(refused(call, &error)),
                };
            }
        }
        Err(closed(call))
    }

    fn send(
        &self,
        call: &str,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<Answers, NetlinkError> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags;
        // A request that the connection does not take means that its task has ended.
        match self.handle.clone().request(message) {
            Ok(answers) => Ok(answers.boxed()),
            Err(_ended) => Err(closed(call)),
        }
    }
}

type Answers = futures::stream::BoxStream<'static, NetlinkMessage<RouteNetlinkMessage>>;

/// The result, with the given errnos taken for a success.
pub(super) fn accept(result: Result<(), NetlinkError>, errnos: &[i32]) -> Result<(), NetlinkError> {
    match result {
        Err(error) if is(&error, errnos) => Ok(()),
        other => other,
    }
}

/// Whether the kernel answered with one of these.
pub(super) fn is(error: &NetlinkError, errnos: &[i32]) -> bool {
    error
        .source
        .raw_os_error()
        .is_some_and(|errno| errnos.contains(&errno))
}

async fn next(
    call: &str,
    answers: &mut Answers,
) -> Result<Option<NetlinkMessage<RouteNetlinkMessage>>, NetlinkError> {
    timeout(ANSWER_TIMEOUT, answers.next())
        .await
        .map_err(|_elapsed| NetlinkError::errno(call, libc::ETIMEDOUT))
}

pub(super) fn refused(call: &str, error: &ErrorMessage) -> NetlinkError {
    let call = match words(error) {
        Some(words) => format!("{call} (kernel: {words})"),
        None => call.to_owned(),
    };
    NetlinkError {
        call,
        source: error.to_io(),
    }
}

/// The kernel's explanation, from the extended acknowledgement.
fn words(error: &ErrorMessage) -> Option<String> {
    let attributes = error.header.get(HEADER_LEN..)?;
    let text = NlasIterator::new(attributes)
        .map_while(Result::ok)
        .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)?;
    let text = String::from_utf8_lossy(text.value());
    Some(text.trim_end_matches('\0').to_owned())
}

fn closed(call: &str) -> NetlinkError {
    NetlinkError {
        call: call.to_owned(),
        source: io::Error::new(
            io::ErrorKind::BrokenPipe,
            "the netlink connection has ended; restart the agent",
        ),
    }
}
