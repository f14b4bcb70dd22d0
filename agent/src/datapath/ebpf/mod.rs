//! The real data path: aya programs, pinned maps and links.

use std::{error::Error, io};

use aya::{
    Ebpf,
    programs::{ProgramError, tc::TcError},
};
use weft_common::flow::{FlowEntry, FlowKey};

use super::{Counters, Datapath, DatapathError, DatapathOp, DatapathState};
use crate::model::net::Vni;

pub mod age;
mod attach;
mod btf;
mod by_id;
pub mod cost;
mod filters;
pub mod leftovers;
mod load;
#[cfg(feature = "bpf-log")]
mod log;
pub mod maps;
pub mod pins;
mod refusals;
mod strays;
mod tcx;
pub mod trial;

pub use attach::{AttachBy, Way};

use attach::Attacher;
use maps::Maps;
use pins::PinDir;

/// The programs of one network, loaded, with their maps.
pub struct EbpfDatapath {
    pins: PinDir,
    ebpf: Ebpf,
    maps: Maps,
    vni: Vni,
    attacher: Attacher,
    /// Why programs are attached the way they are.
    pub way_because: String,
    /// Whether the programs can read conntrack off a packet.
    pub reads_conntrack: bool,
}

impl EbpfDatapath {
    /// Loads the programs and adopts the pinned maps. Nothing is attached yet; what an earlier run
    /// attached goes on as it was. `flows` is the least capacity of the flow record.
    pub fn open(vni: Vni, flows: u32) -> Result<Self, DatapathError> {
        Self::open_by(vni, flows, AttachBy::Auto)
    }

    /// The same, with a say in how programs are attached.
    pub fn open_by(vni: Vni, flows: u32, by: AttachBy) -> Result<Self, DatapathError> {
        // The kernel's answer comes before anything is pinned.
        let (attacher, way_because) = Attacher::new(by, vni)?;
        let pins = PinDir::new(vni);
        strays::recover(&pins, vni)?;
        let offsets = btf::conntrack_offsets();
        let ebpf = load::load(&pins, flows, offsets)?;
        let maps = Maps::open(&pins)?;
        Ok(Self {
            pins,
            ebpf,
            maps,
            vni,
            attacher,
            way_because,
            reads_conntrack: offsets.known != 0,
        })
    }

    /// How programs are attached.
    #[must_use]
    pub const fn way(&self) -> Way {
        self.attacher.way()
    }
}

impl EbpfDatapath {
    fn with_programs(&self, mut state: DatapathState) -> DatapathState {
        let living = self.attacher.living(&self.ebpf, &self.pins);
        state.attachments = living.into_iter().collect();
        state.dead = self.attacher.dead().into_iter().collect();
        state.foreign = self.attacher.foreign();
        state
    }
}

impl Datapath for EbpfDatapath {
    fn observe(&self) -> Result<DatapathState, DatapathError> {
        Ok(self.with_programs(self.maps.read()?))
    }

    fn observe_near(&self, before: DatapathState) -> Result<DatapathState, DatapathError> {
        let mut state = DatapathState {
            peers: before.peers,
            vteps: before.vteps,
            ..DatapathState::default()
        };
        self.maps.read_near(&mut state)?;
        Ok(self.with_programs(state))
    }

    fn apply(&mut self, op: &DatapathOp) -> Result<(), DatapathError> {
        match op {
            DatapathOp::PutSettings(settings) => self.maps.put_settings(*settings),
            DatapathOp::PutPeer(net, peer) => self.maps.put_peer(*net, *peer),
            DatapathOp::DeletePeer(net) => self.maps.delete_peer(*net),
            DatapathOp::PutVtep(addr, entry) => self.maps.put_vtep(*addr, *entry),
            DatapathOp::DeleteVtep(addr) => self.maps.delete_vtep(*addr),
            DatapathOp::PutEndpoint(addr, endpoint) => self.maps.put_endpoint(*addr, *endpoint),
            DatapathOp::DeleteEndpoint(addr) => self.maps.delete_endpoint(*addr),
            DatapathOp::PutLocal(addr, ifindex) => self.maps.put_local(*addr, *ifindex),
            DatapathOp::DeleteLocal(addr) => self.maps.delete_local(*addr),
            DatapathOp::PutPort(link, port) => self.maps.put_port(*link, *port),
            DatapathOp::DeletePort(link) => self.maps.delete_port(*link),
            DatapathOp::Attach(at) => self.attacher.attach(&mut self.ebpf, &self.pins, at),
            DatapathOp::Detach(at) => self.attacher.detach(&self.pins, at),
        }
    }

    fn sweep(&mut self) -> Result<usize, DatapathError> {
        self.attacher.sweep(&self.ebpf, &self.pins, self.vni)
    }

    fn keep_pins(&mut self) -> Result<usize, DatapathError> {
        self.pins.keep(&self.ebpf)
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        self.maps.counters()
    }

    fn flows(&self) -> Result<std::collections::BTreeMap<FlowKey, FlowEntry>, DatapathError> {
        self.maps.flows()
    }

    fn record_flow(&mut self, key: &FlowKey, entry: FlowEntry) -> Result<(), DatapathError> {
        self.maps.record_flow(key, entry)
    }

    fn forget_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        self.maps.forget_flow(key)
    }

    fn tend_pairs(&mut self) -> Result<(), DatapathError> {
        self.maps.tend_pairs()
    }

    fn flows_full(&mut self, clear: bool) -> Result<bool, DatapathError> {
        self.maps.flows_full(clear)
    }
}

/// Turns any error of aya into ours: the whole chain as text, and the kernel's number from the
/// depth of it.
fn call<E: Error + 'static>(doing: impl Into<String>) -> impl FnOnce(E) -> DatapathError {
    let doing = doing.into();
    move |error| {
        let mut why = error.to_string();
        let mut errno = errno_of(&error);
        let mut source = error.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            if !why.contains(&text) {
                why.push_str(": ");
                why.push_str(&text);
            }
            errno = errno.or_else(|| errno_of(cause));
            source = cause.source();
        }
        DatapathError {
            call: doing,
            why,
            errno,
        }
    }
}

fn io_call(doing: impl Into<String>) -> impl FnOnce(io::Error) -> DatapathError {
    call(doing)
}

fn errno_of(error: &(dyn Error + 'static)) -> Option<i32> {
    if let Some(error) = error.downcast_ref::<io::Error>() {
        return error.raw_os_error();
    }
    // aya's transparent variants hide what they wrap from the chain of sources.
    match error.downcast_ref::<ProgramError>()? {
        ProgramError::IOError(error) | ProgramError::TcError(TcError::IoError(error)) => {
            error.raw_os_error()
        }
        ProgramError::TcError(TcError::NetlinkError(error)) => error.raw_os_error(),
        _ => None,
    }
}
