//! `weft cleanup`: removes what the agent left on this host.

use std::{fs, io};

use anyhow::{Context as _, bail};

use super::{lock, verbs::print};
use crate::{
    cli::CleanupArgs,
    datapath::ebpf::pins::PinDir,
    firewall::Iptables,
    model::net::Vni,
    netlink::{HostOp, Netlink as _, kernel::Rtnetlink},
};

/// Removes programs, maps, device, managed neighbours, rules and files. Goes on after a failure
/// and tells all of them.
pub fn cleanup(args: &CleanupArgs) -> anyhow::Result<u8> {
    let vni = Vni::try_from(u64::from(args.vni))?;
    let _lock = match lock::take(vni) {
        Ok(lock) => lock,
        Err(holder) => bail!("{holder}: stop it first"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let failures = runtime.block_on(remove(args, vni));
    for failure in &failures {
        print(&format!("not removed: {failure:#}"))?;
    }
    Ok(u8::from(!failures.is_empty()))
}

async fn remove(args: &CleanupArgs, vni: Vni) -> Vec<anyhow::Error> {
    let mut failures = Vec::new();
    let mut keep = |outcome: anyhow::Result<()>| failures.extend(outcome.err());
    // The programs first: they must not take packets for a device that is gone.
    keep(
        PinDir::new(vni)
            .remove()
            .context("pinned programs and maps"),
    );
    keep(remove_links(&format!("flannel.{vni}")).await);
    keep(remove_rules().await);
    for file in [
        args.subnet_file.clone(),
        format!("/run/weft/{vni}.lock").into(),
    ] {
        keep(match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).context(file.display().to_string())
            }
            _ => Ok(()),
        });
    }
    failures
}

async fn remove_links(device: &str) -> anyhow::Result<()> {
    let netlink = Rtnetlink::new()?;
    let host = netlink.observe().await?;
    for ((link, addr), entry) in &host.neighbours {
        if entry.managed {
            netlink
                .apply(&HostOp::ManageNeighbour {
                    link: *link,
                    addr: *addr,
                    managed: false,
                })
                .await?;
        }
    }
    if let Some(link) = host.link_named(device) {
        netlink
            .apply(&HostOp::DeleteLink {
                link: link.index,
                name: link.name.clone(),
            })
            .await?;
    }
    Ok(())
}

async fn remove_rules() -> anyhow::Result<()> {
    Iptables::open()
        .await?
        .remove()
        .await
        .context("firewall rules")
}
