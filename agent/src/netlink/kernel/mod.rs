//! The kernel's side of the netlink seam.

mod addresses;
mod calls;
mod changes;
mod direct;
mod echoes;
mod filters;
mod links;
mod neighbours;
mod nexthops;
mod routes;
mod rules;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use rtnetlink::{proto::Connection, sys::AsyncSocket};
use tokio::task::{JoinHandle, yield_now};

pub use self::changes::{Changes, read_any};
use self::{
    calls::{Calls, GONE, is},
    direct::Request,
    echoes::Echoes,
    nexthops::NextHops,
};
use super::{
    HostOp, Netlink, NetlinkError, ObservedHost, Route, Way,
    conntrack::{self, Tracked, Tuple},
};
use crate::model::net::IfIndex;

/// Changes and questions between two of which others may run.
const SPELL: usize = 256;

/// The kernel, through one rtnetlink socket. The socket stays in the network namespace of the
/// thread that called [`Rtnetlink::new`], wherever the calls come from.
#[derive(Debug)]
pub struct Rtnetlink {
    calls: Calls,
    connection: JoinHandle<()>,
    /// Of the links, as last read: ten thousand route lookups do not ask for it each time.
    mtus: Mutex<BTreeMap<IfIndex, u32>>,
    hops: Mutex<NextHops>,
    echoes: Arc<Echoes>,
}

