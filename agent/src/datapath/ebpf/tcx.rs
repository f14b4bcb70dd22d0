//! Programs by TCX: attach, replace in place, detach, and prove that they hang there.
//!
//! Links are pinned, so programs stay when the agent goes. A restart replaces the program through
//! the pinned link, atomically; the pin itself then stays as it is.

use std::{collections::BTreeMap, fs, io, path::Path};

use aya::programs::{
    LinkOrder, SchedClassifier, TcAttachType,
    links::{FdLink, LinkError, PinnedLink},
    tc::TcAttachOptions,
};
use weft_common::stats::Hook;

use super::{by_id, call, io_call, pins::PinDir};
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
    /// What this process holds, with the device's name.
    pub fn held(&self) -> impl Iterator<Item = ((Hook, IfIndex), &str)> {
        self.held
            .iter()
            .map(|(place, held)| (*place, held.name.as_str()))
    }

    /// Whether the program of that number is in the device's chain, and the pin is in place.
    pub fn hangs(&self, pins: &PinDir, hook: Hook, link: IfIndex, id: u32) -> bool {
        let Some(held) = self.held.get(&(hook, link)) else {
            return false;
        };
        is_in_chain(&held.name, hook, id) && pins.link(hook, link).exists()
    }

    /// Hangs the hook's program at the device.
    pub fn attach(
        &mut self,
        program: &mut SchedClassifier,
        pins: &PinDir,
        at: &Attachment,
        doing: &str,
    ) -> Result<(), DatapathError> {
        let path = pins.link(at.hook, at.link);
        if self.keeps(program, pins, at, doing)? {
            return Ok(());
        }
        // What this process still holds is the same program: it cannot be attached twice.
        if let Some(Held {
            name: _,
            link: Some(link),
        }) = self.held.remove(&(at.hook, at.link))
        {
            remove_pin(&path)?;
            drop(link);
        }
        let adopted = match PinnedLink::from_pin(&path) {
            Ok(pinned) => adopt(program, FdLink::from(pinned), &path, doing)?,
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
                    .map_err(call(doing))?;
                let link = program.take_link(id).map_err(call(doing))?;
                let link = FdLink::try_from(link).map_err(call(doing))?;
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

    /// Whether our link still holds the program there, under its pin: a pin that is gone, or hidden by
    /// another bpffs, is made again. Another name of the device changes nothing.
    fn keeps(
        &mut self,
        program: &SchedClassifier,
        pins: &PinDir,
        at: &Attachment,
        doing: &str,
    ) -> Result<bool, DatapathError> {
        let Some(held) = self.held.get_mut(&(at.hook, at.link)) else {
            return Ok(false);
        };
        let Some(link) = &held.link else {
            return Ok(false);
        };
        let id = program.info().map_err(call(doing))?.id();
        if !is_in_chain(&at.name, at.hook, id) {
            return Ok(false);
        }
        let path = pins.link(at.hook, at.link);
        if !path.exists() {
            let link = link.info().map_err(call(doing))?.id();
            pins.create()?;
            by_id::pin(link, &path).map_err(io_call(format!("pin {}", path.display())))?;
        }
        held.name.clone_from(&at.name);
        Ok(true)
    }

    /// Takes the hook's program off the device.
    pub fn detach(&mut self, pins: &PinDir, at: &Attachment) -> Result<(), DatapathError> {
        take_off(&pins.link(at.hook, at.link))?;
        self.held.remove(&(at.hook, at.link));
        Ok(())
    }
}

fn is_in_chain(device: &str, hook: Hook, id: u32) -> bool {
    SchedClassifier::query_tcx(device, direction(hook))
        .is_ok_and(|(_, chain)| chain.iter().any(|program| program.id() == id))
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
pub fn take_off(path: &Path) -> Result<(), DatapathError> {
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
