//! What an earlier run left at devices: pinned links and filters, of whichever way it attached by.

use std::io;

use weft_common::stats::Hook;

use super::{
    attach::Way,
    filters::{self, owner, refused},
    io_call,
    pins::PinDir,
    strays,
    tcx::take_off,
};
use crate::{
    datapath::DatapathError,
    model::net::{IfIndex, Vni},
    netlink::clsact::{Clsact, Place, Side},
};

/// The filters of a network, those that take packets first.
pub fn filters(vni: Vni) -> Result<Vec<(Hook, Place)>, DatapathError> {
    filters_by(&filters::open()?, vni)
}

fn filters_by(kernel: &Clsact, vni: Vni) -> Result<Vec<(Hook, Place)>, DatapathError> {
    let mut found = Vec::new();
    for link in kernel.hooked().map_err(refused)?.into_keys() {
        for side in Side::ALL {
            let (ours, _) = kernel.filters(link, side).map_err(refused)?;
            found.extend(ours.iter().filter_map(|filter| {
                let (network, hook) = owner(filter.place.handle)?;
                (network == vni).then_some((hook, filter.place))
            }));
        }
    }
    found.sort_by_key(|(_, place)| place.side);
    Ok(found)
}

/// Takes off everything of a network but what is kept. Answers with how many there were.
pub fn sweep(
    pins: &PinDir,
    vni: Vni,
    is_kept: impl Fn(Way, Hook, IfIndex) -> bool,
) -> Result<usize, DatapathError> {
    let mut swept = 0;
    // An agent of another layout: its programs know nothing of what changed since.
    for other in pins.siblings() {
        swept += other.links().map_or(0, |links| links.len());
        let doing = format!("remove {}", other.path().display());
        other.remove().map_err(io_call(doing))?;
    }
    let mut links = pins.links().map_err(io_call("list pinned links"))?;
    links.sort_by_key(|(hook, _, _)| records(*hook));
    for (hook, link, path) in links {
        if !is_kept(Way::Tcx, hook, link) {
            take_off(&path)?;
            swept += 1;
        }
    }
    let kernel = filters::open()?;
    for (hook, place) in filters_by(&kernel, vni)? {
        if !is_kept(Way::Clsact, hook, place.link) {
            kernel.delete(place).map_err(refused)?;
            swept += 1;
        }
    }
    for link in pins.marked_qdiscs() {
        filters::tidy(&kernel, pins, vni, link)?;
    }
    Ok(swept)
}

/// Whether a program of a network hangs anywhere.
pub fn are_there(vni: Vni) -> bool {
    let pinned = PinDir::new(vni).links().map(|links| !links.is_empty());
    pinned.unwrap_or(true) || filters(vni).map_or(true, |filters| !filters.is_empty())
}

/// Removes a network's programs and maps; answers whether there were any.
pub fn remove(vni: Vni) -> Result<bool, DatapathError> {
    let pins = PinDir::new(vni);
    let pinned = pins.path().exists() || !pins.siblings().is_empty();
    let found = pinned || !filters(vni)?.is_empty();
    if found {
        // The links go before their folder: see `take_off`.
        sweep(&pins, vni, |_, _, _| false)?;
        let doing = format!("remove {}", pins.path().display());
        pins.remove().or_else(is_gone).map_err(io_call(doing))?;
    }
    let strays = strays::sweep(vni, |_, _| false)?;
    Ok(found || strays > 0)
}

fn is_gone(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::NotFound => Ok(()),
        _ => Err(error),
    }
}

/// Recorders go after what takes packets.
pub const fn records(hook: Hook) -> bool {
    matches!(hook, Hook::ToContainer | Hook::ToOverlay)
}
