//! Leases that are kept although the store has them no more, found by their addresses: ten thousand
//! that are lost are not compared with ten thousand that are there.

use std::{
    collections::{BTreeMap, BTreeSet},
    iter::successors,
    net::IpAddr,
    time::Instant,
};

use ipnet::IpNet;

use crate::model::{lease::Lease, net::Subnet};

/// What is kept, by subnet and by node.
#[derive(Debug)]
pub(super) struct KeptLeases {
    subnets: BTreeMap<Subnet, Kept>,
    nodes: BTreeMap<IpAddr, BTreeSet<Subnet>>,
}

/// A lease that is kept.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) until: Instant,
    /// The keys whose end was not told; none where a listing lacked it.
    pub(super) keys: Vec<String>,
    node: IpAddr,
}

impl KeptLeases {
    pub(super) const fn new() -> Self {
        Self {
            subnets: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Keeps a lease, if it is not kept already.
    pub(super) fn keep(&mut self, lease: &Lease, until: Instant) -> &mut Kept {
        let node = lease.attrs.public_ip;
        self.subnets.entry(lease.subnet).or_insert_with(|| {
            self.nodes.entry(node).or_default().insert(lease.subnet);
            let keys = Vec::new();
            Kept { until, keys, node }
        })
    }

    pub(super) fn remove(&mut self, subnet: Subnet) -> Option<Kept> {
        let kept = self.subnets.remove(&subnet)?;
        if let Some(of_node) = self.nodes.get_mut(&kept.node) {
            of_node.remove(&subnet);
            if of_node.is_empty() {
                self.nodes.remove(&kept.node);
            }
        }
        Some(kept)
    }

    pub(super) fn retain(&mut self, stays: impl Fn(Subnet, &Kept) -> bool) {
        let ended = self.iter().filter(|(subnet, kept)| !stays(*subnet, kept));
        let ended: Vec<Subnet> = ended.map(|(subnet, _)| subnet).collect();
        for subnet in ended {
            self.remove(subnet);
        }
    }

    pub(super) fn contains(&self, subnet: Subnet) -> bool {
        self.subnets.contains_key(&subnet)
    }

    pub(super) fn len(&self) -> usize {
        self.subnets.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Subnet, &Kept)> {
        self.subnets.iter().map(|(subnet, kept)| (*subnet, kept))
    }

    /// From here on all are told by the names of their subnets.
    pub(super) fn forget_keys(&mut self) {
        for kept in self.subnets.values_mut() {
            kept.keys.clear();
        }
    }

    /// Those that a lease that is there says are over: their addresses are taken, or their node is
    /// back with others.
    pub(super) fn contradicted_by(&self, there: &Lease) -> BTreeSet<Subnet> {
        let of_node = self.nodes.get(&there.attrs.public_ip);
        let of_node = of_node.into_iter().flatten().copied();
        overlapping(&self.subnets, there.subnet)
            .chain(of_node)
            .collect()
    }

    /// Lets go of those that any of these leases says are over.
    pub(super) fn give_way(&mut self, there: &BTreeMap<Subnet, Lease>) {
        let nodes: BTreeSet<IpAddr> = there.values().map(|lease| lease.attrs.public_ip).collect();
        self.retain(|subnet, kept| {
            !nodes.contains(&kept.node) && overlapping(there, subnet).next().is_none()
        });
    }
}

/// Those of the subnets that share an address with this one.
fn overlapping<V>(all: &BTreeMap<Subnet, V>, with: Subnet) -> impl Iterator<Item = Subnet> {
    let larger = successors(with.net().supernet(), IpNet::supernet);
    let larger = larger.filter_map(|net| Subnet::try_from(net).ok());
    let larger = larger.filter(|subnet| all.contains_key(subnet));
    // By address and length: itself and the parts of it follow one another.
    let parts = all.range(with..).map(|(subnet, _)| *subnet);
    larger.chain(parts.take_while(move |subnet| subnet.overlaps(with)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnets() -> impl Strategy<Value = Subnet> {
        let v4 = (0_u32..64, 26_u8..=32).prop_map(|(host, len)| {
            let net = ipnet::Ipv4Net::new((0x0a01_0200 | host).into(), len).unwrap();
            IpNet::V4(net.trunc())
        });
        let v6 = (0_u128..16, 124_u8..=128).prop_map(|(host, len)| {
            let net = ipnet::Ipv6Net::new((0xfd00 << 112 | host).into(), len).unwrap();
            IpNet::V6(net.trunc())
        });
        prop_oneof![v4, v6].prop_map(|net| Subnet::try_from(net).unwrap())
    }

    proptest! {
        #[test]
        fn all_that_overlap_are_found_once(
            all in proptest::collection::btree_set(subnets(), 0..20),
            with in subnets(),
        ) {
            let map = all.iter().map(|subnet| (*subnet, ())).collect();
            let mut found: Vec<Subnet> = overlapping(&map, with).collect();
            found.sort();
            let wanted = all.into_iter().filter(|subnet| subnet.overlaps(with));
            prop_assert_eq!(found, wanted.collect::<Vec<_>>());
        }
    }
}
