//! Two pairs of hosts in one lab: ours, and one that is programmed as flannel programs a kernel.
//! What happens to both at once must end in the same way.

use anyhow::Result;

use crate::{
    container::Container,
    lab::Lab,
    world::{Kind, Node, Plan, World},
};

/// One of the pairs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Ours,
    Flannels,
}

impl Side {
    pub const BOTH: [Self; 2] = [Self::Ours, Self::Flannels];

    /// The pair's first host in the world.
    fn first(self) -> usize {
        match self {
            Self::Ours => 0,
            Self::Flannels => 2,
        }
    }
}

#[derive(Debug)]
pub struct Twins {
    pub world: World,
}

impl Twins {
    /// All four hosts up and acquainted, with `containers` on each.
    pub fn start(test: &str, containers: u8) -> Result<Self> {
        Self::start_on(test, containers, |_| Ok(()))
    }

    /// The same on hosts, or a wire, that `prepare` has changed first.
    pub fn start_on(
        test: &str,
        containers: u8,
        prepare: impl FnOnce(&mut Lab) -> Result<()>,
    ) -> Result<Self> {
        let plan = Plan {
            kinds: vec![Kind::Weft, Kind::Weft, Kind::Kernel, Kind::Kernel],
            containers,
            ..Plan::new(test)
        };
        let world = World::start_on(&plan, prepare)?;
        for side in [2, 3] {
            // flannel's, which let the overlay pass whatever the policy is.
            let host = &world.node(side)?.host;
            for way in ["-s", "-d"] {
                host.run(&format!(
                    "iptables -A FORWARD {way} 188.172.0.0/16 -j ACCEPT"
                ))?;
            }
        }
        Ok(Self { world })
    }

    /// Both hosts of a pair.
    pub fn nodes(&self, side: Side) -> Result<[&Node; 2]> {
        let first = side.first();
        Ok([self.world.node(first)?, self.world.node(first + 1)?])
    }

    pub fn node_mut(&mut self, side: Side, index: usize) -> Result<&mut Node> {
        self.world.node_mut(side.first() + index)
    }

    /// The first container of each host of a pair.
    pub fn pair(&self, side: Side) -> Result<(&Container, &Container)> {
        let [near, far] = self.nodes(side)?;
        Ok((near.container(0)?, far.container(0)?))
    }
}
