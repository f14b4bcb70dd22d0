//! The networks that stand side by side: each a pair of hosts on a cable of its own.

use std::{ffi::OsStr, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use weft_tests::{
    agent::{Agent, Flags},
    command,
    container::{Container, HostAt, add_bridge},
    dump::Counters,
    host::Host,
    kernel_host::{KernelHost, lease_key},
    lab::Lab,
    subnet_env::SubnetEnv,
    wait,
};

use super::{measures::Wire, worker::Pair};

/// Leases of nodes that are not there.
const MANY: u32 = 10_000;
/// Until an agent knows them all, on a machine that builds five other lanes.
const MANY_LIMIT: Duration = Duration::from_secs(90);

/// What carries packets in a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Nothing: from host to host.
    Bare,
    /// Plain routes.
    HostGw,
    /// `flannel.1`, programmed as flannel does.
    Flannel,
    /// Our programs at the bridges.
    WeftBridge,
    /// Our programs at the ports.
    Weft,
    /// The same with 10,000 peers in the maps.
    WeftMany,
    /// The same of another build, for comparing the two. Only when it is asked for.
    WeftBefore,
}

pub(super) const KINDS: &[Kind] = &[
    Kind::Bare,
    Kind::HostGw,
    Kind::Flannel,
    Kind::WeftBridge,
    Kind::Weft,
    Kind::WeftMany,
    Kind::WeftBefore,
];

impl Kind {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare",
            Self::HostGw => "hostgw",
            Self::Flannel => "flannel",
            Self::WeftBridge => "weft_bridge",
            Self::Weft => "weft",
            Self::WeftMany => "weft_10k",
            Self::WeftBefore => "weft_before",
        }
    }

    const fn is_ours(self) -> bool {
        match self {
            Self::Bare | Self::HostGw | Self::Flannel => false,
            Self::WeftBridge | Self::Weft | Self::WeftMany | Self::WeftBefore => true,
        }
    }
}

/// A lane at work.
pub(super) struct Lane {
    // In the order in which they go.
    pub(super) pair: Pair,
    _containers: Vec<Container>,
    _agents: Vec<Agent>,
    pub(super) kind: Kind,
    hosts: [Arc<Host>; 2],
}

impl Lane {
    /// Builds lane `number`, counted from 0, on its two hosts. `weft` is the agent, and makes the load;
    /// `before` is the other build's agent.
    pub(super) fn build(
        lab: &Lab,
        number: usize,
        kind: Kind,
        weft: &OsStr,
        before: Option<&Path>,
    ) -> Result<Self> {
        let hosts = [lab.host(2 * number)?, lab.host(2 * number + 1)?];
        let mut agents = Vec::new();
        let envs = match kind {
            Kind::Bare => None,
            Kind::HostGw => Some(host_gw(&hosts)?),
            Kind::Flannel => Some(flannel(&hosts)?),
            Kind::WeftBridge | Kind::Weft | Kind::WeftMany | Kind::WeftBefore => {
                let before = before.filter(|_| kind == Kind::WeftBefore);
                let program = before.unwrap_or(Path::new(weft));
                Some(ours(lab, (number, kind), program, &hosts, &mut agents)?)
            }
        };
        let mut containers = Vec::new();
        for host in &hosts {
            kube_rules(host)?;
            // Bridge netfilter would show the bridge's program nothing but tracked packets.
            if kind == Kind::WeftBridge {
                host.ns.sysctl("net/bridge/bridge-nf-call-iptables", "0")?;
            }
        }
        for (host, env) in hosts.iter().zip(envs.iter().flatten()) {
            add_bridge(host, env)?;
            containers.push(Container::new(host, env, 1)?);
        }
        let pair = match containers.as_slice() {
            [one, other] => {
                one.ns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
                Pair::start(weft, one, other)
            }
            _ => {
                let at = |host: &Arc<Host>| HostAt {
                    host: Arc::clone(host),
                    address: host.address,
                };
                let [one, other] = &hosts;
                one.ns.sysctl("net/ipv4/tcp_tw_reuse", "1")?;
                Pair::start(weft, &at(one), &at(other))
            }
        };
        Ok(Self {
            pair: pair.with_context(|| kind.name())?,
            _containers: containers,
            _agents: agents,
            kind,
            hosts,
        })
    }

    /// Sets what the lane's cable carries.
    pub(super) fn set_wire(&self, wire: Wire) -> Result<()> {
        let (offload, gro) = match wire {
            Wire::Whole => ("on", "off"),
            Wire::Mtu => ("off", "on"),
        };
        for host in &self.hosts {
            let flags = format!("tx {offload} sg {offload} tso {offload} gso {offload} gro {gro}");
            host.run(&format!("ethtool -K eth0 {flags}"))?;
        }
        Ok(())
    }

    /// Waits until the agents know the lane's containers, if there are agents.
    pub(super) fn until_known(&self) -> Result<()> {
        if !self.kind.is_ours() {
            return Ok(());
        }
        let what = format!("the agents of {} know its containers", self.kind.name());
        wait::until_true(&what, MANY_LIMIT, || {
            let known = |host: &Arc<Host>| Ok::<_, anyhow::Error>(!host.endpoints()?.is_empty());
            let [one, other] = &self.hosts;
            Ok(known(one)? && known(other)?)
        })
    }

    /// What each of the two hosts has counted; nothing where no programs are.
    pub(super) fn counters(&self) -> Result<Vec<Counters>> {
        if !self.kind.is_ours() {
            return Ok(Vec::new());
        }
        self.hosts.iter().map(|host| host.counters()).collect()
    }
}

