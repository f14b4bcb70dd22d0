//! `weft cleanup --release`: gives this host's subnet back to the store.

use std::{collections::BTreeSet, net::IpAddr, path::Path};

use anyhow::{Context as _, bail};

use crate::{
    cli::ReleaseArgs,
    config,
    model::{lease::Lease, net::Mac},
    netlink::ObservedHost,
    outputs::subnet_env,
    store::{LeaseStore, etcd::EtcdStore},
};

/// What tells this host's record from others. Taken before anything is removed.
pub struct Owner {
    /// MAC of the overlay's device, where it is still there.
    mac: Option<Mac>,
    addresses: BTreeSet<IpAddr>,
}

impl Owner {
    /// The host as it is.
    pub fn of(host: &ObservedHost, device: &str) -> Self {
        let addresses = host.addresses.iter().map(|(_, net)| net.addr());
        Self {
            mac: host.link_named(device).and_then(|link| link.mac),
            addresses: addresses.collect(),
        }
    }

    /// By its MAC, which nobody else publishes. Without the device, by its address: a host behind
    /// another address has to keep the device until the lease is given back.
    fn owns(&self, lease: &Lease) -> bool {
        match (self.mac, lease.attrs.vtep_mac()) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => self.addresses.contains(&lease.attrs.public_ip),
        }
    }
}

/// What became of the lease.
#[derive(Debug, PartialEq, Eq)]
pub enum Released {
    /// It was given back.
    Gone(String),
    /// It was left, or there was none, and why.
    Left(String),
}

/// Gives back the subnet that the file names, by compare-and-swap, if its record is this host's.
pub async fn release(args: &ReleaseArgs, file: &Path, owner: &Owner) -> anyhow::Result<Released> {
    let store = EtcdStore::new(config::etcd(args.etcd.clone())?)?;
    let previous = subnet_env::read_previous(file).with_context(|| {
        format!(
            "{} names no subnet: say where it is with --subnet-file, or wait for the lease's end",
            file.display()
        )
    })?;
    give_back(&store, previous, owner).await
}

async fn give_back(
    store: &impl LeaseStore,
    subnet: crate::model::net::Subnet,
    owner: &Owner,
) -> anyhow::Result<Released> {
    let snapshot = store.snapshot().await?;
    let Some(lease) = snapshot.leases.get(&subnet) else {
        return Ok(Released::Left(format!(
            "no lease of {subnet} is in the store"
        )));
    };
    let holder = lease.attrs.public_ip;
    if !owner.owns(lease) {
        return Ok(Released::Left(format!(
            "the lease of {subnet} is {holder}'s"
        )));
    }
    if lease.store_lease.is_none() {
        return Ok(Released::Left(format!(
            "the lease of {subnet} is a reservation: `etcdctl del {}` removes it",
            store.key_of(subnet)
        )));
    }
    store.release(lease).await?;
    let after = store.snapshot().await?;
    if after.leases.get(&subnet) == Some(lease) {
        bail!("the lease of {subnet} is still in the store");
    }
    Ok(Released::Gone(format!("the lease of {subnet}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{model::net::Subnet, store::memory::MemoryStore};

    const KEY: &str = "/x/subnets/10.3.1.0-24";
    const OURS: &[u8] = br#"{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"02:00:00:00:00:01"}}"#;

    fn subnet() -> Subnet {
        Subnet::try_from("10.3.1.0/24".parse::<ipnet::IpNet>().unwrap()).unwrap()
    }

    fn owner(mac: Option<u8>, address: [u8; 4]) -> Owner {
        Owner {
            mac: mac.map(|last| Mac([2, 0, 0, 0, 0, last])),
            addresses: [IpAddr::from(address)].into(),
        }
    }

    #[tokio::test]
    async fn only_what_is_ours_and_leased_is_given_back() {
        let here = [192, 0, 2, 1];
        for (leased, owner, goes, said) in [
            (true, owner(Some(1), here), true, "the lease of 10.3.1.0/24"),
            // Behind another address.
            (true, owner(Some(1), [10, 0, 0, 1]), true, "the lease"),
            // The device is gone.
            (true, owner(None, here), true, "the lease"),
            (true, owner(None, [10, 0, 0, 1]), false, "192.0.2.1's"),
            // A copy of this host has it.
            (true, owner(Some(7), here), false, "192.0.2.1's"),
            (
                false,
                owner(Some(1), here),
                false,
                "etcdctl del /x/subnets/10.3.1.0-24",
            ),
        ] {
            let store = MemoryStore::new("/x");
            let lease = if leased { store.grant() } else { 0 };
            store.put_raw(KEY, OURS, lease);
            let outcome = give_back(&store, subnet(), &owner).await.unwrap();
            let (gone, text) = match outcome {
                Released::Gone(text) => (true, text),
                Released::Left(text) => (false, text),
            };
            assert_eq!((gone, store.get_raw(KEY).is_none()), (goes, goes), "{text}");
            assert!(text.contains(said), "{text}");
            assert_eq!(store.leases().is_empty(), goes || !leased);
        }
    }

    #[tokio::test]
    async fn that_there_is_none_is_said() {
        let store = MemoryStore::new("/x");
        let outcome = give_back(&store, subnet(), &owner(Some(1), [0; 4])).await;
        assert!(matches!(outcome.unwrap(), Released::Left(why) if why.contains("no lease")));
    }
}
