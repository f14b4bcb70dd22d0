//! Hosts on one wire, and the etcd that they share.

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc};

use anyhow::{Context as _, Result};

use crate::{
    container::NetnsAt,
    docker,
    etcd::Etcd,
    host::{Bpffs, Host},
    netns::{self, LabName, Netns},
};

/// The switch: where etcd listens and where the hosts' default routes point.
pub const SWITCH: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

#[derive(Debug)]
pub struct Lab {
    // In the order in which they go.
    pub hosts: Vec<Arc<Host>>,
    pub etcd: Etcd,
    pub switch: Netns,
    pub name: LabName,
    folder: tempfile::TempDir,
}

impl Lab {
    /// `hosts` hosts `h1`, `h2`, … with `eth0` on a switch of their own.
    pub fn new(test: &str, hosts: u8) -> Result<Self> {
        Self::with_bpffs(test, hosts, Bpffs::Missing)
    }

    pub fn with_bpffs(test: &str, hosts: u8, bpffs: Bpffs) -> Result<Self> {
        Self::build(test, |name, switch, folder| {
            (1..=hosts)
                .map(|number| host(name, switch, number, folder, bpffs).map(Arc::new))
                .collect()
        })
    }

    /// Pairs of hosts with a cable of their own between the two `eth0`: nothing else is on the way.
    /// etcd is behind `mgmt0`.
    pub fn cabled(test: &str, pairs: u8) -> Result<Self> {
        Self::build(test, |name, switch, folder| {
            let mut hosts = Vec::new();
            for number in 1..=2 * pairs {
                let host = apart(name, switch, number, folder)?;
                hosts.push(Arc::new(host));
            }
            for pair in hosts.chunks(2) {
                if let [one, other] = pair {
                    cable(one, other)?;
                }
            }
            Ok(hosts)
        })
    }

    fn build(
        test: &str,
        hosts: impl FnOnce(&LabName, &Netns, &Path) -> Result<Vec<Arc<Host>>>,
    ) -> Result<Self> {
        netns::require_root()?;
        netns::sweep();
        docker::sweep();
        let name = LabName::new(test);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{}-", name.as_str()))
            .tempdir()
            .context("make the lab's folder")?;
        let switch = switch(&name)?;
        let hosts = hosts(&name, &switch, folder.path())?;
        let etcd = Etcd::start(&switch, SWITCH, folder.path())?;
        Ok(Self {
            hosts,
            etcd,
            switch,
            name,
            folder,
        })
    }

    pub fn host(&self, index: usize) -> Result<Arc<Host>> {
        self.hosts
            .get(index)
            .cloned()
            .with_context(|| format!("host {index} of the lab"))
    }

    /// The switch's own stack, which belongs to no overlay.
    pub fn outside(&self) -> NetnsAt<'_> {
        NetnsAt {
            ns: &self.switch,
            address: SWITCH,
        }
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

pub(crate) fn switch(name: &LabName) -> Result<Netns> {
    let switch = Netns::new(name, "sw")?;
    switch.ip("link add br0 type bridge")?;
    switch.ip(&format!("address add {SWITCH}/24 dev br0"))?;
    switch.ip("link set br0 up")?;
    // A switch forwards frames: no firewall of its own, no reassembly of what passes.
    switch.sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
    Ok(switch)
}

pub(crate) fn host(
    name: &LabName,
    switch: &Netns,
    number: u8,
    folder: &Path,
    bpffs: Bpffs,
) -> Result<Host> {
    let label = format!("h{number}");
    let address = Ipv4Addr::new(192, 0, 2, 10 + number);
    let folder = folder.join(&label);
    fs::create_dir_all(&folder).context("make a host's folder")?;
    let host = Host::new(name, &label, address, folder, bpffs)?;
    let far = host.ns.name();
    switch.ip(&format!(
        "link add p{number} type veth peer name eth0 netns {far}"
    ))?;
    switch.ip(&format!("link set p{number} master br0 up"))?;
    host.ip(&format!("address add {address}/24 dev eth0"))?;
    host.ip("link set eth0 up")?;
    host.ip(&format!("route add default via {SWITCH}"))?;
    Ok(host)
}

/// A host that reaches etcd, and no other host yet.
fn apart(name: &LabName, switch: &Netns, number: u8, folder: &Path) -> Result<Host> {
    let label = format!("h{number}");
    let folder = folder.join(&label);
    fs::create_dir_all(&folder).context("make a host's folder")?;
    let address = Ipv4Addr::new(198, 51, 100, 10 + number);
    let host = Host::new(name, &label, address, folder, Bpffs::Missing)?;
    let far = host.ns.name();
    switch.ip(&format!(
        "link add p{number} type veth peer name mgmt0 netns {far}"
    ))?;
    switch.ip(&format!("link set p{number} master br0 up"))?;
    host.ip(&format!("address add 192.0.2.{}/24 dev mgmt0", 10 + number))?;
    host.ip("link set mgmt0 up")?;
    Ok(host)
}

fn cable(one: &Host, other: &Host) -> Result<()> {
    let far = other.ns.name();
    one.ip(&format!(
        "link add eth0 type veth peer name eth0 netns {far}"
    ))?;
    for (host, peer) in [(one, other), (other, one)] {
        host.ip(&format!("address add {}/24 dev eth0", host.address))?;
        host.ip("link set eth0 up")?;
        host.ip(&format!("route add default via {}", peer.address))?;
    }
    Ok(())
}
