//! What the agent reads of the host: links, addresses, routes, neighbours, forwarding entries.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use ipnet::{IpNet, Ipv4Net};

use crate::model::net::{IfIndex, Mac, Vni};

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
    /// What queues packets on their way out (`noqueue`, `tbf`, …), where the kernel says so.
    pub qdisc: Option<String>,
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
    /// The largest packet that is sent by it, where it says so; else the device's.
    pub mtu: Option<u32>,
    /// Who made it (`RTPROT_*`): 2 kernel, 3 boot (flannel and we), 4 static.
    pub protocol: u8,
}

/// A rule that chooses a routing table by more than the destination. The three that every host
/// has are left out, and so are those that apply to all packets: a route lookup follows them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct RoutingRule {
    /// Place in the order.
    pub priority: u32,
    /// Applies to packets from here; `None` from anywhere.
    pub source: Option<Ipv4Net>,
    /// Applies to packets to here; `None` to anywhere.
    pub destination: Option<Ipv4Net>,
    /// Applies to this IP protocol only.
    pub protocol: Option<u8>,
    /// Applies to packets that came in by this interface; `lo` are the host's own.
    pub input: Option<String>,
    /// Applies to all packets but those.
    pub inverted: bool,
}

/// Which of a device's packets a filter sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// What comes in.
    Ingress,
    /// What goes out.
    Egress,
}

/// How good an address is as a source. The order of the fields and values is the order of
/// preference: the least is the best.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct AddressStanding {
    /// Past its preferred lifetime.
    pub deprecated: bool,
    /// Has a lifetime, as DHCP gives it.
    pub dynamic: bool,
    /// IPv6: a privacy address; IPv4: not the first of its prefix.
    pub temporary: bool,
    /// Position in the kernel's list of the link's addresses.
    pub position: u32,
}

/// Everything that the agent looks at, read in one go. Bridge entries that are the bridge's own
/// (local, permanent) are left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedHost {
    /// Links by number.
    pub links: BTreeMap<IfIndex, Link>,
    /// Addresses with their prefix, by link.
    pub addresses: BTreeSet<(IfIndex, IpNet)>,
    /// What is known of how good an address is as a source; none means the default.
    pub standings: BTreeMap<(IfIndex, IpAddr), AddressStanding>,
    /// Unicast routes of the main table.
    pub routes: BTreeSet<Route>,
    /// Next hops with numbers of ours that nothing names: the link, and the gateway that the number is.
    pub idle_hops: BTreeSet<(IfIndex, Ipv4Addr)>,
    /// Rules that choose another routing table for some IPv4 packets.
    pub rules: BTreeSet<RoutingRule>,
    /// What of the main table leads nowhere: blackholes and the like.
    pub nowhere: BTreeSet<IpNet>,
    /// Filters of others at the classic hooks of devices, by kind.
    pub filters: BTreeMap<(IfIndex, Side), String>,
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
