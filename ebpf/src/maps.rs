//! Every map, and the only place that looks into them.
#![expect(unsafe_code, reason = "map values are references into kernel memory")]

use aya_ebpf::{
    Global,
    bindings::BPF_NOEXIST,
    btf_maps::{Array, HashMap, LpmTrie, PerCpuArray, RingBuf, lpm_trie::Key},
    macros::btf_map,
};
use weft_common::{
    abi::{
        DEFAULT_FLOWS, MAX_ENDPOINTS, MAX_LOCALS, MAX_PAIRS, MAX_PEERS, MAX_PORTS, REFUSALS_LEN,
    },
    endpoint::{EndpointEntry, LocalEntry, PortEntry},
    flow::{FlowEntry, FlowKey, FlowState, PairEntry, PairKey},
    peer::{PeerEntry, VtepEntry},
    refusal::{EVERY_NS, Refusal},
    settings::{ConntrackOffsets, DatapathSettings},
    stats::{COUNTERS_LEN, Count},
};

/// Peers by subnet, longest prefix first.
#[btf_map]
static PEERS: LpmTrie<[u8; 4], PeerEntry, { MAX_PEERS as usize }> = LpmTrie::new();
/// VTEP addresses of all peers.
#[btf_map]
static VTEPS: HashMap<[u8; 4], VtepEntry, { MAX_PEERS as usize }> = HashMap::new();
/// Local containers by address.
#[btf_map]
static ENDPOINTS: HashMap<[u8; 4], EndpointEntry, { MAX_ENDPOINTS as usize }> = HashMap::new();
/// The host's own addresses.
#[btf_map]
static LOCALS: HashMap<[u8; 4], LocalEntry, { MAX_LOCALS as usize }> = HashMap::new();
/// Ports of our bridges.
#[btf_map]
static PORTS: HashMap<u32, PortEntry, { MAX_PORTS as usize }> = HashMap::new();
/// Pairs of addresses with a translated flow.
#[btf_map]
static NATED_PAIRS: HashMap<PairKey, PairEntry, { MAX_PAIRS as usize }> = HashMap::new();
/// Samples of what was dropped.
#[btf_map]
static REFUSALS: RingBuf<Refusal, { REFUSALS_LEN as usize }> = RingBuf::new();
/// When this CPU last sent a sample, in nanoseconds since the start of the machine.
#[btf_map]
static SAMPLED: PerCpuArray<u64, 1> = PerCpuArray::new();
/// Flows that the stack carries. Its size is set when it is loaded.
#[btf_map]
static FLOWS: HashMap<FlowKey, FlowEntry, { DEFAULT_FLOWS as usize }> = HashMap::new();
/// Whether `FLOWS` overflowed.
#[btf_map]
static FLOW_STATE: Array<FlowState, 1> = Array::new();
/// What the programs know of this host.
#[btf_map]
static SETTINGS: Array<DatapathSettings, 1> = Array::new();
/// Counters by hook and reason.
#[btf_map]
static COUNTERS: PerCpuArray<Count, { COUNTERS_LEN as usize }> = PerCpuArray::new();

/// Where conntrack hangs on a packet: patched in when the programs are loaded.
#[unsafe(no_mangle)]
static CONNTRACK: Global<ConntrackOffsets> = Global::new(ConntrackOffsets {
    skb_nfct: 0,
    status: 0,
    known: 0,
});

/// The settings; all zero before the agent has filled them.
#[inline(always)]
pub fn settings() -> Option<&'static DatapathSettings> {
    SETTINGS.get(0)
}

/// The peer whose subnet holds the address.
#[inline(always)]
pub fn peer_of(address: [u8; 4]) -> Option<&'static PeerEntry> {
    PEERS.get(&Key::new(32, address))
}

/// Whether the address is some peer's VTEP.
#[inline(always)]
pub fn is_vtep(address: [u8; 4]) -> bool {
    VTEPS.get_ptr(address).is_some()
}

/// The container at the address.
#[inline(always)]
pub fn endpoint(address: [u8; 4]) -> Option<&'static EndpointEntry> {
    // SAFETY: only the agent writes entries; a slot reused while we read gives a mix of two
    // containers for one packet, which the MAC check of the receiver or sender refuses.
    unsafe { ENDPOINTS.get(address) }
}

/// Enters an endpoint where there is none. An entry that is there is the agent's, and stays.
#[inline(always)]
pub fn enter_endpoint(address: [u8; 4], entry: &EndpointEntry) -> bool {
    ENDPOINTS
        .insert(address, entry, u64::from(BPF_NOEXIST))
        .is_ok()
}

/// What is behind a port of one of our bridges.
#[inline(always)]
pub fn port(ifindex: u32) -> Option<&'static PortEntry> {
    // SAFETY: only the agent writes entries; a slot reused while we read gives an endpoint that the
    // agent takes back.
    unsafe { PORTS.get(ifindex) }
}

/// Whether the stack translates a flow between the two.
#[inline(always)]
pub fn is_nated_pair(pair: &PairKey) -> bool {
    NATED_PAIRS.get_ptr(pair).is_some()
}

/// Says that the stack translates a flow between the two; false when there is no room.
#[inline(always)]
pub fn mark_nated_pair(pair: &PairKey) -> bool {
    NATED_PAIRS.insert(pair, PairEntry::NATED, 0).is_ok()
}

/// Sends a sample for the log, unless this CPU sent one a moment ago. A full ring loses it.
#[inline(always)]
pub fn sample(now: u64, refusal: &Refusal) {
    let Some(last) = SAMPLED.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: this CPU's own word.
    if now.wrapping_sub(unsafe { *last }) < EVERY_NS {
        return;
    }
    // SAFETY: this CPU's own word.
    unsafe { *last = now };
    let _ = REFUSALS.output(refusal, 0);
}

/// Whether the address is one of the host's own.
#[inline(always)]
pub fn is_local(address: [u8; 4]) -> bool {
    LOCALS.get_ptr(address).is_some()
}

/// The device that has one of the host's own addresses.
#[inline(always)]
pub fn device_of(address: [u8; 4]) -> Option<u32> {
    // SAFETY: the entry is one aligned word, read at once.
    unsafe { LOCALS.get(address).map(|entry| entry.ifindex) }
}

/// Why the flow is recorded, if it is.
#[inline(always)]
pub fn recorded(key: &FlowKey) -> Option<u32> {
    // SAFETY: the entry is one aligned word, read at once.
    unsafe { FLOWS.get(key).map(|entry| entry.why) }
}

/// Records a flow; false when there is no room.
#[inline(always)]
pub fn record(key: &FlowKey, why: u32) -> bool {
    FLOWS.insert(key, FlowEntry { why }, 0).is_ok()
}

/// Whether a flow could not be recorded, so that nothing may be fast.
#[inline(always)]
pub fn flows_full() -> bool {
    FLOW_STATE.get(0).is_none_or(|state| state.full != 0)
}

/// Says that a flow could not be recorded.
#[inline(always)]
pub fn set_flows_full() {
    if let Some(state) = FLOW_STATE.get_ptr_mut(0) {
        // SAFETY: one aligned word of the map's only entry, which always exists.
        unsafe { (*state).full = 1 };
    }
}

/// This CPU's counter at an index of `stats::index`.
#[inline(always)]
pub fn counter(index: u32) -> Option<*mut Count> {
    COUNTERS.get_ptr_mut(index)
}

/// Conntrack's offsets.
#[inline(always)]
pub fn conntrack() -> ConntrackOffsets {
    CONNTRACK.load()
}
