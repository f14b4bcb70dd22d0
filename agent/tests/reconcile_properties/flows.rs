//! The record against conntrack.

use std::{collections::BTreeMap, net::Ipv4Addr};

use proptest::{collection::vec, prelude::*};
use weft::{
    datapath::{Datapath as _, fake::FakeDatapath},
    netlink::conntrack::{Tracked, Tuple},
    reconcile::flows::{Scope, difference},
};
use weft_common::flow::{FLOW_NATED, FLOW_SEEN, FlowEntry, FlowKey};

fn scope() -> Scope {
    Scope {
        own: "10.1.2.0/24".parse().unwrap(),
        network: "10.1.0.0/16".parse().unwrap(),
        locals: [Ipv4Addr::new(10, 1, 2, 0), Ipv4Addr::new(10, 1, 2, 1)].into(),
    }
}

fn address() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        4 => (0u8..4).prop_map(|host| Ipv4Addr::new(10, 1, 2, host)),
        4 => (0u8..3).prop_map(|host| Ipv4Addr::new(10, 1, 5, host)),
        1 => Just(Ipv4Addr::new(172, 20, 0, 1)),
    ]
}

fn tuple() -> impl Strategy<Value = Tuple> {
    (address(), address(), 1u16..3, 1u16..3).prop_map(
        |(source, destination, source_port, destination_port)| Tuple {
            source,
            destination,
            source_port,
            destination_port,
        },
    )
}

fn dump() -> impl Strategy<Value = Vec<Tracked>> {
    let tracked = (
        prop_oneof![Just(6u8), Just(17)],
        tuple(),
        tuple(),
        any::<bool>(),
    );
    vec(tracked, 0..20).prop_map(|rows| {
        let rows = rows.into_iter();
        rows.map(|(protocol, original, other, natted)| Tracked {
            protocol,
            original,
            reply: if natted { other } else { mirrored(original) },
            natted,
            settled: !natted,
        })
        .collect()
    })
}

fn mirrored(tuple: Tuple) -> Tuple {
    Tuple {
        source: tuple.destination,
        destination: tuple.source,
        source_port: tuple.destination_port,
        destination_port: tuple.source_port,
    }
}

fn live(dump: &[Tracked]) -> BTreeMap<FlowKey, u32> {
    let mut live = BTreeMap::new();
    for (key, entry) in dump.iter().flat_map(|tracked| scope().keys(tracked)) {
        let why = live.entry(key).or_insert(entry.why);
        *why = entry.why.max(*why);
    }
    live
}

proptest! {
    #[test]
    fn applying_the_difference_makes_the_record_conntracks_view(
        old in dump(),
        now in dump(),
        weaker in any::<bool>(),
    ) {
        let why = |known: u32| if weaker { FLOW_SEEN } else { known };
        let before: BTreeMap<FlowKey, FlowEntry> =
            live(&old).into_iter().map(|(key, known)| (key, FlowEntry { why: why(known) })).collect();
        let mut datapath = FakeDatapath { flows: before.clone(), ..FakeDatapath::default() };
        let (record, forget) = difference(&scope(), &before, &now);
        let live = live(&now);
        for key in &forget {
            prop_assert!(!live.contains_key(key), "a live flow is forgotten");
            datapath.forget_flow(key).unwrap();
        }
        for (key, entry) in &record {
            // Nothing is written that is there already.
            prop_assert!(before.get(key).is_none_or(|known| known.why < entry.why));
            datapath.record_flow(key, *entry).unwrap();
        }
        prop_assert!(datapath.flows.keys().eq(live.keys()));
        for (key, why) in live {
            // What was once known to be NATed stays so.
            let known = before.get(&key).map_or(0, |entry| entry.why);
            prop_assert_eq!(datapath.flows[&key].why, known.max(why));
        }
        // And then there is nothing more to do.
        let (record, forget) = difference(&scope(), &datapath.flows, &now);
        prop_assert!(record.is_empty() && forget.is_empty());
    }

    /// The host's own flows, and those of other networks, are nobody's.
    #[test]
    fn only_flows_of_containers_with_other_nodes_are_recorded(now in dump()) {
        for (key, entry) in now.iter().flat_map(|tracked| scope().keys(tracked)) {
            let local = Ipv4Addr::from(key.local);
            let scope = scope();
            prop_assert!(scope.own.contains(&local) && !scope.locals.contains(&local));
            let remote = Ipv4Addr::from(key.remote);
            prop_assert!(scope.network.contains(&remote) && !scope.own.contains(&remote));
            prop_assert!([FLOW_SEEN, FLOW_NATED].contains(&entry.why));
        }
    }
}
