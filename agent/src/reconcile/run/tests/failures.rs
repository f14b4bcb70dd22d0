//! Operations that fail: named, tried again, and no matter for others.

use weft_common::{settings::FAST_PATH, stats::Hook};

use super::*;
use crate::reconcile::schedule::*;

#[tokio::test(start_paused = true)]
async fn a_peer_that_fails_is_named_and_no_other_waits_for_it() {
    let mut world = World::new().await;
    world
        .host
        .refuse(Some(("put route 10.1.6.0/24", libc::EINVAL)));
    world.tell(&[5, 6, 7]).await;
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    let others = |world: &World| world.routes() == ["10.1.5.0/24", "10.1.7.0/24"];
    world.until("the others are there", others).await;
    let report = world.report();
    assert!(report.complete, "{report:?}");
    assert!(report.failures.len() == 1 && report.failures[0].contains("10.1.6.0/24"));
    assert_eq!(world.datapath.lock().unwrap().state.peers.len(), 3);

    world.host.refuse(None);
    let allowed = Instant::now();
    world.until("all is done", World::is_settled).await;
    assert_eq!(world.routes().len(), 3);
    assert!(allowed.elapsed() <= RESYNC);
}

#[tokio::test(start_paused = true)]
async fn without_the_device_no_pass_is_complete() {
    let mut world = World::new().await;
    world.host.refuse(Some(("make device", libc::EBUSY)));
    world.tell(&[5]).await;
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    sleep(Duration::from_secs(30)).await;
    assert!(!world.report().complete, "{:?}", world.report());
    world.host.refuse(None);
    world.until("all is done", World::is_settled).await;

    // Neither is one after a stranger took it away for good.
    world.host.refuse(Some(("make device", libc::EBUSY)));
    let link = world
        .host
        .edit_quietly(|host| host.link_named("flannel.1").unwrap().index);
    let name = "flannel.1".to_owned();
    world
        .host
        .apply(&HostOp::DeleteLink { link, name })
        .await
        .unwrap();
    world
        .until("it is said", |world| !world.report().complete)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_port_without_recorder_has_no_taker_and_no_endpoint() {
    let mut world = World::new().await;
    world.refuse(Some("attach to_container at veth1"));
    world.tell(&[5]).await;
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(world.hooks("veth1"), []);
    assert!(!world.is_endpoint());
    // The rest is in place.
    assert_eq!(world.hooks("eth0"), [Hook::FromUplink]);
    assert_eq!(
        world.report().attached,
        world.datapath.lock().unwrap().state.attachments.len()
    );
    assert_eq!(world.report().unattached.len(), 2);

    world.refuse(None);
    world.until("all is done", World::is_settled).await;
    assert_eq!(world.hooks("veth1").len(), 2);
    assert!(world.is_endpoint());
}

#[tokio::test(start_paused = true)]
async fn a_port_without_taker_is_left_to_the_bridge() {
    let mut world = World::new().await;
    world.refuse(Some("attach from_container at veth1"));
    world.tell(&[5]).await;
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    world
        .until("the endpoint is there", World::is_endpoint)
        .await;
    assert_eq!(world.hooks("veth1"), [Hook::ToContainer]);
    assert_eq!(world.hooks("docker0"), [Hook::FromBridge]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_while_what_leaves_the_stack_is_not_recorded() {
    let mut world = World::new().await;
    world.refuse(Some("attach to_overlay"));
    world.tell(&[5]).await;
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    sleep(Duration::from_secs(10)).await;
    {
        let fake = world.datapath.lock().unwrap();
        let mut hooks = fake.state.attachments.iter().map(|at| at.hook);
        assert!(hooks.all(records), "{:?}", fake.state.attachments);
        assert_eq!(fake.state.settings.unwrap().flags & FAST_PATH, 0);
    }
    world.refuse(None);
    world.until("all is done", World::is_settled).await;
    assert_eq!(world.hooks("eth0"), [Hook::FromUplink]);
    let settings = world.datapath.lock().unwrap().state.settings.unwrap();
    assert_eq!(settings.flags & FAST_PATH, FAST_PATH);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_taken_before_conntrack_was_read() {
    let mut world = World::on(|host| host.set_connections(Err(libc::EPERM))).await;
    world.tell(&[5]).await;
    world
        .until("it is said", |world| !world.report().failures.is_empty())
        .await;
    sleep(Duration::from_secs(10)).await;
    {
        let fake = world.datapath.lock().unwrap();
        assert!(fake.state.attachments.iter().all(|at| records(at.hook)));
    }
    let report = world.report();
    assert!(
        report.failures.len() == 1 && report.failures[0].contains("conntrack"),
        "{report:?}"
    );
    assert!(report.complete && report.flows.unwrap().is_err());

    world.host.set_connections(Ok(Vec::new()));
    world.until("all is done", World::is_settled).await;
    assert_eq!(world.hooks("eth0"), [Hook::FromUplink]);
    // Once read, a failure later takes nothing away.
    world.host.set_connections(Err(libc::EPERM));
    sleep(Duration::from_secs(60)).await;
    assert_eq!(world.hooks("eth0"), [Hook::FromUplink]);
    assert!(world.is_settled() && world.report().flows.unwrap().is_err());
}

/// Linux before 5.16.
#[tokio::test(start_paused = true)]
async fn a_kernel_that_keeps_no_neighbour_fresh_is_no_failure() {
    let refused = Some(("keep neighbour", libc::EOPNOTSUPP));
    let mut world = World::on(|host| host.refuse(refused)).await;
    world.tell(&[5]).await;
    world.until("all is done", World::is_settled).await;
    let asked = world.host.attempts();
    sleep(Duration::from_secs(50)).await;
    assert_eq!(world.host.attempts(), asked);
    sleep(Duration::from_secs(60)).await;
    let asked = world.host.attempts() - asked;
    assert!((1..=2).contains(&asked), "{asked} in two minutes");
    assert!(world.is_settled());
}
