//! A subnet that is not ours any more.

use weft_common::{
    peer::{PEER_FAST, PEER_LOST},
    stats::Hook,
};

use super::*;
use crate::{netlink::LinkKind, reconcile::schedule::RETRY};

impl World {
    fn forwarding(&self) -> String {
        std::fs::read_to_string(self.forwarding_file()).unwrap()
    }

    fn forwarding_file(&self) -> std::path::PathBuf {
        self.root.path().join("net/ipv4/conf/flannel.1/forwarding")
    }

    /// Where tunnel packets would be sent.
    fn tunnels(&self) -> usize {
        self.host.edit_quietly(|host| host.tunnel_fdb.len())
    }

    /// Flags of the entry of a subnet, and the network that the programs take for ours.
    fn told(&self, node: u8) -> (Option<u32>, [u8; 4]) {
        let fake = self.datapath.lock().unwrap();
        let peers = &fake.state.peers;
        let peer = peers.get(&subnet(node).v4().unwrap());
        let ours = fake.state.settings.unwrap().subnet;
        (peer.map(|peer| peer.flags), ours)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_lost_leaves_no_way_in_or_out_until_it_is_ours_again() {
    let mut world = World::settled(&[5]).await;
    let file = world.forwarding_file();
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, "1").unwrap();
    assert_eq!(
        (world.told(OWN), world.tunnels()),
        ((None, [10, 1, 2, 0]), 1)
    );

    let lost = Instant::now();
    world.held.send_replace(OwnLease::Lost("taken".to_owned()));
    let cut_off = |world: &World| world.told(OWN) == (Some(PEER_LOST), [0; 4]);
    world.until("the programs know", cut_off).await;
    assert!(lost.elapsed() < RETRY, "{:?}", lost.elapsed());
    world.until("all is done", World::is_settled).await;
    assert_eq!((world.tunnels(), world.forwarding()), (0, "0".to_owned()));
    // Nothing leaves unencapsulated instead.
    assert_eq!(world.routes(), ["10.1.5.0/24"]);
    assert!(world.hooks("veth1").contains(&Hook::FromContainer));

    world.held.send_replace(OwnLease::Held);
    let back = |world: &World| world.told(OWN) == (None, [10, 1, 2, 0]);
    world.until("all is back", back).await;
    world.until("all is done", World::is_settled).await;
    assert_eq!((world.tunnels(), world.forwarding()), (1, "1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn silence_and_a_conflict_change_nothing() {
    let mut world = World::settled(&[5]).await;
    let why = String::new;
    for state in [
        OwnLease::Unconfirmed {
            since: why(),
            why: why(),
        },
        OwnLease::Missing(why()),
        OwnLease::Conflict(why()),
    ] {
        let operations = world.report().operations;
        world.held.send_replace(state);
        world.report.changed().await.unwrap();
        assert_eq!(world.report().operations, operations);
        assert_eq!(
            (world.told(OWN), world.tunnels()),
            ((None, [10, 1, 2, 0]), 1)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_bridge_of_an_earlier_subnet_is_watched() {
    let mut world = World::settled(&[5, 6]).await;
    let old = LinkKind::Bridge {
        vlan_filtering: false,
    };
    let bridge = world.host.add_link("old0", old);
    let port = world.host.add_link(
        "veth7",
        LinkKind::Veth {
            peer_elsewhere: true,
        },
    );
    world.host.edit(|host| {
        host.links.get_mut(&port).unwrap().master = Some(bridge);
        // Of the first there is a new owner.
        host.addresses.insert((bridge, net("10.1.6.1/24")));
        host.addresses.insert((bridge, net("10.1.7.1/24")));
        // No subnet of anybody's.
        host.addresses.insert((bridge, net("172.16.0.1/24")));
    });
    let told = |world: &World| world.told(7).0 == Some(PEER_LOST);
    world.until("the programs know", told).await;
    world.until("all is done", World::is_settled).await;
    assert_eq!(world.told(6), (Some(PEER_FAST | PEER_LOST), [10, 1, 2, 0]));
    assert_eq!(world.report().former, ["10.1.6.0/24", "10.1.7.0/24"]);
    assert!(world.hooks("veth7").contains(&Hook::FromContainer));
    assert!(world.hooks("old0").contains(&Hook::FromBridge));
    // It is nobody's container that is to be served.
    assert!(world.routes().contains(&"10.1.6.0/24".to_owned()));

    world.host.edit(|host| {
        host.addresses.retain(|(link, _)| *link != bridge);
        host.addresses.insert((bridge, net("10.1.2.2/24")));
    });
    let gone = |world: &World| world.told(7).0.is_none() && world.report().former.is_empty();
    world.until("it is one of ours", gone).await;
    assert_eq!(world.told(6).0, Some(PEER_FAST));
}

#[tokio::test(start_paused = true)]
async fn a_bridge_that_is_down_or_filters_vlans_keeps_its_subnet_lost_too() {
    for (vlan_filtering, up) in [(true, true), (false, false)] {
        let mut world = World::settled(&[5, 6]).await;
        let bridge = world
            .host
            .add_link("old0", LinkKind::Bridge { vlan_filtering });
        world.host.edit(|host| {
            host.links.get_mut(&bridge).unwrap().up = up;
            host.addresses.insert((bridge, net("10.1.6.1/24")));
            host.addresses.insert((bridge, net("10.1.7.1/24")));
        });
        let told = |world: &World| world.told(7).0 == Some(PEER_LOST);
        world.until("the programs know", told).await;
        assert_eq!(world.told(6).0, Some(PEER_FAST | PEER_LOST));
        world.until("all is done", World::is_settled).await;
        assert_eq!(world.report().former, ["10.1.6.0/24", "10.1.7.0/24"]);
    }
}

#[tokio::test(start_paused = true)]
async fn the_route_of_a_bridge_stays_before_that_of_its_subnets_new_holder() {
    let mut world = World::settled(&[5]).await;
    let old = LinkKind::Bridge {
        vlan_filtering: false,
    };
    let bridge = world.host.add_link("old0", old);
    // As the kernel makes it with the address.
    let connected = Route {
        destination: net("10.1.6.0/24"),
        gateway: None,
        link: bridge,
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: 2,
    };
    world.host.edit(|host| {
        host.addresses.insert((bridge, net("10.1.6.1/24")));
        host.routes.insert(connected);
    });
    let known = |world: &World| !world.report().former.is_empty();
    world.until("it is seen", known).await;
    let taken = StoreNews::Event(LeaseEvent::Put(lease(6)));
    world.say(taken).await;
    let metrics = |world: &World| {
        let to = net("10.1.6.0/24");
        let all = world.host.edit_quietly(|host| host.routes.clone());
        let of = |route: &&Route| route.destination == to;
        let mut found: Vec<_> = all.iter().filter(of).map(|r| (r.metric, r.link)).collect();
        found.sort_unstable();
        found
    };
    let device = world
        .host
        .edit_quietly(|host| host.link_named("flannel.1").unwrap().index);
    let behind = |world: &World| metrics(world).len() == 2;
    world.until("the new holder has a route", behind).await;
    world.until("all is done", World::is_settled).await;
    assert_eq!(metrics(&world), [(0, bridge), (1, device)]);
    // Whatever the programs may take meanwhile.
    let fast = |world: &World| world.told(6).0 == Some(PEER_FAST | PEER_LOST);
    for lacks in ["cannot be read", ""] {
        let rules = if lacks.is_empty() {
            Ok(crate::policy::Rules::default())
        } else {
            Err(lacks.to_owned())
        };
        world.rules.send_replace(Arc::new(rules));
        let is = |world: &World| fast(world) == lacks.is_empty();
        world.until("the rules are heard of", is).await;
        world.until("all is done", World::is_settled).await;
        assert_eq!(metrics(&world), [(0, bridge), (1, device)], "{lacks}");
    }
    // What is in the place of the bridge's route, or nothing, gives way to it.
    for instead in [Some(device), None] {
        world.host.edit(|host| {
            host.routes
                .retain(|route| route.destination != connected.destination);
            host.routes.extend(instead.map(|link| Route {
                gateway: Some("10.1.6.0".parse().unwrap()),
                onlink: true,
                protocol: 3,
                link,
                ..connected
            }));
        });
        let restored = |world: &World| metrics(world) == [(0, bridge), (1, device)];
        world.until("both are back", restored).await;
        let routes = world.host.edit_quietly(|host| host.routes.clone());
        assert!(routes.contains(&connected), "{routes:?}");
    }
    // Without the address it is a peer like any other.
    world.host.edit(|host| {
        host.addresses.retain(|(link, _)| *link != bridge);
        host.routes.remove(&connected);
    });
    let alone = |world: &World| metrics(world) == [(0, device)];
    world.until("its route is the first", alone).await;
}
