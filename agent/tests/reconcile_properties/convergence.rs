//! From anywhere to the wanted state, and nothing else is touched.

use std::collections::BTreeSet;

use proptest::{collection::btree_set, prelude::*};
use weft::{
    datapath::fake::FakeDatapath,
    netlink::{LinkKind, ObservedHost},
};

use crate::{
    garbage::{garbage, state},
    rounds::Rounds,
    world::{BRIDGE, Node, host, index, net, nodes, snapshot},
};

fn rounds(nodes: &[Node], host: ObservedHost, datapath: FakeDatapath) -> Rounds {
    Rounds::new(host, datapath, snapshot(nodes))
}

/// What is not ours: everything but our device, and the freshness of our own containers.
fn foreign(mut host: ObservedHost) -> ObservedHost {
    let ours: BTreeSet<_> = host
        .links
        .values()
        .filter(|link| link.name == "flannel.1")
        .map(|link| link.index)
        .collect();
    let own = net("10.1.2.0/24");
    host.links.retain(|link, _| !ours.contains(link));
    host.addresses.retain(|(link, _)| !ours.contains(link));
    host.standings.clear();
    host.routes.retain(|route| !ours.contains(&route.link));
    host.neighbours.retain(|(link, _), _| !ours.contains(link));
    host.tunnel_fdb
        .retain(|entry, _| !ours.contains(&entry.link));
    for ((link, address), entry) in &mut host.neighbours {
        entry.managed &= *link != index(BRIDGE) && !own.contains(address);
    }
    host
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn a_few_rounds_lead_from_anywhere_to_the_wanted_state(
        nodes in nodes(),
        mut host in host(),
        garbage in garbage(),
        state in state(),
    ) {
        garbage.spread(&mut host);
        let before = foreign(host.clone());
        let datapath = FakeDatapath { state, ..FakeDatapath::default() };
        let mut rounds = rounds(&nodes, host, datapath);
        let desired = rounds.settle(4);
        let good = nodes.iter().filter(|node| node.flaw.is_none()).count();
        prop_assert_eq!(desired.peers.len(), good);
        prop_assert_eq!(foreign(rounds.seen()), before);
    }

    #[test]
    fn whatever_fails_for_a_while_is_made_good(
        nodes in nodes(),
        mut host in host(),
        garbage in garbage(),
        state in state(),
        on_host in btree_set(1u64..60, 0..40),
        on_maps in btree_set(0usize..60, 0..40),
    ) {
        garbage.spread(&mut host);
        let before = foreign(host.clone());
        let failing = on_maps.into_iter().collect();
        let datapath = FakeDatapath { state, failing, ..FakeDatapath::default() };
        let mut rounds = rounds(&nodes, host, datapath);
        for nth in on_host {
            rounds.host.fail_apply(nth, libc::EBUSY);
        }
        // Each round that fails has used up a failure at least.
        rounds.settle(85);
        prop_assert_eq!(foreign(rounds.seen()), before);
    }

    /// From one set of leases to another: what stays is not touched on the way.
    #[test]
    fn a_change_of_leases_is_followed(
        first in nodes(),
        second in nodes(),
        host in host(),
    ) {
        let mut rounds = rounds(&first, host, FakeDatapath::default());
        rounds.settle(4);
        rounds.leases = snapshot(&second);
        let (_, plan) = rounds.look();
        let good = |nodes: &[Node]| -> BTreeSet<(u8, bool)> {
            let good = nodes.iter().filter(|node| node.flaw.is_none());
            good.map(|node| (node.number, node.routed)).collect()
        };
        let changed = good(&first).symmetric_difference(&good(&second)).count();
        prop_assert!(plan.host.len() <= 3 * changed, "{plan:?}");
        rounds.settle(3);
    }

    /// From tunnels to direct routes and back, among leases that change.
    #[test]
    fn peers_without_a_gateway_are_routed_directly(
        first in nodes(),
        second in nodes(),
        mut host in host(),
        garbage in garbage(),
    ) {
        garbage.spread(&mut host);
        let mut rounds = rounds(&first, host, FakeDatapath::default());
        rounds.settle(4);
        let tunnelled = foreign(rounds.seen());
        rounds.direct = true;
        rounds.settle(4);
        rounds.leases = snapshot(&second);
        let desired = rounds.settle(4);
        let near = second.iter().filter(|node| node.flaw.is_none() && !node.routed);
        prop_assert_eq!(desired.direct.len(), near.count());
        let mut routes = foreign(rounds.seen()).routes;
        routes.retain(|route| !tunnelled.routes.contains(route));
        prop_assert_eq!(routes.len(), desired.direct.len());
        rounds.leases = snapshot(&[]);
        rounds.settle(4);
        prop_assert_eq!(foreign(rounds.seen()), tunnelled);
    }

    #[test]
    fn a_peer_that_fails_for_ever_stops_no_other(
        nodes in nodes(),
        mut host in host(),
        garbage in garbage(),
        which in any::<prop::sample::Index>(),
    ) {
        let good: Vec<_> = nodes.iter().filter(|node| node.flaw.is_none()).collect();
        prop_assume!(!good.is_empty());
        garbage.spread(&mut host);
        let number = which.get(&good).number;
        let mut rounds = rounds(&nodes, host, FakeDatapath::default());
        rounds.host.refuse(Some((&format!("10.1.{number}.0"), libc::EINVAL)));
        rounds.datapath.refused = Some(format!("put peer 10.1.{number}.0"));
        for _ in 0..5 {
            let (_, plan) = rounds.look();
            rounds.apply(&plan);
        }
        let host = rounds.seen();
        prop_assert!(host.links.values().any(|link| matches!(link.kind, LinkKind::Vxlan(_))));
        for node in good.into_iter().filter(|node| node.number != number) {
            let subnet = node.lease().subnet;
            prop_assert!(host.routes.iter().any(|route| route.destination == subnet.net()));
            prop_assert!(rounds.datapath.state.peers.contains_key(&subnet.v4().unwrap()));
        }
    }
}
