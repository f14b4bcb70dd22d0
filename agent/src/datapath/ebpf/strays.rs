//! Programs of ours at devices that no pin leads to: another bpffs was mounted over ours, or an
//! upgrade that went wrong left a copy. They are known by name and by the network in their settings.

use std::{collections::BTreeMap, mem::size_of};

use aya::{
    maps::{Array, Map, MapData, MapInfo},
    programs::{
        ProgramInfo, SchedClassifier, TcAttachType, links::LinkType, loaded_links, loaded_programs,
    },
};
use tracing::{info, warn};
use weft_common::{abi, settings::DatapathSettings, stats::Hook};

use super::{
    attach::current_index, by_id, filters, io_call, leftovers::records, pins::PinDir,
    tcx::direction,
};
use crate::{
    datapath::DatapathError,
    model::net::{IfIndex, Vni},
    netlink::clsact::Side,
};

/// A program of a network in a device's TCX chain.
#[derive(Clone, Debug, PartialEq, Eq)]
struct InChain {
    hook: Hook,
    link: IfIndex,
    device: String,
    program: u32,
}

/// Pins the links again that hold a network's programs and are not pinned, so that a restart takes
/// them over like any other. Programs of another layout are left to the sweep.
pub fn recover(pins: &PinDir, vni: Vni) -> Result<usize, DatapathError> {
    if !pins.siblings().is_empty() {
        return Ok(0);
    }
    let mut recovered = 0;
    for found in in_chains(vni)? {
        let path = pins.link(found.hook, found.link);
        if path.exists() {
            continue;
        }
        if let Some(link) = link_of(&found) {
            pins.create()?;
            by_id::pin(link, &path).map_err(io_call(format!("pin {}", path.display())))?;
            recovered += 1;
        }
    }
    if recovered > 0 {
        info!(
            recovered,
            "links of an earlier run had lost their pins: pinned again"
        );
    }
    Ok(recovered)
}

/// Takes off a network's programs that are not kept, in chains and in filters of whatever priority.
/// Answers with how many there were.
pub fn sweep(vni: Vni, is_kept: impl Fn(Hook, u32) -> bool) -> Result<usize, DatapathError> {
    let mut swept = 0;
    let mut chains = in_chains(vni)?;
    chains.retain(|found| !is_kept(found.hook, found.program));
    chains.sort_by_key(|found| records(found.hook));
    for found in &chains {
        let (name, device) = (found.hook.name(), &found.device);
        let Some(link) = link_of(found) else {
            warn!(
                name,
                device,
                "a program of an earlier run hangs without a link: see `bpftool net detach`"
            );
            continue;
        };
        by_id::detach(link).map_err(io_call(format!("take {name} off {device}")))?;
        info!(name, device, "took off a second copy");
        swept += 1;
    }
    Ok(swept + sweep_filters(vni, is_kept)?)
}

fn sweep_filters(vni: Vni, is_kept: impl Fn(Hook, u32) -> bool) -> Result<usize, DatapathError> {
    let kernel = filters::open()?;
    let mut copies = Vec::new();
    for link in kernel.hooked().map_err(filters::refused)?.into_keys() {
        for side in Side::ALL {
            copies.extend(
                kernel
                    .programs_of_others(link, side)
                    .map_err(filters::refused)?,
            );
        }
    }
    if copies.is_empty() {
        return Ok(0);
    }
    let all = loaded_programs().filter_map(Result::ok);
    let all: BTreeMap<u32, ProgramInfo> = all.map(|info| (info.id(), info)).collect();
    copies.retain(|copy| {
        let info = all.get(&copy.program);
        info.is_some_and(|info| {
            hook_of(info)
                .is_some_and(|hook| network_of(info) == Some(vni) && !is_kept(hook, copy.program))
        })
    });
    for copy in &copies {
        kernel.delete_other(copy).map_err(filters::refused)?;
        info!(link = %copy.link, program = copy.program, "took off a copy in a filter");
    }
    Ok(copies.len())
}

fn in_chains(vni: Vni) -> Result<Vec<InChain>, DatapathError> {
    let devices = nix::net::if_::if_nameindex();
    let devices = devices.map_err(|errno| io_call("list devices")(errno.into()))?;
    let names = devices
        .iter()
        .filter_map(|device| device.name().to_str().ok());
    let mut networks = BTreeMap::new();
    let mut found = Vec::new();
    for device in names {
        let Some(link) = current_index(device) else {
            continue;
        };
        for side in [TcAttachType::Ingress, TcAttachType::Egress] {
            // Where there is no TCX there is nothing in it.
            let Ok((_, chain)) = SchedClassifier::query_tcx(device, side) else {
                continue;
            };
            for info in &chain {
                let Some(hook) = hook_of(info).filter(|hook| same(direction(*hook), side)) else {
                    continue;
                };
                let program = info.id();
                let network = networks.entry(program).or_insert_with(|| network_of(info));
                if *network == Some(vni) {
                    found.push(InChain {
                        hook,
                        link,
                        device: device.to_owned(),
                        program,
                    });
                }
            }
        }
    }
    Ok(found)
}

const fn same(a: TcAttachType, b: TcAttachType) -> bool {
    matches!(
        (a, b),
        (TcAttachType::Ingress, TcAttachType::Ingress)
            | (TcAttachType::Egress, TcAttachType::Egress)
    )
}

fn hook_of(program: &ProgramInfo) -> Option<Hook> {
    program.name_as_str().and_then(Hook::named)
}

/// The network that a program works for, by the settings it reads.
fn network_of(program: &ProgramInfo) -> Option<Vni> {
    let maps = program.map_ids().ok()??;
    let settings = maps.into_iter().find(|id| {
        MapInfo::from_id(*id).is_ok_and(|map| {
            map.name_as_str() == Some(abi::SETTINGS)
                && usize::try_from(map.value_size()) == Ok(size_of::<DatapathSettings>())
        })
    })?;
    let map = Map::Array(MapData::from_id(settings).ok()?);
    let map: Array<MapData, DatapathSettings> = map.try_into().ok()?;
    Vni::try_from(u64::from(map.get(&0, 0).ok()?.vni)).ok()
}

/// The link that holds a program at a device, if one does.
fn link_of(found: &InChain) -> Option<u32> {
    loaded_links()
        .filter_map(Result::ok)
        .filter(|link| {
            link.program_id() == found.program && matches!(link.link_type(), Ok(LinkType::Tcx))
        })
        .map(|link| link.id())
        .find(|link| by_id::device_of(*link).ok() == Some(found.link.get()))
}