impl Rtnetlink {
    /// Opens the socket. Needs a tokio runtime with I/O and time.
    pub fn new() -> Result<Self, NetlinkError> {
        let (mut connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(|source| NetlinkError {
                call: "open rtnetlink socket".to_owned(),
                source,
            })?;
        ask_for_detail(&mut connection);
        // The ends of dumps and the acknowledgements tell a full answer from a lost connection.
        connection.set_forward_done(true);
        connection.set_forward_ack(true);
        let direct = direct::Direct::open().map_err(|source| NetlinkError {
            call: "open a second rtnetlink socket".to_owned(),
            source,
        })?;
        let echoes = Arc::new(Echoes::new(direct.port()));
        Ok(Self {
            calls: Calls::new(handle, direct),
            connection: tokio::spawn(connection),
            mtus: Mutex::default(),
            hops: Mutex::new(NextHops::here()),
            echoes,
        })
    }

    /// A change that is no single request.
    async fn change(&self, op: &HostOp) -> Result<(), NetlinkError> {
        let calls = &self.calls;
        let call = op.to_string();
        if matches!(op, HostOp::SetMtu { .. }) {
            self.mtus().clear();
        }
        match op {
            HostOp::CreateVxlan(device) => links::create_vxlan(calls, &call, device).await,
            HostOp::DeleteLink { link, name: _ } => links::delete(calls, &call, *link).await,
            HostOp::SetMtu { link, mtu } => links::set_mtu(calls, &call, *link, *mtu).await,
            HostOp::SetUp(link) => links::set_up(calls, &call, *link).await,
            HostOp::PutAddress(link, net) => addresses::put(calls, &call, *link, *net).await,
            HostOp::DeleteAddress(link, net) => addresses::delete(calls, &call, *link, *net).await,
            HostOp::ManageNeighbour {
                link,
                addr,
                managed: true,
            } => neighbours::manage(calls, &call, *link, *addr).await,
            HostOp::ManageNeighbour {
                link,
                addr,
                managed: false,
            } => neighbours::release(calls, &call, *link, *addr).await,
            HostOp::PutBlackhole(net) => routes::put_blackhole(calls, &call, *net).await,
            HostOp::DeleteBlackhole(net) => routes::delete_blackhole(calls, &call, *net).await,
            HostOp::PutNeighbour { .. }
            | HostOp::DeleteNeighbour(..)
            | HostOp::PutTunnel(..)
            | HostOp::DeleteTunnel(_)
            | HostOp::PutRoute(_)
            | HostOp::DeleteRoute(_)
            | HostOp::DeleteNextHop(..)
            | HostOp::PutConnected(..) => {
                let requests = request(op).into_iter().collect();
                let answers = self.make(std::slice::from_ref(op), requests);
                answers.into_iter().collect()
            }
        }
    }

    /// Makes changes that take one request each.
    fn make(&self, ops: &[HostOp], requests: Vec<Request>) -> Vec<Result<(), NetlinkError>> {
        let mut answers = self.calls.act_all(requests);
        for (op, answer) in ops.iter().zip(&mut answers) {
            let Err(error) = &*answer else { continue };
            self.echoes.nothing(op);
            let deletes = matches!(op, HostOp::DeleteNeighbour(..) | HostOp::DeleteTunnel(_));
            if deletes && is(error, &GONE) {
                *answer = Ok(());
            }
        }
        let plain = ops.iter().map(|op| match op {
            HostOp::PutRoute(route) => Some(*route),
            _ => None,
        });
        self.free_replaced(plain.collect(), answers)
    }

    /// A route that is to have a number.
    fn to_number(&self, op: &HostOp, many: bool) -> Option<Route> {
        match op {
            HostOp::PutRoute(route) if many => nexthops::number(route).map(|_| *route),
            _ => None,
        }
    }

    /// A route with a number that is to go.
    fn has_number(&self, op: &HostOp) -> Option<Route> {
        match op {
            HostOp::DeleteRoute(route) if self.hops().has(route) => Some(*route),
            _ => None,
        }
    }

    /// Makes routes by the numbers of their next hops, or as all others where that does not work.
    fn put_numbered(&self, routes: &[Route]) -> Vec<Result<(), NetlinkError>> {
        let call = |route: &Route| HostOp::PutRoute(*route).to_string();
        let new: Vec<&Route> = routes
            .iter()
            .filter(|route| !self.hops().has(route))
            .collect();
        let hops = new
            .iter()
            .filter_map(|route| nexthops::put(&call(route), route));
        for (route, made) in new.iter().zip(self.calls.act_all(hops.collect())) {
            self.hops().made(route, &made);
        }
        let requests = routes.iter().map(|route| {
            if self.hops().has(route) {
                nexthops::put_route(call(route), route)
            } else {
                routes::put(call(route), route)
            }
        });
        let answers = self.calls.act_all(requests.collect());
        let plain = routes
            .iter()
            .map(|route| (!self.hops().has(route)).then_some(*route));
        let plain = plain.collect();
        self.free_replaced(plain, answers)
    }

    /// After routes were made without a number, if they were: removes the numbers of those that were
    /// in their places.
    fn free_replaced(
        &self,
        plain: Vec<Option<Route>>,
        mut answers: Vec<Result<(), NetlinkError>>,
    ) -> Vec<Result<(), NetlinkError>> {
        let (mut freed, mut requests) = (Vec::new(), Vec::new());
        for (route, answer) in plain.into_iter().zip(&mut answers) {
            let made = route.filter(|_| answer.is_ok());
            let old = made.and_then(|route| self.hops().replaced(&route));
            let call = |old: &Route| format!("delete the next hop of {}", old.destination);
            if let Some(request) = old.and_then(|old| nexthops::delete(call(&old), &old)) {
                freed.push(answer);
                requests.push(request);
            }
        }
        for (answer, free) in freed.into_iter().zip(self.calls.act_all(requests)) {
            *answer = free;
        }
        answers
    }

    /// Removes routes, and then the numbers of their next hops: the other way round the kernel would
    /// look through all routes.
    fn delete_numbered(&self, routes: &[Route]) -> Vec<Result<(), NetlinkError>> {
        let call = |route: &Route| HostOp::DeleteRoute(*route).to_string();
        for route in routes {
            self.hops().removed(route);
        }
        let requests = routes
            .iter()
            .map(|route| nexthops::delete_route(call(route), route));
        let gone = self.calls.act_all(requests.collect());
        let requests = routes
            .iter()
            .filter_map(|route| nexthops::delete(call(route), route));
        let freed = self.calls.act_all(requests.collect());
        let both = gone.into_iter().zip(freed);
        both.map(|(gone, freed)| gone.and(freed)).collect()
    }

    fn hops(&self) -> std::sync::MutexGuard<'_, NextHops> {
        // What a panic left undone is read again.
        self.hops.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mtus(&self) -> std::sync::MutexGuard<'_, BTreeMap<IfIndex, u32>> {
        // Whoever panicked while holding it left numbers that are still those of the links.
        self.mtus.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Rtnetlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Netlink for Rtnetlink {
    type Changes = Changes;

    async fn observe(&self) -> Result<ObservedHost, NetlinkError> {
        self.echoes.forget();
        let mut host = ObservedHost {
            links: links::observe(&self.calls).await?,
            ..ObservedHost::default()
        };
        *self.mtus() = host
            .links
            .values()
            .map(|link| (link.index, link.mtu))
            .collect();
        addresses::observe(&self.calls, &mut host).await?;
        // The numbers first: a route that names one of them is read after it.
        let numbers = nexthops::observe().await?;
        let found = routes::observe(&self.calls, &mut host).await?;
        host.idle_hops = numbers.idle(&found.named);
        self.hops().read(found.numbered, host.routes.len());
        rules::observe(&self.calls, &mut host).await?;
        filters::observe(&self.calls, &mut host).await?;
        neighbours::observe(&self.calls, &mut host).await?;
        keep_known_links(&mut host);
        Ok(host)
    }

    async fn observe_neighbours(
        &self,
        host: &mut ObservedHost,
        links: &BTreeSet<IfIndex>,
    ) -> Result<(), NetlinkError> {
        neighbours::observe_at(&self.calls, host, links).await
    }

    async fn apply_all(&self, ops: &[HostOp]) -> Vec<Result<(), NetlinkError>> {
        let mut answers = Vec::with_capacity(ops.len());
        let mut rest = ops;
        self.echoes.expect(ops);
        let coming = ops.iter().filter(|op| matches!(op, HostOp::PutRoute(_)));
        let many = self.hops().pays(coming.count());
        while let Some(op) = rest.first() {
            let numbered: Vec<Route> = rest
                .iter()
                .take(SPELL)
                .map_while(|op| self.to_number(op, many))
                .collect();
            if !numbered.is_empty() {
                answers.extend(self.put_numbered(&numbered));
                rest = rest.get(numbered.len()..).unwrap_or_default();
                yield_now().await;
                continue;
            }
            let numbered: Vec<Route> = rest
                .iter()
                .take(SPELL)
                .map_while(|op| self.has_number(op))
                .collect();
            if !numbered.is_empty() {
                answers.extend(self.delete_numbered(&numbered));
                rest = rest.get(numbered.len()..).unwrap_or_default();
                yield_now().await;
                continue;
            }
            let plain = |op: &&HostOp| match op {
                HostOp::PutRoute(_) => self.to_number(op, many).is_none(),
                HostOp::DeleteRoute(_) => self.has_number(op).is_none(),
                _ => true,
            };
            let some = rest.iter().take(SPELL).take_while(plain);
            let requests: Vec<Request> = some.map_while(request).collect();
            if requests.is_empty() {
                answers.push(self.change(op).await);
                rest = rest.get(1..).unwrap_or_default();
            } else {
                let (now, later) = rest.split_at(requests.len().min(rest.len()));
                rest = later;
                answers.extend(self.make(now, requests));
                yield_now().await;
            }
        }
        answers
    }

    async fn apply(&self, op: &HostOp) -> Result<(), NetlinkError> {
        let answers = self.apply_all(std::slice::from_ref(op)).await;
        answers.into_iter().collect()
    }

    async fn ways_to(&self, destinations: &[IpAddr]) -> Vec<Way> {
        let mut ways = Vec::with_capacity(destinations.len());
        let known = |link: &IfIndex| self.mtus().get(link).copied();
        for some in destinations.chunks(SPELL) {
            let requests = some.iter().map(|destination| routes::lookup(*destination));
            for answer in self.calls.ask_all(requests.collect()) {
                ways.push(match answer {
                    Ok(answer) => routes::way(&self.calls, answer, known).await,
                    Err(error) => Err(error),
                });
            }
            yield_now().await;
        }
        ways
    }

    async fn forget_connection(&self, tracked: &Tracked) -> Result<bool, NetlinkError> {
        conntrack::delete(tracked).await
    }

    async fn connections(&self) -> Result<Vec<Tracked>, NetlinkError> {
        match conntrack::dump().await {
            // Where conntrack is not at work there is nothing to read.
            Err(_) if !conntrack::is_loaded() => Ok(Vec::new()),
            answer => answer,
        }
    }

    async fn connection(
        &self,
        protocol: u8,
        tuple: &Tuple,
    ) -> Result<Option<Tracked>, NetlinkError> {
        match conntrack::find(protocol, tuple).await {
            Err(_) if !conntrack::is_loaded() => Ok(None),
            answer => answer,
        }
    }

    async fn changes(&self) -> Result<Changes, NetlinkError> {
        Changes::open(Arc::clone(&self.echoes))
    }
}

/// The one request that a change takes; `None` for one that takes more, or its time.
fn request(op: &HostOp) -> Option<Request> {
    let call = op.to_string();
    Some(match op {
        HostOp::PutNeighbour { link, addr, mac } => neighbours::put(call, *link, *addr, *mac),
        HostOp::DeleteNeighbour(link, addr) => neighbours::delete(call, *link, *addr),
        HostOp::PutTunnel(entry, vtep) => neighbours::put_tunnel(call, *entry, *vtep),
        HostOp::DeleteTunnel(entry) => neighbours::delete_tunnel(call, *entry),
        HostOp::PutRoute(route) => routes::put(call, route),
        HostOp::DeleteRoute(route) => routes::delete(call, route),
        HostOp::DeleteNextHop(_, gateway) => nexthops::free(call, *gateway),
        HostOp::PutConnected(link, net) => routes::put_connected(call, *link, *net),
        HostOp::CreateVxlan(_)
        | HostOp::DeleteLink { .. }
        | HostOp::SetMtu { .. }
        | HostOp::SetUp(_)
        | HostOp::PutAddress(..)
        | HostOp::DeleteAddress(..)
        | HostOp::PutBlackhole(_)
        | HostOp::DeleteBlackhole(_)
        | HostOp::ManageNeighbour { .. } => return None,
    })
}

/// Has errors explained in words, and dumps filtered. Kernels before 4.12 and 4.20 cannot, and
/// nothing depends on it.
fn ask_for_detail<T>(connection: &mut Connection<T>)
where
    T: std::fmt::Debug
        + Unpin
        + netlink_packet_core::NetlinkSerializable
        + netlink_packet_core::NetlinkDeserializable,
{
    let socket = connection.socket_mut().socket_mut();
    drop(socket.set_ext_ack(true));
    drop(socket.set_cap_ack(true));
    drop(socket.set_netlink_get_strict_chk(true));
}

/// The tables are read one after the other: a link that came or went between two of them leaves
/// rows that point nowhere. Its event is a reason to look again.
fn keep_known_links(host: &mut ObservedHost) {
    let ObservedHost {
        links,
        addresses,
        standings,
        routes,
        idle_hops,
        rules: _,
        filters: _,
        nowhere: _,
        neighbours,
        tunnel_fdb,
        bridge_fdb,
    } = host;
    addresses.retain(|(link, _)| links.contains_key(link));
    standings.retain(|(link, _), _| links.contains_key(link));
    routes.retain(|route| links.contains_key(&route.link));
    idle_hops.retain(|(link, _)| links.contains_key(link));
    neighbours.retain(|(link, _), _| links.contains_key(link));
    tunnel_fdb.retain(|entry, _| links.contains_key(&entry.link));
    bridge_fdb.retain(|entry| links.contains_key(&entry.bridge) && links.contains_key(&entry.port));
}
