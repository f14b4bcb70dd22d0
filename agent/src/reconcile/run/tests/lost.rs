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
