//! Another node as the data path needs it.

use std::net::IpAddr;

use super::{
    lease::{Backend, Lease, Revision},
    net::{IfIndex, Mac, Subnet},
};

/// A node whose containers we reach through the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// The node's slice.
    pub subnet: Subnet,
    /// Its VTEP address.
    pub vtep_addr: IpAddr,
    /// Its VTEP MAC.
    pub vtep_mac: Mac,
    /// When its lease was written.
    pub written: Revision,
}

impl Peer {
    /// The peer that a lease describes; `None` for a backend that is not ours.
    #[must_use]
    pub fn from_lease(lease: &Lease) -> Option<Self> {
        match &lease.attrs.backend {
            Backend::Vxlan { vni: _, vtep_mac } => Some(Self {
                subnet: lease.subnet,
                vtep_addr: lease.attrs.public_ip,
                vtep_mac: *vtep_mac,
                written: lease.modified,
            }),
            Backend::Other(_) => None,
        }
    }
}

/// How the underlay reaches an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Device that the packet leaves by.
    pub link: IfIndex,
    /// Next hop, when it is not the address itself.
    pub gateway: Option<IpAddr>,
    /// MTU of the route or the device, in bytes of IP packet.
    pub mtu: u32,
}
