//! Which interface carries the underlay, by flannel's rules. Pure: it looks at an observed host.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;
use regex::Regex;

use crate::{
    model::net::{IfIndex, Mac},
    netlink::{AddressStanding, Link, ObservedHost},
};

/// What the operator asked for.
#[derive(Clone, Debug, Default)]
pub struct UplinkRequest {
    /// `--iface`: names or addresses, tried in order.
    pub ifaces: Vec<String>,
    /// `--iface-regex`: tried after every name, against addresses first, then against names.
    pub iface_regexes: Vec<Regex>,
    /// `--iface-can-reach`, as the kernel's route lookup answered it: tried last.
    pub can_reach: Option<(IfIndex, IpAddr)>,
    /// `--public-ip`.
    pub public_ip: Option<Ipv4Addr>,
}

impl UplinkRequest {
    /// Nothing was asked for: the default route decides.
    #[must_use]
    pub fn is_default(&self) -> bool {
        let Self {
            ifaces,
            iface_regexes,
            can_reach,
            public_ip,
        } = self;
        ifaces.is_empty() && iface_regexes.is_empty() && can_reach.is_none() && public_ip.is_none()
    }
}

/// The interface that carries the underlay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its number.
    pub link: IfIndex,
    /// Its name.
    pub name: String,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its own address.
    pub address: Ipv4Addr,
    /// The address that peers send to.
    pub public_ip: Ipv4Addr,
    /// Carries Ethernet frames: only such an uplink gets our programs.
    pub ethernet: bool,
    /// Its MAC, of an Ethernet one.
    pub mac: Option<Mac>,
}

/// Why no interface was chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UplinkError {
    /// Interface flags were given and none of them fits.
    #[error("{asked} matches no interface with an IPv4 address; there are: {existing}")]
    NoMatch {
        /// The flags.
        asked: String,
        /// Interfaces with addresses.
        existing: Existing,
    },
    /// Only `--public-ip` was given, and no interface has it.
    #[error(
        "no interface owns --public-ip {public_ip}; pass --iface as well if it is the address of \
         a NAT in front of this host; there are: {existing}"
    )]
    NotOurs {
        /// The address.
        public_ip: Ipv4Addr,
        /// Interfaces with addresses.
        existing: Existing,
    },
    /// Nothing was given, and no default route decides.
    #[error("no IPv4 default route says which interface to use; pass --iface; there are: {0}")]
    NoDefaultRoute(Existing),
    /// The default route leads through an interface without a usable address.
    #[error(
        "the default route leads through {name}, which has no IPv4 address; pass --iface; there \
         are: {existing}"
    )]
    NoAddress {
        /// The interface.
        name: String,
        /// Interfaces with addresses.
        existing: Existing,
    },
}

/// The interfaces of a host, for a message: `eth0 (10.0.0.1), docker0 (no address)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Existing(Vec<(String, Vec<Ipv4Addr>)>);

impl Existing {
    fn of(host: &ObservedHost) -> Self {
        Self(
            host.links
                .values()
                .map(|link| (link.name.clone(), addresses(host, link.index)))
                .collect(),
        )
    }
}

impl fmt::Display for Existing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("none");
        }
        let parts: Vec<String> = self
            .0
            .iter()
            .map(|(name, addresses)| {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                match addresses.is_empty() {
                    true => format!("{name} (no address)"),
                    false => format!("{name} ({})", addresses.join(", ")),
                }
            })
            .collect();
        f.write_str(&parts.join(", "))
    }
}

/// Chooses the interface.
pub fn choose(host: &ObservedHost, request: &UplinkRequest) -> Result<Uplink, UplinkError> {
    let UplinkRequest {
        ifaces,
        iface_regexes,
        can_reach,
        public_ip,
    } = request;
    let (link, address) = if ifaces.is_empty() && iface_regexes.is_empty() && can_reach.is_none() {
        match public_ip {
            Some(public_ip) => owner(host, *public_ip).ok_or_else(|| UplinkError::NotOurs {
                public_ip: *public_ip,
                existing: Existing::of(host),
            })?,
            None => default_route(host)?,
        }
    } else {
        ifaces
            .iter()
            .find_map(|iface| named(host, iface))
            .or_else(|| iface_regexes.iter().find_map(|regex| matching(host, regex)))
            .or_else(|| can_reach.and_then(|way| reaching(host, way)))
            .ok_or_else(|| UplinkError::NoMatch {
                asked: asked(request),
                existing: Existing::of(host),
            })?
    };
    Ok(Uplink {
        link: link.index,
        name: link.name.clone(),
        mtu: link.mtu,
        address,
        public_ip: public_ip.unwrap_or(address),
        ethernet: link.ethernet,
        mac: link.mac,
    })
}

