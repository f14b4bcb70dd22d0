//! `subnet.env`, as the agent writes it and as Docker's and CNI's users read it.

use std::{
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use ipnet::Ipv4Net;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubnetEnv {
    pub network: Ipv4Net,
    /// The first address of the subnet, with the subnet's length.
    pub subnet: Ipv4Net,
    pub mtu: u32,
    pub ip_masq: bool,
}

impl SubnetEnv {
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("parse {}: {text:?}", path.display()))
    }

    /// Where a host has it.
    pub fn path() -> PathBuf {
        PathBuf::from("/run/flannel/subnet.env")
    }

    fn parse(text: &str) -> Result<Self> {
        let value = |key: &str| {
            let mut pairs = text.lines().filter_map(|line| line.split_once('='));
            pairs
                .find(|pair| pair.0 == key)
                .map(|pair| pair.1)
                .with_context(|| format!("{key}?"))
        };
        Ok(Self {
            network: value("FLANNEL_NETWORK")?
                .parse()
                .context("FLANNEL_NETWORK")?,
            subnet: value("FLANNEL_SUBNET")?.parse().context("FLANNEL_SUBNET")?,
            mtu: value("FLANNEL_MTU")?.parse().context("FLANNEL_MTU")?,
            ip_masq: value("FLANNEL_IPMASQ")?.parse().context("FLANNEL_IPMASQ")?,
        })
    }

    /// The text that flannel writes.
    pub fn text(&self) -> String {
        let Self {
            network,
            subnet,
            mtu,
            ip_masq,
        } = self;
        format!(
            "FLANNEL_NETWORK={network}\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU={mtu}\nFLANNEL_IPMASQ={ip_masq}\n"
        )
    }

    /// The bridge's own: the first address of the subnet.
    pub fn gateway(&self) -> Ipv4Addr {
        self.subnet.addr()
    }

    /// The overlay device's own: the subnet's network address.
    pub fn overlay(&self) -> Ipv4Addr {
        self.subnet.network()
    }

    /// The address of container `number`, counted from 1.
    pub fn container(&self, number: u8) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.addr()) + u32::from(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        let text = "FLANNEL_NETWORK=188.172.0.0/16\nFLANNEL_SUBNET=188.172.7.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n";
        let env = SubnetEnv::parse(text).expect("it parses");
        assert_eq!(env.text(), text);
        assert_eq!(env.gateway().to_string(), "188.172.7.1");
        assert_eq!(env.overlay().to_string(), "188.172.7.0");
        assert_eq!(env.container(1).to_string(), "188.172.7.2");
    }
}
