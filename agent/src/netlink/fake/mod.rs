//! A host in memory, for tests of pure logic. It keeps the kernel's semantics as far as
//! `tests/netlink_contract.rs` compares the two.

mod semantics;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use futures::Stream;
use tokio::sync::mpsc;

use self::semantics::{change, next_index, route_to};
use super::{
    HostChange, HostOp, Link, LinkKind, Netlink, NetlinkError, ObservedHost, Way,
    conntrack::{Tracked, Tuple},
};
use crate::model::net::{IfIndex, Mac};

/// The host. Clones share it.
#[derive(Clone, Debug)]
pub struct FakeHost(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    host: ObservedHost,
    applied: Vec<HostOp>,
    /// Attempts until now, failed ones included.
    attempts: u64,
    failures: BTreeMap<u64, i32>,
    /// Operations whose words contain this fail with that errno.
    refused: Option<(String, i32)>,
    connections: Result<Vec<Tracked>, i32>,
    /// Conntrack forgets nothing, and answers with this errno.
    keeps: Option<i32>,
    lookups: u64,
    watchers: Vec<mpsc::Sender<HostChange>>,
}

impl Default for FakeHost {
    fn default() -> Self {
        Self::new(ObservedHost::default())
    }
}

impl FakeHost {
    /// A host that looks like this.
    #[must_use]
    pub fn new(host: ObservedHost) -> Self {
        Self(Arc::new(Mutex::new(State {
            host,
            applied: Vec::new(),
            attempts: 0,
            failures: BTreeMap::new(),
            refused: None,
            connections: Ok(Vec::new()),
            keeps: None,
            lookups: 0,
            watchers: Vec::new(),
        })))
    }

    /// Adds a link that is up, as another program would, and returns its number.
    pub fn add_link(&self, name: &str, kind: LinkKind) -> IfIndex {
        self.edit(|host| {
            let index = next_index(host);
            host.links.insert(
                index,
                Link {
                    index,
                    name: name.to_owned(),
                    kind,
                    mac: Some(Mac([2, 0, 0, 0, 0, index.get().to_be_bytes()[3]])),
                    ethernet: true,
                    mtu: 1500,
                    up: true,
                    carrier: true,
                    master: None,
                    qdisc: None,
                },
            );
            index
        })
    }

    /// Changes the host behind the agent's back; whoever follows changes is told.
    pub fn edit<R>(&self, edit: impl FnOnce(&mut ObservedHost) -> R) -> R {
        let mut state = self.lock();
        let result = edit(&mut state.host);
        state.wake();
        result
    }

    /// Looks at the host, and tells nobody.
    pub fn edit_quietly<R>(&self, edit: impl FnOnce(&mut ObservedHost) -> R) -> R {
        edit(&mut self.lock().host)
    }

    /// The `nth` application from now fails with that errno; the next one is the first.
    pub fn fail_apply(&self, nth: u64, errno: i32) {
        let mut state = self.lock();
        let at = state.attempts + nth;
        state.failures.insert(at, errno);
    }

    /// Every operation whose words contain `words` fails with that errno, until told otherwise.
    pub fn refuse(&self, words: Option<(&str, i32)>) {
        self.lock().refused = words.map(|(words, errno)| (words.to_owned(), errno));
    }

    /// What conntrack answers from now on.
    pub fn set_connections(&self, answer: Result<Vec<Tracked>, i32>) {
        self.lock().connections = answer;
    }

    /// From now on conntrack forgets nothing, and answers with that errno.
    pub fn keep_connections(&self, errno: i32) {
        self.lock().keeps = Some(errno);
    }

    /// Attempts to apply something so far, failed ones included.
    #[must_use]
    pub fn attempts(&self) -> u64 {
        self.lock().attempts
    }

    /// Route lookups so far.
    #[must_use]
    pub fn lookups(&self) -> u64 {
        self.lock().lookups
    }

