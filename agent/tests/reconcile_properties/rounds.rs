//! The loop's rounds without the loop: look, plan, apply, again.

use std::collections::{BTreeMap, BTreeSet};

use futures::executor::block_on;
use weft::{
    datapath::{Datapath as _, DatapathOp, fake::FakeDatapath},
    endpoints::{self, Endpoint, Endpoints},
    model::{lease::Snapshot, network::NetworkConfig, peer::Peer},
    netlink::{HostOp, NeighbourState, Netlink as _, ObservedHost, TunnelEntry, fake::FakeHost},
    reconcile::{
        desired::{Desired, KernelDefaults, View, desired},
        plan::{Plan, plan},
        underlay::Underlay,
    },
};

use crate::world::{OWN, OWN_ADDRESS, OWN_MAC, UPLINK, index, network, subnet};

/// Everything that the rounds work on.
pub struct Rounds {
    pub host: FakeHost,
    pub datapath: FakeDatapath,
    pub leases: Snapshot,
    pub endpoints: Endpoints,
    /// `DirectRouting`.
    pub direct: bool,
}

impl Rounds {
    pub fn new(host: ObservedHost, datapath: FakeDatapath, leases: Snapshot) -> Self {
        let endpoints = datapath.state.endpoints.iter();
        let endpoints =
            endpoints.filter_map(|(at, entry)| Some((*at, Endpoint::from_entry(entry)?)));
        Self {
            endpoints: endpoints.collect(),
            host: FakeHost::new(host),
            datapath,
            leases,
            direct: false,
        }
    }

    pub fn look(&mut self) -> (Desired, Plan) {
        let host = self.seen();
        let own = subnet(OWN);
        let bridges = endpoints::bridges(&host, own.v4().unwrap(), index(UPLINK));
        self.endpoints = endpoints::join(&self.endpoints, &host, own.v4().unwrap(), &bridges);
        let addresses = self
            .leases
            .leases
            .values()
            .map(|lease| lease.attrs.public_ip);
        let hops: BTreeMap<_, _> = addresses
            .filter_map(|to| Some((to, block_on(self.host.route_to(to)).unwrap()?.0)))
            .collect();
        let network = NetworkConfig {
            direct_routing: self.direct,
            ..network()
        };
        let desired = desired(&View {
            network: &network,
            own,
            holds: true,
            underlay: Underlay {
                public_ip: OWN_ADDRESS,
                link: index(UPLINK),
                address: OWN_ADDRESS,
                mtu: 1500,
                ethernet: true,
            },
            vtep_mac: OWN_MAC,
            leases: &self.leases,
            host: &host,
            hops: &hops,
            narrow: &BTreeMap::new(),
            endpoints: &self.endpoints,
            unhooked: &BTreeSet::new(),
            kernel: KernelDefaults {
                ports: (32768, 60999),
                ttl: 64,
            },
            fast_path: true,
            guard: weft::reconcile::desired::Guard::Strict,
            hook_ports: true,
            provisional: &BTreeMap::new(),
            kernel_only: &BTreeMap::new(),
            foreign: &BTreeMap::new(),
        });
        let plan = plan(&desired, &host, Some(&self.datapath.state));
        (desired, plan)
    }

    /// Applies all of it, whatever fails, and says how much did.
    pub fn apply(&mut self, plan: &Plan) -> usize {
        let mut failed = 0;
        for op in &plan.host {
            failed += usize::from(block_on(self.host.apply(op)).is_err());
        }
        for op in &plan.datapath {
            failed += usize::from(self.datapath.apply(op).is_err());
        }
        failed
    }

    /// Goes on until there is nothing to do, and answers with what is wanted then.
    pub fn settle(&mut self, rounds: usize) -> Desired {
        for _ in 0..rounds {
            let (desired, plan) = self.look();
            if plan.is_empty() {
                assert!(!plan.partial);
                self.assert_reached(&desired);
                return desired;
            }
            spares_peers(&desired, &plan);
            self.apply(&plan);
        }
        let (_, plan) = self.look();
        panic!("not settled after {rounds} rounds: {plan:?}");
    }

