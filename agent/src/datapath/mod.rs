//! The third seam: the kernel programs and their maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use ipnet::Ipv4Net;
use weft_common::{
    endpoint::{EndpointEntry, PortEntry},
    flow::{FlowEntry, FlowKey},
    peer::{PeerEntry, VtepEntry},
    settings::DatapathSettings,
    stats::{Count, Hook, Reason},
};

use crate::model::net::IfIndex;

pub mod ebpf;
#[cfg(any(test, feature = "fakes"))]
pub mod fake;

/// A program at a device.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attachment {
    /// Which program, and so which direction.
    pub hook: Hook,
    /// The device.
    pub link: IfIndex,
    /// The device's name: what the kernel call takes.
    pub name: String,
}

/// What the programs should know and where they should hang.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DatapathState {
    /// `None` before the first fill.
    pub settings: Option<DatapathSettings>,
    /// Peers by subnet.
    pub peers: BTreeMap<Ipv4Net, PeerEntry>,
    /// VTEP addresses: how many leases name each, and whether it is the kernel's alone.
    pub vteps: BTreeMap<Ipv4Addr, VtepEntry>,
    /// Containers by address.
    pub endpoints: BTreeMap<Ipv4Addr, EndpointEntry>,
    /// The host's own addresses, with their device.
    pub locals: BTreeMap<Ipv4Addr, u32>,
    /// Ports of our bridges, by number.
    pub ports: BTreeMap<u32, PortEntry>,
    /// Attached programs. Names are compared too: a renamed device is attached anew.
    pub attachments: BTreeSet<Attachment>,
    /// Programs that we attached to devices that are gone: their pins and descriptors are still there.
    /// Only read.
    pub dead: BTreeSet<Attachment>,
    /// A program of others beside ours, by device. Only read.
    pub foreign: BTreeMap<IfIndex, String>,
}

impl DatapathState {
    /// All but what only we write.
    #[must_use]
    pub fn without_peers(&self) -> Self {
        Self {
            settings: self.settings,
            peers: BTreeMap::new(),
            vteps: BTreeMap::new(),
            endpoints: self.endpoints.clone(),
            locals: self.locals.clone(),
            ports: self.ports.clone(),
            attachments: self.attachments.clone(),
            dead: self.dead.clone(),
            foreign: self.foreign.clone(),
        }
    }
}

/// One change of the programs' world. Removing what is gone is a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatapathOp {
    /// Writes the settings.
    PutSettings(DatapathSettings),
    /// Adds or replaces a peer.
    PutPeer(Ipv4Net, PeerEntry),
    /// Removes a peer.
    DeletePeer(Ipv4Net),
    /// Adds or replaces a VTEP address.
    PutVtep(Ipv4Addr, VtepEntry),
    /// Removes a VTEP address.
    DeleteVtep(Ipv4Addr),
    /// Adds or replaces a container.
    PutEndpoint(Ipv4Addr, EndpointEntry),
    /// Removes a container.
    DeleteEndpoint(Ipv4Addr),
    /// Adds or replaces one of the host's own addresses.
    PutLocal(Ipv4Addr, u32),
    /// Removes one of the host's own addresses.
    DeleteLocal(Ipv4Addr),
    /// Adds or replaces a port.
    PutPort(u32, PortEntry),
    /// Removes a port.
    DeletePort(u32),
    /// Hangs a program at a device; atomically replaces an older copy of ours that hangs there.
    Attach(Attachment),
    /// Takes a program off a device.
    Detach(Attachment),
}

impl fmt::Display for DatapathOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutSettings(_) => write!(f, "write settings"),
            Self::PutPeer(subnet, _) => write!(f, "put peer {subnet}"),
            Self::DeletePeer(subnet) => write!(f, "remove peer {subnet}"),
            Self::PutVtep(addr, _) => write!(f, "put VTEP {addr}"),
            Self::DeleteVtep(addr) => write!(f, "remove VTEP {addr}"),
            Self::PutEndpoint(addr, _) => write!(f, "put endpoint {addr}"),
            Self::DeleteEndpoint(addr) => write!(f, "remove endpoint {addr}"),
            Self::PutLocal(addr, _) => write!(f, "put own address {addr}"),
            Self::DeleteLocal(addr) => write!(f, "remove own address {addr}"),
            Self::PutPort(link, _) => write!(f, "put port {link}"),
            Self::DeletePort(link) => write!(f, "remove port {link}"),
            Self::Attach(at) => write!(f, "attach {} at {}", at.hook.name(), at.name),
            Self::Detach(at) => write!(f, "detach {} from {}", at.hook.name(), at.name),
        }
    }
}

/// A call to the kernel's BPF side that failed, with what it was about.
#[derive(Debug, thiserror::Error)]
#[error("{call}: {why}")]
pub struct DatapathError {
    /// What was asked, and of what.
    pub call: String,
    /// The answer.
    pub why: String,
    /// The kernel's error number, where there is one.
    pub errno: Option<i32>,
}

/// Counters by hook and reason; those at zero are left out.
pub type Counters = BTreeMap<(Hook, Reason), Count>;

/// Programs and maps. Blocking, but short: about two microseconds a map call.
pub trait Datapath: Send + 'static {
    /// Reads back what the maps hold and where programs of ours hang.
    fn observe(&self) -> Result<DatapathState, DatapathError>;

    /// The same, where nobody but us has written peers and VTEPs since `before`: those are taken
    /// from it.
    fn observe_near(&self, before: DatapathState) -> Result<DatapathState, DatapathError> {
        drop(before);
        self.observe()
    }

    /// Makes one change.
    fn apply(&mut self, op: &DatapathOp) -> Result<(), DatapathError>;

    /// Takes off what an earlier run attached and this one did not take over. To be called once
    /// everything wanted is attached. Answers with how many there were.
    fn sweep(&mut self) -> Result<usize, DatapathError>;

    /// Pins maps again whose pins somebody removed: without them the dumps are blind, and a restart
    /// starts from nothing. Answers with how many there were.
    fn keep_pins(&mut self) -> Result<usize, DatapathError>;

    /// Sums of all counters over the CPUs.
    fn counters(&self) -> Result<Counters, DatapathError>;

    /// The recorded flows.
    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowEntry>, DatapathError>;

    /// Records a flow. A record that says NATed is never weakened.
    fn record_flow(&mut self, key: &FlowKey, entry: FlowEntry) -> Result<(), DatapathError>;

    /// Ends a record.
    fn forget_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError>;

    /// Ends the marks of pairs of addresses that have no translated flow any more.
    fn tend_pairs(&mut self) -> Result<(), DatapathError>;

    /// Whether the record overflowed; when `clear`, ends that state.
    fn flows_full(&mut self, clear: bool) -> Result<bool, DatapathError>;
}