/// `--iface`: an address means the interface that owns it and that very address.
fn named<'host>(host: &'host ObservedHost, iface: &str) -> Option<(&'host Link, Ipv4Addr)> {
    if let Ok(addr) = iface.parse() {
        return owner(host, addr);
    }
    with_address(host, host.link_named(iface)?)
}

fn matching<'host>(host: &'host ObservedHost, regex: &Regex) -> Option<(&'host Link, Ipv4Addr)> {
    let by_address = host.links.values().find_map(|link| {
        let address = addresses(host, link.index)
            .into_iter()
            .find(|address| regex.is_match(&address.to_string()))?;
        Some((link, address))
    });
    by_address.or_else(|| {
        host.links
            .values()
            .filter(|link| regex.is_match(&link.name))
            .find_map(|link| with_address(host, link))
    })
}

fn reaching(host: &ObservedHost, (link, source): (IfIndex, IpAddr)) -> Option<(&Link, Ipv4Addr)> {
    let link = host.links.get(&link)?;
    match source {
        IpAddr::V4(source) => Some((link, source)),
        IpAddr::V6(_) => with_address(host, link),
    }
}

fn default_route(host: &ObservedHost) -> Result<(&Link, Ipv4Addr), UplinkError> {
    let is_default = |net: IpNet| matches!(net, IpNet::V4(net) if net.prefix_len() == 0);
    // The kernel lists and uses the lowest metric first.
    let link = host
        .routes
        .iter()
        .filter(|route| is_default(route.destination))
        .min_by_key(|route| route.metric)
        .and_then(|route| host.links.get(&route.link))
        .ok_or_else(|| UplinkError::NoDefaultRoute(Existing::of(host)))?;
    with_address(host, link).ok_or_else(|| UplinkError::NoAddress {
        name: link.name.clone(),
        existing: Existing::of(host),
    })
}

fn owner(host: &ObservedHost, addr: Ipv4Addr) -> Option<(&Link, Ipv4Addr)> {
    let (index, _) = host
        .addresses
        .iter()
        .find(|(_, net)| net.addr() == IpAddr::V4(addr))?;
    Some((host.links.get(index)?, addr))
}

fn with_address<'host>(host: &ObservedHost, link: &'host Link) -> Option<(&'host Link, Ipv4Addr)> {
    let best = addresses(host, link.index).into_iter().next()?;
    Some((link, best))
}

/// Usable addresses of a link, the best first: global before link-local, lasting before passing.
fn addresses(host: &ObservedHost, link: IfIndex) -> Vec<Ipv4Addr> {
    let mut ranked: Vec<(bool, AddressStanding, Ipv4Addr)> = host
        .addresses
        .iter()
        .filter(|(owner, _)| *owner == link)
        .filter_map(|(_, net)| match net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        })
        .filter(|addr| !addr.is_loopback() && !addr.is_unspecified() && !addr.is_multicast())
        .map(|addr| {
            let standing = host.standings.get(&(link, IpAddr::V4(addr)));
            (
                addr.is_link_local(),
                standing.copied().unwrap_or_default(),
                addr,
            )
        })
        .filter(|(_, standing, _)| !standing.deprecated)
        .collect();
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, _, addr)| addr).collect()
}

fn asked(request: &UplinkRequest) -> String {
    let names = request.ifaces.iter().map(|name| format!("--iface {name}"));
    let regexes = request
        .iface_regexes
        .iter()
        .map(|regex| format!("--iface-regex {regex}"));
    let reach = request
        .can_reach
        .map(|(link, _)| format!("--iface-can-reach (by link {link})"));
    names
        .chain(regexes)
        .chain(reach)
        .collect::<Vec<_>>()
        .join(", ")
}

#[cfg(test)]
mod tests;
