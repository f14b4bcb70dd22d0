//! `DirectRouting`, on and off while the loop runs: when programs may reach a peer without a tunnel.

use weft_common::{
    peer::{PEER_DIRECT, PEER_FAST},
    settings::FAST_PATH,
    stats::Hook,
};

use super::*;
use crate::netlink::LinkKind;

fn is_recorder(op: &DatapathOp) -> bool {
    matches!(op, DatapathOp::Attach(at) if at.hook == Hook::ToOverlay && at.name == "eth0")
}

/// What the maps were told of a peer, in order.
fn told(ops: &[DatapathOp]) -> Vec<u32> {
    let flags = |op: &DatapathOp| match op {
        DatapathOp::PutPeer(_, peer) => Some(peer.flags),
        _ => None,
    };
    ops.iter().filter_map(flags).collect()
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_fast_before_and_after_and_never_without_a_recorder() {
    let mut world = World::settled(&[5]).await;
    assert_eq!(world.flags(5).1, PEER_FAST);
    let before = world.applied().len();

    world.route_directly(true);
    world
        .until("direct", |world| world.flags(5).1 == PEER_DIRECT)
        .await;
    let ops = world.applied().split_off(before);
    let recorder = ops.iter().position(is_recorder).unwrap();
    // No packet went to the stack in between.
    assert_eq!(told(&ops), [PEER_DIRECT], "{ops:?}");
    assert_eq!(told(&ops[..recorder]), [0u32; 0], "{ops:?}");
    assert_eq!(world.routes(), [""; 0]);
    let peer = "192.0.2.5".parse().unwrap();
    assert_eq!(world.report().routed, [peer].into());
    assert!(!world.report().allowed.kernel_only.contains_key(&peer));

    let before = world.applied().len();
    world.route_directly(false);
    world
        .until("by the tunnel", |world| world.flags(5).1 == PEER_FAST)
        .await;
    world
        .until("no recorder", |world| {
            world.hooks("eth0") == [Hook::FromUplink]
        })
        .await;
    let ops = world.applied().split_off(before);
    assert_eq!(told(&ops), [PEER_FAST], "{ops:?}");
    assert!(world.report().routed.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_the_kernels_where_the_uplink_lacks_a_program() {
    for lacks in ["attach to_overlay at eth0", "attach from_uplink at eth0"] {
        let mut world = World::new().await;
        world.refuse(Some(lacks));
        world.route_directly(true);
        world.tell(&[5, 6]).await;
        world
            .until("all is tried", |world| world.report().complete)
            .await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(world.flags(5).1, 0, "{lacks}");
        assert_eq!(world.flags(5).0, FAST_PATH, "{lacks}");
        let why = &world.report().allowed.kernel_only[&"192.0.2.5".parse().unwrap()];
        assert!(why.contains("without encapsulation"), "{why}");
        assert!(!told(&world.applied()).contains(&PEER_DIRECT), "{lacks}");
        // Routed by the kernel all the same.
        assert_eq!(world.routes(), [""; 0], "{lacks}");

        world.refuse(None);
        world
            .until("direct", |world| world.flags(5).1 == PEER_DIRECT)
            .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_peer_is_known_before_it_is_fast() {
    let mut world = World::settled(&[5]).await;
    world.route_directly(true);
    world
        .until("direct", |world| world.flags(5).1 == PEER_DIRECT)
        .await;
    let before = world.applied().len();
    world.tell(&[5, 6]).await;
    world
        .until("there", |world| {
            world.datapath.lock().unwrap().state.peers.len() == 2 && world.is_settled()
        })
        .await;
    let told = told(&world.applied()[before..]);
    assert_eq!(told.first(), Some(&0), "{told:?}");
    assert_eq!(told.last(), Some(&PEER_DIRECT), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn a_gateway_in_between_is_followed() {
    let mut world = World::settled(&[5, 6]).await;
    world.route_directly(true);
    world
        .until("direct", |world| world.flags(5).1 == PEER_DIRECT)
        .await;
    let link = world
        .host
        .edit_quietly(|host| host.link_named("eth0").unwrap().index);
    let detour = Route {
        destination: net("192.0.2.5/32"),
        gateway: Some("192.0.2.254".parse().unwrap()),
        link,
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: 4,
    };
    world.host.edit(|host| host.routes.insert(detour));
    world
        .until("by the tunnel", |world| world.flags(5).1 == PEER_FAST)
        .await;
    assert_eq!(world.flags(6).1, PEER_DIRECT);
    world.host.edit(|host| host.routes.remove(&detour));
    world
        .until("direct", |world| world.flags(5).1 == PEER_DIRECT)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_former_subnet_puts_all_into_the_tunnel_and_the_status_says_so() {
    let mut world = World::settled(&[5]).await;
    world.route_directly(true);
    world
        .until("direct", |world| world.flags(5).1 == PEER_DIRECT)
        .await;
    let vlan_filtering = false;
    let old = LinkKind::Bridge { vlan_filtering };
    let bridge = world.host.add_link("old0", old);
    let former = (bridge, net("10.1.7.1/24"));
    world.host.edit(|host| host.addresses.insert(former));
    world
        .until("the kernel's", |world| world.flags(5).1 == 0)
        .await;
    world.until("all is done", World::is_settled).await;
    assert_eq!(world.routes(), ["10.1.5.0/24"]);
    let why = &world.report().allowed.kernel_only[&"192.0.2.5".parse().unwrap()];
    assert!(why.starts_with("tunnelled"), "{why}");
}
