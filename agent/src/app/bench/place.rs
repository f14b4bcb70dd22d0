//! Where a container for a measurement fits: a bridge of ours, and an address that nobody has.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
    path::Path,
};

use anyhow::{Context as _, bail};
use ipnet::Ipv4Net;

use crate::{
    endpoints,
    model::net::IfIndex,
    netlink::{Netlink as _, ObservedHost, guest::Place, kernel::Rtnetlink},
    outputs::subnet_env::SubnetEnv,
};

/// Reads the host and chooses.
pub fn find(subnet_file: &Path) -> anyhow::Result<Place> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "a measurement over the overlay needs root: it makes a container; try sudo, or --host-only"
        );
    }
    let env = SubnetEnv::read(subnet_file).context("is the agent running?")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?;
    let host = runtime.block_on(async { Rtnetlink::new()?.observe().await })?;
    choose(&host, &env)
}

fn choose(host: &ObservedHost, env: &SubnetEnv) -> anyhow::Result<Place> {
    let subnet = env.subnet;
    let in_subnet = |address: &IpAddr| match address {
        IpAddr::V4(address) => subnet.contains(address).then_some(*address),
        IpAddr::V6(_) => None,
    };
    // No uplink is a bridge that owns an address of our subnet.
    let nothing = IfIndex::try_from(u32::MAX).context("a number")?;
    let bridges = endpoints::bridges(host, subnet, nothing);
    let Some(bridge) = bridges.first() else {
        bail!(
            "no bridge has an address in {subnet}: start the container runtime first, or pass --host-only"
        );
    };
    let own = host.addresses.iter().filter(|(link, _)| link == bridge);
    let gateway = own
        .filter_map(|(_, net)| in_subnet(&net.addr()))
        .next()
        .context("the bridge has an address")?;
    let mut taken: BTreeSet<Ipv4Addr> = host
        .addresses
        .iter()
        .filter_map(|(_, net)| in_subnet(&net.addr()))
        .collect();
    let neighbours = host.neighbours.keys();
    taken.extend(neighbours.filter_map(|(_, address)| in_subnet(address)));
    let address =
        free(subnet, &taken).with_context(|| format!("every address of {subnet} is taken"))?;
    Ok(Place {
        bridge: *bridge,
        address: Ipv4Net::new(address, subnet.prefix_len())?,
        gateway,
        mtu: env.mtu.get(),
    })
}

/// The last that nobody is known to have: runtimes begin with the first.
fn free(subnet: Ipv4Net, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let (first, last) = (u32::from(subnet.network()), u32::from(subnet.broadcast()));
    (first + 1..last)
        .rev()
        .map(Ipv4Addr::from)
        .find(|address| !taken.contains(address))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_free_address_is_chosen() {
        let subnet = "10.1.2.0/29".parse().unwrap();
        let mut taken = BTreeSet::new();
        let mut order = Vec::new();
        while let Some(address) = free(subnet, &taken) {
            order.push(address.octets()[3]);
            taken.insert(address);
        }
        assert_eq!(order, [6, 5, 4, 3, 2, 1]);
    }

    #[test]
    fn without_a_bridge_the_remedy_is_said() {
        let env = SubnetEnv::parse(
            "FLANNEL_NETWORK=10.1.0.0/16\nFLANNEL_SUBNET=10.1.2.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n",
        )
        .unwrap();
        let error = choose(&ObservedHost::default(), &env).unwrap_err();
        assert!(error.to_string().contains("--host-only"), "{error}");
    }
}
