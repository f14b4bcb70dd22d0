//! Reads `<prefix>/config` as flannel does: the same defaults, the same checks in the same order.

use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};

use super::NetworkConfig;
use crate::model::{
    json::{Object, TypeError, short},
    net::{Mtu, NetError, Subnet, Vni},
};

/// What the kernel takes where the port is 0, and so what flannel's default is.
const DEFAULT_PORT: u16 = 8472;
/// Outer Ethernet, IPv4, UDP and VXLAN headers in front of a container's packet.
const ENCAPSULATION: u32 = 50;

/// Why a network config cannot be used, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No JSON object.
    #[error("it is not a JSON object: {0}")]
    Json(String),
    /// A member of the wrong type.
    #[error(transparent)]
    Type(#[from] TypeError),
    /// IPv6 is asked for.
    #[error("`EnableIPv6` is true, and IPv6 is not supported yet: leave it out")]
    Ipv6,
    /// IPv4 is switched off.
    #[error("`EnableIPv4` is false, and only IPv4 is supported: leave it out")]
    NoIpv4,
    /// No range.
    #[error("`Network` is missing: give the overlay's range, for example \"10.42.0.0/16\"")]
    NoNetwork,
    /// A text that is no IPv4 range.
    #[error("`Network` is \"{0}\", which is not an IPv4 range like \"10.42.0.0/16\"")]
    Network(String),
    /// A text that is no IPv4 address.
    #[error("`{name}` is \"{text}\", which is not an IPv4 address")]
    Address {
        /// The member.
        name: &'static str,
        /// Its text.
        text: String,
    },
    /// Subnets of one or two addresses.
    #[error("`SubnetLen` is {0}, it must be less than /31")]
    SubnetTooSmall(u64),
    /// Fewer than four subnets.
    #[error(
        "`SubnetLen` is {len}, which leaves no room for four subnets in {network}: use at least {least}"
    )]
    SubnetTooLarge {
        /// The configured length.
        len: u64,
        /// The range.
        network: Ipv4Net,
        /// The shortest length that would do.
        least: u8,
    },
    /// No room for four subnets of any length.
    #[error("`Network` is {0}, which is too small: use a /28 or larger")]
    NetworkTooSmall(Ipv4Net),
    /// The first or last subnet lies elsewhere.
    #[error("`{name}` is {addr}, which is outside `Network` {network}")]
    Outside {
        /// The member.
        name: &'static str,
        /// Its address.
        addr: Ipv4Addr,
        /// The range.
        network: Ipv4Net,
    },
    /// The first or last subnet has host bits.
    #[error("`{name}` is {addr}, which is not on a /{len} boundary")]
    Unaligned {
        /// The member.
        name: &'static str,
        /// Its address.
        addr: Ipv4Addr,
        /// The length of a subnet.
        len: u8,
    },
    /// Nothing between first and last.
    #[error("`SubnetMin` {min} is after `SubnetMax` {max}: no subnet is left")]
    Inverted {
        /// First subnet.
        min: Ipv4Addr,
        /// Last subnet.
        max: Ipv4Addr,
    },
    /// No `Backend`.
    #[error(
        "`Backend` is missing, which flannel's code takes as \"udp\": write \"Backend\": {{\"Type\": \"vxlan\"}}"
    )]
    NoBackend,
    /// A backend that is not ours.
    #[error(
        "`Backend` has the type \"{0}\", and only vxlan is supported: write \"Backend\": {{\"Type\": \"vxlan\"}}"
    )]
    Backend(String),
    /// A number in `Backend` that the kernel would refuse.
    #[error("`{name}` in `Backend` is {got}, it must be {least} to {most}")]
    Range {
        /// The member.
        name: &'static str,
        /// Its value.
        got: u64,
        /// The smallest.
        least: u64,
        /// The largest.
        most: u64,
    },
    /// A value that passed the checks here and not those of its type.
    #[error(transparent)]
    Net(#[from] NetError),
}

impl NetworkConfig {
    /// The config that a text holds, checked, with defaults filled in.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let top = Object::parse(text).map_err(|e| ConfigError::Json(e.to_string()))?;
        if !top.truth("EnableIPv4", true)? {
            return Err(ConfigError::NoIpv4);
        }
        if top.truth("EnableIPv6", false)? {
            return Err(ConfigError::Ipv6);
        }
        let nftables = top.truth("EnableNFTables", false)?;
        let network = network(&top)?;
        let subnet_len = subnet_len(&top, network)?;
        let (subnet_min, subnet_max) = limits(&top, network, subnet_len)?;
        let backend = backend(&top)?;
        let vni = in_range(backend, "VNI", 1, 0, (1 << 24) - 1)?;
        let port = match in_range(backend, "Port", 0, 0, u64::from(u16::MAX))? {
            0 => DEFAULT_PORT,
            port => u16::try_from(port).expect("the range was checked"),
        };
        Ok(Self {
            network,
            subnet_len,
            subnet_min,
            subnet_max,
            vni: Vni::try_from(vni)?,
            port,
            underlay_mtu: underlay_mtu(backend)?,
            gbp: backend.truth("GBP", false)?,
            learning: backend.truth("Learning", false)?,
            direct_routing: backend.truth("DirectRouting", false)?,
            nftables,
        })
    }
}

