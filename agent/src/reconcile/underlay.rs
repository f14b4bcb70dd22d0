//! The interface that carries the underlay, followed while the agent runs.

use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;
use tracing::info;
use weft_common::wire::OVERHEAD;

use crate::{
    model::{net::IfIndex, network::NetworkConfig},
    netlink::{Link, Netlink, NetlinkError, ObservedHost},
    uplink::{self, Uplink, UplinkRequest},
};

/// The interface that carries the underlay, its address, and the address that peers know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Underlay {
    /// The interface.
    pub link: IfIndex,
    /// Our VTEP address: the interface's own, since nothing can be sent from another.
    pub address: Ipv4Addr,
    /// The address that peers send to: another where a NAT is in front of this host.
    pub public_ip: Ipv4Addr,
    /// MTU of the interface, or what the network config says instead.
    pub mtu: u32,
    /// Whether the interface has Ethernet headers: without them our hook cannot sit there.
    pub ethernet: bool,
}

impl Underlay {
    /// The underlay out of uplink and network config.
    #[must_use]
    pub fn new(uplink: &Uplink, network: &NetworkConfig) -> Self {
        Self {
            link: uplink.link,
            address: uplink.address,
            public_ip: uplink.public_ip,
            mtu: network.underlay_mtu.map_or(uplink.mtu, |mtu| mtu.get()),
            ethernet: uplink.ethernet,
        }
    }

    /// MTU of the overlay.
    #[must_use]
    pub fn overlay_mtu(&self) -> u32 {
        self.mtu
            .saturating_sub(u32::try_from(OVERHEAD).unwrap_or(u32::MAX))
    }
}

/// The uplink as it was asked for, and as it was found last.
#[derive(Clone, Debug)]
pub struct UplinkWatch {
    /// What the operator asked for, without the answer to `can_reach`.
    pub request: UplinkRequest,
    /// `--iface-can-reach`.
    pub can_reach: Option<IpAddr>,
    /// What it led to.
    pub uplink: Uplink,
}

impl UplinkWatch {
    /// Looks again: an interface that was made anew, or whose MTU or address changed, is followed.
    /// `Err` says what cannot be; the last uplink then stays.
    pub async fn look(
        &mut self,
        host: &ObservedHost,
        netlink: &impl Netlink,
    ) -> Result<(), String> {
        let request = with_route(&self.request, self.can_reach, netlink)
            .await
            .map_err(|error| error.to_string())?;
        let found = match &request {
            Some(request) => uplink::choose(host, request).map_err(|error| error.to_string()),
            None => Err("no route leads to the address of --iface-can-reach".to_owned()),
        };
        match found {
            Ok(found) if found.public_ip == self.uplink.public_ip => {
                self.follow(found);
                Ok(())
            }
            // What other interfaces do, a VPN with a default route for one, is no matter while
            // ours has its address.
            other => match (self.unmoved(host).cloned(), other) {
                (Some(link), _) => {
                    self.follow(Uplink {
                        mtu: link.mtu,
                        ..self.uplink.clone()
                    });
                    Ok(())
                }
                (None, other) => self.move_on(host, other),
            },
        }
    }

    /// Our address is gone. Another one of the same interface takes its place, and the other nodes
    /// are told; whether another interface is meant to is for the operator to say: one that is down
    /// for a moment comes back.
    fn move_on(
        &mut self,
        host: &ObservedHost,
        found: Result<Uplink, String>,
    ) -> Result<(), String> {
        let Uplink { name, address, .. } = &self.uplink;
        let same = match found {
            Ok(found) if found.name == *name => Ok(found),
            // The default route goes with the address, and comes back after it.
            other => match (self.readdressed(host), other) {
                (Some(found), _) => Ok(found),
                (None, Ok(found)) => Err(format!(
                    "{name} has lost {address}, and the way leads by {} ({}) now: restart weft to \
                     move there",
                    found.name, found.address
                )),
                (None, Err(why)) => Err(format!("{name} is gone, or has lost {address}: {why}")),
            },
        };
        self.follow(same?);
        Ok(())
    }

    /// Our interface with another address, where none but a default route chose it.
    fn readdressed(&self, host: &ObservedHost) -> Option<Uplink> {
        let by_route = UplinkRequest {
            ifaces: vec![self.uplink.name.clone()],
            ..UplinkRequest::default()
        };
        let chosen = !self.request.is_default() || self.can_reach.is_some();
        uplink::choose(host, &by_route).ok().filter(|_| !chosen)
    }

    fn follow(&mut self, found: Uplink) {
        if found != self.uplink {
            info!(
                uplink = %found.name,
                link = %found.link,
                mtu = found.mtu,
                address = %found.address,
                "uplink changed"
            );
            self.uplink = found;
        }
    }

    /// Our link, if it is still there with our address.
    fn unmoved<'host>(&self, host: &'host ObservedHost) -> Option<&'host Link> {
        let Uplink { link, address, .. } = self.uplink;
        let owns = |net: &IpNet| net.addr() == IpAddr::V4(address);
        host.addresses
            .iter()
            .any(|(owner, net)| *owner == link && owns(net))
            .then(|| host.links.get(&link))
            .flatten()
    }
}

/// The request with the kernel's answer to `--iface-can-reach`; `None` when that was the only
/// thing asked for, and nothing leads there.
pub async fn with_route(
    request: &UplinkRequest,
    can_reach: Option<IpAddr>,
    netlink: &impl Netlink,
) -> Result<Option<UplinkRequest>, NetlinkError> {
    let mut request = request.clone();
    if let Some(target) = can_reach {
        let found = netlink.route_to(target).await?;
        request.can_reach = found.and_then(|(hop, source)| Some((hop.link, source?)));
        let others = !request.ifaces.is_empty() || !request.iface_regexes.is_empty();
        if request.can_reach.is_none() && !others {
            return Ok(None);
        }
    }
    Ok(Some(request))
}

#[cfg(test)]
mod tests;
