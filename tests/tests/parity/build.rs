//! Makes hosts that are the same in both pairs, but for what carries the overlay.

use std::sync::Arc;

use anyhow::{Result, ensure};
use weft_tests::{
    agent::{Agent, Flags},
    container::{BRIDGE, Container},
    craft::Mac,
    host::Host,
    kernel_host::{DEVICE, KernelHost},
    lab::Lab,
    netns::Netns,
    subnet_env::SubnetEnv,
    world::Kind,
};

use crate::place::{MTU, Owner, WIDE, mac, vtep_mac};

/// Makes the overlay by hand, and hands it over to agents where ours is to carry it: device, MAC
/// and lease are then as on the other pair.
pub fn carry(
    kind: Kind,
    hooks: Hooks,
    lab: &Lab,
    hosts: &[Arc<Host>; 2],
    envs: &[SubnetEnv; 2],
) -> Result<Vec<Agent>> {
    let mut kernels = Vec::new();
    for (host, env) in hosts.iter().zip(envs) {
        let kernel = KernelHost::new(Arc::clone(host), *env)?;
        kernel.publish(&lab.etcd)?;
        kernels.push(kernel);
    }
    for (number, kernel) in kernels.iter().enumerate() {
        kernel.learn(&lab.etcd)?;
        let device = kernel.host.ns.mac("flannel.1")?;
        ensure!(device == vtep_mac(number), "another MAC: {device:02x?}");
    }
    if kind == Kind::Kernel {
        if let (Hooks::Direct, [a, b]) = (hooks, kernels.as_slice()) {
            route(a, b)?;
            route(b, a)?;
        }
        return Ok(Vec::new());
    }
    let start = |host: &Arc<Host>| {
        let mut flags = Flags::new(&lab.etcd.endpoint());
        // Its questions would be on the wire beside the packets that are compared.
        flags.more.push("--path-mtu-every=0".to_owned());
        if hooks == Hooks::Bridges {
            flags.more.push("--hook-at=bridge".to_owned());
        }
        Agent::start(host, flags)
    };
    let mut agents = hosts.iter().map(start).collect::<Result<Vec<_>>>()?;
    for (number, (agent, env)) in agents.iter_mut().zip(envs).enumerate() {
        let found = agent.ready()?;
        agent.knows(1)?;
        ensure!(found.subnet == env.subnet, "another subnet: {found:?}");
        let device = agent.host.ns.mac("flannel.1")?;
        ensure!(device == vtep_mac(number), "another MAC: {device:02x?}");
    }
    Ok(agents)
}

/// As flannel does it for a node on the same wire with `DirectRouting`.
fn route(from: &KernelHost, to: &KernelHost) -> Result<()> {
    let (subnet, via) = (to.env.subnet.trunc(), to.host.address);
    from.host.ip(&format!("route replace {subnet} via {via}"))?;
    let neighbour = subnet.network();
    from.host
        .ip(&format!("neigh del {neighbour} dev {DEVICE}"))
        .map(drop)
}

/// Where ours meet what containers send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hooks {
    /// At the ports of bridges, as users have it.
    Ports,
    /// At the bridges, as it is measured beside it.
    Bridges,
    /// At the ports, and what is sent on goes without a tunnel.
    Direct,
}

/// What the hosts' packet filters say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// Nothing but what the agents write.
    None,
    /// Connections are followed, and what belongs to none is dropped, as kube-proxy has it.
    Stateful,
}

impl Rules {
    pub fn write(self, host: &Host) -> Result<()> {
        if self == Self::Stateful {
            host.run("iptables -A FORWARD -m conntrack --ctstate INVALID -j DROP")?;
            // Where somebody translates, redirects are not sent; one of our agent's rules counts.
            host.run("iptables -t nat -A POSTROUTING -s 198.51.100.0/24 -j MASQUERADE")?;
        }
        Ok(())
    }
}

/// The host's end of the wire.
pub fn uplink(host: &Host, number: usize) -> Result<()> {
    quiet(&host.ns)?;
    set_mac(&host.ns, "eth0", mac(Owner::Uplink, number))
}

/// As the lab's, but it asks nobody for groups.
pub fn bridge(host: &Host, env: &SubnetEnv, number: usize) -> Result<()> {
    host.ip(&format!("link add {BRIDGE} type bridge mcast_snooping 0"))?;
    host.ip(&format!("link set {BRIDGE} mtu {}", env.mtu))?;
    host.ip(&format!("address add {} dev {BRIDGE}", env.subnet))?;
    set_mac(&host.ns, BRIDGE, mac(Owner::Bridge, number))?;
    host.ip(&format!("link set {BRIDGE} up"))?;
    // Nobody answers for an unknown address: the host says so soon.
    let soon = format!("net/ipv4/neigh/{BRIDGE}");
    host.ns.sysctl(&format!("{soon}/mcast_solicit"), "1")?;
    host.ns.sysctl(&format!("{soon}/retrans_time_ms"), "100")?;
    // A packet that a capture still holds does not wait with others: their order would be chance.
    host.run("ethtool -K flannel.1 gro off").map(drop)
}

/// The container that sends crafted frames: its link is wider than the overlay, so that it can send
/// what does not fit; what it sends by itself fits.
pub fn crafter(host: &Arc<Host>, env: &SubnetEnv, number: usize) -> Result<Container> {
    let container = Container::new(host, env, 1)?;
    quiet(&container.ns)?;
    set_mac(&container.ns, "eth0", mac(Owner::Container, number))?;
    container.ip(&format!("link set eth0 mtu {WIDE}"))?;
    let gateway = env.gateway();
    container.ip(&format!("route change default via {gateway} mtu {MTU}"))?;
    host.ip(&format!("link set {} mtu {WIDE}", container.port))?;
    Ok(container)
}

/// Another container beside it, for sockets.
pub fn neighbour(host: &Arc<Host>, env: &SubnetEnv, number: usize) -> Result<Container> {
    let container = Container::new(host, env, 2)?;
    quiet(&container.ns)?;
    set_mac(&container.ns, "eth0", mac(Owner::Neighbour, number))?;
    Ok(container)
}

pub fn env(third: u8) -> SubnetEnv {
    SubnetEnv {
        network: "188.172.0.0/16".parse().expect("a constant"),
        subnet: format!("188.172.{third}.1/24").parse().expect("a constant"),
        mtu: 1450,
        ip_masq: false,
    }
}

/// Says nothing by itself, and answers every packet that asks for it.
fn quiet(ns: &Netns) -> Result<()> {
    ns.sysctl("net/ipv6/conf/all/disable_ipv6", "1")?;
    // Nor does it complain of missing pieces before the end.
    ns.sysctl("net/ipv4/ipfrag_time", "600")?;
    ns.sysctl("net/ipv4/icmp_ratemask", "0")
}

pub fn set_mac(ns: &Netns, device: &str, mac: Mac) -> Result<()> {
    let text = mac.map(|byte| format!("{byte:02x}")).join(":");
    ns.ip(&format!("link set {device} address {text}"))
        .map(drop)
}
