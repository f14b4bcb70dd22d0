//! Leases that cannot be peers: named, and no matter for the others.

use proptest::prelude::*;
use weft::{datapath::fake::FakeDatapath, model::lease::Backend, reconcile::desired::Desired};

use crate::{
    rounds::Rounds,
    world::{Flaw, Node, host, lease, nodes, snapshot},
};

fn wanted(nodes: &[Node], host: &weft::netlink::ObservedHost) -> Desired {
    let datapath = FakeDatapath::default();
    Rounds::new(host.clone(), datapath, snapshot(nodes))
        .look()
        .0
}

proptest! {
    #[test]
    fn a_flawed_lease_is_named_and_changes_nothing_else(nodes in nodes(), host in host()) {
        let all = wanted(&nodes, &host);
        let good: Vec<Node> = nodes.iter().filter(|node| node.flaw.is_none()).copied().collect();
        let without = wanted(&good, &host);
        prop_assert!(without.ignored.is_empty());
        prop_assert_eq!(&all.peers, &without.peers);
        prop_assert_eq!(&all.datapath, &without.datapath);
        prop_assert_eq!(&all.device, &without.device);
        let flawed: Vec<Node> = nodes.iter().filter(|node| node.flaw.is_some()).copied().collect();
        for node in &flawed {
            let why = match node.flaw.unwrap() {
                Flaw::Outside => "outside the network",
                Flaw::Overlaps => "overlaps our own subnet",
                Flaw::OurAddress => "names our own address",
                Flaw::OurMac => "names our own VTEP MAC",
                Flaw::Backend => "another backend",
            };
            prop_assert_eq!(all.ignored.get(&node.lease().subnet), Some(&why));
        }
        let named = snapshot(&flawed).leases.len() - 1;
        prop_assert_eq!(all.ignored.len(), named);
    }
}

/// A record inside another node's subnet, or around it, draws nothing of it away.
#[test]
fn of_leases_that_overlap_the_older_one_is_the_peer() {
    let mut nodes = snapshot(&[]);
    for (subnet, host, at) in [
        ("10.1.30.0/24", 30, 5),
        ("10.1.30.128/25", 31, 6),
        ("10.1.16.0/20", 32, 7),
        ("10.1.40.0/24", 40, 8),
    ] {
        let backend = Backend::Vxlan {
            vni: 1.try_into().unwrap(),
            vtep_mac: weft::model::net::Mac([2, 9, 0, 0, 0, host]),
        };
        let lease = lease(subnet, [192, 0, 2, host].into(), backend, at);
        nodes.leases.insert(lease.subnet, lease);
    }
    let host = weft::netlink::ObservedHost::default();
    let (desired, _) = Rounds::new(host, FakeDatapath::default(), nodes).look();
    let peers: Vec<String> = desired.peers.keys().map(ToString::to_string).collect();
    assert_eq!(peers, ["10.1.30.0/24", "10.1.40.0/24"]);
    let why = desired.ignored.values().copied().collect::<Vec<_>>();
    assert_eq!(why, ["overlaps an older lease"; 2]);
}

/// A node whose address changed keeps its MAC; its old lease lives on for a day.
#[test]
fn where_two_leases_want_the_same_entry_the_newer_has_it() {
    let vtep_mac = "02:09:00:00:00:07".parse().unwrap();
    let vni = 1.try_into().unwrap();
    for (old, new) in [
        ("10.1.30.0/24", "10.1.40.0/24"),
        ("10.1.40.0/24", "10.1.30.0/24"),
    ] {
        let mut leases = snapshot(&[]);
        for (subnet, host, at) in [(old, 30, 5), (new, 40, 6)] {
            let backend = Backend::Vxlan { vni, vtep_mac };
            let lease = lease(subnet, [192, 0, 2, host].into(), backend, at);
            leases.leases.insert(lease.subnet, lease);
        }
        let host = weft::netlink::ObservedHost::default();
        let mut rounds = Rounds::new(host, FakeDatapath::default(), leases);
        for _ in 0..4 {
            let (_, plan) = rounds.look();
            rounds.apply(&plan);
        }
        let (desired, plan) = rounds.look();
        assert!(plan.is_empty() && desired.peers.len() == 2, "{plan:?}");
        let seen = rounds.seen();
        let vteps: Vec<_> = seen.tunnel_fdb.values().map(ToString::to_string).collect();
        assert_eq!(vteps, ["192.0.2.40"], "{old} {new}");
    }
}
