//! Programs at devices: attach, replace in place, detach, and prove that they hang there.
//!
//! Links are pinned, so programs stay when the agent goes. A restart replaces the program through
//! the pinned link, atomically; the pin itself then stays as it is.

use std::{collections::BTreeMap, fs, io, path::Path};

use aya::{
    Ebpf,
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::TcAttachOptions,
    },
};
use weft_common::stats::Hook;

use super::{call, io_call, pins::PinDir};
use crate::{
    datapath::{Attachment, DatapathError},
    model::net::IfIndex,
};

/// The links that this process made or took over.
#[derive(Default)]
pub struct Links {
    held: BTreeMap<(Hook, IfIndex), Held>,
}

struct Held {
    name: String,
    /// Keeps the link alive should a stranger remove the pin.
    link: Option<FdLink>,
}

impl Links {
    /// Those that still hang where they should: the device is there under that name, our program
    /// is in its chain, and the pin is in place.
    pub fn living<'a>(
        &'a self,
        ebpf: &'a Ebpf,
        pins: &'a PinDir,
    ) -> impl Iterator<Item = Attachment> + 'a {
        self.held.iter().filter_map(move |((hook, link), held)| {
            let id = program(ebpf, *hook)?.info().ok()?.id();
            let (_, chain) = SchedClassifier::query_tcx(&held.name, direction(*hook)).ok()?;
            let alive = chain.iter().any(|program| program.id() == id)
                && pins.link(*hook, *link).exists()
                && current_index(&held.name) == Some(link.get());
            alive.then(|| Attachment {
                hook: *hook,
                link: *link,
                name: held.name.clone(),
            })
        })
    }

    /// Those whose device is gone, or has another name now.
    pub fn dead(&self) -> impl Iterator<Item = Attachment> {
        let gone = |link: IfIndex, held: &Held| current_index(&held.name) != Some(link.get());
        self.held
            .iter()
            .filter(move |((_, link), held)| gone(*link, held))
            .map(|((hook, link), held)| Attachment {
                hook: *hook,
                link: *link,
                name: held.name.clone(),
            })
    }

    /// A program that is not ours at each port, bridge and overlay device that has ours, on either
    /// side.
    pub fn foreign(&self) -> BTreeMap<IfIndex, String> {
        let mut found = BTreeMap::new();
        let places = self.held.iter().filter(|((hook, _), _)| {
            matches!(
                hook,
                Hook::FromContainer | Hook::FromBridge | Hook::FromOverlay
            )
        });
        for ((_, link), held) in places {
            let chains = [TcAttachType::Ingress, TcAttachType::Egress]
                .into_iter()
                .filter_map(|side| SchedClassifier::query_tcx(&held.name, side).ok());
            let stranger = chains
                .flat_map(|(_, chain)| chain)
                .map(|program| program.name_as_str().unwrap_or_default().to_owned())
                // An earlier run's programs have the names of ours.
                .find(|name| Hook::ALL.iter().all(|hook| hook.name() != name));
            if let Some(name) = stranger {
                found.insert(*link, format!("the program {name:?}"));
            }
        }
        found
    }

    /// Hangs the hook's program at the device.
    pub fn attach(
        &mut self,
        ebpf: &mut Ebpf,
        pins: &PinDir,
        at: &Attachment,
    ) -> Result<(), DatapathError> {
        let doing = format!("attach {} at {}", at.hook.name(), at.name);
        let path = pins.link(at.hook, at.link);
        // What this process still holds is the same program: it cannot be attached twice.
        if let Some(Held {
            name: _,
            link: Some(link),
        }) = self.held.remove(&(at.hook, at.link))
        {
            remove_pin(&path)?;
            drop(link);
        }
        let program = program_mut(ebpf, at.hook, &doing)?;
        let adopted = match PinnedLink::from_pin(&path) {
            Ok(pinned) => adopt(program, FdLink::from(pinned), &path, &doing)?,
            Err(LinkError::SyscallError(error))
                if error.io_error.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            Err(error) => return Err(call(doing)(error)),
        };
        let link = match adopted {
            Some(link) => link,
            None => {
                let order = TcAttachOptions::TcxOrder(LinkOrder::first());
                let id = program
                    .attach_with_options(&at.name, direction(at.hook), order)
                    .map_err(call(&doing))?;
                let link = program.take_link(id).map_err(call(&doing))?;
                let link = FdLink::try_from(link).map_err(call(&doing))?;
                FdLink::from(
                    link.pin(&path)
                        .map_err(call(format!("pin {}", path.display())))?,
                )
            }
        };
        self.held.insert(
            (at.hook, at.link),
            Held {
                name: at.name.clone(),
                link: Some(link),
            },
        );
        Ok(())
    }

    /// Takes the hook's program off the device.
    pub fn detach(&mut self, pins: &PinDir, at: &Attachment) -> Result<(), DatapathError> {
        self.held.remove(&(at.hook, at.link));
        take_off(&pins.link(at.hook, at.link))
    }

    /// Removes pins of an earlier run that this process did not take over: their devices are gone,
    /// or are none of ours any more. Answers with how many there were.
    pub fn sweep(&mut self, pins: &PinDir) -> Result<usize, DatapathError> {
        let mut swept = 0;
        // An agent of another layout: its programs know nothing of what changed since.
        for other in pins.siblings() {
            swept += other.links().map_or(0, |links| links.len());
            let doing = format!("remove {}", other.path().display());
            other.remove().map_err(io_call(doing))?;
        }
        let mut links = pins.links().map_err(io_call("list pinned links"))?;
        links.sort_by_key(|(hook, _, _)| direction(*hook) == TcAttachType::Egress);
        for (hook, link, path) in links {
            if !self.held.contains_key(&(hook, link)) {
                take_off(&path)?;
                swept += 1;
            }
        }
        Ok(swept)
    }
}

/// Swaps the program behind a pinned link for ours. `None` when the link is dead (its device was
/// removed): the pin is gone then.
fn adopt(
    program: &mut SchedClassifier,
    link: FdLink,
    path: &Path,
    doing: &str,
) -> Result<Option<FdLink>, DatapathError> {
    let link = link.try_into().map_err(call(doing))?;
    match program.attach_to_link(link).map_err(call(doing)) {
        Ok(id) => {
            let link = program.take_link(id).map_err(call(doing))?;
            Ok(Some(FdLink::try_from(link).map_err(call(doing))?))
        }
        Err(error) if error.errno == Some(libc::ENOLINK) => {
            remove_pin(path)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Ends a link by its pin. The descriptor goes last: the kernel ends a link that loses its last
/// reference with a pin only some time later (`bpf_link_put`), and one that loses it with a
/// descriptor at once (`bpf_link_put_direct`).
fn take_off(path: &Path) -> Result<(), DatapathError> {
    let link = PinnedLink::from_pin(path).ok();
    remove_pin(path)?;
    drop(link);
    Ok(())
}

fn remove_pin(path: &Path) -> Result<(), DatapathError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io_call(format!("remove {}", path.display()))(error))
        }
        _ => Ok(()),
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

/// Which side of the device a hook is on.
#[must_use]
pub const fn direction(hook: Hook) -> TcAttachType {
    match hook {
        Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => {
            TcAttachType::Ingress
        }
        Hook::ToContainer | Hook::ToOverlay => TcAttachType::Egress,
    }
}

fn current_index(name: &str) -> Option<u32> {
    nix::net::if_::if_nametoindex(name).ok()
}
