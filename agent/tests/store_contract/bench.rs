//! What a case needs of a store besides the trait: a stranger's hands.

use std::{future::Future, net::IpAddr, time::Duration};

use ipnet::IpNet;
use weft::{
    model::{
        lease::{Backend, Claim, LeaseAttrs},
        net::{Mac, Subnet, Vni},
        network::NetworkConfig,
    },
    store::{LeaseStore, memory::MemoryStore},
};

pub const PREFIX: &str = "/coreos.com/network";
pub const CONFIG: &str = r#"{"Network":"10.42.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// Longer than anything here takes on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A store, and raw access to what it holds.
pub trait Bench {
    type Store: LeaseStore;

    /// The store as one node has it; each call is another node.
    fn node(&self) -> Self::Store;

    /// Writes a key; with `leased`, attached to a new lease, whose number is returned.
    async fn put(&self, key: &str, value: &str, leased: bool) -> i64;
    /// Value and lease of a key.
    async fn get(&self, key: &str) -> Option<(String, i64)>;
    async fn delete(&self, key: &str);
    /// Ends a lease, as its time does.
    async fn expire(&self, lease: i64);
    async fn compact(&self);
    /// Every lease that is alive.
    async fn leases(&self) -> Vec<i64>;
}

pub struct Memory(MemoryStore);

impl Memory {
    pub fn new() -> Self {
        Self(MemoryStore::new(PREFIX))
    }
}

impl Bench for Memory {
    type Store = MemoryStore;

    fn node(&self) -> MemoryStore {
        self.0.clone()
    }

    async fn put(&self, key: &str, value: &str, leased: bool) -> i64 {
        let lease = if leased { self.0.grant() } else { 0 };
        self.0.put_raw(key, value.as_bytes(), lease);
        lease
    }

    async fn get(&self, key: &str) -> Option<(String, i64)> {
        let (value, lease) = self.0.get_raw(key)?;
        Some((String::from_utf8(value).unwrap(), lease))
    }

    async fn delete(&self, key: &str) {
        self.0.delete_raw(key);
    }

    async fn expire(&self, lease: i64) {
        self.0.expire(lease);
    }

    async fn compact(&self) {
        self.0.compact();
    }

    async fn leases(&self) -> Vec<i64> {
        self.0.leases()
    }
}

/// Fails a case that would otherwise wait for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_elapsed) => panic!("still waiting for {what}"),
    }
}

pub fn config(text: &str) -> NetworkConfig {
    NetworkConfig::parse(text).unwrap()
}

pub fn subnet(text: &str) -> Subnet {
    Subnet::try_from(text.parse::<IpNet>().unwrap()).unwrap()
}

/// Key of a lease, by the last part of its name.
pub fn key(name: &str) -> String {
    format!("{PREFIX}/subnets/{name}")
}

pub fn attrs(last: u8) -> LeaseAttrs {
    LeaseAttrs {
        public_ip: IpAddr::from([192, 0, 2, last]),
        backend: Backend::Vxlan {
            vni: Vni::try_from(1).unwrap(),
            vtep_mac: Mac([2, 0, 0, 0, 0, last]),
        },
    }
}

/// What [`attrs`] must look like in the store.
pub fn value(last: u8) -> String {
    format!(
        r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"02:00:00:00:00:{last:02x}"}}}}"#
    )
}

pub fn claim(last: u8) -> Claim {
    Claim {
        attrs: attrs(last),
        previous: None,
    }
}
