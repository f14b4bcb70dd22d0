//! A host without an agent, programmed by hand exactly as flannel programs a kernel.

use std::{net::Ipv4Addr, sync::Arc};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::{
    etcd::{Etcd, PREFIX},
    host::Host,
    subnet_env::SubnetEnv,
};

pub const DEVICE: &str = "flannel.1";

#[derive(Debug)]
pub struct KernelHost {
    pub host: Arc<Host>,
    pub env: SubnetEnv,
    pub mac: String,
}

/// What one host must know of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub subnet: Ipv4Net,
    pub public: Ipv4Addr,
    pub mac: String,
}

impl Peer {
    /// Words for `ip`, for `bridge` and for `ip` again: neighbour, forwarding entry and route.
    pub fn entries(&self) -> [String; 3] {
        let Self {
            subnet,
            public,
            mac,
        } = self;
        let via = subnet.network();
        [
            format!("neigh replace {via} lladdr {mac} dev {DEVICE} nud permanent"),
            format!("fdb replace {mac} dev {DEVICE} dst {public} self permanent"),
            format!("route replace {subnet} via {via} dev {DEVICE} onlink"),
        ]
    }
}

impl KernelHost {
    /// Makes the overlay device of `host` for the subnet whose first address is `env.subnet`.
    pub fn new(host: Arc<Host>, env: SubnetEnv) -> Result<Self> {
        let [_, _, third, _] = env.subnet.addr().octets();
        let mac = format!("0a:1b:2c:3d:4e:{third:02x}");
        let local = host.address;
        host.ip(&format!(
            "link add {DEVICE} address {mac} mtu {} type vxlan id 1 local {local} dev eth0 \
             dstport 8472 nolearning",
            env.mtu
        ))?;
        host.ip(&format!("address add {}/32 dev {DEVICE}", env.overlay()))?;
        host.ip(&format!("link set {DEVICE} up"))?;
        // Not flannel's work: Docker or the kubelet turns it on.
        host.ns.sysctl("net/ipv4/ip_forward", "1")?;
        Ok(Self { host, env, mac })
    }

    /// The three entries of a peer, in flannel's order.
    pub fn add_peer(&self, peer: &Peer) -> Result<()> {
        let [neighbour, entry, route] = peer.entries();
        self.host.ip(&neighbour)?;
        self.host.run(&format!("bridge {entry}"))?;
        self.host.ip(&route)?;
        Ok(())
    }

    pub fn peer(&self) -> Peer {
        let subnet = self.env.subnet.trunc();
        Peer {
            subnet,
            public: self.host.address,
            mac: self.mac.clone(),
        }
    }

    /// The lease, byte for byte as flannel writes it.
    pub fn publish(&self, etcd: &Etcd) -> Result<()> {
        etcd.put(&lease_key(self.env.subnet), &lease_value(&self.peer()))
    }

    /// Programs every peer that has a lease in etcd, but for this host itself.
    pub fn learn(&self, etcd: &Etcd) -> Result<()> {
        for (key, value) in etcd.leases()? {
            let peer = parse_lease(&key, &value).with_context(|| format!("{key} {value}"))?;
            if peer.public != self.host.address {
                self.add_peer(&peer)?;
            }
        }
        Ok(())
    }
}

pub fn lease_key(subnet: Ipv4Net) -> String {
    format!(
        "{PREFIX}/subnets/{}-{}",
        subnet.network(),
        subnet.prefix_len()
    )
}

pub fn lease_value(peer: &Peer) -> String {
    let Peer { public, mac, .. } = peer;
    format!(
        r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

pub fn parse_lease(key: &str, value: &str) -> Result<Peer> {
    let name = key.rsplit('/').next().context("a key")?;
    let subnet = name
        .replace('-', "/")
        .parse()
        .context("the key names a subnet")?;
    let value: Value = serde_json::from_str(value).context("the value is JSON")?;
    let public = value
        .get("PublicIP")
        .and_then(Value::as_str)
        .context("PublicIP")?;
    let mac = value
        .pointer("/BackendData/VtepMAC")
        .and_then(Value::as_str)
        .context("VtepMAC")?;
    Ok(Peer {
        subnet,
        public: public.parse().context("PublicIP")?,
        mac: mac.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lease_is_byte_exact_and_parses_back() {
        let peer = Peer {
            subnet: "10.5.52.0/24".parse().unwrap(),
            public: Ipv4Addr::new(192, 168, 64, 3),
            mac: "c6:d2:32:6f:8f:44".to_owned(),
        };
        let value = lease_value(&peer);
        assert_eq!(
            value,
            r#"{"PublicIP":"192.168.64.3","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"c6:d2:32:6f:8f:44"}}"#
        );
        let key = lease_key(peer.subnet);
        assert_eq!(key, "/coreos.com/network/subnets/10.5.52.0-24");
        assert_eq!(parse_lease(&key, &value).unwrap(), peer);
    }
}
