//! Losses and ends: what is kept, what goes at once, and what may never happen.

use proptest::prelude::*;

use super::*;
use crate::{
    model::lease::{Backend, LeaseAttrs},
    store::etcd::keys::Keys,
};

const GRACE: Duration = Duration::from_secs(60);
const OWN: u8 = 1;

fn subnet(node: u8) -> Subnet {
    let net: ipnet::IpNet = format!("10.1.{node}.0/24").parse().unwrap();
    Subnet::try_from(net).unwrap()
}

fn key_of(subnet: Subnet) -> String {
    Keys::new("/x").lease(subnet)
}

fn lease(node: u8, at: i64) -> Lease {
    Lease {
        subnet: subnet(node),
        attrs: LeaseAttrs {
            public_ip: [192, 0, 2, node].into(),
            backend: Backend::Other("any".to_owned()),
        },
        store_lease: None,
        created: Revision(at),
        modified: Revision(at),
    }
}

fn put(node: u8, at: i64) -> LeaseEvent {
    LeaseEvent::Put(lease(node, at))
}

fn gone(node: u8, at: i64) -> LeaseEvent {
    LeaseEvent::Gone {
        key: key_of(subnet(node)),
        subnet: Some(subnet(node)),
        at: Revision(at),
    }
}

fn listing(nodes: &[u8], at: i64) -> Snapshot {
    let leases = nodes.iter().map(|node| (subnet(*node), lease(*node, 1)));
    Snapshot {
        revision: Revision(at),
        cluster: 7,
        leases: leases.collect(),
        ..Snapshot::default()
    }
}

/// A ledger that has read these nodes' leases, and what the loop believes.
struct World {
    ledger: Ledger,
    believed: Snapshot,
    now: Instant,
}

impl World {
    fn new(nodes: &[u8]) -> Self {
        let mut world = Self {
            ledger: Ledger::new(GRACE),
            believed: Snapshot::default(),
            now: Instant::now(),
        };
        world.ledger.begin(subnet(OWN), []);
        world.list(listing(nodes, 10));
        world
    }

    fn list(&mut self, listed: Snapshot) {
        self.believed = self.ledger.listed(listed, self.now);
    }

