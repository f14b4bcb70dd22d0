//! What changes under the agent while it runs: routes, the uplink, kernel settings.

use super::{world::address_uplink, *};
use crate::reconcile::schedule::*;
use crate::{
    model::net::IfIndex,
    netlink::{LinkKind, Neighbour, NeighbourState},
};

impl World {
    fn gateway(&self, node: u8) -> ([u8; 4], u32, u32) {
        let fake = self.datapath.lock().unwrap();
        let peer = fake.state.peers[&subnet(node).v4().unwrap()];
        (peer.gateway, peer.ifindex, peer.mtu)
    }

    /// The uplink goes, with all that hangs on it, as when a driver is reloaded.
    fn unplug(&self) -> IfIndex {
        self.host.edit(|host| {
            let old = host.link_named("eth0").unwrap().index;
            let device = host.link_named("flannel.1").unwrap().index;
            for gone in [old, device] {
                host.links.remove(&gone);
                host.addresses.retain(|(link, _)| *link != gone);
                host.routes.retain(|route| route.link != gone);
                host.neighbours.retain(|(link, _), _| *link != gone);
                host.tunnel_fdb.retain(|entry, _| entry.link != gone);
            }
            old
        })
    }
}

/// The store answers after the first look was due: what is attached then is told with it, not with
/// the next look.
#[tokio::test(start_paused = true)]
async fn a_late_answer_of_the_store_is_looked_at_to_the_end() {
    let host = World::settled(&[3]).await.host.clone();
    let mut world = World::again(&host).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    world.tell(&[3]).await;
    let told = Instant::now();
    let all = |world: &World| world.is_settled() && world.report().unattached.is_empty();
    world.until("all is attached", all).await;
    let took = told.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn routes_are_asked_for_when_they_may_have_changed() {
    let nodes: Vec<u8> = (10..110).collect();
    let mut world = World::settled(&nodes).await;
    let settled = Instant::now();
    let asked = world.host.lookups();
    // Programming the peers itself is no reason to ask again.
    assert!((100..=200).contains(&asked), "{asked}");

    // Containers come and go.
    let bridge = world.bridge;
    for n in 20..120 {
        world.host.edit(|host| {
            let neighbour = Neighbour {
                mac: Some(mac(n)),
                state: NeighbourState::Valid,
                managed: false,
            };
            let address = std::net::Ipv4Addr::new(10, 1, 2, n).into();
            host.neighbours.insert((bridge, address), neighbour);
        });
        world.report.changed().await.unwrap();
    }
    let resyncs = settled.elapsed().as_secs() / 5 + 1;
    assert!(world.host.lookups() - asked <= resyncs * 100);

    // A new node costs one question.
    let asked = world.host.lookups();
    world
        .say(StoreNews::Event(LeaseEvent::Put(lease(200))))
        .await;
    let known = |world: &World| world.routes().contains(&"10.1.200.0/24".to_owned());
    world.until("it is programmed", known).await;
    assert!(world.host.lookups() - asked <= 101);

    // A route that changes is followed at once.
    let changed = Instant::now();
    world.host.edit(|host| {
        let on_link = |route: &Route| route.destination != net("192.0.2.0/24");
        host.routes.retain(on_link);
    });
    let gateway = |world: &World| world.gateway(10).0 == [192, 0, 2, 254];
    world.until("it goes by the gateway", gateway).await;
    assert!(changed.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn an_uplink_that_is_made_anew_is_followed() {
    let mut world = World::settled(&[5]).await;
    let old = world.unplug();
    world
        .until("it is said", |world| world.report().uplink_wrong.is_some())
        .await;
    let why = world.report().uplink_wrong.unwrap();
    assert!(why.contains("eth0") && why.contains("--iface"), "{why}");

    let new = world.host.add_link("eth0", LinkKind::Other(String::new()));
    world
        .host
        .edit(|host| host.links.get_mut(&new).unwrap().mtu = 9000);
    address_uplink(&world.host, new, "192.0.2.1/24");
    assert_ne!(old, new);
    world
        .until("it is followed", |world| {
            world.is_settled() && world.report().uplink_wrong.is_none()
        })
        .await;
    assert_eq!(world.routes(), ["10.1.5.0/24"]);
    assert_eq!(world.gateway(5), ([192, 0, 2, 5], new.get(), 8950));
    assert_eq!(world.hooks("eth0").len(), 1);
    let report = world.report();
    assert_eq!(report.overlay_mtu, Some(8950));
    assert_eq!(report.uplink.unwrap().link, new);
    assert_eq!(world.bells(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_new_mtu_of_the_uplink_is_followed() {
    let mut world = World::settled(&[5]).await;
    world.host.edit(|host| {
        let port = host.link_named("veth1").unwrap().index;
        host.links.get_mut(&port).unwrap().mtu = 1450;
    });
    let fits = |world: &World| world.report().wide_ports.is_empty();
    world.until("the container's port fits", fits).await;
    world.host.edit(|host| {
        let uplink = host.link_named("eth0").unwrap().index;
        host.links.get_mut(&uplink).unwrap().mtu = 1400;
    });
    let followed = |world: &World| world.report().overlay_mtu == Some(1350);
    world.until("it is followed", followed).await;
    world.until("all is done", World::is_settled).await;
    let device = world
        .host
        .edit_quietly(|host| host.link_named("flannel.1").unwrap().mtu);
    assert_eq!((device, world.gateway(5).2), (1350, 1350));
    // The container is as it was made.
    assert_eq!(world.report().wide_ports, [("veth1".to_owned(), 1450)]);
}

#[tokio::test(start_paused = true)]
async fn another_address_of_the_uplink_is_followed() {
    let mut world = World::settled(&[5]).await;
    world.host.edit(|host| {
        let uplink = host.link_named("eth0").unwrap().index;
        host.addresses.remove(&(uplink, net("192.0.2.1/24")));
        host.addresses.insert((uplink, net("192.0.2.77/24")));
    });
    let changed = Instant::now();
    let new = std::net::Ipv4Addr::new(192, 0, 2, 77);
    let follows = |world: &World| {
        let settings = world.datapath.lock().unwrap().state.settings;
        settings.is_some_and(|now| now.vtep_addr == new.octets())
    };
    world.until("the programs know", follows).await;
    world.until("all is done", World::is_settled).await;
    // It wakes by itself: nothing more was heard.
    assert!(changed.elapsed() < Duration::from_secs(1));
    let report = world.report();
    assert_eq!(report.uplink_wrong, None);
    assert_eq!(report.uplink.unwrap().public_ip, new);
    let device = world
        .host
        .edit_quietly(|host| host.link_named("flannel.1").unwrap().kind.clone());
    assert!(
        matches!(&device, LinkKind::Vxlan(attrs) if attrs.local == Some(IpAddr::V4(new))),
        "{device:?}"
    );
    assert_eq!(world.routes(), ["10.1.5.0/24"]);
}

#[tokio::test(start_paused = true)]
async fn forwarding_that_a_stranger_turns_off_is_turned_on_again() {
    let mut world = World::settled(&[5]).await;
    let file = world.root.path().join("net/ipv4/ip_forward");
    let operations = world.report().operations;
    std::fs::write(&file, "0\n").unwrap();
    let off = Instant::now();
    let on = |_: &World| std::fs::read_to_string(&file).unwrap() == "1";
    world.until("it is on", on).await;
    assert!(off.elapsed() <= RESYNC + Duration::from_millis(10));
    assert_eq!(world.report().operations, operations + 1);

    std::fs::remove_file(&file).unwrap();
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    assert!(world.report().failures[0].contains("ip_forward"));
}

#[tokio::test(start_paused = true)]
async fn what_the_kernels_tunnels_go_by_is_followed() {
    let mut world = World::settled(&[5]).await;
    let folder = world.root.path().join("net/ipv4");
    std::fs::write(folder.join("ip_default_ttl"), "77\n").unwrap();
    std::fs::write(folder.join("ip_local_port_range"), "40000\t40999\n").unwrap();
    let changed = Instant::now();
    let follows = |world: &World| {
        let settings = world.datapath.lock().unwrap().state.settings;
        settings.is_some_and(|now| (now.ttl, now.port_min, now.port_max) == (77, 40000, 40999))
    };
    world.until("it is followed", follows).await;
    assert!(changed.elapsed() <= RESYNC + Duration::from_millis(10));
}

#[tokio::test(start_paused = true)]
async fn what_one_pass_cannot_attach_the_next_does_at_once() {
    let mut world = World::settled(&[5]).await;
    let cable = LinkKind::Veth {
        peer_elsewhere: true,
    };
    let ports: Vec<_> = (0..200)
        .map(|number| world.host.add_link(&format!("many{number}"), cable.clone()))
        .collect();
    let bridge = world.bridge;
    world.host.edit(|host| {
        for port in &ports {
            host.links.get_mut(port).unwrap().master = Some(bridge);
        }
    });
    let began = Instant::now();
    let hooked = |world: &World| {
        let fake = world.datapath.lock().unwrap();
        let all = fake.state.attachments.iter();
        all.filter(|at| at.name.starts_with("many")).count()
    };
    world.until("all are", |world| hooked(world) == 400).await;
    assert!(began.elapsed() < RETRY, "{:?}", began.elapsed());
}

/// A route that a stranger put in place of ours leaves the number of its next hop. No event tells.
#[tokio::test(start_paused = true)]
async fn numbers_that_nothing_names_go_and_those_of_others_stay() {
    let mut world = World::settled(&[5]).await;
    let left = world.host.edit_quietly(|host| {
        let ours = host.link_named("flannel.1").unwrap().index;
        let other = host.link_named("docker0").unwrap().index;
        let (inside, outside) = ([10, 1, 5, 0].into(), [10, 9, 5, 0].into());
        host.idle_hops.insert((ours, inside));
        let left = [(ours, outside), (other, inside)];
        host.idle_hops.extend(left);
        left
    });
    let hops = |world: &World| world.host.edit_quietly(|host| host.idle_hops.clone());
    world
        .until("ours is gone", |world| hops(world) == left.into())
        .await;
    assert_eq!(world.routes(), ["10.1.5.0/24"]);
}