    /// Compares with what is wanted, without the plan's help.
    fn assert_reached(&self, desired: &Desired) {
        let host = self.seen();
        assert_eq!(self.datapath.state, desired.datapath);
        let device = host.link_named("flannel.1").expect("the device is there");
        assert!(device.up && device.mac == Some(OWN_MAC) && device.mtu == 1450);
        let inside: Vec<_> = host
            .addresses
            .iter()
            .filter(|(link, net)| *link == device.index && desired.network.contains(&net.addr()))
            .map(|(_, net)| *net)
            .collect();
        assert_eq!(inside, [desired.address]);
        let made = host.routes.iter();
        let made = made.filter(|route| route.link == device.index && route.protocol != 2);
        let tunnelled = desired.peers.len() - desired.direct.len();
        assert_eq!(made.count(), tunnelled);
        let permanent = host.neighbours.iter().filter(|((link, _), entry)| {
            *link == device.index && entry.state == NeighbourState::Permanent
        });
        assert_eq!(permanent.count(), tunnelled);
        let tunnels = host.tunnel_fdb.keys();
        let tunnels = tunnels.filter(|entry| entry.link == device.index);
        assert_eq!(tunnels.count(), tunnelled);
        for peer in desired.peers.values() {
            let mut routes = host.routes.iter();
            if let Some(link) = desired.direct.get(&peer.subnet) {
                assert!(routes.any(|route| {
                    route.destination == peer.subnet.net()
                        && route.gateway == Some(peer.vtep_addr)
                        && route.link == *link
                }));
                continue;
            }
            let via = peer.subnet.net().network();
            let neighbour = &host.neighbours[&(device.index, via)];
            assert_eq!(neighbour.mac, Some(peer.vtep_mac));
            let entry = TunnelEntry {
                link: device.index,
                mac: peer.vtep_mac,
            };
            assert_eq!(host.tunnel_fdb[&entry], peer.vtep_addr);
            assert!(routes.any(|route| {
                route.destination == peer.subnet.net()
                    && route.gateway == Some(via)
                    && route.link == device.index
                    && route.onlink
            }));
        }
        for place in &desired.managed {
            if let Some(entry) = host.neighbours.get(place)
                && entry.state == NeighbourState::Valid
            {
                assert!(entry.managed, "{place:?}");
            }
        }
    }

    pub fn seen(&self) -> ObservedHost {
        block_on(self.host.observe()).unwrap()
    }
}

/// No plan takes away what a peer needs, unless the device goes with all that is on it.
fn spares_peers(desired: &Desired, plan: &Plan) {
    let peers = desired.peers.values();
    for op in &plan.host {
        let tunnelled = |peer: &&Peer| !desired.direct.contains_key(&peer.subnet);
        let peer = peers.clone().filter(tunnelled).find(|peer| match op {
            HostOp::DeleteNeighbour(_, address) => *address == peer.subnet.net().network(),
            HostOp::DeleteTunnel(entry) => entry.mac == peer.vtep_mac,
            HostOp::DeleteRoute(route) => {
                route.destination == peer.subnet.net()
                    && route.metric == 0
                    && route.protocol == 3
                    && route.onlink
                    && route.gateway == Some(peer.subnet.net().network())
            }
            _ => false,
        });
        assert!(peer.is_none(), "{op} takes {peer:?}");
    }
    for op in &plan.datapath {
        let taken = match op {
            DatapathOp::DeletePeer(net) => desired.datapath.peers.contains_key(net),
            DatapathOp::DeleteVtep(address) => desired.datapath.vteps.contains_key(address),
            DatapathOp::DeleteEndpoint(at) => desired.datapath.endpoints.contains_key(at),
            _ => false,
        };
        assert!(!taken, "{op}");
    }
}