fn env(host: &Host) -> Result<SubnetEnv> {
    let [.., last] = host.address.octets();
    Ok(SubnetEnv {
        network: "10.244.0.0/16".parse()?,
        subnet: format!("10.244.{last}.1/24").parse()?,
        mtu: 1450,
        ip_masq: false,
    })
}

fn host_gw(hosts: &[Arc<Host>; 2]) -> Result<Vec<SubnetEnv>> {
    let [one, other] = hosts;
    for (host, peer) in [(one, other), (other, one)] {
        host.ns.sysctl("net/ipv4/ip_forward", "1")?;
        let there = env(peer)?.subnet.trunc();
        host.ip(&format!("route add {there} via {}", peer.address))?;
    }
    // The MTU that a network without a tunnel has.
    let whole = |host: &Arc<Host>| {
        Ok(SubnetEnv {
            mtu: 1500,
            ..env(host)?
        })
    };
    hosts.iter().map(whole).collect()
}

fn flannel(hosts: &[Arc<Host>; 2]) -> Result<Vec<SubnetEnv>> {
    let [one, other] = hosts;
    let [one, other] = [one, other].map(|host| KernelHost::new(Arc::clone(host), env(host)?));
    let (one, other) = (one?, other?);
    one.add_peer(&other.peer())?;
    other.add_peer(&one.peer())?;
    Ok(vec![one.env, other.env])
}

fn ours(
    lab: &Lab,
    (number, kind): (usize, Kind),
    program: &Path,
    hosts: &[Arc<Host>; 2],
    agents: &mut Vec<Agent>,
) -> Result<Vec<SubnetEnv>> {
    let prefix = format!("/lane{number}/network");
    let config = r#"{"Network":"10.0.0.0/8","SubnetLen":24,"SubnetMin":"10.244.0.0","SubnetMax":"10.244.255.0","Backend":{"Type":"vxlan"}}"#;
    lab.etcd.put(&format!("{prefix}/config"), config)?;
    let mut peers = 1;
    if kind == Kind::WeftMany {
        lab.etcd.put_all(&strangers(&prefix)?)?;
        peers += usize::try_from(MANY)?;
    }
    let mut envs = Vec::new();
    for host in hosts {
        let mut flags = Flags::new(&lab.etcd.endpoint());
        flags.build = Some(program.to_owned());
        flags.more = vec!["--iface=eth0".to_owned(), format!("--etcd-prefix={prefix}")];
        if kind == Kind::WeftBridge {
            flags.more.push("--hook-at=bridge".to_owned());
        }
        agents.push(Agent::start(host, flags)?);
    }
    for agent in agents {
        envs.push(agent.ready()?);
        let what = format!("the agent on {} knows {peers} peers", agent.host.label);
        wait::until_true(&what, MANY_LIMIT, || Ok(agent.host.peers()?.len() == peers))
            .with_context(|| agent.tail())?;
    }
    Ok(envs)
}

/// Leases of nodes far away, in the part of the network that no lane takes subnets from.
fn strangers(prefix: &str) -> Result<Vec<(String, String)>> {
    let first = u32::from(Ipv4Addr::new(10, 10, 0, 0));
    let node = u32::from(Ipv4Addr::new(203, 0, 0, 0));
    (0..MANY)
        .map(|number| {
            let subnet = Ipv4Net::new(Ipv4Addr::from(first + (number << 8)), 24)?;
            let key = lease_key(subnet);
            let name = key.rsplit('/').next().unwrap_or_default();
            let public = Ipv4Addr::from(node + number);
            let [.., high, low] = number.to_be_bytes();
            let value = format!(
                r#"{{"PublicIP":"{public}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"0e:00:00:00:{high:02x}:{low:02x}"}}}}"#
            );
            Ok((format!("{prefix}/subnets/{name}"), value))
        })
        .collect()
}

/// What a node of Kubernetes has: conntrack at work, masquerade, a service, and kube-proxy's rules
/// in FORWARD.
fn kube_rules(host: &Host) -> Result<()> {
    let rules = [
        "-t nat -N KUBE-SERVICES",
        "-t nat -A PREROUTING -j KUBE-SERVICES",
        "-t nat -A OUTPUT -j KUBE-SERVICES",
        "-t nat -A KUBE-SERVICES -d 10.96.0.10/32 -p tcp --dport 80 -j DNAT --to-destination 10.244.1.9:80",
        "-t nat -N KUBE-POSTROUTING",
        "-t nat -A POSTROUTING -j KUBE-POSTROUTING",
        "-t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
        "-t nat -A KUBE-POSTROUTING -j MASQUERADE --random-fully",
        "-N KUBE-FORWARD",
        "-A FORWARD -j KUBE-FORWARD",
        "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP",
        "-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    ];
    for rule in rules {
        command::run(host.command("iptables").args(rule.split_whitespace()))
            .with_context(|| format!("iptables {rule}"))?;
    }
    Ok(())
}

/// Fails unless a lane of ours was carried by its programs: what the kernel carried would be
/// flannel's figures under our name.
pub(super) fn ensure_fast(lane: &Lane, before: &[Counters]) -> Result<()> {
    for (now, then) in lane.counters()?.iter().zip(before) {
        let share = now.since(then);
        ensure!(
            share.milli_percent() >= 99_000,
            "{}: the programs carried only part: {share}",
            lane.kind.name()
        );
    }
    Ok(())
}
