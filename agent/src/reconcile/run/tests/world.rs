//! A host with one bridge and one container, a data path, and a loop that runs on them.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use ipnet::IpNet;
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use weft_common::stats::Hook;

use super::super::*;
use crate::{
    datapath::{DatapathOp, fake::FakeDatapath},
    model::{
        lease::{Backend, LeaseAttrs, Revision, Snapshot},
        net::IfIndex,
    },
    netlink::{
        BridgeEntry, LinkKind, Neighbour, NeighbourState, ObservedHost, Route, fake::FakeHost,
    },
    paths::{Narrow, Ways},
    policy::Rules,
    uplink::{UplinkRequest, choose},
};

pub(super) const OWN: u8 = 2;
pub(super) const CONTAINER: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 9);

pub(super) struct World {
    pub(super) host: FakeHost,
    pub(super) datapath: Arc<Mutex<FakeDatapath>>,
    pub(super) news: mpsc::Sender<StoreNews>,
    pub(super) report: watch::Receiver<Report>,
    pub(super) root: TempDir,
    pub(super) rules: watch::Sender<Arc<RulesRead>>,
    pub(super) bridge: IfIndex,
    /// What is known of our lease.
    pub(super) held: watch::Sender<OwnLease>,
    /// What is followed of the network config.
    pub(super) networks: watch::Sender<NetworkConfig>,
    /// What is known of narrow ways.
    pub(super) narrow: watch::Sender<Narrow>,
    /// Whose way is to be measured.
    pub(super) ways: watch::Receiver<Ways>,
    bells: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl World {
    /// Runs the loop; nothing was heard of the store yet.
    pub(super) async fn new() -> Self {
        Self::on(|_| ()).await
    }

    /// The same on a host with something more.
    pub(super) async fn on(edit: impl FnOnce(&FakeHost)) -> Self {
        let host = FakeHost::default();
        furnish(&host);
        edit(&host);
        Self::again(&host).await
    }

    /// A loop that starts on a host as another left it, with programs and maps that know nothing.
    pub(super) async fn again(host: &FakeHost) -> Self {
        let datapath = Arc::new(Mutex::new(FakeDatapath::default()));
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("net/ipv4")).unwrap();
        std::fs::write(root.path().join("net/ipv4/ip_forward"), "1").unwrap();
        let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;
        let request = UplinkRequest::default();
        let (rules, read) = watch::channel(Arc::new(Ok(Rules::default())));
        let mut allow = Allow::new(true, "told to".to_owned());
        allow.filtered = true;
        allow.rules = Some(read);
        let (held, own_lease) = watch::channel(OwnLease::Held);
        let (networks, followed) = watch::channel(NetworkConfig::parse(config).unwrap());
        let (narrow, known) = watch::channel(Narrow::new());
        let (ways, asked) = watch::channel(Ways::default());
        let uplink = choose(&host.observe().await.unwrap(), &request).unwrap();
        let reconciler = Reconciler {
            netlink: host.clone(),
            datapath: Some(Arc::clone(&datapath)),
            network: NetworkConfig::parse(config).unwrap(),
            own: subnet(OWN),
            own_lease,
            vtep_mac: mac(OWN),
            uplink: UplinkWatch::new(request, None, uplink),
            sysctls: Sysctls::below(root.path()),
            kernel: KernelDefaults {
                ports: (32768, 60999),
                ttl: 64,
            },
            allow,
            guard: crate::reconcile::desired::Guard::default(),
            hook_ports: true,
            networks: followed,
            paths: Paths {
                narrow: known,
                ways,
            },
            pulse: Arc::default(),
            memory: Memory::default(),
        };
        let (news, heard) = mpsc::channel(64);
        let (sender, report) = watch::channel(Report::default());
        let bells = Arc::new(AtomicUsize::new(0));
        let rung = Arc::clone(&bells);
        let changes = host.changes().await.unwrap();
        let key_of = |subnet: Subnet| format!("/x/{}", subnet.net());
        let task = tokio::spawn(reconciler.run(
            heard,
            changes,
            futures::stream::pending(),
            key_of,
            sender,
            move || _ = rung.fetch_add(1, Ordering::Relaxed),
        ));
        Self {
            host: host.clone(),
            bridge: host.edit_quietly(|host| host.link_named("docker0").unwrap().index),
            datapath,
            news,
            report,
            root,
            rules,
            held,
            networks,
            narrow,
            ways: asked,
            bells,
            task,
        }
    }

    /// A loop that has done all there is to do for these nodes and us.
    pub(super) async fn settled(nodes: &[u8]) -> Self {
        let mut world = Self::new().await;
        world.tell(nodes).await;
        world.until("all is done", World::is_settled).await;
        world
    }

    /// The store's answer: these nodes and us.
    pub(super) async fn tell(&self, nodes: &[u8]) {
        let nodes = nodes.iter().chain([&OWN]);
        let leases: BTreeMap<_, _> = nodes.map(|n| (subnet(*n), lease(*n))).collect();
        self.say(StoreNews::Snapshot(Snapshot {
            revision: Revision(1),
            leases,
            ..Snapshot::default()
        }))
        .await;
    }

