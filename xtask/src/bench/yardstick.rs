//! What `bench scale` is held against: the same entries as `ip -batch` and `bridge -batch` make them,
//! and the same changes.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use weft_tests::{
    host::Host,
    kernel_host::{DEVICE, Peer},
};

/// What becomes of peers.
pub(super) struct Changes {
    /// Those that come back otherwise, as they are first, and in the same order as they are then.
    pub(super) before: Vec<Peer>,
    pub(super) after: Vec<Peer>,
    pub(super) gone: Vec<Peer>,
    pub(super) new: Vec<Peer>,
}

/// How long it took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Yardstick {
    /// Everything, from nothing.
    pub(super) all: Duration,
    pub(super) changes: Duration,
}

/// Lines for `ip` and for `bridge`.
#[derive(Default)]
struct Batch {
    ip: String,
    bridge: String,
}

impl Batch {
    fn put(&mut self, peer: &Peer) {
        let [neighbour, entry, route] = peer.entries();
        self.ip += &format!("{neighbour}\n{route}\n");
        self.bridge += &format!("{entry}\n");
    }

    /// The forwarding entry of a MAC that is a peer's no more.
    fn forget(&mut self, mac: &str) {
        self.bridge += &format!("fdb del {mac} dev {DEVICE} self\n");
    }

    fn remove(&mut self, peer: &Peer) {
        let Peer { subnet, mac, .. } = peer;
        let via = subnet.network();
        self.ip += &format!("route del {subnet} via {via} dev {DEVICE} onlink\n");
        self.ip += &format!("neigh del {via} dev {DEVICE}\n");
        self.forget(mac);
    }

    fn run(&self, host: &Host) -> Result<Duration> {
        let (ip, bridge) = (host.folder().join("ip"), host.folder().join("bridge"));
        fs::write(&ip, &self.ip).context("write a batch")?;
        fs::write(&bridge, &self.bridge).context("write a batch")?;
        let began = Instant::now();
        host.run(&format!("bridge -batch {}", bridge.display()))?;
        host.ip(&format!("-batch {}", ip.display()))?;
        Ok(began.elapsed())
    }
}

/// Makes the entries of all peers, and then the changes.
pub(super) fn measure(host: &Host, peers: &[Peer], changes: &Changes) -> Result<Yardstick> {
    let mut first = Batch::default();
    peers.iter().for_each(|peer| first.put(peer));
    let mut second = Batch::default();
    for (before, after) in changes.before.iter().zip(&changes.after) {
        second.put(after);
        second.forget(&before.mac);
    }
    changes.gone.iter().for_each(|peer| second.remove(peer));
    changes.new.iter().for_each(|peer| second.put(peer));

    host.ip(&format!(
        "link add {DEVICE} type vxlan id 1 local {} dev eth0 dstport 8472 nolearning",
        host.address
    ))?;
    host.ip(&format!("link set {DEVICE} up"))?;
    let (all, changes) = (first.run(host)?, second.run(host)?);
    host.ip(&format!("link delete {DEVICE}"))?;
    Ok(Yardstick { all, changes })
}
