//! One connection at a time to one of the endpoints, with a limit on every wait.
//!
//! The client crate would spread calls over all endpoints and fail those that meet a dead one.
//! Here one endpoint is active until it fails, and then the next one is.

use std::{
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use etcd_client::{Client, Error};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::{
    config::{EtcdConfig, Tuning},
    credentials::{Credentials, Loaded},
    failure::{Failure, Kind, explain, kind},
    health::Health,
    keys::Keys,
    rotation::{Fault, Rotation},
};
use crate::store::StoreError;

/// The way to the store.
pub(super) struct Link {
    config: EtcdConfig,
    keys: Keys,
    tuning: Tuning,
    credentials: Credentials,
    active: Mutex<Active>,
    health: watch::Sender<Health>,
}

struct Active {
    rotation: Rotation,
    client: Option<Client>,
    /// Which state of the files the client was made with.
    generation: u64,
    /// Some endpoint has answered before.
    answered: bool,
    /// Why the store was not to be asked the last time that it was tried.
    access: Option<String>,
}

impl Link {
    pub(super) fn new(config: EtcdConfig, keys: Keys, tuning: Tuning) -> Arc<Self> {
        let active = Active {
            rotation: Rotation::new(config.endpoints.len()),
            client: None,
            generation: 0,
            answered: false,
            access: None,
        };
        let link = Self {
            credentials: Credentials::new(&config),
            config,
            keys,
            tuning,
            active: Mutex::new(active),
            health: watch::Sender::default(),
        };
        link.publish();
        Arc::new(link)
    }

    pub(super) const fn tuning(&self) -> &Tuning {
        &self.tuning
    }

    pub(super) const fn config(&self) -> &EtcdConfig {
        &self.config
    }

    pub(super) const fn keys(&self) -> &Keys {
        &self.keys
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

    /// A token that has become worthless is replaced, once.
    async fn attempt<T, F, Fut>(&self, f: &F, deadline: Instant) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let deadline = deadline.min(Instant::now() + self.tuning.call);
        match self.try_once(f, deadline).await {
            Err(Failure::Token(why)) => {
                tracing::debug!(why, "etcd: asking for a new token");
                self.renew();
                match self.try_once(f, deadline).await {
                    Err(Failure::Token(why)) => Err(self.unknown_user(&why)),
                    other => other,
                }
            }
            other => other,
        }
    }

    async fn try_once<T, F, Fut>(&self, f: &F, deadline: Instant) -> Result<T, Failure>
    where
        F: Fn(Client) -> Fut,
        Fut: Future<Output = Result<T, Error>>,
    {
        let loaded = self.look_at_files().map_err(Failure::Refused)?;
        let (turn, endpoint) = self.turn_and_endpoint();
        let answer = timeout_at(deadline, async {
            let client = self.client(turn, endpoint, &loaded).await?;
            f(client).await.map_err(|error| self.judge(&error))
        })
        .await
        .unwrap_or(Err(Failure::Silent));
        match answer {
            Err(Failure::Silent) => {
                let why = "it does not answer";
                self.leave(turn, Fault::Silent, why);
                Err(Failure::Unavailable(format!("{endpoint}: {why}")))
            }
            Err(Failure::Unavailable(why)) => {
                self.leave(turn, Fault::Useless, &why);
                Err(Failure::Unavailable(format!("{endpoint}: {why}")))
            }
            Ok(answer) => {
                self.answered(turn);
                Ok(answer)
            }
            Err(other @ (Failure::Refused(_) | Failure::LeaseGone | Failure::Token(_))) => {
                Err(other)
            }
        }
    }

    /// Which turn it is, to be handed to [`Self::leave`] when it goes wrong.
    pub(super) fn turn(&self) -> usize {
        self.active().rotation.turn()
    }

    /// Leaves an endpoint for the next one, unless somebody else has done so already.
    pub(super) fn leave(&self, turn: usize, fault: Fault, why: &str) {
        {
            let mut active = self.active();
            if active.rotation.turn() != turn {
                return;
            }
            let now = Instant::now().into_std();
            let rng = &mut rand::rng();
            active.rotation.leave(turn, fault, why, now, rng);
            active.client = None;
        }
        self.publish();
    }

    /// Members of which it is to be found out whether they answer.
    pub(super) fn doubtful(&self) -> Vec<usize> {
        let active = self.active();
        let now = Instant::now().into_std();
        active.rotation.doubtful(now).collect()
    }

    /// A member that had been left in that turn or before was asked for itself.
    pub(super) fn judge_member(&self, index: usize, turn: usize, answer: Result<(), Fault>) {
        let now = Instant::now().into_std();
        match answer {
            Ok(()) => self.active().rotation.forgive(index, turn),
            Err(fault) => self.active().rotation.judged(index, turn, fault, now),
        }
        self.publish();
    }

    /// The next call makes a connection of its own, to the same endpoint.
    pub(super) fn renew(&self) {
        let mut active = self.active();
        active.rotation.renew();
        active.client = None;
    }

    fn answered(&self, turn: usize) {
        {
            let mut active = self.active();
            active.answered = true;
            active.rotation.answered(turn);
        }
        self.publish();
    }

    /// What certificates and password are now. New ones are used from the next call on.
    pub(super) fn look_at_files(&self) -> Result<Arc<Loaded>, String> {
        let loaded = self.credentials.look()?;
        let mut active = self.active();
        if active.generation != loaded.generation {
            tracing::info!("etcd: files have changed, connecting with the new ones");
            active.generation = loaded.generation;
            active.rotation.renew();
            active.client = None;
        }
        Ok(loaded)
    }

    /// Notes whether the store lets us in.
    pub(super) fn accessed(&self, outcome: Result<(), String>) {
        self.active().access = outcome.err();
        self.publish();
    }

    /// How the way is, and every change of it.
    pub(super) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Tells how the way is now.
    pub(super) fn publish(&self) {
        let now = {
            let active = self.active();
            let left = active.rotation.left_alone(Instant::now().into_std());
            let name = |index: usize| self.endpoint(index).to_owned();
            Health {
                endpoint: name(active.rotation.at()),
                left_alone: left
                    .map(|(index, _, why)| (name(index), why.to_owned()))
                    .collect(),
                access: active.access.clone(),
                files: self.credentials.wrong(),
            }
        };
        self.health.send_if_modified(|health| {
            let changed = *health != now;
            *health = now;
            changed
        });
    }

    /// What an error of the client means to us.
    pub(super) fn judge(&self, error: &Error) -> Failure {
        let why = explain(error);
        match kind(error, &why) {
            Kind::LeaseGone => Failure::LeaseGone,
            Kind::Silent => Failure::Silent,
            Kind::Token => Failure::Token(why),
            Kind::Denied => self.denied(&why),
            Kind::User => self.unknown_user(&why),
            Kind::Refused => Failure::Refused(why),
            Kind::Unavailable => self.unavailable(&why),
        }
    }

    fn unknown_user(&self, why: &str) -> Failure {
        Failure::Refused(format!(
            "{why}; check --etcd-username and --etcd-password or --etcd-password-file against the server's authentication"
        ))
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
            Failure::Silent => self.error(Failure::Unavailable("it does not answer".to_owned())),
            Failure::Refused(why) | Failure::Token(why) => StoreError::Refused { why },
            Failure::LeaseGone => StoreError::Refused {
                why: "it knows no such lease".to_owned(),
            },
        }
    }

    async fn client(
        &self,
        turn: usize,
        endpoint: &str,
        loaded: &Loaded,
    ) -> Result<Client, Failure> {
        let known = {
            let active = self.active();
            let ours = active.rotation.turn() == turn;
            active.client.clone().filter(|_| ours)
        };
        if let Some(client) = known {
            return Ok(client);
        }
        let options = self.config.options(endpoint, loaded, &self.tuning);
        let client = Client::connect([endpoint], Some(options)).await;
        let client = client.map_err(|error| self.judge(&error))?;
        let mut active = self.active();
        if active.rotation.turn() == turn {
            active.client = Some(client.clone());
        }
        Ok(client)
    }

    fn turn_and_endpoint(&self) -> (usize, &str) {
        let (turn, at) = {
            let active = self.active();
            (active.rotation.turn(), active.rotation.at())
        };
        (turn, self.endpoint(at))
    }

    pub(super) fn endpoint(&self, index: usize) -> &str {
        let endpoints = &self.config.endpoints;
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
