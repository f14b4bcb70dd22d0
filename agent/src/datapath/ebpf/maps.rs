//! Typed handles on the pinned maps: what the agent writes, and what the dumps read when no agent
//! runs.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
    net::Ipv4Addr,
};

use aya::maps::{Array, HashMap, LpmTrie, Map, MapData, MapError, PerCpuArray, lpm_trie::Key};
use ipnet::Ipv4Net;
use weft_common::{
    abi,
    endpoint::{EndpointEntry, LocalEntry, PortEntry},
    flow::{FLOW_NATED, FlowEntry, FlowKey, FlowState, PairEntry, PairKey},
    peer::{PeerEntry, VtepEntry},
    settings::DatapathSettings,
    stats::{Count, Hook, Reason, index},
};

use super::{call, pins::PinDir};
use crate::datapath::{Counters, DatapathError, DatapathState};

/// Every map.
pub struct Maps {
    peers: LpmTrie<MapData, [u8; 4], PeerEntry>,
    vteps: HashMap<MapData, [u8; 4], VtepEntry>,
    endpoints: HashMap<MapData, [u8; 4], EndpointEntry>,
    locals: HashMap<MapData, [u8; 4], LocalEntry>,
    ports: HashMap<MapData, u32, PortEntry>,
    pairs: HashMap<MapData, PairKey, PairEntry>,
    flows: HashMap<MapData, FlowKey, FlowEntry>,
    flow_state: Array<MapData, FlowState>,
    settings: Array<MapData, DatapathSettings>,
    counters: PerCpuArray<MapData, Count>,
}

impl Maps {
    /// Opens the maps of a network by their pins.
    pub fn open(pins: &PinDir) -> Result<Self, DatapathError> {
        Ok(Self {
            peers: typed(pins, abi::PEERS)?,
            vteps: typed(pins, abi::VTEPS)?,
            endpoints: typed(pins, abi::ENDPOINTS)?,
            locals: typed(pins, abi::LOCALS)?,
            ports: typed(pins, abi::PORTS)?,
            pairs: typed(pins, abi::NATED_PAIRS)?,
            flows: typed(pins, abi::FLOWS)?,
            flow_state: typed(pins, abi::FLOW_STATE)?,
            settings: typed(pins, abi::SETTINGS)?,
            counters: typed(pins, abi::COUNTERS)?,
        })
    }

    /// What the maps hold; attachments are left empty.
    pub fn read(&self) -> Result<DatapathState, DatapathError> {
        let mut state = DatapathState::default();
        self.read_near(&mut state)?;
        for entry in self.peers.iter() {
            let (key, peer) = entry.map_err(call("read PEERS"))?;
            let length = u8::try_from(key.prefix_len()).unwrap_or(32);
            if let Ok(subnet) = Ipv4Net::new(Ipv4Addr::from(key.data()), length) {
                state.peers.insert(subnet, peer);
            }
        }
        state.vteps = read_all(&self.vteps, "read VTEPS", |vtep| vtep)?;
        Ok(state)
    }

    /// Those that the programs go by, where somebody wrote some.
    pub fn settings(&self) -> Result<Option<DatapathSettings>, DatapathError> {
        let settings = self.settings.get(&0, 0).map_err(call("read SETTINGS"))?;
        Ok((settings.ready != 0).then_some(settings))
    }

    /// Reads all but peers and VTEPs.
    pub(super) fn read_near(&self, state: &mut DatapathState) -> Result<(), DatapathError> {
        state.settings = self.settings()?;
        state.endpoints = read_all(&self.endpoints, "read ENDPOINTS", |endpoint| endpoint)?;
        state.locals = read_all(&self.locals, "read LOCALS", |local| local.ifindex)?;
        for entry in self.ports.iter() {
            let (link, port) = entry.map_err(call("read PORTS"))?;
            state.ports.insert(link, port);
        }
        Ok(())
    }

