//! What was last seen of host and maps, kept up with what the loop itself changes: with thousands of
//! peers a change of one must not wait for all tables to be read again. Whatever else changes, the
//! tables are read.

use crate::{
    datapath::{DatapathOp, DatapathState},
    model::net::IfIndex,
    netlink::{HostOp, Neighbour, NeighbourState, ObservedHost, Route},
};

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sight {
    /// Only what stands by itself in the kernel: settings, the record of flows.
    Tick,
    /// What containers and programs change. What was seen of the rest counts.
    Near,
    /// Everything.
    Full,
}

/// Host and maps, as last seen.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The host.
    pub host: ObservedHost,
    /// The maps; `None` without programs.
    pub maps: Option<DatapathState>,
}

impl Seen {
    /// Follows a change that the kernel has made. `false` where what came of it must be looked at.
    #[must_use]
    pub fn follow(&mut self, op: &HostOp) -> bool {
        let host = &mut self.host;
        match op {
            HostOp::PutNeighbour { link, addr, mac } => {
                let entry = Neighbour {
                    mac: Some(*mac),
                    state: NeighbourState::Permanent,
                    managed: false,
                };
                host.neighbours.insert((*link, *addr), entry);
            }
            HostOp::DeleteNeighbour(link, addr) => _ = host.neighbours.remove(&(*link, *addr)),
            HostOp::PutTunnel(entry, vtep) => _ = host.tunnel_fdb.insert(*entry, *vtep),
            HostOp::DeleteTunnel(entry) => _ = host.tunnel_fdb.remove(entry),
            HostOp::PutRoute(route) => {
                // Ours alone have their place; a stranger's in the same place is replaced.
                let Ok(lowest) = IfIndex::try_from(1) else {
                    return false;
                };
                let first = Route {
                    gateway: None,
                    link: lowest,
                    onlink: false,
                    metric: 0,
                    mtu: None,
                    protocol: 0,
                    ..*route
                };
                let there = host.routes.range(first..);
                let there = there.take_while(|other| other.destination == route.destination);
                let there: Vec<Route> = there
                    .filter(|other| other.metric == route.metric)
                    .copied()
                    .collect();
                for other in there {
                    host.routes.remove(&other);
                }
                host.routes.insert(*route);
            }
            HostOp::DeleteRoute(route) => _ = host.routes.remove(route),
            HostOp::DeleteNextHop(link, gateway) => _ = host.idle_hops.remove(&(*link, *gateway)),
            HostOp::ManageNeighbour { .. }
            | HostOp::PutConnected(..)
            | HostOp::PutBlackhole(_)
            | HostOp::DeleteBlackhole(_)
            | HostOp::CreateVxlan(_)
            | HostOp::DeleteLink { .. }
            | HostOp::SetMtu { .. }
            | HostOp::SetUp(_)
            | HostOp::PutAddress(..)
            | HostOp::DeleteAddress(..) => return false,
        }
        true
    }

    /// Follows a change of the peers; everything else in the maps is read each time.
    pub fn follow_maps(&mut self, op: &DatapathOp) {
        let Some(maps) = &mut self.maps else { return };
        match op {
            DatapathOp::PutPeer(net, peer) => _ = maps.peers.insert(*net, *peer),
            DatapathOp::DeletePeer(net) => _ = maps.peers.remove(net),
            DatapathOp::PutVtep(addr, vtep) => _ = maps.vteps.insert(*addr, *vtep),
            DatapathOp::DeleteVtep(addr) => _ = maps.vteps.remove(addr),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::net::Mac,
        netlink::{LinkKind, Netlink as _, TunnelEntry, VxlanAttrs, fake::FakeHost},
    };

    fn route(third: u8, link: IfIndex, metric: u32) -> Route {
        Route {
            destination: format!("10.1.{third}.0/24").parse().unwrap(),
            gateway: Some(format!("10.1.{third}.0").parse().unwrap()),
            link,
            onlink: true,
            metric,
            mtu: None,
            protocol: 3,
        }
    }

    /// What is remembered must be what a look would find.
    #[tokio::test]
    async fn what_we_change_is_seen_without_a_look() {
        let host = FakeHost::default();
        let other = host.add_link("eth0", LinkKind::Other(String::new()));
        let attrs = VxlanAttrs {
            vni: 1.try_into().unwrap(),
            port: 8472,
            local: None,
            lower: Some(other),
            learning: false,
            gbp: false,
        };
        let link = host.add_link("flannel.1", LinkKind::Vxlan(attrs));
        let stranger = Route {
            gateway: None,
            onlink: false,
            link: other,
            ..route(5, other, 0)
        };
        let stays = route(5, other, 7);
        let idle = (link, [10, 1, 9, 0].into());
        host.edit(|host| {
            host.routes.extend([stranger, stays]);
            host.idle_hops.insert(idle);
        });
        let mut seen = Seen {
            host: host.observe().await.unwrap(),
            maps: None,
        };
        let (addr, mac) = ("10.1.5.0".parse().unwrap(), Mac([2, 0, 0, 0, 0, 5]));
        let entry = TunnelEntry { link, mac };
        let vtep = "192.0.2.5".parse().unwrap();
        for op in [
            HostOp::PutNeighbour { link, addr, mac },
            HostOp::PutTunnel(entry, vtep),
            HostOp::PutRoute(route(5, link, 0)),
            HostOp::PutRoute(route(6, link, 0)),
            HostOp::DeleteRoute(route(6, link, 0)),
            HostOp::DeleteNextHop(idle.0, idle.1),
            HostOp::DeleteTunnel(entry),
            HostOp::DeleteNeighbour(link, addr),
        ] {
            host.apply(&op).await.unwrap();
            assert!(seen.follow(&op), "{op}");
            assert_eq!(seen.host, host.observe().await.unwrap(), "after: {op}");
        }
        assert!(seen.host.routes.contains(&stays));
        assert!(!seen.host.routes.contains(&stranger));
        assert!(!seen.follow(&HostOp::SetUp(link)));
    }
}
