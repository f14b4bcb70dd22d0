//! What hangs at devices by TCX, as the kernel tells it and not as the agent believes.

use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use weft_tests::report::Hooked;

use crate::sys::{self, TcxSide};

pub(crate) fn list(devices: &[String]) -> Result<Vec<Hooked>> {
    let mut all = Vec::new();
    for device in devices {
        let index = if_nametoindex(device.as_str()).with_context(|| device.clone())?;
        for (side, name) in [(TcxSide::Ingress, "ingress"), (TcxSide::Egress, "egress")] {
            let found = sys::tcx(index, side);
            let found = found.with_context(|| format!("query {name} of {device}"))?;
            all.push(Hooked {
                device: device.clone(),
                side: name.to_owned(),
                programs: found.programs,
                links: found.links,
            });
        }
    }
    Ok(all)
}
