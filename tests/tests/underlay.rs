//! Nodes behind a router: the gateway changes, dies, and is replaced, and a node's network card too.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    host::Host,
    lab::Lab,
    load::{Load, Outcome},
    netns::Netns,
    reach::{self, Effort},
    twins::{Side, Twins},
    wait,
    world::total,
};

const PATIENCE: Duration = Duration::from_secs(15);
/// What one node says a second in the load, both flows of UDP together.
const FEW: Effort = Effort {
    pings: 2,
    packets: 50,
    tcp_bytes: 1 << 18,
};
/// The network of the nodes that are behind the routers; the others are on the lab's own.
const BEHIND: &str = "198.51.100.0/24";

/// Two routers between the lab's wire and a second one.
struct Routed {
    twins: Twins,
    routers: Vec<Netns>,
}

/// The routers' addresses on the near and on the far wire.
fn router(number: u8) -> (Ipv4Addr, Ipv4Addr) {
    (
        Ipv4Addr::new(192, 0, 2, 100 + number),
        Ipv4Addr::new(198, 51, 100, number),
    )
}

impl Routed {
    fn start(test: &str) -> Result<Self> {
        let mut routers = Vec::new();
        let twins = Twins::start_on(test, 1, |lab| {
            lab.switch.ip("link add br1 type bridge")?;
            lab.switch.ip("link set br1 up")?;
            for number in 1..=2 {
                routers.push(add_router(lab, number)?);
            }
            let (near, _) = router(1);
            lab.switch.ip(&format!("route add {BEHIND} via {near}"))?;
            for index in 0..4 {
                place(lab, index)?;
            }
            Ok(())
        })?;
        let routed = Self { twins, routers };
        for side in Side::BOTH {
            let (a, b) = routed.twins.pair(side)?;
            ensure!(reach::try_pair(a, b, FEW)?.complete(), "{side:?}");
        }
        routed.twins.world.until_met()?;
        Ok(routed)
    }

    fn hosts(&self) -> Result<[[&Host; 2]; 2]> {
        let [ours, theirs] = [
            self.twins.nodes(Side::Ours)?,
            self.twins.nodes(Side::Flannels)?,
        ];
        Ok([ours, theirs].map(|pair| pair.map(|node| node.host.as_ref())))
    }

    /// Every node's way to the other network leads by this router from now on.
    fn turn_to(&self, number: u8) -> Result<()> {
        let (near, far) = router(number);
        for [first, second] in self.hosts()? {
            first.ip(&format!("route replace {BEHIND} via {near}"))?;
            second.ip(&format!("route replace default via {far}"))?;
        }
        Ok(())
    }

    fn router(&self, number: usize) -> Result<&Netns> {
        self.routers.get(number - 1).context("a router")
    }

    /// The programs of both nodes send by this router.
    fn until_known(&self, number: u8) -> Result<()> {
        let (near, far) = router(number);
        let [ours, _] = self.hosts()?;
        for (host, gateway) in ours.into_iter().zip([near, far]) {
            let what = format!("{} sends by {gateway}", host.label);
            wait::until_true(&what, PATIENCE, || {
                let gateway = gateway.to_string();
                let peers = host.peers()?;
                Ok(peers
                    .iter()
                    .any(|peer| peer.gateway.as_ref() == Some(&gateway)))
            })
            .with_context(|| format!("{:?}", host.peers()))?;
        }
        Ok(())
    }

    /// Starts the load of both pairs, lets something happen to both, and says what came of it.
    fn under_load(&self, happens: impl FnOnce() -> Result<()>) -> Result<[Outcome; 2]> {
        let start = |side| {
            let (a, b) = self.twins.pair(side)?;
            Load::start_held(a, b)
        };
        let (ours, theirs) = (start(Side::Ours)?, start(Side::Flannels)?);
        let before = self.twins.world.counters()?;
        wait::until_true("the load runs", PATIENCE, || {
            Ok(total(&self.twins.world.shares(&before)?).taken > 2000)
        })?;
        happens()?;
        let before = self.twins.world.counters()?;
        wait::until_true("the load goes on", PATIENCE, || {
            Ok(total(&self.twins.world.shares(&before)?).taken > 2000)
        })?;
        let [ours, theirs] = [ours.finish()?, theirs.finish()?];
        let share = total(&self.twins.world.shares(&before)?);
        println!("ours\n{ours}\nflannel's\n{theirs}\n{share}");
        ensure!(
            share.taken > 1000 && share.milli_percent() >= 99_000,
            "{share}\n{}",
            self.twins.world.describe()
        );
        for outcome in [&ours, &theirs] {
            ensure!(outcome.tcp.complete(), "{outcome}");
        }
        Ok([ours, theirs])
    }
}

