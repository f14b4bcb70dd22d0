//! The cluster's network configuration, as all nodes read it from the store.

mod change;
mod parse;

use ipnet::Ipv4Net;

pub use self::{change::Change, parse::ConfigError};
use super::net::{Mtu, Subnet, Vni};

/// `<prefix>/config`, checked, with defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkConfig {
    /// The whole overlay range.
    pub network: Ipv4Net,
    /// Length of a node's subnet.
    pub subnet_len: u8,
    /// First subnet to hand out.
    pub subnet_min: Subnet,
    /// Last subnet to hand out.
    pub subnet_max: Subnet,
    /// VXLAN network identifier.
    pub vni: Vni,
    /// UDP port of the overlay; flannel's 0 is the kernel's default, 8472.
    pub port: u16,
    /// MTU of the underlay, where the config overrides the uplink's.
    pub underlay_mtu: Option<Mtu>,
    /// Group policy extension: makes the device carry it, and keeps everything on the kernel path.
    pub gbp: bool,
    /// MAC learning on the device: keeps everything on the kernel path.
    pub learning: bool,
    /// Reach peers on the same link without encapsulation.
    pub direct_routing: bool,
    /// Rules in nftables instead of iptables.
    pub nftables: bool,
}
