//! One connection at a time to one of the endpoints, with a limit on every wait.
//!
//! The client crate would spread calls over all endpoints and fail those that meet a dead one.
//! Here one endpoint is active until it fails, and then the next one is.

use std::{
    error::Error as _,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use etcd_client::{Client, Error};
use tokio::time::{Instant, timeout_at};

use super::{
    config::{EtcdConfig, Tuning},
    keys::Keys,
};
use crate::store::StoreError;

/// Codes of gRPC that are told apart.
mod code {
    pub(super) const INVALID_ARGUMENT: i32 = 3;
    pub(super) const NOT_FOUND: i32 = 5;
    pub(super) const PERMISSION_DENIED: i32 = 7;
    pub(super) const FAILED_PRECONDITION: i32 = 9;
    pub(super) const UNAUTHENTICATED: i32 = 16;
}

/// The way to the store.
pub(super) struct Link {
    config: EtcdConfig,
    keys: Keys,
    tuning: Tuning,
    active: Mutex<Active>,
}

/// How a call failed.
#[derive(Debug)]
pub(super) enum Failure {
    /// No answer, or none that counts. A write may have happened.
    Unavailable(String),
    /// The store will not.
    Refused(String),
    /// The store knows no such lease.
    LeaseGone,
}

#[derive(Default)]
struct Active {
    /// Counts up; the endpoint is this number modulo how many there are.
    turn: usize,
    client: Option<Client>,
    /// Some endpoint has answered before.
    answered: bool,
}

impl Link {
    pub(super) fn new(config: EtcdConfig, keys: Keys, tuning: Tuning) -> Arc<Self> {
        Arc::new(Self {
            config,
            keys,
            tuning,
            active: Mutex::default(),
        })
    }

    pub(super) const fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    /// Calls one endpoint after the other until one answers. Only for what may happen twice.
    pub(super) async fn call<T, F, Fut>(&self, f: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + self.tuning.total;
        let mut reasons = Vec::new();
        for _ in &self.config.endpoints {
            match self.attempt(&f, deadline).await {
                Err(Failure::Unavailable(why)) => reasons.push(why),
                other => return other,
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(Failure::Unavailable(reasons.join("; ")))
    }

    /// Calls the active endpoint. For writes: after `Unavailable` only reading tells whether it
    /// happened.
    pub(super) async fn once<T, F, Fut>(&self, f: F) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        self.attempt(&f, Instant::now() + self.tuning.total).await
    }

    async fn attempt<T, F, Fut>(&self, f: &F, deadline: Instant) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let turn = self.turn();
        let deadline = deadline.min(Instant::now() + self.tuning.call);
        let answer = timeout_at(deadline, async {
            let client = self.client(turn).await?;
            f(client).await.map_err(|error| self.judge(&error))
        })
        .await
        .unwrap_or_else(|_elapsed| Err(Failure::Unavailable("it does not answer".to_owned())));
        match answer {
            Err(Failure::Unavailable(why)) => {
                self.rotate(turn);
                Err(Failure::Unavailable(format!(
                    "{}: {why}",
                    self.endpoint(turn)
                )))
            }
            Ok(answer) => {
                self.active().answered = true;
                Ok(answer)
            }
            Err(other @ (Failure::Refused(_) | Failure::LeaseGone)) => Err(other),
        }
    }

    /// Which turn it is, to be handed to [`Self::rotate`] when it goes wrong.
    pub(super) fn turn(&self) -> usize {
        self.active().turn
    }

    /// Leaves an endpoint for the next one, unless somebody else has done so already.
    pub(super) fn rotate(&self, turn: usize) {
        let mut active = self.active();
        if active.turn == turn {
            active.turn = turn.wrapping_add(1);
            active.client = None;
        }
    }

    /// What an error of the client means to us.
    pub(super) fn judge(&self, error: &Error) -> Failure {
        let why = explain(error);
        match error {
            Error::GRpcStatus(status) => match i32::from(status.code()) {
                code::NOT_FOUND => Failure::LeaseGone,
                // A learner serves no calls yet, and another member does.
                _ if why.contains("learner") => Failure::Unavailable(why),
                code::PERMISSION_DENIED => self.denied(&why),
                code::UNAUTHENTICATED | code::INVALID_ARGUMENT | code::FAILED_PRECONDITION => {
                    Failure::Refused(format!(
                        "{why}; check --etcd-username and --etcd-password against the server's authentication"
                    ))
                }
                _ => self.unavailable(&why),
            },
            Error::LeaseKeepAliveError(text) if text == "lease not found" => Failure::LeaseGone,
            Error::InvalidArgs(_) | Error::InvalidUri(_) => Failure::Refused(why),
            _ => self.unavailable(&why),
        }
    }

    /// A call, or a watch, that our role does not cover.
    pub(super) fn denied(&self, why: &str) -> Failure {
        Failure::Refused(format!(
            "{why}; our role needs `etcdctl role grant-permission ROLE read {}` and `etcdctl role grant-permission ROLE readwrite --prefix {}`",
            self.keys.config(),
            self.keys.leases(),
        ))
    }

    /// The failure as callers of the store know it. A lease that is gone is the caller's matter.
    pub(super) fn error(&self, failure: Failure) -> StoreError {
        match failure {
            Failure::Unavailable(why) => StoreError::Unavailable {
                endpoints: self.config.endpoints.join(","),
                why,
            },
            Failure::Refused(why) => StoreError::Refused { why },
            Failure::LeaseGone => StoreError::Refused {
                why: "it knows no such lease".to_owned(),
            },
        }
    }

    async fn client(&self, turn: usize) -> Result<Client, Failure> {
        let known = {
            let active = self.active();
            active.client.clone().filter(|_| active.turn == turn)
        };
        if let Some(client) = known {
            return Ok(client);
        }
        let endpoint = self.endpoint(turn);
        let options = self.config.options(endpoint, &self.tuning);
        let options = options.map_err(Failure::Refused)?;
        let client = Client::connect([endpoint], Some(options)).await;
        let client = client.map_err(|error| self.judge(&error))?;
        let mut active = self.active();
        if active.turn == turn {
            active.client = Some(client.clone());
        }
        Ok(client)
    }

    fn endpoint(&self, turn: usize) -> &str {
        let endpoints = &self.config.endpoints;
        let index = turn.checked_rem(endpoints.len()).unwrap_or_default();
        endpoints.get(index).map_or("", String::as_str)
    }

    fn unavailable(&self, why: &str) -> Failure {
        let hint = if self.active().answered {
            self.config.hint(why)
        } else {
            self.config.first_hint(why)
        };
        Failure::Unavailable(format!("{why}{hint}"))
    }

    fn active(&self) -> MutexGuard<'_, Active> {
        // Nothing in a critical section can leave the value half changed.
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error with its causes: tonic's own text for most of them is only "transport error".
fn explain(error: &Error) -> String {
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