    fn change(&mut self, changes: &[LeaseEvent]) {
        for told in self.ledger.changed(changes.to_vec(), key_of, self.now) {
            self.believed.apply(told, key_of);
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        for told in self.ledger.end(key_of, self.now) {
            self.believed.apply(told, key_of);
        }
    }

    fn nodes(&self) -> Vec<u8> {
        let all = 0..=255;
        all.filter(|node| self.believed.leases.contains_key(&subnet(*node)))
            .collect()
    }
}

#[test]
fn peers_that_end_one_by_one_go_at_once() {
    let mut world = World::new(&[1, 2, 3, 4]);
    world.change(&[gone(2, 11), gone(3, 12)]);
    assert_eq!(world.nodes(), [1, 4]);
    // Our own going alone takes nobody along, and is told.
    world.change(&[gone(1, 13)]);
    assert_eq!(world.nodes(), [4]);
    assert_eq!(world.ledger.kept(), 0);
}

#[test]
fn a_prefix_deleted_by_hand_takes_only_our_own_lease() {
    let mut world = World::new(&[1, 2, 3]);
    world.change(&[gone(1, 11), gone(2, 11), gone(3, 11)]);
    assert_eq!(world.nodes(), [2, 3]);
    world.change(&[put(1, 12), put(2, 13)]);
    assert_eq!((world.nodes(), world.ledger.kept()), (vec![1, 2, 3], 1));
    world.pass(GRACE - Duration::from_secs(1));
    assert_eq!(world.nodes(), [1, 2, 3]);
    world.pass(Duration::from_secs(1));
    assert_eq!((world.nodes(), world.ledger.kept()), (vec![1, 2], 0));
    // Who was kept and came back may go like anybody else.
    world.change(&[gone(2, 20)]);
    assert_eq!(world.nodes(), [1]);
}

#[test]
fn a_store_without_its_data_takes_nobody_away_before_the_grace_is_over() {
    for (mut listed, doubted) in [
        (listing(&[], 11), true),
        (listing(&[], 1), true),
        (listing(&[2], 11), true),
        (listing(&[1], 11), true),
        (listing(&[1, 2], 9), true),
        (listing(&[1, 2], 11), false),
        (listing(&[1, 2, 3], 11), false),
    ] {
        let mut world = World::new(&[1, 2, 3]);
        assert_eq!(world.ledger.doubt(&listed).is_some(), doubted, "{listed:?}");
        world.list(listed.clone());
        let peers =
            |nodes: Vec<u8>| -> Vec<u8> { nodes.into_iter().filter(|n| *n != OWN).collect() };
        let now = peers(world.nodes());
        assert_eq!(
            now == [2, 3],
            doubted || listed.leases.len() == 3,
            "{now:?}"
        );
        // The same again, while they are kept: no new doubt about those, and no longer grace.
        world.pass(GRACE / 2);
        listed.revision.0 += 1;
        world.list(listed.clone());
        world.pass(GRACE / 2);
        assert_eq!(world.believed.leases, listed.leases);
    }
    let mut world = World::new(&[1, 2, 3]);
    let mut other = listing(&[1], 11);
    other.cluster = 8;
    assert!(world.ledger.doubt(&other).is_some());
    world.list(other);
    assert_eq!(world.nodes(), [1, 2, 3]);
}

/// The run before left peers, some of them kept: whom the store does not have yet goes no sooner.
#[test]
fn a_start_keeps_what_the_run_before_left() {
    for (there, stay) in [
        (vec![1], vec![1, 2, 3]),
        (vec![1, 2], vec![1, 2, 3]),
        (vec![1, 2, 3, 4], vec![1, 2, 3, 4]),
    ] {
        let mut world = World {
            ledger: Ledger::new(GRACE),
            believed: Snapshot::default(),
            now: Instant::now(),
        };
        let left = [1, 2, 3].map(|node| lease(node, 0));
        world.ledger.begin(subnet(OWN), left);
        world.list(listing(&there, 11));
        assert_eq!(world.nodes(), stay);
        assert_eq!(world.ledger.kept(), stay.len() - there.len());
        world.pass(GRACE);
        assert_eq!(world.nodes(), there);
    }
}

#[test]
fn a_new_round_keeps_what_the_one_before_kept() {
    let mut world = World::new(&[1, 2, 3]);
    world.change(&[gone(1, 11), gone(2, 11), gone(3, 11)]);
    world.pass(GRACE / 2);
    // Ours is another one now, and what the map has is no news.
    world.ledger.begin(subnet(9), [lease(7, 0)]);
    world.list(listing(&[9], 12));
    assert_eq!((world.nodes(), world.ledger.kept()), (vec![2, 3, 9], 2));
    // Not for a second full grace.
    world.pass(GRACE / 2);
    assert_eq!((world.nodes(), world.ledger.kept()), (vec![9], 0));
}

#[test]
fn what_is_kept_gives_way_to_what_is_there() {
    let mut world = World::new(&[1, 2, 3, 4]);
    world.change(&[gone(1, 11), gone(2, 11), gone(3, 11), gone(4, 11)]);
    // Node 2 comes back elsewhere, and somebody takes a part of node 3's addresses.
    let mut moved = lease(9, 12);
    moved.attrs.public_ip = [192, 0, 2, 2].into();
    let mut part = lease(8, 13);
    part.subnet = Subnet::try_from("10.1.3.128/25".parse::<ipnet::IpNet>().unwrap()).unwrap();
    world.change(&[LeaseEvent::Put(moved.clone()), LeaseEvent::Put(part)]);
    assert_eq!(world.nodes(), [4, 9]);
    // A listing does the same.
    let mut world = World::new(&[1, 2, 3]);
    let mut listed = listing(&[1], 9);
    listed.leases.insert(moved.subnet, moved);
    world.list(listed);
    assert_eq!(world.nodes(), [1, 3, 9]);
}

#[test]
fn a_node_that_replaces_its_own_record_is_no_loss() {
    let mut world = World::new(&[1, 2, 3, 4]);
    let mut moved = lease(9, 11);
    moved.attrs.public_ip = [192, 0, 2, 2].into();
    world.change(&[gone(2, 11), gone(3, 11), LeaseEvent::Put(moved)]);
    assert_eq!(world.nodes(), [1, 4, 9]);
}

#[test]
fn the_first_listing_is_believed() {
    let mut ledger = Ledger::new(GRACE);
    ledger.begin(subnet(OWN), []);
    assert_eq!(ledger.doubt(&listing(&[], 0)), None);
}

proptest! {
    /// Whatever the store does: what it has is believed, what it has not is gone when the grace
    /// is over, and nothing is believed that never was there.
    #[test]
    fn the_ledger_ends_where_the_store_is(
        steps in prop::collection::vec((0_u8..6, prop::collection::vec((1_u8..6, any::<bool>()), 0..6), 0_u64..40), 1..40),
    ) {
        let mut world = World::new(&[1, 2, 3]);
        let mut store: BTreeSet<u8> = [1, 2, 3].into();
        let mut at = 10;
        for (kind, nodes, seconds) in steps {
            at += 1;
            match kind {
                // One revision with several changes, or a revision for each.
                0..=2 => {
                    let mut changes = Vec::new();
                    for (node, there) in &nodes {
                        if kind > 0 {
                            at += 1;
                        }
                        if *there {
                            store.insert(*node);
                            changes.push(put(*node, at));
                        } else if store.remove(node) {
                            changes.push(gone(*node, at));
                        }
                    }
                    world.change(&changes);
                }
                // Thrown back, or read again.
                _ => {
                    if kind == 3 {
                        at = 1;
                        store = nodes.iter().filter(|it| it.1).map(|it| it.0).collect();
                    }
                    let nodes: Vec<u8> = store.iter().copied().collect();
                    world.list(listing(&nodes, at));
                }
            }
            for node in &store {
                prop_assert!(world.nodes().contains(node), "{node} is in the store");
            }
            prop_assert_eq!(world.nodes().len(), store.len() + world.ledger.kept());
            prop_assert_eq!(world.nodes().contains(&OWN), store.contains(&OWN));
            world.pass(Duration::from_secs(seconds));
        }
        world.pass(GRACE);
        let nodes: Vec<u8> = store.into_iter().collect();
        prop_assert_eq!(world.nodes(), nodes);
        prop_assert_eq!(world.ledger.next_end(), None);
    }
}