    /// Sums of the counters over the CPUs, without those at zero.
    pub fn counters(&self) -> Result<Counters, DatapathError> {
        let mut counters = Counters::new();
        for hook in Hook::ALL {
            for reason in Reason::ALL {
                let place = index(*hook, *reason);
                let each = self
                    .counters
                    .get(&place, 0)
                    .map_err(call("read COUNTERS"))?;
                let sum = each.iter().fold(Count::default(), |sum, count| Count {
                    packets: sum.packets + count.packets,
                    bytes: sum.bytes + count.bytes,
                });
                if sum.packets != 0 {
                    counters.insert((*hook, *reason), sum);
                }
            }
        }
        Ok(counters)
    }

    /// The recorded flows.
    pub fn flows(&self) -> Result<BTreeMap<FlowKey, FlowEntry>, DatapathError> {
        let mut flows = BTreeMap::new();
        for entry in self.flows.iter() {
            let (key, flow) = entry.map_err(call("read FLOWS"))?;
            flows.insert(key, flow);
        }
        Ok(flows)
    }

    /// Records a flow; NATed is never weakened to seen.
    pub fn record_flow(&mut self, key: &FlowKey, entry: FlowEntry) -> Result<(), DatapathError> {
        match self.flows.get(key, 0) {
            Ok(known) if known.why == entry.why || known.why == FLOW_NATED => return Ok(()),
            Ok(_) | Err(MapError::KeyNotFound) => {}
            Err(error) => return Err(call("read FLOWS")(error)),
        }
        self.flows
            .insert(key, entry, 0)
            .map_err(call("write FLOWS"))?;
        if entry.why == FLOW_NATED {
            self.mark_pair(&key.pair())?;
        }
        Ok(())
    }

    fn mark_pair(&mut self, pair: &PairKey) -> Result<(), DatapathError> {
        self.pairs
            .insert(pair, PairEntry::NATED, 0)
            .map_err(call("write NATED_PAIRS"))
    }

    /// Ends the marks of pairs without a translated flow. The programs record a flow first and mark
    /// its pair after, so looking again after the removal finds what came in between.
    pub fn tend_pairs(&mut self) -> Result<(), DatapathError> {
        let marked: Vec<PairKey> = self
            .pairs
            .keys()
            .collect::<Result<_, _>>()
            .map_err(call("read NATED_PAIRS"))?;
        if marked.is_empty() {
            return Ok(());
        }
        let live = self.nated_pairs()?;
        let ended: BTreeSet<PairKey> = marked
            .into_iter()
            .filter(|pair| !live.contains(pair))
            .collect();
        for pair in &ended {
            gone(self.pairs.remove(pair), "remove from NATED_PAIRS")?;
        }
        if !ended.is_empty() {
            for pair in self.nated_pairs()?.intersection(&ended) {
                self.mark_pair(pair)?;
            }
        }
        Ok(())
    }

    fn nated_pairs(&self) -> Result<BTreeSet<PairKey>, DatapathError> {
        let flows = self.flows()?;
        let nated = flows.iter().filter(|(_, entry)| entry.why == FLOW_NATED);
        Ok(nated.map(|(key, _)| key.pair()).collect())
    }

