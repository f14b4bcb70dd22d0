//! A lab with something on every host: agents or hand-made kernels, bridges and containers.

use std::sync::Arc;

use anyhow::{Context as _, Result, ensure};

use crate::{
    agent::{Agent, Flags, READY},
    container::{Container, HostAt, add_bridge},
    dump::{Counters, Share},
    host::Host,
    kernel_host::KernelHost,
    lab::Lab,
    subnet_env::SubnetEnv,
    wait,
};

/// Room for many hosts, in a range that no test machine uses.
pub const CONFIG: &str = r#"{"Network":"188.172.0.0/16","Backend":{"Type":"vxlan"}}"#;

/// What carries the overlay on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Weft,
    Kernel,
}

/// What to build; the fields are the tests' knobs.
#[derive(Clone, Debug)]
pub struct Plan {
    pub test: String,
    pub config: String,
    pub kinds: Vec<Kind>,
    pub datapath: &'static str,
    pub fast_path: &'static str,
    /// Further flags of every agent.
    pub flags: Vec<String>,
    /// On each host.
    pub containers: u8,
}

impl Plan {
    /// Two agents on the fast path with one container each.
    pub fn new(test: &str) -> Self {
        Self {
            test: test.to_owned(),
            config: CONFIG.to_owned(),
            kinds: vec![Kind::Weft; 2],
            datapath: "ebpf",
            fast_path: "auto",
            flags: Vec::new(),
            containers: 1,
        }
    }
}

#[derive(Debug)]
pub enum Driver {
    Weft(Agent),
    Kernel(KernelHost),
}

#[derive(Debug)]
pub struct Node {
    // In the order in which they go.
    pub containers: Vec<Container>,
    pub driver: Driver,
    pub env: SubnetEnv,
    pub host: Arc<Host>,
}

impl Node {
    /// The host under its overlay address, which its own traffic to containers uses.
    pub fn overlay(&self) -> HostAt {
        HostAt {
            host: Arc::clone(&self.host),
            address: self.env.overlay(),
        }
    }

    /// The host under the address of its bridge.
    pub fn gateway(&self) -> HostAt {
        HostAt {
            host: Arc::clone(&self.host),
            address: self.env.gateway(),
        }
    }

    pub fn container(&self, index: usize) -> Result<&Container> {
        self.containers
            .get(index)
            .with_context(|| format!("container {index}"))
    }

    pub fn agent(&mut self) -> Result<&mut Agent> {
        match &mut self.driver {
            Driver::Weft(agent) => Ok(agent),
            Driver::Kernel(_) => anyhow::bail!("{} has no agent", self.host.label),
        }
    }

    pub fn has_programs(&self) -> bool {
        matches!(&self.driver, Driver::Weft(agent) if agent.has_programs())
    }
}

#[derive(Debug)]
pub struct World {
    pub nodes: Vec<Node>,
    pub lab: Lab,
}

impl World {
    /// Everything up, every agent ready and acquainted with all others.
    pub fn start(plan: &Plan) -> Result<Self> {
        Self::start_on(plan, |_| Ok(()))
    }

    /// The same on hosts, or a wire, that `prepare` has changed first.
    pub fn start_on(plan: &Plan, prepare: impl FnOnce(&mut Lab) -> Result<()>) -> Result<Self> {
        let hosts = u8::try_from(plan.kinds.len()).context("that many hosts")?;
        let mut lab = Lab::new(&plan.test, hosts)?;
        prepare(&mut lab)?;
        lab.etcd.put_config(&plan.config)?;
        let drivers = drivers(plan, &lab)?;
        let mut nodes = Vec::new();
        for (mut driver, host) in drivers.into_iter().zip(&lab.hosts) {
            let env = match &mut driver {
                Driver::Weft(agent) => agent.ready()?,
                Driver::Kernel(kernel) => kernel.env,
            };
            nodes.push(Node {
                containers: Vec::new(),
                driver,
                env,
                host: Arc::clone(host),
            });
        }
        for node in &mut nodes {
            match &mut node.driver {
                Driver::Weft(agent) => agent.knows(plan.kinds.len() - 1)?,
                Driver::Kernel(kernel) => kernel.learn(&lab.etcd)?,
            }
            add_bridge(&node.host, &node.env)?;
            for number in 1..=plan.containers {
                node.containers
                    .push(Container::new(&node.host, &node.env, number)?);
            }
        }
        Ok(Self { nodes, lab })
    }

