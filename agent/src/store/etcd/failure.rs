//! How a call fails, and what a person needs to know to make sense of it.

use std::error::Error as _;

use etcd_client::Error;

use super::config::EtcdConfig;

/// Codes of gRPC that are told apart.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const DEADLINE_EXCEEDED: i32 = 4;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// How a server refuses our certificate, or that we have none.
const REFUSED: [&str; 4] = [
    "BadCertificate",
    "CertificateRequired",
    "CertificateExpired",
    "UnknownCA",
];

/// How the same refusal, or a server that expected TLS, may look as well; which of them it is
/// depends on who notices first.
const CLOSED: [&str; 5] = [
    "connection closed",
    "operation was canceled",
    "broken pipe",
    "onnection reset",
    "FRAME_SIZE_ERROR",
];

/// A token that time or a change of users, roles or passwords has made worthless. The client asks
/// for a new one by itself only where the code of the answer says so.
const STALE: [&str; 3] = [
    "invalid auth token",
    "auth store is old",
    "revision in header is old",
];

/// How the client says that time ran out, for a call or for a sign of life on the connection.
const SILENT: [&str; 2] = ["Timeout expired", "keep-alive timed out"];

/// How a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer, or none that counts. A write may have happened.
    Unavailable(String),
    /// The member holds the call off for longer than we wait. A write may have happened.
    Silent,
    /// Our token is worthless; nothing happened.
    Token(String),
    /// The store will not.
    Refused(String),
    /// The store knows no such lease.
    LeaseGone,
}

/// What kind of failure an error of the client is, without hints.
pub(super) enum Kind {
    Unavailable,
    Silent,
    Token,
    Denied,
    User,
    Refused,
    LeaseGone,
}

pub(super) fn kind(error: &Error, why: &str) -> Kind {
    match error {
        Error::GRpcStatus(status) => match i32::from(status.code()) {
            code::NOT_FOUND => Kind::LeaseGone,
            code::DEADLINE_EXCEEDED => Kind::Silent,
            _ if SILENT.iter().any(|sign| why.contains(sign)) => Kind::Silent,
            // A learner serves no calls yet, and another member does.
            _ if why.contains("learner") => Kind::Unavailable,
            _ if is_stale(why) => Kind::Token,
            code::PERMISSION_DENIED => Kind::Denied,
            code::UNAUTHENTICATED | code::INVALID_ARGUMENT | code::FAILED_PRECONDITION => {
                Kind::User
            }
            _ => Kind::Unavailable,
        },
        Error::LeaseKeepAliveError(text) if text == "lease not found" => Kind::LeaseGone,
        Error::InvalidArgs(_) | Error::InvalidUri(_) => Kind::Refused,
        _ => Kind::Unavailable,
    }
}

/// Whether a text of the store says that our token is worthless.
pub(super) fn is_stale(why: &str) -> bool {
    STALE.iter().any(|sign| why.contains(sign))
}

/// Whether a text of the client says that the connection ended under a call. A member's end and its
/// silence look the same then.
pub(super) fn is_broken(why: &str) -> bool {
    why.contains("stream closed because of a broken pipe")
}

/// The error with its causes: tonic's own text for most of them is only "transport error".
pub(super) fn explain(error: &Error) -> String {
    let (mut text, mut cause) = match error {
        Error::GRpcStatus(status) => (status.message().to_owned(), status.source()),
        Error::TransportError(inner) => (inner.to_string(), inner.source()),
        other => (other.to_string(), None),
    };
    while let Some(inner) = cause {
        let more = inner.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = inner.source();
    }
    text
}

impl EtcdConfig {
    /// What a person needs to know to make sense of an error.
    pub(super) fn hint(&self, why: &str) -> &'static str {
        if why.contains("UnknownIssuer") || why.contains("BadSignature") {
            "; the server's certificate is signed by none we know: give its CA with --etcd-cafile"
        } else if why.contains("not valid for") {
            "; the server's certificate does not name this host: it needs a subject alternative name, or say which name it has with --etcd-server-name"
        } else if why.contains("invalid peer certificate: certificate expired") {
            "; the server's certificate has run out, or this host's clock is wrong"
        } else if REFUSED.iter().any(|sign| why.contains(sign)) {
            self.guess()
        } else {
            ""
        }
    }

    /// The same for a connection that never worked, where a server that hangs up most likely
    /// wanted something else of us.
    pub(super) fn first_hint(&self, why: &str) -> &'static str {
        match self.hint(why) {
            "" if CLOSED.iter().any(|sign| why.contains(sign)) => self.guess(),
            "" if why.contains("onnection refused") => {
                "; nobody listens there: start etcd, or say where it is with --etcd-endpoints"
            }
            "" if why.contains("InvalidContentType") => {
                "; the server does not speak TLS: write http://"
            }
            hint => hint,
        }
    }

    fn guess(&self) -> &'static str {
        if !self.is_encrypted() {
            "; the server may expect TLS: write https:// and give --etcd-cafile"
        } else if self.certfile.is_none() {
            "; the server may require a client certificate: give --etcd-certfile and --etcd-keyfile"
        } else {
            "; the server may not accept our certificate: check --etcd-certfile and its dates"
        }
    }
}