    /// All that was applied, in order, without what failed.
    #[must_use]
    pub fn applied(&self) -> Vec<HostOp> {
        self.lock().applied.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A test that panicked has failed already; what it left is still a host.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Changes of a [`FakeHost`].
#[derive(Debug)]
pub struct FakeChanges(mpsc::Receiver<HostChange>);

impl Stream for FakeChanges {
    type Item = HostChange;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<HostChange>> {
        self.0.poll_recv(cx)
    }
}

impl Netlink for FakeHost {
    type Changes = FakeChanges;

    async fn observe(&self) -> Result<ObservedHost, NetlinkError> {
        Ok(self.lock().host.clone())
    }

    async fn observe_neighbours(
        &self,
        host: &mut ObservedHost,
        links: &BTreeSet<IfIndex>,
    ) -> Result<(), NetlinkError> {
        let now = self.lock().host.clone();
        host.neighbours.retain(|(link, _), _| !links.contains(link));
        host.tunnel_fdb
            .retain(|entry, _| !links.contains(&entry.link));
        host.bridge_fdb.retain(|entry| !links.contains(&entry.port));
        let neighbours = now.neighbours.into_iter();
        host.neighbours
            .extend(neighbours.filter(|((link, _), _)| links.contains(link)));
        let tunnels = now.tunnel_fdb.into_iter();
        host.tunnel_fdb
            .extend(tunnels.filter(|(entry, _)| links.contains(&entry.link)));
        let bridged = now.bridge_fdb.into_iter();
        host.bridge_fdb
            .extend(bridged.filter(|entry| links.contains(&entry.port)));
        Ok(())
    }

    async fn apply_all(&self, ops: &[HostOp]) -> Vec<Result<(), NetlinkError>> {
        let mut answers = Vec::new();
        for op in ops {
            answers.push(self.apply(op).await);
        }
        answers
    }

    async fn apply(&self, op: &HostOp) -> Result<(), NetlinkError> {
        let mut state = self.lock();
        state.attempts += 1;
        let attempt = state.attempts;
        let told = state.failures.remove(&attempt);
        let refused = state.refused.as_ref();
        let refused = refused.filter(|(words, _)| op.to_string().contains(words));
        let result = match told.or(refused.map(|(_, errno)| *errno)) {
            Some(errno) => Err(errno),
            None => change(&mut state.host, op),
        };
        result.map_err(|errno| NetlinkError::errno(op.to_string(), errno))?;
        state.applied.push(op.clone());
        state.wake();
        Ok(())
    }

    async fn ways_to(&self, destinations: &[IpAddr]) -> Vec<Way> {
        let mut state = self.lock();
        let mut ways = Vec::new();
        for destination in destinations {
            state.lookups += 1;
            ways.push(Ok(route_to(&state.host, *destination)));
        }
        ways
    }

    async fn connections(&self) -> Result<Vec<Tracked>, NetlinkError> {
        let answer = self.lock().connections.clone();
        answer.map_err(|errno| NetlinkError::errno("read conntrack", errno))
    }

    async fn connection(
        &self,
        protocol: u8,
        tuple: &Tuple,
    ) -> Result<Option<Tracked>, NetlinkError> {
        let found = |tracked: &Tracked| {
            tracked.protocol == protocol && (tracked.original == *tuple || tracked.reply == *tuple)
        };
        Ok(self.connections().await?.into_iter().find(found))
    }

    async fn forget_connection(&self, tracked: &Tracked) -> Result<bool, NetlinkError> {
        let mut state = self.lock();
        let said = |errno| NetlinkError::errno("delete conntrack entry", errno);
        if let Some(errno) = state.keeps {
            return Err(said(errno));
        }
        let all = state.connections.as_mut().map_err(|errno| said(*errno))?;
        let before = all.len();
        all.retain(|known| known.original != tracked.original);
        Ok(all.len() < before)
    }

    async fn changes(&self) -> Result<FakeChanges, NetlinkError> {
        // One is enough: a second change before the consumer looked adds nothing.
        let (sender, changes) = mpsc::channel(1);
        self.lock().watchers.push(sender);
        Ok(FakeChanges(changes))
    }
}

impl State {
    fn wake(&mut self) {
        self.watchers.retain(|watcher| {
            !matches!(
                watcher.try_send(HostChange::Any),
                Err(mpsc::error::TrySendError::Closed(_))
            )
        });
    }
}
