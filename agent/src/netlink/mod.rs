//! The second seam: links, addresses, routes, neighbours and forwarding entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    future::Future,
    net::IpAddr,
};

use futures::Stream;
use ipnet::IpNet;

use crate::model::{
    net::{IfIndex, Mac, Vni},
    peer::Hop,
};

#[cfg(any(test, feature = "fakes"))]
pub mod fake;
pub mod rtnetlink;

/// What the kernel says a link is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A bridge.
    Bridge {
        /// Forwards by VLAN: what our hooks cannot follow.
        vlan_filtering: bool,
    },
    /// One end of a veth pair.
    Veth {
        /// The other end is in another network namespace.
        peer_elsewhere: bool,
    },
    /// A VXLAN device.
    Vxlan(VxlanAttrs),
    /// Anything else, by the kernel's name; empty for physical devices.
    Other(String),
}

/// What matters of a VXLAN device's attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VxlanAttrs {
    /// Network identifier.
    pub vni: Vni,
    /// UDP port.
    pub port: u16,
    /// Outer source address.
    pub local: Option<IpAddr>,
    /// Lower device.
    pub lower: Option<IfIndex>,
    /// Learns MACs from traffic.
    pub learning: bool,
    /// Carries the group policy extension.
    pub gbp: bool,
}

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Number, unique in the namespace.
    pub index: IfIndex,
    /// Name.
    pub name: String,
    /// What it is.
    pub kind: LinkKind,
    /// Link-layer address, of links that have an Ethernet one.
    pub mac: Option<Mac>,
    /// Carries Ethernet frames (`ARPHRD_ETHER`).
    pub ethernet: bool,
    /// MTU in bytes.
    pub mtu: u32,
    /// Set up by the administrator.
    pub up: bool,
    /// Has carrier (`IFF_LOWER_UP`).
    pub carrier: bool,
    /// The bridge (or other master) that it belongs to.
    pub master: Option<IfIndex>,
}

/// State of a neighbour entry, as far as we act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// Entered by an administrator.
    Permanent,
    /// Usable: reachable, stale, delayed or being probed.
    Valid,
    /// Being asked for, no answer yet.
    Incomplete,
    /// Nobody answers.
    Failed,
    /// Needs no resolution, or none of the above.
    Other,
}

/// A neighbour entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// MAC, once known.
    pub mac: Option<Mac>,
    /// State.
    pub state: NeighbourState,
    /// The kernel keeps it fresh by itself (`NTF_EXT_MANAGED`, Linux 5.16).
    pub managed: bool,
}

/// A forwarding entry of a VXLAN device: which VTEP a MAC is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TunnelEntry {
    /// The VXLAN device.
    pub link: IfIndex,
    /// Inner destination.
    pub mac: Mac,
}

/// A forwarding entry of a bridge: which port a MAC is behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BridgeEntry {
    /// The bridge.
    pub bridge: IfIndex,
    /// The MAC.
    pub mac: Mac,
    /// The port.
    pub port: IfIndex,
}

/// A route of the main table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// Where to; `/0` for the default route.
    pub destination: IpNet,
    /// Next hop.
    pub gateway: Option<IpAddr>,
    /// Device.
    pub link: IfIndex,
    /// The next hop counts as on the link whatever the addresses say.
    pub onlink: bool,
    /// Priority, lowest first; 0 when not given.
    pub metric: u32,
    /// Who made it (`RTPROT_*`): 2 kernel, 3 boot (flannel and we), 4 static.
    pub protocol: u8,
}

/// Everything that the agent looks at, read in one go. Bridge entries that are the bridge's own
/// (local, permanent) are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedHost {
    /// Links by number.
    pub links: BTreeMap<IfIndex, Link>,
    /// Addresses with their prefix, by link.
    pub addresses: BTreeSet<(IfIndex, IpNet)>,
    /// Unicast routes of the main table.
    pub routes: BTreeSet<Route>,
    /// Neighbours by link and address (IP families only).
    pub neighbours: BTreeMap<(IfIndex, IpAddr), Neighbour>,
    /// Forwarding entries of VXLAN devices, with their VTEP.
    pub tunnel_fdb: BTreeMap<TunnelEntry, IpAddr>,
    /// Learned forwarding entries of bridges.
    pub bridge_fdb: BTreeSet<BridgeEntry>,
}

impl ObservedHost {
    /// The link of that name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }
}

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
        }
    }
}

/// A netlink call that failed.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {source}")]
pub struct NetlinkError {
    /// What was asked, and of what.
    pub call: String,
    /// The kernel's answer.
    #[source]
    pub source: std::io::Error,
}

/// That something changed: a reason to look again, never what to do. An overrun of the event
/// socket is a change too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostChange;

/// Links, addresses, routes, neighbours and forwarding entries of one network namespace.
pub trait Netlink: Send + Sync + 'static {
    /// Wake-ups.
    type Changes: Stream<Item = HostChange> + Send + Unpin;

    /// Reads all of it.
    fn observe(&self) -> impl Future<Output = Result<ObservedHost, NetlinkError>> + Send;

    /// Makes one change.
    fn apply(&self, op: &HostOp) -> impl Future<Output = Result<(), NetlinkError>> + Send;

    /// Which way the kernel would send a packet, and the source address that it would choose;
    /// `None` when there is no route.
    fn route_to(
        &self,
        destination: IpAddr,
    ) -> impl Future<Output = Result<Option<(Hop, Option<IpAddr>)>, NetlinkError>> + Send;

    /// Starts to follow changes.
    fn changes(&self) -> impl Future<Output = Result<Self::Changes, NetlinkError>> + Send;
}
