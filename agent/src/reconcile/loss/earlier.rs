//! Peers of an earlier run, read off the programs' map that it left. Pure.

use std::{collections::BTreeMap, net::IpAddr};

use ipnet::{IpNet, Ipv4Net};
use weft_common::peer::PeerEntry;

use crate::model::{
    lease::{Backend, Lease, LeaseAttrs, Revision},
    net::{Mac, Subnet},
    network::NetworkConfig,
};

/// Their leases, as far as the map tells: whoever reads the store first takes its word for the rest.
/// A subnet that was ours stands there without a VTEP, and is nobody's.
#[must_use]
pub fn leases(peers: &BTreeMap<Ipv4Net, PeerEntry>, network: &NetworkConfig) -> Vec<Lease> {
    let whole = IpNet::V4(network.network);
    let lease = |(net, entry): (&Ipv4Net, &PeerEntry)| {
        let net = IpNet::V4(*net);
        let subnet = Subnet::try_from(net).ok()?;
        let held = entry.vtep_addr != [0; 4];
        (held && whole.contains(&net)).then_some(Lease {
            subnet,
            attrs: LeaseAttrs {
                public_ip: IpAddr::from(entry.vtep_addr),
                backend: Backend::Vxlan {
                    vni: network.vni,
                    vtep_mac: Mac(entry.vtep_mac),
                },
            },
            store_lease: None,
            created: Revision::default(),
            modified: Revision::default(),
        })
    };
    peers.iter().filter_map(lease).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::peer::Peer;

    #[test]
    fn what_a_lease_made_of_the_map_is_a_lease_again() {
        let network =
            NetworkConfig::parse(r#"{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}"#);
        let network = network.unwrap();
        let entry = PeerEntry {
            subnet: [10, 3, 2, 0],
            subnet_len: 24,
            vtep_addr: [192, 0, 2, 2],
            vtep_mac: [10, 0, 0, 0, 0, 2],
            _pad: [0; 2],
            gateway: [192, 0, 2, 2],
            ifindex: 4,
            mtu: 1450,
            flags: 0,
        };
        let [net, elsewhere, former] = ["10.3.2.0/24", "10.4.2.0/24", "10.3.3.0/24"]
            .map(|net| net.parse::<Ipv4Net>().unwrap());
        let nobody = PeerEntry {
            vtep_addr: [0; 4],
            vtep_mac: [0; 6],
            ..entry
        };
        let peers = [(net, entry), (elsewhere, entry), (former, nobody)];
        let found = leases(&peers.into(), &network);
        // A network of an earlier config is none of ours, and a former subnet no peer's.
        let [lease] = found.as_slice() else {
            panic!("one peer: {found:?}");
        };
        assert_eq!(lease.subnet.net().to_string(), "10.3.2.0/24");
        let peer = Peer::from_lease(lease).unwrap();
        assert_eq!(peer.vtep_addr.to_string(), "192.0.2.2");
        assert_eq!(peer.vtep_mac, Mac(entry.vtep_mac));
    }
}
