//! Who reaches whom: pings, numbered UDP packets and hashed TCP transfers between two places.

use anyhow::{Result, ensure};

use crate::{
    container::Place,
    probe::{self, Exchange},
    report::{Ping, Tcp, Udp},
    world::World,
};

/// What is tried between two places.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    pub pings: u32,
    /// In each direction, at 1,000 a second.
    pub packets: u64,
    /// In each direction.
    pub tcp_bytes: u64,
}

impl Default for Effort {
    fn default() -> Self {
        Self {
            pings: 3,
            packets: 300,
            tcp_bytes: 32 << 20,
        }
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Reached {
    pub from: String,
    pub to: String,
    pub ping: Ping,
    pub udp: (Udp, Udp),
    pub tcp: Tcp,
}

impl Reached {
    /// Everything arrived, and as it was sent.
    pub fn complete(&self) -> bool {
        let (a, b) = self.udp;
        self.ping.replies == self.ping.sent
            && [a, b]
                .iter()
                .all(|side| side.lost_on_the_way() == 0 && side.received > 0 && side.refused == 0)
            && self.tcp.complete()
    }

    pub fn header() -> String {
        format!(
            "  {:<8} {:<8} {:>9} {:>12} {:>12} {:>12} {:>12}",
            "from", "to", "pings", "UDP there", "UDP back", "TCP Mbit/s", "content"
        )
    }

    pub fn line(&self) -> String {
        let Self {
            from,
            to,
            ping,
            udp: (a, b),
            tcp,
        } = self;
        let udp = |side: &Udp| format!("{}/{}", side.received, side.peer_sent);
        let content = if tcp.complete() { "equal" } else { "DIFFERS" };
        let pings = format!("{}/{}", ping.replies, ping.sent);
        format!(
            "  {from:<8} {to:<8} {pings:>9} {:>12} {:>12} {:>12} {content:>12}",
            udp(b),
            udp(a),
            tcp.mbit()
        )
    }
}

/// Tries one pair, in the direction given and with UDP in both.
pub fn try_pair(from: &dyn Place, to: &dyn Place, effort: Effort) -> Result<Reached> {
    let Effort {
        pings,
        packets,
        tcp_bytes,
    } = effort;
    let ping = probe::ping(from, to.address(), &format!("--count {pings}"))?;
    let udp = Exchange {
        port: 9000,
        rate: 1000,
        count: packets,
        size: 64,
    }
    .run(from, to)?;
    let tcp = probe::transfer(from, to, 9001, tcp_bytes)?;
    Ok(Reached {
        from: from.name(),
        to: to.name(),
        ping,
        udp,
        tcp,
    })
}

/// Every container with every container of another host, in both directions; every agent knows its
/// own afterwards.
pub fn everybody(world: &World, effort: Effort) -> Result<Vec<Reached>> {
    let mut all = Vec::new();
    for (number, from) in world.nodes.iter().enumerate() {
        let others = world
            .nodes
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != number);
        for (_, to) in others {
            for (a, b) in from
                .containers
                .iter()
                .flat_map(|a| to.containers.iter().map(move |b| (a, b)))
            {
                all.push(try_pair(a, b, effort)?);
            }
        }
    }
    world.until_met()?;
    Ok(all)
}

/// Fails with the first pair between which something was lost.
pub fn ensure_all(all: &[Reached]) -> Result<()> {
    ensure!(!all.is_empty(), "nobody was to be reached");
    for reached in all {
        ensure!(
            reached.complete(),
            "{} to {}: {reached:?}",
            reached.from,
            reached.to
        );
    }
    Ok(())
}
