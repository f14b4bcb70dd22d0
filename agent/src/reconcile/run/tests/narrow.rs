//! Ways that are narrower than the host knows: routes and maps say so, and whoever measures goes on
//! asking with full packets.

use super::*;
use crate::{netlink::Netlink as _, paths::Narrow, reconcile::narrow::earlier};

fn at(node: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, node)
}

impl World {
    /// What the route to a node's containers says, and what the programs go by.
    fn mtus(&self, node: u8) -> (Option<u32>, u32) {
        let net = subnet(node).net();
        let route = self.host.edit_quietly(|host| {
            let found = host.routes.iter().find(|route| route.destination == net);
            found.and_then(|route| route.mtu)
        });
        let fake = self.datapath.lock().unwrap();
        let peer = fake.state.peers[&subnet(node).v4().unwrap()].mtu;
        (route, peer)
    }

    fn asked(&self) -> Option<u32> {
        self.ways.borrow().peers[&at(5)]
    }
}

#[tokio::test(start_paused = true)]
async fn a_narrow_way_is_told_and_taken_back_and_the_question_stays() {
    let mut world = World::settled(&[5, 6]).await;
    for (direct, full, tunnel) in [(false, 1450, 50), (true, 1500, 0)] {
        world.route_directly(direct);
        world
            .until("wide", |world| world.mtus(5) == (None, full))
            .await;
        for (found, applied) in [(1400, 1400), (1499, 1499), (300, 576)] {
            world.narrow.send_replace(Narrow::from([(at(5), found)]));
            let wanted = applied - tunnel;
            world
                .until("narrow", |world| world.mtus(5) == (Some(wanted), wanted))
                .await;
            assert_eq!(world.mtus(6), (None, full));
            assert_eq!(world.asked(), Some(1500));
        }
        // No narrower than this host believes it to be.
        world.narrow.send_replace(Narrow::from([(at(5), 1500)]));
        world
            .until("wide", |world| world.mtus(5) == (None, full))
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_narrow_way_leads_to_one_change_and_no_more() {
    let mut world = World::settled(&[5]).await;
    let before = world.report().operations;
    world.narrow.send_replace(Narrow::from([(at(5), 1400)]));
    world
        .until("narrow", |world| world.mtus(5) == (Some(1350), 1350))
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.report().operations, before + 2, "a route and a peer");
}

#[tokio::test(start_paused = true)]
async fn an_mtu_that_somebody_else_set_is_put_back() {
    let mut world = World::settled(&[5]).await;
    for known in [None, Some(1350)] {
        let narrow = known.map(|mtu| (at(5), mtu + 50));
        world.narrow.send_replace(narrow.into_iter().collect());
        world
            .until("as known", |world| world.mtus(5).0 == known)
            .await;
        for stranger in [Some(1200), Some(9000), None]
            .iter()
            .filter(|m| **m != known)
        {
            world.host.edit(|host| {
                let net = subnet(5).net();
                let found = host.routes.iter().find(|route| route.destination == net);
                let route = *found.unwrap();
                host.routes.remove(&route);
                host.routes.insert(Route {
                    mtu: *stranger,
                    ..route
                });
            });
            assert_eq!(world.mtus(5).0, *stranger);
            world
                .until("put back", |world| world.mtus(5).0 == known)
                .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_start_keeps_what_was_narrow_until_it_is_measured() {
    let mut world = World::settled(&[5]).await;
    world.narrow.send_replace(Narrow::from([(at(5), 1400)]));
    world
        .until("narrow", |world| world.mtus(5).0 == Some(1350))
        .await;
    let network = world.networks.borrow().clone();
    let left = world.host.observe().await.unwrap();
    let known = earlier(&left, &network);
    assert_eq!(known, Narrow::from([(at(5), 1400)]));

    let host = world.host.clone();
    drop(world);
    let mut next = World::again(&host).await;
    next.narrow.send_replace(known);
    next.tell(&[5]).await;
    next.until("all is done", World::is_settled).await;
    assert_eq!(next.mtus(5), (Some(1350), 1350));
    next.narrow.send_replace(Narrow::new());
    next.until("wide", |world| world.mtus(5) == (None, 1450))
        .await;
}

#[tokio::test(start_paused = true)]
async fn whom_no_way_leads_to_is_not_forgotten() {
    let mut world = World::settled(&[5]).await;
    world.host.edit(|host| {
        host.routes
            .retain(|route| !route.destination.contains(&IpAddr::V4(at(5))));
    });
    world.until("no way", |world| world.asked().is_none()).await;
    assert!(world.ways.borrow().peers.contains_key(&at(5)));
}
