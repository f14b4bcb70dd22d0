//! Loads the object: adopts the pinned maps that fit, replaces those that do not.

use std::fs;

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel, include_bytes_aligned, maps::MapType,
    programs::SchedClassifier,
};
use tracing::{debug, warn};
use weft_common::{
    abi,
    endpoint::{EndpointEntry, LocalEntry, PortEntry},
    flow::{FlowEntry, FlowKey, FlowState, PairEntry, PairKey},
    peer::{PeerEntry, VtepEntry},
    settings::{ConntrackOffsets, DatapathSettings},
    stats::{COUNTERS_LEN, Count, Hook},
};

use super::{
    call, io_call,
    pins::{PinDir, Shape, pinned_shape},
};
use crate::datapath::DatapathError;

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/weft-ebpf"));

/// Loads maps and programs into the kernel. `flows` is the least capacity of the flow record.
pub fn load(pins: &PinDir, flows: u32, offsets: ConntrackOffsets) -> Result<Ebpf, DatapathError> {
    if OBJECT.is_empty() {
        return Err(DatapathError {
            call: "load the eBPF object".to_owned(),
            why: "this binary was built with WEFT_EBPF=stub and has none".to_owned(),
            errno: None,
        });
    }
    pins.create()?;
    let mut capacity = flows;
    for name in abi::MAPS {
        let wanted = shape_of(name, flows);
        let path = pins.map(name);
        match pinned_shape(&path)? {
            Some(found) if found == wanted => {}
            // A larger record than needed is as good.
            Some(found)
                if name == abi::FLOWS
                    && (Shape {
                        entries: wanted.entries,
                        ..found
                    }) == wanted
                    && found.entries > wanted.entries =>
            {
                capacity = found.entries;
            }
            Some(found) => {
                warn!(
                    map = name,
                    ?found,
                    ?wanted,
                    "a pinned map has another shape: made anew"
                );
                fs::remove_file(&path).map_err(io_call(format!("remove {}", path.display())))?;
            }
            None => {}
        }
    }

    let mut loader = EbpfLoader::new();
    loader
        .verifier_log_level(VerifierLogLevel::STATS)
        .override_global("CONNTRACK", &offsets, true)
        .map_max_entries(abi::FLOWS, capacity);
    for name in abi::MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    let mut ebpf = loader.load(OBJECT).map_err(call("load the maps"))?;
    for hook in Hook::ALL {
        load_program(&mut ebpf, *hook)?;
    }
    Ok(ebpf)
}

fn load_program(ebpf: &mut Ebpf, hook: Hook) -> Result<(), DatapathError> {
    let doing = format!("load the program {}", hook.name());
    let missing = || DatapathError {
        call: doing.clone(),
        why: "the object has no such program".to_owned(),
        errno: None,
    };
    let program = ebpf.program_mut(hook.name()).ok_or_else(missing)?;
    let program: &mut SchedClassifier = program.try_into().map_err(call(&doing))?;
    program.load().map_err(|error| {
        // The verifier's whole log is in the text: its ends say what matters.
        let mut error = call(&doing)(error);
        debug!(log = error.why, "verifier log");
        error.why = shortened(&error.why);
        error
    })?;
    if let Ok(info) = program.info() {
        debug!(
            program = hook.name(),
            id = info.id(),
            verified_instructions = info.verified_instruction_count(),
            "program loaded"
        );
    }
    Ok(())
}

/// First and last lines of a long text.
fn shortened(text: &str) -> String {
    const ENDS: usize = 5;
    let lines: Vec<&str> = text.lines().collect();
    match lines.as_slice() {
        lines if lines.len() <= 2 * ENDS => text.to_owned(),
        lines => {
            let head = lines.iter().take(ENDS);
            let tail = lines.iter().skip(lines.len() - ENDS);
            head.chain([&"…"])
                .chain(tail)
                .copied()
                .collect::<Vec<_>>()
                .join("\n")
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "sizes of small types")]
fn shape_of(name: &str, flows: u32) -> Shape {
    const fn shape<K, V>(kind: MapType, entries: u32) -> Shape {
        Shape {
            kind: kind as u32,
            key: size_of::<K>() as u32,
            value: size_of::<V>() as u32,
            entries,
        }
    }
    type Address = [u8; 4];
    match name {
        abi::PEERS => shape::<[u8; 8], PeerEntry>(MapType::LpmTrie, abi::MAX_PEERS),
        abi::VTEPS => shape::<Address, VtepEntry>(MapType::Hash, abi::MAX_PEERS),
        abi::ENDPOINTS => shape::<Address, EndpointEntry>(MapType::Hash, abi::MAX_ENDPOINTS),
        abi::LOCALS => shape::<Address, LocalEntry>(MapType::Hash, abi::MAX_LOCALS),
        abi::PORTS => shape::<u32, PortEntry>(MapType::Hash, abi::MAX_PORTS),
        abi::NATED_PAIRS => shape::<PairKey, PairEntry>(MapType::Hash, abi::MAX_PAIRS),
        // A ring has no keys, and its values are of any size.
        abi::REFUSALS => shape::<(), ()>(MapType::RingBuf, abi::REFUSALS_LEN),
        abi::FLOWS => shape::<FlowKey, FlowEntry>(MapType::Hash, flows),
        abi::FLOW_STATE => shape::<u32, FlowState>(MapType::Array, 1),
        abi::SETTINGS => shape::<u32, DatapathSettings>(MapType::Array, 1),
        // COUNTERS; a name outside `abi::MAPS` is never asked for.
        _ => shape::<u32, Count>(MapType::PerCpuArray, COUNTERS_LEN),
    }
}
