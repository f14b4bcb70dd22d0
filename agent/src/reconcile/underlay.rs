//! The interface that carries the underlay, followed while the agent runs.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use ipnet::IpNet;
use tokio::time::Instant;
use tracing::info;
use weft_common::wire::OVERHEAD;

use crate::{
    model::{net::IfIndex, network::NetworkConfig},
    netlink::{Netlink, NetlinkError, ObservedHost},
    uplink::{self, Uplink, UplinkRequest},
};

/// How long another address must have been there instead of ours: between the old one's end and
/// the new one's coming what else the interface has, a VIP for one, is not where we are.
const PATIENCE: Duration = Duration::from_millis(500);
/// How long the address that we left is ours again when it comes back: later it may be anything.
const RETURNS: Duration = Duration::from_secs(600);

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
        self.mtu.saturating_sub(tunnel())
    }
}

/// What a tunnel adds to a container's packet.
#[must_use]
pub fn tunnel() -> u32 {
    u32::try_from(OVERHEAD).unwrap_or(u32::MAX)
}

/// The uplink as it was asked for, and as it was found last.
#[derive(Clone, Debug)]
pub struct UplinkWatch {
    /// What it led to.
    pub uplink: Uplink,
    /// What the operator asked for, without the answer to `can_reach`.
    request: UplinkRequest,
    /// `--iface-can-reach`.
    can_reach: Option<IpAddr>,
    /// What would take the place of our address, and since when it has been there without ours.
    next: Option<(IfIndex, Ipv4Addr, Instant)>,
    /// The address that we left for another, and when.
    left: Option<(Ipv4Addr, Instant)>,
}

impl UplinkWatch {
    /// Follows `uplink`, which the request led to.
    #[must_use]
    pub fn new(request: UplinkRequest, can_reach: Option<IpAddr>, uplink: Uplink) -> Self {
        Self {
            uplink,
            request,
            can_reach,
            next: None,
            left: None,
        }
    }

    /// When to look again even if nothing is heard: an address will have been there for long enough.
    /// Never at once: while the host cannot be read that would be again and again.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        let now = Instant::now();
        let (.., since) = self.next?;
        let at = since + PATIENCE;
        Some(if at > now { at } else { now + PATIENCE })
    }

    /// Looks again: an interface that was made anew, or whose MTU or address changed, is followed.
    /// `Err` says what cannot be, or not yet; the last uplink then stays.
    pub async fn look(
        &mut self,
        host: &ObservedHost,
        netlink: &impl Netlink,
    ) -> Result<(), String> {
        let next = self.next.take();
        let request = with_route(&self.request, self.can_reach, netlink)
            .await
            .map_err(|error| error.to_string())?;
        let found = match &request {
            Some(request) => uplink::choose(host, request).map_err(|error| error.to_string()),
            None => Err("no route leads to the address of --iface-can-reach".to_owned()),
        };
        self.left = self.left.filter(|(_, at)| at.elapsed() < RETURNS);
        if let Some(back) = self.left.and_then(|(left, _)| self.here(host, left)) {
            self.left = None;
            self.follow(back);
            return Ok(());
        }
        let address = self.uplink.address;
        match found {
            Ok(found) if found.address == address => {
                self.follow(found);
                Ok(())
            }
            // What other interfaces do, a VPN with a default route for one, is no matter while
            // ours has its address.
            other => match (self.here(host, address), other) {
                (Some(ours), _) => {
                    self.follow(ours);
                    Ok(())
                }
                (None, other) => self.move_on(host, other, next),
            },
        }
    }

    /// Our address is gone. Another one of the same interface takes its place when it stays, and the
    /// other nodes are told; whether another interface is meant to is for the operator to say: one
    /// that is down for a moment comes back.
    fn move_on(
        &mut self,
        host: &ObservedHost,
        found: Result<Uplink, String>,
        next: Option<(IfIndex, Ipv4Addr, Instant)>,
    ) -> Result<(), String> {
        let Uplink { name, address, .. } = &self.uplink;
        let found = match found {
            Ok(found) if found.name == *name => found,
            // The default route goes with the address, and comes back after it.
            other => match (self.readdressed(host), other) {
                (Some(found), _) => found,
                (None, Ok(found)) => {
                    return Err(format!(
                        "{name} has lost {address}, and the way leads by {} ({}) now: restart weft \
                         to move there",
                        found.name, found.address
                    ));
                }
                (None, Err(why)) => {
                    return Err(format!("{name} is gone, or has lost {address}: {why}"));
                }
            },
        };
        // What a host gives itself where nobody gives it one is reached from nowhere else.
        if found.address.is_link_local() {
            return Err(format!(
                "{name} has lost {address}, and {} is link-local",
                found.address
            ));
        }
        let now = Instant::now();
        let since = next
            .filter(|(link, next, _)| (*link, *next) == (found.link, found.address))
            .map_or(now, |(.., since)| since);
        if now < since + PATIENCE {
            self.next = Some((found.link, found.address, since));
            return Err(format!(
                "{name} has lost {address}: {} takes its place if it stays",
                found.address
            ));
        }
        // Of more than one it is the first that comes back: where it all began.
        self.left.get_or_insert((*address, now));
        self.follow(found);
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

    /// Our interface, made anew or not, if it has this address.
    fn here(&self, host: &ObservedHost, address: Ipv4Addr) -> Option<Uplink> {
        let ours = |index: &IfIndex| {
            let link = host.links.get(index)?;
            (*index == self.uplink.link || link.name == self.uplink.name).then_some(link)
        };
        let owns = |net: &IpNet| net.addr() == IpAddr::V4(address);
        let mut owners = host.addresses.iter().filter(|(_, net)| owns(net));
        let link = owners.find_map(|(owner, _)| ours(owner))?;
        Some(Uplink {
            link: link.index,
            name: link.name.clone(),
            mtu: link.mtu,
            address,
            public_ip: self.request.public_ip.unwrap_or(address),
            ethernet: link.ethernet,
            mac: link.mac,
        })
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