/// A namespace that forwards between the two wires.
fn add_router(lab: &Lab, number: u8) -> Result<Netns> {
    let ns = Netns::new(&lab.name, &format!("r{number}"))?;
    let (near, far) = router(number);
    for (wire, device, address) in [("br0", "near", near), ("br1", "far", far)] {
        let (port, name) = (format!("{device}{number}"), ns.name());
        lab.switch.ip(&format!(
            "link add {port} type veth peer name {device} netns {name}"
        ))?;
        lab.switch
            .ip(&format!("link set {port} master {wire} up"))?;
        ns.ip(&format!("address add {address}/24 dev {device}"))?;
        ns.sysctl(&format!("net/ipv4/conf/{device}/arp_notify"), "1")?;
        ns.ip(&format!("link set {device} up"))?;
    }
    ns.sysctl("net/ipv4/ip_forward", "1")?;
    // As a router does not: the other one is on the same wire.
    ns.sysctl("net/ipv4/conf/all/send_redirects", "0")?;
    for device in ["near", "far"] {
        ns.sysctl(&format!("net/ipv4/conf/{device}/send_redirects"), "0")?;
    }
    Ok(ns)
}

/// The second host of each pair moves behind the routers.
fn place(lab: &mut Lab, index: usize) -> Result<()> {
    let host = lab.host(index)?;
    host.ns.sysctl("net/ipv4/conf/eth0/arp_notify", "1")?;
    let (near, far) = router(1);
    if index.is_multiple_of(2) {
        return host.ip(&format!("route add {BEHIND} via {near}")).map(drop);
    }
    drop(host);
    let [_, _, _, last] = lab.host(index)?.address.octets();
    let address = Ipv4Addr::new(198, 51, 100, last);
    let host = lab.hosts.get_mut(index).and_then(Arc::get_mut);
    let host = host.context("a host that nobody else has yet")?;
    host.ip("address flush dev eth0")?;
    host.ip(&format!("address add {address}/24 dev eth0"))?;
    host.ip(&format!("route add default via {far}"))?;
    host.address = address;
    lab.switch
        .ip(&format!("link set p{} master br1", index + 1))
        .map(drop)
}

fn lost(outcome: &Outcome) -> u64 {
    outcome.udp.0.lost() + outcome.udp.1.lost()
}

#[test]
fn gateways_and_network_cards_change_under_load() -> Result<()> {
    let routed = Routed::start("routed")?;
    routed.until_known(1)?;

    // Both routers forward: whoever follows late loses nothing.
    let outcomes = routed.under_load(|| {
        routed.turn_to(2)?;
        routed.until_known(2)?;
        // The first is no longer needed by anybody.
        let away = routed.router(1)?;
        away.ip("link set near down")?;
        away.ip("link set far down")?;
        // But by etcd's answers.
        let (near, _) = router(2);
        let switch = &routed.twins.world.lab.switch;
        switch.ip(&format!("route replace {BEHIND} via {near}"))?;
        Ok(())
    })?;
    for outcome in outcomes {
        outcome.ensure_lossless().context("a change of gateway")?;
    }

    // A router's and a node's network card: what was sent to the old one is lost, and no more.
    let outcomes = routed.under_load(|| {
        let new = routed.router(2)?;
        new.ip("link set near address 0a:58:c0:00:02:66")?;
        new.ip("link set far address 0a:58:c6:33:64:02")?;
        for (pair, last) in routed.hosts()?.into_iter().zip(["a1", "a2"]) {
            let [first, second] = pair;
            first.ip(&format!("link set eth0 address 0a:58:00:00:01:{last}"))?;
            second.ip(&format!("link set eth0 address 0a:58:00:00:02:{last}"))?;
        }
        Ok(())
    })?;
    for outcome in outcomes {
        ensure!(lost(&outcome) <= 100, "new cards: {outcome}");
    }

    // The router dies, and only then the first comes back and the routes change.
    let [ours, theirs] = routed.under_load(|| {
        let (old, new) = (routed.router(2)?, routed.router(1)?);
        for device in ["near", "far"] {
            new.ip(&format!("link set {device} up"))?;
        }
        for device in ["near", "far"] {
            old.ip(&format!("link set {device} down"))?;
        }
        routed.turn_to(1)?;
        let (near, _) = router(1);
        let switch = &routed.twins.world.lab.switch;
        switch.ip(&format!("route replace {BEHIND} via {near}"))?;
        routed.until_known(1)
    })?;
    // A dead router loses what is sent to it; ours hears of the new one a moment later than the
    // kernel, which needs no telling.
    ensure!(
        lost(&ours) <= lost(&theirs) + 200,
        "a dead gateway: {ours}\nflannel's: {theirs}"
    );
    Ok(())
}
