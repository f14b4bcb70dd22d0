//! `weft cleanup`: removes what the agent left on this host.

use std::{fs, net::IpAddr};

use anyhow::bail;
use ipnet::IpNet;

use super::{
    firewall, lock,
    release::{Owner, Released, release},
    verbs::print,
};
use crate::{
    cli::CleanupArgs,
    datapath::ebpf::leftovers,
    model::net::Vni,
    netlink::{HostOp, Netlink as _, Route, kernel::Rtnetlink},
    outputs::subnet_env::SubnetEnv,
    reconcile::plan::has_direct_form,
    sysctl::Sysctls,
};

/// Not permitted.
const NOT_PERMITTED: u8 = 4;

/// Removes programs, maps, device, managed neighbours, rules and files of one network, and says
/// what. Goes on after a failure and tells all of them. `net.ipv4.ip_forward` stays as it is.
pub fn cleanup(args: &CleanupArgs) -> anyhow::Result<u8> {
    if !nix::unistd::geteuid().is_root() {
        print("weft cleanup needs root: it removes links, rules and eBPF; try sudo")?;
        return Ok(NOT_PERMITTED);
    }
    let vni = Vni::try_from(u64::from(args.vni))?;
    let _lock = match lock::take(vni) {
        Ok(lock) => lock,
        Err(holder) => bail!("{holder}: stop it first"),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let mut done = Done::default();
    runtime.block_on(async {
        if args.lease.release {
            give_back(args, vni, &mut done).await?;
        }
        remove(args, vni, &mut done).await
    })?;
    for what in &done.left {
        print(&format!("left: {what}"))?;
    }
    for what in &done.removed {
        print(&format!("removed {what}"))?;
    }
    for failure in &done.failures {
        print(&format!("not removed: {failure:#}"))?;
    }
    if done.removed.is_empty() && done.left.is_empty() && done.failures.is_empty() {
        print(&format!("nothing of network {vni} is here"))?;
    }
    Ok(u8::from(!done.failures.is_empty()))
}

/// What was removed, and what was not.
#[derive(Default)]
struct Done {
    removed: Vec<String>,
    /// What was asked for and is not ours to remove.
    left: Vec<String>,
    failures: Vec<anyhow::Error>,
}

impl Done {
    fn keep(&mut self, what: &str, outcome: anyhow::Result<()>) {
        match outcome {
            Ok(()) => self.removed.push(what.to_owned()),
            Err(error) => self.failures.push(error.context(what.to_owned())),
        }
    }
}

/// The lease first: by device and file it is known whose it is. If that fails, they stay for another
/// try.
async fn give_back(args: &CleanupArgs, vni: Vni, done: &mut Done) -> anyhow::Result<()> {
    let host = Rtnetlink::new()?.observe().await?;
    let owner = Owner::of(&host, &vni.device());
    match release(&args.lease, &args.subnet_file, &owner).await {
        Ok(Released::Gone(what)) => done.removed.push(what),
        Ok(Released::Left(why)) => done.left.push(why),
        Err(error) => {
            return Err(error.context("the lease was not given back, and nothing was removed"));
        }
    }
    Ok(())
}

async fn remove(args: &CleanupArgs, vni: Vni, done: &mut Done) -> anyhow::Result<()> {
    let netlink = Rtnetlink::new()?;
    let host = netlink.observe().await?;
    let device = host.link_named(&vni.device());
    // The file and the rules name no network: they are this one's if its device has an address of
    // the file's subnet, or, where there is no device, if nobody else is at work here.
    let env = SubnetEnv::read(&args.subnet_file)
        .ok()
        .filter(|env| match device {
            Some(device) => host.addresses.iter().any(|(link, net)| {
                *link == device.index && matches!(net, IpNet::V4(net) if env.subnet.contains(net))
            }),
            None => lock::others(vni).is_empty(),
        });

    // The programs first: they must not take packets for a device that is gone.
    match leftovers::remove(vni) {
        Ok(false) => {}
        outcome => done.keep("programs and maps", outcome.map(drop).map_err(Into::into)),
    }
    if let Some(env) = &env {
        let managed = host.neighbours.iter().filter(|((_, addr), entry)| {
            entry.managed && matches!(addr, IpAddr::V4(addr) if env.subnet.contains(addr))
        });
        for ((link, addr), _) in managed {
            let release = HostOp::ManageNeighbour {
                link: *link,
                addr: *addr,
                managed: false,
            };
            let outcome = netlink.apply(&release).await;
            done.keep(
                &format!("the keeping of neighbour {addr}"),
                outcome.map_err(Into::into),
            );
        }
    }
    if args.keep_network {
        // It is off while a subnet is lost, and flanneld would not turn it on.
        let device = vni.device();
        if let Err(error) = Sysctls::host().forward_from(&device, true) {
            done.keep(&format!("forwarding of {device}"), Err(error.into()));
        }
        if let Err(error) = firewall::remove_lost(vni).await {
            done.keep("rules about lost subnets", Err(error.into()));
        }
        lock::remove(vni);
        return Ok(());
    }
    if let Some(link) = device {
        let delete = HostOp::DeleteLink {
            link: link.index,
            name: link.name.clone(),
        };
        let outcome = netlink.apply(&delete).await.map_err(Into::into);
        done.keep(&format!("device {}", link.name), outcome);
    }
    if let Some(env) = &env {
        let own = IpNet::V4(env.subnet);
        let network = IpNet::V4(env.network);
        let form = |route: &&Route| has_direct_form(&network, env.subnet.prefix_len(), route);
        for route in host.routes.iter().filter(form) {
            let delete = HostOp::DeleteRoute(*route);
            let outcome = netlink.apply(&delete).await.map_err(Into::into);
            done.keep(&format!("route to {}", route.destination), outcome);
        }
        if host.nowhere.contains(&own) {
            let delete = HostOp::DeleteBlackhole(own);
            let outcome = netlink.apply(&delete).await.map_err(Into::into);
            done.keep(&format!("blackhole {own}"), outcome);
        }
        let outcome = firewall::remove(vni).await.map_err(Into::into);
        done.keep("firewall rules", outcome);
        let outcome = fs::remove_file(&args.subnet_file).map_err(Into::into);
        done.keep(&args.subnet_file.display().to_string(), outcome);
    }
    lock::remove(vni);
    Ok(())
}
