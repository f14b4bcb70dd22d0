//! Leases whose subnets overlap: which of them hold. Whoever writes a record into another node's
//! addresses later must not draw its packets away.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

use crate::model::{lease::Revision, net::Subnet};

/// Those that give way: of two that overlap the one that was created later, or, created together,
/// the one with the higher address, or the larger one.
pub(super) fn losers(created: &BTreeMap<Subnet, Revision>) -> BTreeSet<Subnet> {
    // By address and length: one that overlaps any other overlaps its neighbour.
    let neighbours = created.keys().zip(created.keys().skip(1));
    if !neighbours
        .into_iter()
        .any(|(one, next)| one.overlaps(*next))
    {
        return BTreeSet::new();
    }
    let mut order: Vec<(Revision, Subnet)> =
        created.iter().map(|(subnet, at)| (*at, *subnet)).collect();
    order.sort_unstable_by_key(|(at, subnet)| (*at, span(*subnet)));
    let mut holding = Holding::default();
    let mut losers = BTreeSet::new();
    for (_, subnet) in order {
        if !holding.take(subnet) {
            losers.insert(subnet);
        }
    }
    losers
}

/// Subnets that overlap none of the others: first address to last.
#[derive(Default)]
struct Holding(BTreeMap<Ipv4Addr, Ipv4Addr>);

impl Holding {
    /// Takes a subnet in, unless it overlaps one that is there.
    fn take(&mut self, subnet: Subnet) -> bool {
        let Some((first, last)) = span(subnet) else {
            return true;
        };
        // None of them overlaps another, so only the last that begins before our end can.
        let before = self.0.range(..=last).next_back();
        if before.is_some_and(|(_, end)| *end >= first) {
            return false;
        }
        self.0.insert(first, last);
        true
    }
}

fn span(subnet: Subnet) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let net = subnet.v4()?;
    Some((net.network(), net.broadcast()))
}

#[cfg(test)]
mod tests {
    use ipnet::Ipv4Net;
    use proptest::prelude::*;

    use super::*;

    fn of(leases: &[(&str, i64)]) -> Vec<String> {
        let leases = leases.iter().map(|(net, at)| {
            let net: ipnet::IpNet = net.parse().unwrap();
            (Subnet::try_from(net).unwrap(), Revision(*at))
        });
        let lost = losers(&leases.collect());
        lost.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_older_one_holds_whichever_is_larger() {
        assert_eq!(of(&[("10.1.3.0/24", 5), ("10.1.4.0/24", 6)]), [""; 0]);
        assert_eq!(
            of(&[("10.1.3.0/24", 5), ("10.1.3.128/25", 6)]),
            ["10.1.3.128/25"]
        );
        assert_eq!(
            of(&[("10.1.3.0/24", 6), ("10.1.3.128/25", 5)]),
            ["10.1.3.0/24"]
        );
        assert_eq!(
            of(&[("10.1.0.0/16", 9), ("10.1.3.0/24", 5), ("10.1.4.0/24", 6)]),
            ["10.1.0.0/16"]
        );
        // Who gives way takes nobody along.
        assert_eq!(
            of(&[
                ("10.1.0.0/16", 2),
                ("10.0.0.0/8", 3),
                ("10.2.0.0/16", 4),
                ("10.1.3.0/24", 1)
            ]),
            ["10.0.0.0/8", "10.1.0.0/16"]
        );
    }

    proptest! {
        /// What holds overlaps nothing, and whatever gives way gives way to an older one.
        #[test]
        fn what_holds_is_the_oldest(
            leases in prop::collection::vec((0_u32..1 << 10, 22_u8..31, 1_i64..9), 0..20),
        ) {
            let leases: BTreeMap<Subnet, Revision> = leases
                .into_iter()
                .map(|(addr, len, at)| {
                    let net = Ipv4Net::new_assert(addr.into(), len).trunc();
                    (Subnet::try_from(ipnet::IpNet::V4(net)).unwrap(), Revision(at))
                })
                .collect();
            let lost = losers(&leases);
            for (subnet, at) in &leases {
                let mut others = leases.iter().filter(|(other, _)| {
                    !lost.contains(other) && *other != subnet && other.overlaps(*subnet)
                });
                if lost.contains(subnet) {
                    prop_assert!(others.any(|(_, created)| created <= at));
                } else {
                    prop_assert!(others.next().is_none());
                }
            }
        }
    }
}
