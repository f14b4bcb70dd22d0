//! The join of neighbours, forwarding entries and ports.

use proptest::{collection::vec, prelude::*};
use weft::{
    endpoints::{Endpoints, bridges, join, locals},
    netlink::{NeighbourState, ObservedHost},
};

use crate::world::{BRIDGE, FOREIGN_BRIDGE, OWN, UPLINK, host, index, meet, seen};

fn joined(before: &Endpoints, host: &ObservedHost) -> Endpoints {
    let own = OWN.parse().unwrap();
    join(before, host, own, &bridges(host, own, index(UPLINK)))
}

fn sound(endpoints: &Endpoints, host: &ObservedHost) -> Result<(), TestCaseError> {
    let own = OWN.parse().unwrap();
    let locals = locals(host);
    let bridges = bridges(host, own, index(UPLINK));
    for (address, endpoint) in endpoints {
        prop_assert!(own.contains(address) && !locals.contains_key(address));
        prop_assert!(bridges.contains(&endpoint.bridge));
        let port = &host.links[&endpoint.port];
        prop_assert_eq!(port.master, Some(endpoint.bridge));
        prop_assert!(port.up && port.carrier);
    }
    Ok(())
}

proptest! {
    #[test]
    fn every_endpoint_is_behind_a_live_port_of_ours(first in host(), second in host()) {
        let before = joined(&Endpoints::new(), &first);
        sound(&before, &first)?;
        // Whatever was known before.
        sound(&joined(&before, &second), &second)?;
    }

    #[test]
    fn joining_again_changes_nothing(first in host(), second in host()) {
        let now = joined(&joined(&Endpoints::new(), &first), &second);
        prop_assert_eq!(joined(&now, &second), now);
    }

    /// What the tables say now does not depend on what they said before.
    #[test]
    fn what_is_seen_wins_over_what_was_known(first in host(), second in host()) {
        let fresh = joined(&Endpoints::new(), &second);
        let now = joined(&joined(&Endpoints::new(), &first), &second);
        for (address, endpoint) in &fresh {
            prop_assert_eq!(now.get(address), Some(endpoint));
        }
    }

    #[test]
    fn the_order_of_learning_is_no_matter(
        host in host(),
        rows in vec(seen(), 0..10).prop_map(|mut rows| {
            // One row for each address, and one address for each MAC.
            rows.sort_by_key(|row| row.0);
            rows.dedup_by_key(|row| row.0);
            rows.sort_by_key(|row| row.1);
            rows.dedup_by_key(|row| row.1);
            rows
        }),
    ) {
        let mut there = host.clone();
        let mut back = host;
        for row in &rows {
            meet(&mut there, BRIDGE, *row);
        }
        for row in rows.iter().rev() {
            meet(&mut back, BRIDGE, *row);
        }
        prop_assert_eq!(joined(&Endpoints::new(), &there), joined(&Endpoints::new(), &back));
    }

    /// Entries that age take no endpoint along; a neighbour that fails does.
    #[test]
    fn ageing_ends_nothing_and_failing_does(host in host()) {
        let before = joined(&Endpoints::new(), &host);
        let mut aged = host.clone();
        aged.bridge_fdb.clear();
        aged.neighbours.clear();
        prop_assert_eq!(&joined(&before, &aged), &before);
        let mut failed = aged;
        failed.neighbours = host.neighbours;
        for ((link, _), entry) in &mut failed.neighbours {
            if *link != index(FOREIGN_BRIDGE) {
                entry.state = NeighbourState::Failed;
            }
        }
        prop_assert_eq!(joined(&before, &failed), Endpoints::new());
    }
}