    pub(super) async fn say(&self, news: StoreNews) {
        self.news.send(news).await.expect("the loop ended");
    }

    /// Waits until a pass has led to something.
    pub(super) async fn until(&mut self, what: &str, mut is: impl FnMut(&Self) -> bool) {
        let patience = Instant::now() + Duration::from_secs(600);
        while !is(self) {
            let left = patience.saturating_duration_since(Instant::now());
            match timeout(left, self.report.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => panic!("the loop ended before: {what}"),
                Err(_) => panic!("never: {what}; {:?}", self.report.borrow()),
            }
        }
    }

    pub(super) fn is_settled(&self) -> bool {
        let report = self.report();
        report.complete && report.failures.is_empty()
    }

    pub(super) fn report(&self) -> Report {
        self.report.borrow().clone()
    }

    pub(super) fn routes(&self) -> Vec<String> {
        self.host.edit_quietly(|host| {
            let ours = host.link_named("flannel.1").map(|link| link.index);
            let routes = host.routes.iter();
            let routes = routes.filter(|route| Some(route.link) == ours);
            routes.map(|route| route.destination.to_string()).collect()
        })
    }

    pub(super) fn applied(&self) -> Vec<DatapathOp> {
        self.datapath.lock().unwrap().applied.clone()
    }

    pub(super) fn hooks(&self, link: &str) -> Vec<Hook> {
        let fake = self.datapath.lock().unwrap();
        let attachments = fake.state.attachments.iter();
        let there = attachments.filter(|at| at.name == link);
        there.map(|at| at.hook).collect()
    }

    pub(super) fn is_endpoint(&self) -> bool {
        let fake = self.datapath.lock().unwrap();
        fake.state.endpoints.contains_key(&CONTAINER)
    }

    /// Flags of the settings, of the peer, and of the container.
    pub(super) fn flags(&self, node: u8) -> (u32, u32, u32) {
        let fake = self.datapath.lock().unwrap();
        let peer = fake.state.peers[&subnet(node).v4().unwrap()].flags;
        let endpoint = fake.state.endpoints[&CONTAINER].flags;
        let fast = fake.state.settings.unwrap().flags & weft_common::settings::FAST_PATH;
        (fast, peer, endpoint)
    }

    /// Whether nodes on the same wire are to be reached without a tunnel.
    pub(super) fn route_directly(&self, direct: bool) {
        self.networks
            .send_modify(|network| network.direct_routing = direct);
    }

    pub(super) fn refuse(&self, words: Option<&str>) {
        self.datapath.lock().unwrap().refused = words.map(str::to_owned);
    }

    pub(super) fn bells(&self) -> usize {
        self.bells.load(Ordering::Relaxed)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// `eth0` with the default route, and `docker0` with a container behind `veth1`.
fn furnish(host: &FakeHost) {
    let uplink = host.add_link("eth0", LinkKind::Other(String::new()));
    address_uplink(host, uplink, "192.0.2.1/24");
    let bridge = host.add_link(
        "docker0",
        LinkKind::Bridge {
            vlan_filtering: false,
        },
    );
    let port = host.add_link(
        "veth1",
        LinkKind::Veth {
            peer_elsewhere: true,
        },
    );
    host.edit(|host| {
        host.links.get_mut(&port).unwrap().master = Some(bridge);
        host.addresses.insert((bridge, net("10.1.2.1/24")));
        let mac = Mac([2, 1, 0, 0, 0, 9]);
        host.bridge_fdb.insert(BridgeEntry { bridge, mac, port });
        host.neighbours.insert(
            (bridge, IpAddr::V4(CONTAINER)),
            Neighbour {
                mac: Some(mac),
                state: NeighbourState::Valid,
                managed: false,
            },
        );
    });
}

pub(super) fn address_uplink(host: &FakeHost, uplink: IfIndex, address: &str) {
    host.edit(|host: &mut ObservedHost| {
        host.addresses.insert((uplink, net(address)));
        for (destination, gateway) in [
            ("192.0.2.0/24", None),
            ("0.0.0.0/0", Some("192.0.2.254".parse().unwrap())),
        ] {
            host.routes.insert(Route {
                destination: net(destination),
                gateway,
                link: uplink,
                onlink: false,
                metric: 0,
                mtu: None,
                protocol: 2,
            });
        }
    });
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn mac(node: u8) -> Mac {
    Mac([2, 0, 0, 0, 0, node])
}

pub(super) fn subnet(node: u8) -> Subnet {
    Subnet::try_from(net(&format!("10.1.{node}.0/24"))).unwrap()
}

/// A node's lease. Ours is that of the node at 192.0.2.1.
pub(super) fn lease(node: u8) -> Lease {
    let host = if node == OWN { 1 } else { node };
    Lease {
        subnet: subnet(node),
        attrs: LeaseAttrs {
            public_ip: Ipv4Addr::new(192, 0, 2, host).into(),
            backend: Backend::Vxlan {
                vni: 1.try_into().unwrap(),
                vtep_mac: mac(node),
            },
        },
        store_lease: Some(i64::from(node)),
        created: Revision(node.into()),
        modified: Revision(node.into()),
    }
}