    /// Ends a record.
    pub fn forget_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        gone(self.flows.remove(key), "remove from FLOWS")
    }

    /// Whether the record overflowed; clears it when asked.
    pub fn flows_full(&mut self, clear: bool) -> Result<bool, DatapathError> {
        let full = self
            .flow_state
            .get(&0, 0)
            .map_err(call("read FLOW_STATE"))?
            .full
            != 0;
        if full && clear {
            self.flow_state
                .set(0, FlowState { full: 0 }, 0)
                .map_err(call("write FLOW_STATE"))?;
        }
        Ok(full)
    }

    pub(super) fn put_settings(&mut self, value: DatapathSettings) -> Result<(), DatapathError> {
        self.settings
            .set(0, value, 0)
            .map_err(call("write SETTINGS"))
    }

    pub(super) fn put_peer(&mut self, net: Ipv4Net, peer: PeerEntry) -> Result<(), DatapathError> {
        self.peers
            .insert(&lpm(net), peer, 0)
            .map_err(put("PEERS", net))
    }

    pub(super) fn delete_peer(&mut self, net: Ipv4Net) -> Result<(), DatapathError> {
        gone(
            self.peers.remove(&lpm(net)),
            &format!("remove {net} from PEERS"),
        )
    }

    pub(super) fn put_vtep(
        &mut self,
        addr: Ipv4Addr,
        entry: VtepEntry,
    ) -> Result<(), DatapathError> {
        self.vteps
            .insert(addr.octets(), entry, 0)
            .map_err(put("VTEPS", addr))
    }

    pub(super) fn delete_vtep(&mut self, addr: Ipv4Addr) -> Result<(), DatapathError> {
        gone(
            self.vteps.remove(&addr.octets()),
            &format!("remove {addr} from VTEPS"),
        )
    }

    pub(super) fn put_endpoint(
        &mut self,
        addr: Ipv4Addr,
        endpoint: EndpointEntry,
    ) -> Result<(), DatapathError> {
        self.endpoints
            .insert(addr.octets(), endpoint, 0)
            .map_err(put("ENDPOINTS", addr))
    }

    pub(super) fn delete_endpoint(&mut self, addr: Ipv4Addr) -> Result<(), DatapathError> {
        gone(
            self.endpoints.remove(&addr.octets()),
            &format!("remove {addr} from ENDPOINTS"),
        )
    }

    pub(super) fn put_local(&mut self, addr: Ipv4Addr, ifindex: u32) -> Result<(), DatapathError> {
        self.locals
            .insert(addr.octets(), LocalEntry { ifindex }, 0)
            .map_err(put("LOCALS", addr))
    }

    pub(super) fn put_port(&mut self, link: u32, port: PortEntry) -> Result<(), DatapathError> {
        self.ports.insert(link, port, 0).map_err(put("PORTS", link))
    }

    pub(super) fn delete_port(&mut self, link: u32) -> Result<(), DatapathError> {
        gone(
            self.ports.remove(&link),
            &format!("remove {link} from PORTS"),
        )
    }

    pub(super) fn delete_local(&mut self, addr: Ipv4Addr) -> Result<(), DatapathError> {
        gone(
            self.locals.remove(&addr.octets()),
            &format!("remove {addr} from LOCALS"),
        )
    }
}

fn typed<T>(pins: &PinDir, name: &str) -> Result<T, DatapathError>
where
    T: TryFrom<Map, Error = MapError>,
{
    let path = pins.map(name);
    let doing = format!("open {}", path.display());
    let data = MapData::from_pin(&path).map_err(call(&doing))?;
    let map = Map::from_map_data(data).map_err(call(&doing))?;
    T::try_from(map).map_err(call(&doing))
}

fn read_all<V: aya::Pod, T>(
    map: &HashMap<MapData, [u8; 4], V>,
    doing: &str,
    value: impl Fn(V) -> T,
) -> Result<BTreeMap<Ipv4Addr, T>, DatapathError> {
    map.iter()
        .map(|entry| entry.map(|(key, entry)| (Ipv4Addr::from(key), value(entry))))
        .collect::<Result<_, _>>()
        .map_err(call(doing))
}

/// An entry that could not be written. Thousands fail alike where a map is full, for hashes with
/// `E2BIG` and for tries with `ENOSPC`: that is said of the map.
fn put(map: &str, key: impl Display) -> impl FnOnce(MapError) -> DatapathError {
    let failed = call(format!("write {map} {key}"));
    move |error| match failed(error) {
        DatapathError {
            errno: errno @ Some(libc::E2BIG | libc::ENOSPC),
            ..
        } => DatapathError {
            call: format!("write {map}"),
            why: "it is full, what has no room is left to the kernel".to_owned(),
            errno,
        },
        other => other,
    }
}

fn gone(answer: Result<(), MapError>, doing: &str) -> Result<(), DatapathError> {
    match answer.map_err(call(doing)) {
        Err(error) if error.errno == Some(libc::ENOENT) => Ok(()),
        other => other,
    }
}

fn lpm(net: Ipv4Net) -> Key<[u8; 4]> {
    Key::new(u32::from(net.prefix_len()), net.network().octets())
}
