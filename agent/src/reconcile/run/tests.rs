//! The loop on a host and a data path in memory, and a clock that runs when all wait.

mod failures;
mod following;
mod lost;
mod narrow;
mod routed;
mod rules;
mod world;

use tokio::time::sleep;

use self::world::{OWN, World, lease, mac, net, subnet};
use super::*;
use crate::{
    datapath::DatapathOp,
    model::lease::{Backend, LeaseEvent},
    netlink::{HostOp, Route},
    reconcile::plan::records,
};

#[tokio::test(start_paused = true)]
async fn nothing_is_done_before_the_leases_are_known() {
    let stale = Route {
        destination: net("10.1.9.0/24"),
        gateway: None,
        link: 1.try_into().unwrap(),
        onlink: true,
        metric: 0,
        mtu: None,
        protocol: 3,
    };
    let before = World::settled(&[5]).await;
    let host = before.host.clone();
    drop(before);
    host.edit(|host| {
        let link = host.link_named("flannel.1").unwrap().index;
        host.routes.insert(Route { link, ..stale });
    });
    // The next agent on the same host, as after a restart.
    let mut next = World::again(&host).await;
    let applied = host.applied().len();
    sleep(Duration::from_secs(60)).await;
    assert_eq!(host.applied().len(), applied);
    assert_eq!(next.applied(), []);
    assert!(!next.report().complete);

    next.tell(&[5]).await;
    next.until("all is done", World::is_settled).await;
    assert_eq!(next.routes(), ["10.1.5.0/24"]);
    let ops = host.applied().split_off(applied);
    assert!(
        matches!(ops.as_slice(), [HostOp::DeleteRoute(route)] if route.destination == stale.destination),
        "{ops:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn recorders_come_before_endpoints_and_takers() {
    let world = World::settled(&[5]).await;
    let ops = world.applied();
    let first = |is: &dyn Fn(&DatapathOp) -> bool| ops.iter().position(is).unwrap();
    let last = |is: &dyn Fn(&DatapathOp) -> bool| ops.iter().rposition(is).unwrap();
    let recorder = |op: &DatapathOp| matches!(op, DatapathOp::Attach(at) if records(at.hook));
    let taker = |op: &DatapathOp| matches!(op, DatapathOp::Attach(at) if !records(at.hook));
    let settings = |op: &DatapathOp| matches!(op, DatapathOp::PutSettings(_));
    let endpoint = |op: &DatapathOp| matches!(op, DatapathOp::PutEndpoint(..));
    let veth = |op: &DatapathOp| recorder(op) && op.to_string().ends_with("veth1");
    assert!(first(&settings) < first(&recorder), "{ops:?}");
    assert!(first(&veth) < first(&endpoint), "{ops:?}");
    assert!(last(&endpoint) < first(&taker), "{ops:?}");
    // The device comes in the first round: its recorder must not come after a taker elsewhere.
    assert!(last(&recorder) < first(&taker), "{ops:?}");
}

/// Nothing on the host has to change for it: no event would bring another look.
#[tokio::test(start_paused = true)]
async fn what_a_restart_attaches_is_in_its_first_report() {
    let before = World::settled(&[5]).await;
    let host = before.host.clone();
    drop(before);
    let mut next = World::again(&host).await;
    // The loop has found that there is nothing to look for yet.
    sleep(Duration::from_secs(1)).await;
    next.tell(&[5]).await;
    next.until("all is attempted", |world| world.report().complete)
        .await;
    let report = next.report();
    assert!(report.attached > 0, "{report:?}");
    assert!(report.unattached.is_empty(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn what_a_stranger_breaks_is_repaired_at_once() {
    let mut world = World::settled(&[5, 6]).await;
    let operations = world.report().operations;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(world.report().operations, operations, "work without need");

    let broken = Instant::now();
    world.host.edit(|host| {
        let stale = |route: &Route| route.destination != net("10.1.5.0/24");
        host.routes.retain(stale);
    });
    world
        .until("the route is back", |world| {
            world.routes() == ["10.1.5.0/24", "10.1.6.0/24"]
        })
        .await;
    assert!(broken.elapsed() < Duration::from_millis(100));

    let broken = Instant::now();
    world.host.edit(|host| {
        let device = host.link_named("flannel.1").unwrap().index;
        host.links.remove(&device);
        host.routes.retain(|route| route.link != device);
        host.neighbours.retain(|(link, _), _| *link != device);
        host.addresses.retain(|(link, _)| *link != device);
        host.tunnel_fdb.clear();
    });
    world
        .until("the device is back", |world| world.routes().len() == 2)
        .await;
    assert!(broken.elapsed() < Duration::from_millis(100));
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_events_does_not_put_the_look_off() {
    let mut world = World::settled(&[5]).await;
    let broken = Instant::now();
    world.host.edit(|host| {
        host.routes
            .retain(|route| route.metric != 0 || route.protocol != 3)
    });
    while world.routes().is_empty() {
        world.host.edit(|_| ());
        sleep(Duration::from_millis(1)).await;
        assert!(broken.elapsed() < Duration::from_secs(1), "not looked yet");
    }
    world.until("all is done", World::is_settled).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_our_own_lease_rings() {
    let mut world = World::settled(&[5]).await;
    assert_eq!(world.bells(), 0);
    let mut rings = 0;
    let other_mac = |node| {
        let mut lease = lease(node);
        let vni = 1.try_into().unwrap();
        lease.attrs.backend = Backend::Vxlan {
            vni,
            vtep_mac: mac(77),
        };
        lease
    };
    let gone = LeaseEvent::Gone {
        key: format!("/x/{}", subnet(OWN).net()),
        subnet: Some(subnet(OWN)),
        at: crate::model::lease::Revision(9),
    };
    for (event, rung) in [
        (LeaseEvent::Put(lease(6)), false),
        (LeaseEvent::Put(other_mac(5)), false),
        (LeaseEvent::Put(other_mac(OWN)), true),
        (LeaseEvent::Put(lease(OWN)), true),
        (LeaseEvent::Put(lease(OWN)), false),
        (gone, true),
    ] {
        world.say(StoreNews::Event(event.clone())).await;
        sleep(Duration::from_millis(1)).await;
        rings += usize::from(rung);
        assert_eq!(world.bells(), rings, "{event:?}");
    }
    // What happened while nobody watched.
    for (own, rung) in [
        (None, true),
        (Some(other_mac(OWN)), true),
        (Some(lease(OWN)), false),
    ] {
        let leases = own.into_iter().map(|lease| (lease.subnet, lease)).collect();
        world
            .say(StoreNews::Snapshot(crate::model::lease::Snapshot {
                leases,
                ..Default::default()
            }))
            .await;
        sleep(Duration::from_millis(1)).await;
        rings += usize::from(rung);
        assert_eq!(world.bells(), rings);
    }
    world.until("all is done", World::is_settled).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_down_changes_nothing_but_the_report() {
    let mut world = World::settled(&[5]).await;
    world.say(StoreNews::Down("told to fail".to_owned())).await;
    let down = |world: &World| world.report().store_down.is_some();
    world.until("it is said", down).await;
    sleep(Duration::from_secs(60)).await;
    assert!(down(&world) && world.is_settled());
    assert_eq!(world.routes(), ["10.1.5.0/24"]);
    world.tell(&[5]).await;
    world.until("it is back", |world| !down(world)).await;
}
