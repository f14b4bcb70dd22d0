//! Programs at devices: by TCX where the kernel has it, else as classic filters. One interface.

use std::{collections::BTreeMap, fmt};

use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType},
};
use weft_common::stats::Hook;

use super::{call, filters::Filters, leftovers, pins::PinDir, strays, tcx::Links};
use crate::{
    datapath::{Attachment, DatapathError},
    model::net::{IfIndex, Vni},
};

/// How programs are to be attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachBy {
    /// By TCX where the kernel has it, else as classic filters.
    #[default]
    Auto,
    /// By TCX, or not at all.
    Tcx,
    /// As classic filters.
    Clsact,
}

/// How programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// By pinned links (Linux 6.6).
    Tcx,
    /// As filters in the qdisc clsact.
    Clsact,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcx => "TCX",
            Self::Clsact => "clsact",
        })
    }
}

/// Whether the kernel has TCX. It is asked, not looked up by its version.
pub fn has_tcx() -> Result<(), DatapathError> {
    SchedClassifier::query_tcx("lo", TcAttachType::Ingress)
        .map(drop)
        .map_err(call("look for TCX, which Linux has from 6.6 on"))
}

/// What hangs at devices, and how.
pub enum Attacher {
    /// By pinned links.
    Tcx(Links),
    /// As filters.
    Clsact(Filters),
}

impl Attacher {
    /// As asked for; answers also why it is that way.
    pub fn new(by: AttachBy, vni: Vni) -> Result<(Self, String), DatapathError> {
        let tcx = || Self::Tcx(Links::default());
        Ok(match by {
            AttachBy::Tcx => {
                has_tcx()?;
                (tcx(), "--attach=tcx".to_owned())
            }
            AttachBy::Clsact => (Self::clsact(vni)?, "--attach=clsact".to_owned()),
            AttachBy::Auto => match has_tcx() {
                Ok(()) => (tcx(), "the kernel has it".to_owned()),
                Err(error) => (Self::clsact(vni)?, error.to_string()),
            },
        })
    }

    fn clsact(vni: Vni) -> Result<Self, DatapathError> {
        Filters::new(vni).map(Self::Clsact)
    }

    /// Which one it is.
    pub const fn way(&self) -> Way {
        match self {
            Self::Tcx(_) => Way::Tcx,
            Self::Clsact(_) => Way::Clsact,
        }
    }

    /// What still hangs where it should: the device is there under that name, and our program is
    /// at its place.
    pub fn living(&self, ebpf: &Ebpf, pins: &PinDir) -> Vec<Attachment> {
        let alive = |hook, link, name: &str| {
            let Some(id) = program(ebpf, hook).and_then(|program| program.info().ok()) else {
                return false;
            };
            current_index(name) == Some(link)
                && match self {
                    Self::Tcx(links) => links.hangs(pins, hook, link, id.id()),
                    Self::Clsact(filters) => filters.hangs(hook, link, id.id()),
                }
        };
        self.held()
            .into_iter()
            .filter(|((hook, link), name)| alive(*hook, *link, name))
            .map(|((hook, link), name)| Attachment {
                hook,
                link,
                name: name.to_owned(),
            })
            .collect()
    }

    /// What hung at a device that is gone, or has another name now.
    pub fn dead(&self) -> Vec<Attachment> {
        self.held()
            .into_iter()
            .filter(|((_, link), name)| current_index(name) != Some(*link))
            .map(|((hook, link), name)| Attachment {
                hook,
                link,
                name: name.to_owned(),
            })
            .collect()
    }

    /// A program that is not ours at each port, bridge and overlay device that has ours, on either
    /// side. Filters of others are seen by netlink.
    pub fn foreign(&self) -> BTreeMap<IfIndex, String> {
        let mut found = BTreeMap::new();
        let places = self.held().into_iter();
        let places = places.filter(|((hook, _), _)| {
            // Only there another program's packets would be taken past it.
            matches!(
                hook,
                Hook::FromContainer | Hook::FromBridge | Hook::FromOverlay
            )
        });
        for ((_, link), name) in places {
            let chains = [TcAttachType::Ingress, TcAttachType::Egress]
                .into_iter()
                .filter_map(|side| SchedClassifier::query_tcx(name, side).ok());
            let stranger = chains
                .flat_map(|(_, chain)| chain)
                .map(|program| program.name_as_str().unwrap_or_default().to_owned())
                // An earlier run's programs have the names of ours.
                .find(|name| Hook::named(name).is_none());
            if let Some(name) = stranger {
                found.insert(link, format!("the program {name:?}"));
            }
        }
        found
    }

    /// Hangs the hook's program at the device, in an older copy's place if there is one.
    pub fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &PinDir,
        at: &Attachment,
    ) -> Result<(), DatapathError> {
        let doing = format!("attach {} at {}", at.hook.name(), at.name);
        let program = program_mut(ebpf, at.hook, &doing)?;
        match self {
            Self::Tcx(links) => links.attach(program, pins, at, &doing),
            Self::Clsact(filters) => filters.attach(program, pins, at, &doing),
        }
    }

    /// Takes the hook's program off the device, whoever hung it there.
    pub fn detach(&mut self, pins: &PinDir, at: &Attachment) -> Result<(), DatapathError> {
        match self {
            Self::Tcx(links) => links.detach(pins, at),
            Self::Clsact(filters) => filters.detach(pins, at),
        }
    }

    /// Takes off what an earlier run attached, either way, and this one did not take over: devices
    /// that are gone, or are none of ours any more. Answers with how many there were.
    pub fn sweep(&self, ebpf: &Ebpf, pins: &PinDir, vni: Vni) -> Result<usize, DatapathError> {
        let held = self.held();
        let swept = leftovers::sweep(pins, vni, |way, hook, link| {
            way == self.way() && held.contains_key(&(hook, link))
        })?;
        let is_ours = |hook, id| {
            let program = program(ebpf, hook).and_then(|program| program.info().ok());
            program.is_some_and(|program| program.id() == id)
        };
        Ok(swept + strays::sweep(vni, is_ours)?)
    }

    /// What this process attached or took over, with the device's name.
    fn held(&self) -> BTreeMap<(Hook, IfIndex), &str> {
        match self {
            Self::Tcx(links) => links.held().collect(),
            Self::Clsact(filters) => filters.held().collect(),
        }
    }
}

fn program(ebpf: &Ebpf, hook: Hook) -> Option<&SchedClassifier> {
    ebpf.program(hook.name())?.try_into().ok()
}

fn program_mut<'a>(
    ebpf: &'a mut Ebpf,
    hook: Hook,
    doing: &str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    ebpf.program_mut(hook.name())
        .ok_or_else(|| DatapathError {
            call: doing.to_owned(),
            why: "the object has no such program".to_owned(),
            errno: None,
        })?
        .try_into()
        .map_err(call(doing))
}

/// The number of the device of that name.
pub fn current_index(name: &str) -> Option<IfIndex> {
    nix::net::if_::if_nametoindex(name).ok()?.try_into().ok()
}