fn network(top: &Object) -> Result<Ipv4Net, ConfigError> {
    let text = top.text("Network")?;
    if text.is_empty() {
        return Err(ConfigError::NoNetwork);
    }
    let network: Ipv4Net = text
        .parse()
        .map_err(|_not_a_range| ConfigError::Network(short(text)))?;
    let network = network.trunc();
    // flannel cannot tell the range of everything from none at all.
    if network.prefix_len() == 0 {
        return Err(ConfigError::NoNetwork);
    }
    Ok(network)
}

fn subnet_len(top: &Object, network: Ipv4Net) -> Result<u8, ConfigError> {
    let prefix = network.prefix_len();
    match top.number("SubnetLen", 0)? {
        0 if prefix > 28 => Err(ConfigError::NetworkTooSmall(network)),
        0 if prefix <= 22 => Ok(24),
        0 => Ok(prefix + 2),
        len if len > 30 => Err(ConfigError::SubnetTooSmall(len)),
        len if len < u64::from(prefix) + 2 => Err(ConfigError::SubnetTooLarge {
            len,
            network,
            least: prefix + 2,
        }),
        len => Ok(u8::try_from(len).expect("30 at most")),
    }
}

/// First and last subnet to hand out.
fn limits(top: &Object, network: Ipv4Net, len: u8) -> Result<(Subnet, Subnet), ConfigError> {
    let step = 1_u32 << (32 - u32::from(len));
    let first = u32::from(network.network());
    let last = u32::from(network.broadcast());
    // The first subnet of the range is skipped, as flannel does. There are at least four, so
    // neither sum can leave the range.
    let min = limit(top, "SubnetMin", network, Ipv4Addr::from(first + step))?;
    let max = limit(top, "SubnetMax", network, Ipv4Addr::from(last - (step - 1)))?;
    let aligned = |name, addr: Ipv4Addr| {
        let net = Ipv4Net::new_assert(addr, len);
        Subnet::try_from(IpNet::V4(net)).map_err(|_host_bits| ConfigError::Unaligned {
            name,
            addr,
            len,
        })
    };
    let limits = (aligned("SubnetMin", min)?, aligned("SubnetMax", max)?);
    if min > max {
        return Err(ConfigError::Inverted { min, max });
    }
    Ok(limits)
}

fn limit(
    top: &Object,
    name: &'static str,
    network: Ipv4Net,
    default: Ipv4Addr,
) -> Result<Ipv4Addr, ConfigError> {
    let text = top.text(name)?;
    if text.is_empty() {
        return Ok(default);
    }
    let addr: Ipv4Addr = text
        .parse()
        .map_err(|_not_an_address| ConfigError::Address {
            name,
            text: short(text),
        })?;
    if addr.is_unspecified() {
        Ok(default)
    } else if network.contains(&addr) {
        Ok(addr)
    } else {
        Err(ConfigError::Outside {
            name,
            addr,
            network,
        })
    }
}

fn backend(top: &Object) -> Result<&Object, ConfigError> {
    let backend = top.object("Backend")?.ok_or(ConfigError::NoBackend)?;
    let kind = backend.text("Type")?;
    if kind.eq_ignore_ascii_case("vxlan") {
        Ok(backend)
    } else {
        Err(ConfigError::Backend(short(kind)))
    }
}

fn underlay_mtu(backend: &Object) -> Result<Option<Mtu>, ConfigError> {
    if backend.number("MTU", 0)? == 0 {
        return Ok(None);
    }
    // What is left for containers must still carry IPv4.
    let least = u64::from(576 + ENCAPSULATION);
    let mtu = in_range(backend, "MTU", 0, least, u64::from(u16::MAX))?;
    let mtu = u32::try_from(mtu).expect("the range was checked");
    Ok(Some(Mtu::try_from(mtu)?))
}

fn in_range(
    object: &Object,
    name: &'static str,
    default: u64,
    least: u64,
    most: u64,
) -> Result<u64, ConfigError> {
    let got = object.number(name, default)?;
    if (least..=most).contains(&got) {
        Ok(got)
    } else {
        Err(ConfigError::Range {
            name,
            got,
            least,
            most,
        })
    }
}

#[cfg(test)]
mod tests;