    pub fn node(&self, index: usize) -> Result<&Node> {
        self.nodes
            .get(index)
            .with_context(|| format!("host {index} of the world"))
    }

    pub fn node_mut(&mut self, index: usize) -> Result<&mut Node> {
        self.nodes
            .get_mut(index)
            .with_context(|| format!("host {index} of the world"))
    }

    /// The first container of the first and of the second host.
    pub fn pair(&self) -> Result<(&Container, &Container)> {
        Ok((self.node(0)?.container(0)?, self.node(1)?.container(0)?))
    }

    /// The counters of every agent with programs, in the order of the hosts.
    pub fn counters(&self) -> Result<Vec<Counters>> {
        let counted = self.nodes.iter().filter(|node| node.has_programs());
        counted.map(|node| node.host.counters()).collect()
    }

    /// What every agent's programs carried since `earlier`.
    pub fn shares(&self, earlier: &[Counters]) -> Result<Vec<Share>> {
        let now = self.counters()?;
        Ok(now
            .iter()
            .zip(earlier)
            .map(|(now, then)| now.since(then))
            .collect())
    }

    /// Waits until every agent's programs know its containers, which have sent something by now. On a
    /// busy machine that takes a look or two, and a flow that begins before is the stack's.
    pub fn until_met(&self) -> Result<()> {
        for node in self.nodes.iter().filter(|node| node.has_programs()) {
            wait::until_true("its containers are known", READY, || {
                let known = node.host.endpoints()?;
                let met = |container: &Container| {
                    let address = container.address.to_string();
                    known.iter().any(|end| end.address == address)
                };
                Ok(node.containers.iter().all(met))
            })
            .with_context(|| self.describe())?;
        }
        Ok(())
    }

    /// Fails unless the programs carried all but one in a hundred of what could be fast since
    /// `earlier`.
    pub fn ensure_fast(&self, earlier: &[Counters]) -> Result<()> {
        let share = total(&self.shares(earlier)?);
        ensure!(
            share.milli_percent() >= 99_000,
            "{share}\n{}",
            self.describe()
        );
        Ok(())
    }

    /// For a failure: what every agent logged and counted.
    pub fn describe(&self) -> String {
        let mut text = String::new();
        for node in &self.nodes {
            if let Driver::Weft(agent) = &node.driver {
                text.push_str(&agent.tail());
                text.push('\n');
                text.push_str(&node.host.counters().map(|c| c.lines()).unwrap_or_default());
            }
        }
        text
    }
}

/// Sums the shares of several hosts.
pub fn total(shares: &[Share]) -> Share {
    shares.iter().fold(Share::default(), |sum, share| Share {
        taken: sum.taken + share.taken,
        aggregates: sum.aggregates + share.aggregates,
        qualified: sum.qualified + share.qualified,
    })
}

fn drivers(plan: &Plan, lab: &Lab) -> Result<Vec<Driver>> {
    let mut drivers = Vec::new();
    for (kind, host) in plan.kinds.iter().zip(&lab.hosts) {
        drivers.push(match kind {
            Kind::Weft => {
                let mut flags = Flags::new(&lab.etcd.endpoint());
                flags.datapath = plan.datapath;
                flags.fast_path = plan.fast_path;
                flags.more.clone_from(&plan.flags);
                Driver::Weft(Agent::start(host, flags)?)
            }
            Kind::Kernel => {
                let kernel = KernelHost::new(Arc::clone(host), hand_made_env(host)?)?;
                kernel.publish(&lab.etcd)?;
                Driver::Kernel(kernel)
            }
        });
    }
    Ok(drivers)
}

/// A hand-made host's subnet follows from its address, so that two never share one, and its MTU
/// from its uplink's.
fn hand_made_env(host: &Host) -> Result<SubnetEnv> {
    let [_, _, _, last] = host.address.octets();
    let uplink: u32 = host
        .run("cat /sys/class/net/eth0/mtu")?
        .trim()
        .parse()
        .context("the uplink's MTU")?;
    Ok(SubnetEnv {
        network: "188.172.0.0/16".parse()?,
        subnet: format!("188.172.{last}.1/24").parse()?,
        mtu: uplink - 50,
        ip_masq: false,
    })
}
