//! What the agent changes on the host, as values that can be planned, printed and compared.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::IpNet;

use super::host::{Route, TunnelEntry, VxlanAttrs};
use crate::model::net::{IfIndex, Mac};

/// A VXLAN device to make, as flannel makes it: no learning unless asked, no group, TTL and TOS
/// inherited from the defaults, UDP checksum by the kernel's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanDevice {
    /// `flannel.<VNI>`.
    pub name: String,
    /// Identifier, port, local address, lower device, learning, group policy.
    pub attrs: VxlanAttrs,
    /// MAC to give it.
    pub mac: Mac,
    /// Overlay MTU in bytes.
    pub mtu: u32,
}

/// One change of the host. Putting is idempotent; removing what is gone is a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostOp {
    /// Makes the device, down.
    CreateVxlan(VxlanDevice),
    /// Removes a link.
    DeleteLink {
        /// Number.
        link: IfIndex,
        /// Name, for the log.
        name: String,
    },
    /// Sets the MTU of a link.
    SetMtu {
        /// The link.
        link: IfIndex,
        /// Bytes.
        mtu: u32,
    },
    /// Sets a link up.
    SetUp(IfIndex),
    /// Adds an address.
    PutAddress(IfIndex, IpNet),
    /// Removes an address.
    DeleteAddress(IfIndex, IpNet),
    /// Adds or replaces a permanent neighbour.
    PutNeighbour {
        /// The VXLAN device.
        link: IfIndex,
        /// Network address of the peer's subnet.
        addr: IpAddr,
        /// The peer's VTEP MAC.
        mac: Mac,
    },
    /// Removes a neighbour.
    DeleteNeighbour(IfIndex, IpAddr),
    /// Has the kernel keep a learned neighbour fresh, or not any more.
    ManageNeighbour {
        /// The bridge.
        link: IfIndex,
        /// The container.
        addr: IpAddr,
        /// Keep it fresh.
        managed: bool,
    },
    /// Adds or replaces a permanent forwarding entry of a VXLAN device.
    PutTunnel(TunnelEntry, IpAddr),
    /// Removes a forwarding entry of a VXLAN device.
    DeleteTunnel(TunnelEntry),
    /// Adds or replaces a route.
    PutRoute(Route),
    /// Removes a route.
    DeleteRoute(Route),
    /// Removes the number of a next hop through a device of ours, that no route names.
    DeleteNextHop(IfIndex, Ipv4Addr),
    /// Adds the route that the kernel makes with an address, unless one leads there already.
    PutConnected(IfIndex, IpNet),
    /// Adds a route that leads nowhere, unless one leads there already.
    PutBlackhole(IpNet),
    /// Removes it.
    DeleteBlackhole(IpNet),
}

impl fmt::Display for HostOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CreateVxlan(device) => write!(f, "make device {}", device.name),
            Self::DeleteLink { link: _, name } => write!(f, "remove device {name}"),
            Self::SetMtu { link, mtu } => write!(f, "set MTU of link {link} to {mtu}"),
            Self::SetUp(link) => write!(f, "set link {link} up"),
            Self::PutAddress(link, net) => write!(f, "add address {net} to link {link}"),
            Self::DeleteAddress(link, net) => write!(f, "remove address {net} from link {link}"),
            Self::PutNeighbour { link, addr, mac } => {
                write!(f, "put neighbour {addr} at {mac} on link {link}")
            }
            Self::DeleteNeighbour(link, addr) => {
                write!(f, "remove neighbour {addr} from link {link}")
            }
            Self::ManageNeighbour {
                link,
                addr,
                managed: true,
            } => {
                write!(f, "keep neighbour {addr} on link {link} fresh")
            }
            Self::ManageNeighbour {
                link,
                addr,
                managed: false,
            } => {
                write!(f, "no longer keep neighbour {addr} on link {link} fresh")
            }
            Self::PutTunnel(entry, vtep) => {
                write!(
                    f,
                    "put {} behind VTEP {vtep} on link {}",
                    entry.mac, entry.link
                )
            }
            Self::DeleteTunnel(entry) => {
                write!(
                    f,
                    "remove {} from the FDB of link {}",
                    entry.mac, entry.link
                )
            }
            Self::PutRoute(route) => write!(f, "put route {}", route.destination),
            Self::DeleteRoute(route) => write!(f, "remove route {}", route.destination),
            Self::DeleteNextHop(link, gateway) => {
                write!(f, "remove the next hop {gateway} on link {link}")
            }
            Self::PutConnected(link, net) => write!(f, "put route of address {net} on link {link}"),
            Self::PutBlackhole(net) => write!(f, "put blackhole {net}"),
            Self::DeleteBlackhole(net) => write!(f, "remove blackhole {net}"),
        }
    }
}
