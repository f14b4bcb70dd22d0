//! Since when the programs of a network move packets, whether an agent runs or not.

use std::{fs, time::SystemTime};

use aya::{maps::MapInfo, programs::loaded_programs};
use weft_common::abi;

use super::{call, io_call, pins::PinDir};
use crate::{datapath::DatapathError, model::net::Vni};

/// What is at work for one network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AtWork {
    /// Which network.
    pub vni: Vni,
    /// How many programs.
    pub programs: usize,
    /// When the oldest of them was loaded, where the kernel says so.
    pub since: Option<SystemTime>,
}

/// The programs of every network that has maps here. A program that nothing attaches is unloaded, so
/// that those that use the pinned maps are at work.
pub fn at_work() -> Result<Vec<AtWork>, DatapathError> {
    let mut all = Vec::new();
    for vni in PinDir::networks().map_err(io_call("list pinned networks"))? {
        let maps = ids(&PinDir::new(vni));
        let mut found = AtWork {
            vni,
            programs: 0,
            since: None,
        };
        for program in loaded_programs() {
            let program = program.map_err(call("list loaded programs"))?;
            // One that is unloaded meanwhile is none.
            let used = program.map_ids().ok().flatten().unwrap_or_default();
            if used.iter().any(|map| maps.contains(map)) {
                found.programs += 1;
                let loaded = program.loaded_at();
                found.since = [found.since, loaded].into_iter().flatten().min();
            }
        }
        if found.programs > 0 {
            all.push(found);
        }
    }
    Ok(all)
}

fn ids(pins: &PinDir) -> Vec<u32> {
    let paths = abi::MAPS.iter().map(|name| pins.map(name));
    let there = paths.filter(|path| fs::exists(path).unwrap_or(false));
    there
        .filter_map(|path| Some(MapInfo::from_pin(path).ok()?.id()))
        .collect()
}
