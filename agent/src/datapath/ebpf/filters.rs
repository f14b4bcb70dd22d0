//! Programs as classic filters: put, replaced in place, adopted after a restart, never duplicated.
//!
//! A filter holds its program by itself, so nothing is pinned. Its handle says which network and
//! which hook it is for, so a restart finds its own and replaces the program in it.

use std::{collections::BTreeMap, os::fd::AsFd as _};

use aya::programs::SchedClassifier;
use weft_common::stats::Hook;

use super::{attach::current_index, call, pins::PinDir};
use crate::{
    datapath::{Attachment, DatapathError},
    model::net::{IfIndex, Vni},
    netlink::{
        NetlinkError,
        clsact::{Clsact, Place, Side},
    },
};

/// The filters that this process put or took over.
pub struct Filters {
    kernel: Clsact,
    vni: Vni,
    held: BTreeMap<(Hook, IfIndex), String>,
}

impl Filters {
    /// Nothing yet.
    pub fn new(vni: Vni) -> Result<Self, DatapathError> {
        Ok(Self {
            kernel: open()?,
            vni,
            held: BTreeMap::new(),
        })
    }

    /// What this process holds, with the device's name.
    pub fn held(&self) -> impl Iterator<Item = ((Hook, IfIndex), &str)> {
        self.held.iter().map(|(at, name)| (*at, name.as_str()))
    }

    /// Whether the filter is there with the program of that number.
    pub fn hangs(&self, hook: Hook, link: IfIndex, id: u32) -> bool {
        let place = place(self.vni, hook, link);
        let here = self.kernel.filters(link, place.side);
        here.is_ok_and(|(ours, _)| {
            ours.iter()
                .any(|filter| filter.place == place && filter.program == id)
        })
    }

    /// Hangs the hook's program at the device.
    pub fn attach(
        &mut self,
        program: &SchedClassifier,
        pins: &PinDir,
        at: &Attachment,
        doing: &str,
    ) -> Result<(), DatapathError> {
        // The request names the device by its number alone.
        if current_index(&at.name) != Some(at.link) {
            let why = format!("no device {} has the number {}", at.name, at.link);
            return Err(DatapathError {
                call: doing.to_owned(),
                why,
                errno: Some(libc::ENODEV),
            });
        }
        let place = place(self.vni, at.hook, at.link);
        if self.kernel.prepare(at.link, place.side).map_err(refused)? {
            pins.mark_qdisc(at.link)?;
        }
        let program = program.fd().map_err(call(doing))?;
        let name = at.hook.name();
        self.kernel
            .put(place, program.as_fd(), name)
            .map_err(refused)?;
        self.held.insert((at.hook, at.link), at.name.clone());
        Ok(())
    }

    /// Takes the hook's program off the device.
    pub fn detach(&mut self, pins: &PinDir, at: &Attachment) -> Result<(), DatapathError> {
        let place = place(self.vni, at.hook, at.link);
        self.kernel.delete(place).map_err(refused)?;
        self.held.remove(&(at.hook, at.link));
        tidy(&self.kernel, pins, self.vni, at.link)
    }
}

/// Opens the way to the kernel's filters, in the namespace of the calling thread.
pub fn open() -> Result<Clsact, DatapathError> {
    Clsact::open().map_err(refused)
}

/// Where a network's filter for a hook belongs.
pub fn place(vni: Vni, hook: Hook, link: IfIndex) -> Place {
    Place {
        link,
        side: side(hook),
        handle: vni.get() << 8 | (hook as u32 + 1),
    }
}

/// Whose filter a handle is.
pub fn owner(handle: u32) -> Option<(Vni, Hook)> {
    let vni = Vni::try_from(u64::from(handle >> 8)).ok()?;
    let known = |hook: &&Hook| **hook as u32 + 1 == handle & 0xff;
    Some((vni, *Hook::ALL.iter().find(known)?))
}

const fn side(hook: Hook) -> Side {
    match hook {
        Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => {
            Side::Ingress
        }
        Hook::ToContainer | Hook::ToOverlay => Side::Egress,
    }
}

/// Removes the qdisc of a device if we made it and nobody's filter hangs in it. Where only another
/// network of ours has filters left, it is that one's to remove.
pub fn tidy(kernel: &Clsact, pins: &PinDir, vni: Vni, link: IfIndex) -> Result<(), DatapathError> {
    if !pins.has_marked_qdisc(link) {
        return Ok(());
    }
    let mut networks = Vec::new();
    let mut others = 0;
    for side in Side::ALL {
        let (ours, more) = kernel.filters(link, side).map_err(refused)?;
        let owners = ours.iter().filter_map(|filter| owner(filter.place.handle));
        networks.extend(owners.map(|(network, _)| network));
        others += more;
    }
    if networks.contains(&vni) {
        return Ok(());
    }
    match networks.first() {
        Some(heir) => PinDir::new(*heir).mark_qdisc(link)?,
        None if others > 0 => return Ok(()),
        None => kernel.remove(link).map_err(refused)?,
    }
    pins.unmark_qdisc(link)
}

pub fn refused(error: NetlinkError) -> DatapathError {
    DatapathError {
        errno: error.source.raw_os_error(),
        why: error.source.to_string(),
        call: error.call,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handle_says_whose_the_filter_is() {
        for (number, hook) in [1u64, 0xff_ffff].into_iter().zip(Hook::ALL) {
            let vni = Vni::try_from(number).unwrap();
            let place = place(vni, *hook, 7u32.try_into().unwrap());
            assert_eq!(owner(place.handle), Some((vni, *hook)));
        }
        assert_eq!(owner(0x100), None);
        assert_eq!(owner(0x1ff), None);
    }
}
