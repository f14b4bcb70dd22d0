//! The kernel's side of the netlink seam.

mod addresses;
mod calls;
mod changes;
mod filters;
mod links;
mod neighbours;
mod routes;
mod rules;

use std::net::IpAddr;

use rtnetlink::{proto::Connection, sys::AsyncSocket};
use tokio::task::JoinHandle;

use self::calls::Calls;
pub use self::changes::Changes;
use super::{
    HostOp, Netlink, NetlinkError, ObservedHost,
    conntrack::{self, Tracked, Tuple},
};
use crate::model::peer::Hop;

/// The kernel, through one rtnetlink socket. The socket stays in the network namespace of the
/// thread that called [`Rtnetlink::new`], wherever the calls come from.
#[derive(Debug)]
pub struct Rtnetlink {
    calls: Calls,
    connection: JoinHandle<()>,
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
        Ok(Self {
            calls: Calls::new(handle),
            connection: tokio::spawn(connection),
        })
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
        let mut host = ObservedHost {
            links: links::observe(&self.calls).await?,
            ..ObservedHost::default()
        };
        addresses::observe(&self.calls, &mut host).await?;
        routes::observe(&self.calls, &mut host).await?;
        rules::observe(&self.calls, &mut host).await?;
        filters::observe(&self.calls, &mut host).await?;
        neighbours::observe(&self.calls, &mut host).await?;
        keep_known_links(&mut host);
        Ok(host)
    }

    async fn apply(&self, op: &HostOp) -> Result<(), NetlinkError> {
        let calls = &self.calls;
        let call = op.to_string();
        match op {
            HostOp::CreateVxlan(device) => links::create_vxlan(calls, &call, device).await,
            HostOp::DeleteLink { link, name: _ } => links::delete(calls, &call, *link).await,
            HostOp::SetMtu { link, mtu } => links::set_mtu(calls, &call, *link, *mtu).await,
            HostOp::SetUp(link) => links::set_up(calls, &call, *link).await,
            HostOp::PutAddress(link, net) => addresses::put(calls, &call, *link, *net).await,
            HostOp::DeleteAddress(link, net) => addresses::delete(calls, &call, *link, *net).await,
            HostOp::PutNeighbour { link, addr, mac } => {
                neighbours::put(calls, &call, *link, *addr, *mac).await
            }
            HostOp::DeleteNeighbour(link, addr) => {
                neighbours::delete(calls, &call, *link, *addr).await
            }
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
            HostOp::PutTunnel(entry, vtep) => {
                neighbours::put_tunnel(calls, &call, *entry, *vtep).await
            }
            HostOp::DeleteTunnel(entry) => neighbours::delete_tunnel(calls, &call, *entry).await,
            HostOp::PutRoute(route) => routes::put(calls, &call, route).await,
            HostOp::DeleteRoute(route) => routes::delete(calls, &call, route).await,
            HostOp::PutBlackhole(net) => routes::put_blackhole(calls, &call, *net).await,
            HostOp::DeleteBlackhole(net) => routes::delete_blackhole(calls, &call, *net).await,
        }
    }

    async fn route_to(
        &self,
        destination: IpAddr,
    ) -> Result<Option<(Hop, Option<IpAddr>)>, NetlinkError> {
        routes::route_to(&self.calls, destination).await
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
        Changes::open()
    }
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
    neighbours.retain(|(link, _), _| links.contains_key(link));
    tunnel_fdb.retain(|entry, _| links.contains_key(&entry.link));
    bridge_fdb.retain(|entry| links.contains_key(&entry.bridge) && links.contains_key(&entry.port));
}
