//! What the host's rules and ports make of the maps.

use weft_common::{
    endpoint::{ENDPOINT_HOOKED, ENDPOINT_KERNEL, ENDPOINT_PEER},
    peer::PEER_FAST,
    settings::FAST_PATH,
};

use super::*;
use crate::{
    netlink::RoutingRule,
    policy::{Rules, iptables},
};

const CABLE: u32 = ENDPOINT_PEER | ENDPOINT_HOOKED;

impl World {
    fn rule(&self, rule: &str) {
        let saved =
            format!("*filter\n:INPUT ACCEPT [0:0]\n:FORWARD ACCEPT [0:0]\n{rule}\nCOMMIT\n");
        self.rules.send_replace(Arc::new(Ok(Rules {
            tables: iptables::tables("iptables", &saved),
            ipsec: Vec::new(),
        })));
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_obeyed_at_once() {
    let mut world = World::settled(&[5]).await;
    assert_eq!(world.flags(5), (FAST_PATH, PEER_FAST, CABLE));
    let told = Instant::now();
    world.rule("-A FORWARD -d 10.1.5.0/24 -j DROP");
    world.until("off", |world| world.flags(5).0 == 0).await;
    assert!(
        told.elapsed() < Duration::from_millis(100),
        "{:?}",
        told.elapsed()
    );
    let why = world.report().allowed.why;
    assert_eq!(why, "iptables -t filter -A FORWARD -d 10.1.5.0/24 -j DROP");
    world.rule("");
    world
        .until("on", |world| world.flags(5).0 == FAST_PATH)
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_peer_is_the_kernels_while_something_is_done_to_its_tunnel() {
    let mut world = World::settled(&[5, 6]).await;
    world.rule("-A INPUT -s 192.0.2.5/32 -p udp -j DROP");
    world.until("slow", |world| world.flags(5).1 == 0).await;
    assert_eq!(world.flags(6), (FAST_PATH, PEER_FAST, CABLE));
    world.rule("");
    world
        .until("fast", |world| world.flags(5).1 == PEER_FAST)
        .await;
    world.host.edit(|host| {
        host.rules.insert(RoutingRule {
            priority: 9,
            source: None,
            destination: Some("192.0.2.6/32".parse().unwrap()),
            protocol: None,
            input: None,
            inverted: false,
        })
    });
    world.until("slow", |world| world.flags(6).1 == 0).await;
    assert_eq!(world.flags(5).1, PEER_FAST);
}

#[tokio::test(start_paused = true)]
async fn a_shaped_port_is_the_kernels() {
    let mut world = World::settled(&[5]).await;
    let shape = |queue: &str| {
        let queue = Some(queue.to_owned());
        world.host.edit(|host| {
            let port = host.link_named("veth1").unwrap().index;
            host.links.get_mut(&port).unwrap().qdisc = queue;
        });
    };
    shape("tbf");
    world
        .until("kept", |world| world.flags(5).2 == CABLE | ENDPOINT_KERNEL)
        .await;
    let kept = world.report().kept_ports;
    assert_eq!(
        kept,
        [(
            "veth1".to_owned(),
            "has the queueing discipline tbf".to_owned()
        )]
    );
}
