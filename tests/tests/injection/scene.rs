//! The victim, its real peers, a stranger on the wire, a hostile container, and who would hear it
//! if a forgery came through.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    command,
    container::{Container, HostAt, NetnsAt, Place},
    craft::{Flow, Frame, Ip, Link, Tunnel},
    dump::Counters,
    host::Host,
    listener::{Datagram, Listener},
    netns::Netns,
    paths,
    probe::{self, Exchange, Exchanging},
    reach::{self, Effort},
    sender::Sender,
    world::{Kind, Plan, World, total},
};

use crate::table::From;

pub(crate) const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
/// A network behind the victim that has nothing to do with the overlay.
pub(crate) const THIRD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
pub(crate) const THIRD_GATEWAY: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const PORT: u16 = 8472;
pub(crate) const LISTENING: u16 = 7000;

/// Who is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    Container,
    Host,
    Third,
    /// A container of the real peer.
    Peer,
}

#[derive(Debug)]
struct Listeners {
    container: Listener,
    host: Listener,
    third: Listener,
    peer: Listener,
}

/// Fields in the order in which they go.
#[derive(Debug)]
pub(crate) struct Scene {
    listeners: Listeners,
    wire: Sender,
    hostile: Sender,
    beside: Sender,
    marks: u32,
    /// On the wire, from the switch to the victim.
    link: Link,
    /// Inside the tunnel.
    inner: Link,
    /// From the hostile container to its bridge.
    port: Link,
    /// From the third network.
    side: Link,
    third: Netns,
    pub(crate) world: World,
}

impl Scene {
    pub(crate) fn new(test: &str, guard: &str) -> Result<Self> {
        let mut plan = Plan::new(test);
        plan.kinds = vec![Kind::Weft, Kind::Weft, Kind::Kernel];
        plan.flags = vec![format!("--guard={guard}")];
        plan.containers = 2;
        let world = World::start(&plan)?;
        let effort = Effort {
            pings: 1,
            packets: 10,
            tcp_bytes: 1 << 16,
        };
        let victim = world.node(0)?;
        let peer = world.node(1)?;
        let (target, hostile) = (victim.container(0)?, victim.container(1)?);
        for (near, far) in [target, hostile].into_iter().zip(&peer.containers) {
            let met = reach::try_pair(near, far, effort)?;
            reach::ensure_all(&[met])?;
        }
        world.until_met()?;
        let third = third(&world, &victim.host)?;
        let (switch, host) = (&world.lab.switch, &victim.host);
        let link = Link {
            source: peer.host.ns.mac("eth0")?,
            destination: host.ns.mac("eth0")?,
        };
        let inner = Link {
            source: peer.host.ns.mac("flannel.1")?,
            destination: host.ns.mac("flannel.1")?,
        };
        let port = Link {
            source: hostile.ns.mac("eth0")?,
            destination: host.ns.mac("cni0")?,
        };
        let side = Link {
            source: third.mac("eth0")?,
            destination: host.ns.mac("third0")?,
        };
        let on_host = HostAt {
            host: host.clone(),
            address: host.address,
        };
        let listeners = Listeners {
            container: Listener::start(target, LISTENING)?,
            host: Listener::start(&on_host, LISTENING)?,
            third: Listener::start(&outside(&third), LISTENING)?,
            peer: Listener::start(peer.container(0)?, LISTENING)?,
        };
        Ok(Self {
            listeners,
            wire: Sender::in_namespace(switch, "p1")?,
            hostile: Sender::start(hostile, "eth0")?,
            beside: Sender::in_namespace(&third, "eth0")?,
            marks: 0,
            link,
            inner,
            port,
            side,
            third,
            world,
        })
    }

    fn node(&self, index: usize) -> &weft_tests::world::Node {
        self.world.nodes.get(index).expect("the plan has three")
    }

    fn container(&self, node: usize, index: usize) -> &Container {
        self.node(node).containers.get(index).expect("each has two")
    }

    pub(crate) fn victim(&self) -> Ipv4Addr {
        self.node(0).host.address
    }

    pub(crate) fn gateway(&self) -> Ipv4Addr {
        self.node(0).env.gateway()
    }

    pub(crate) fn broadcast(&self) -> Ipv4Addr {
        self.node(0).env.subnet.broadcast()
    }

    pub(crate) fn overlay(&self) -> Ipv4Addr {
        self.node(0).env.overlay()
    }

    /// The container that listens.
    pub(crate) fn target(&self) -> Ipv4Addr {
        self.container(0, 0).address
    }

    pub(crate) fn hostile(&self) -> Ipv4Addr {
        self.container(0, 1).address
    }

    /// A node of the overlay: 1 or 2.
    pub(crate) fn peer(&self, index: usize) -> Ipv4Addr {
        self.node(index).host.address
    }

    /// An address of a node's lease that nobody has.
    pub(crate) fn of_lease(&self, index: usize) -> Ipv4Addr {
        self.node(index).env.container(99)
    }

    /// A tunnel packet from somewhere to the victim, on the wire.
    pub(crate) fn tunnel(&self, from: Ipv4Addr) -> Tunnel {
        let vteps = flow(from, 40_000, self.victim(), PORT);
        Tunnel::new(self.link, vteps, self.inner)
    }

    /// The same from the hostile container to any address.
    pub(crate) fn smuggled(&self, to: Ipv4Addr) -> Tunnel {
        let vteps = flow(self.hostile(), 40_000, to, PORT);
        Tunnel::new(self.port, vteps, self.inner)
    }

    /// The same from the third network.
    pub(crate) fn beside(&self, to: Ipv4Addr) -> Tunnel {
        let vteps = flow(THIRD, 40_000, to, PORT);
        Tunnel::new(self.side, vteps, self.inner)
    }

    pub(crate) fn port(&self) -> Link {
        self.port
    }

    /// What the forger wants to be heard, where it would be heard.
    pub(crate) fn datagram(&self, text: &str, source: Ipv4Addr, to: To) -> Ip {
        let to = match to {
            To::Container => self.target(),
            To::Host => self.victim(),
            To::Third => THIRD,
            To::Peer => self.container(1, 0).address,
        };
        flow(source, 40_001, to, LISTENING).udp(text.as_bytes())
    }

    pub(crate) fn send(&mut self, from: From, frames: &[Frame]) -> Result<()> {
        let sender = match from {
            From::Wire => &mut self.wire,
            From::Container => &mut self.hostile,
            From::Beside => &mut self.beside,
        };
        sender.send(frames)
    }

    /// The probe, where frames of that kind come from.
    pub(crate) fn probe_at(&self, from: From) -> Result<Command> {
        let probe = paths::probe()?;
        Ok(match from {
            From::Wire => self.world.lab.switch.command(probe),
            From::Container => self.container(0, 1).ns.command(probe),
            From::Beside => self.third.command(probe),
        })
    }

    /// Says something by the right way, and returns what was heard since the last time.
    pub(crate) fn mark(&mut self, to: To) -> Result<Vec<Datagram>> {
        self.marks += 1;
        let text = format!("marker-{}", self.marks);
        let at = |address| SocketAddrV4::new(address, LISTENING);
        let say = |from: &dyn Place, at: SocketAddrV4| {
            let bind = SocketAddrV4::new(from.address(), 0);
            probe::start(from, &format!("udp-say {bind} {at} {text}"))?.wait()
        };
        let listeners = &self.listeners;
        let listener = match to {
            To::Container => {
                say(self.container(1, 0), at(self.target()))?;
                &listeners.container
            }
            To::Host => {
                say(self.container(0, 0), at(self.victim()))?;
                &listeners.host
            }
            To::Third => {
                let from = HostAt {
                    host: self.node(0).host.clone(),
                    address: THIRD_GATEWAY,
                };
                say(&from, at(THIRD))?;
                &listeners.third
            }
            To::Peer => {
                let to = self.container(1, 0);
                say(self.container(0, 0), at(to.address))?;
                &listeners.peer
            }
        };
        let heard = listener.until(&text)?;
        let last = heard
            .iter()
            .rposition(|datagram| datagram.content.starts_with("marker-"));
        let from = last.map_or(0, |at| at + 1);
        Ok(heard.get(from..).unwrap_or_default().to_vec())
    }

    /// The overlay works, and its packets are fast.
    pub(crate) fn ensure_well(&self) -> Result<()> {
        let before = self.world.counters()?;
        let effort = Effort {
            pings: 3,
            packets: 200,
            tcp_bytes: 4 << 20,
        };
        for (near, far) in [(0, 0), (1, 1)] {
            let met = reach::try_pair(self.container(0, near), self.container(1, far), effort);
            met.and_then(|met| reach::ensure_all(&[met]))
                .with_context(|| self.describe())?;
        }
        let share = total(&self.world.shares(&before)?);
        let status = self.node(0).host.status()?;
        let ready = status.get("ready").is_some_and(|ready| ready == true);
        ensure!(
            ready && share.milli_percent() >= 99_000,
            "{share} {status}\n{}",
            self.world.describe()
        );
        Ok(())
    }

    /// For a failure: what the victim knows of its containers.
    fn describe(&self) -> String {
        let host = &self.node(0).host;
        let neighbours = host.ip("neigh show").unwrap_or_default();
        let places = host.run("bridge fdb show br cni0").unwrap_or_default();
        let (target, hostile) = (self.target(), self.hostile());
        format!(
            "target {target}, hostile {hostile}\n{:?}\n{neighbours}\n{} places\n{}",
            host.endpoints(),
            places.lines().count(),
            self.world.describe()
        )
    }

    pub(crate) fn counters(&self) -> Result<Counters> {
        self.node(0).host.counters()
    }

    /// On every interface, those to come included.
    pub(crate) fn rp_filter(&self, value: u8) -> Result<()> {
        let text = format!(
            "for file in /proc/sys/net/ipv4/conf/*/rp_filter; do echo {value} > $file; done"
        );
        let host = &self.node(0).host;
        command::run(host.ns.command("sh").args(["-c", &text])).map(drop)
    }

    /// Between the victim's container and the real peer's.
    pub(crate) fn exchange(&self, exchange: Exchange) -> Result<Exchanging> {
        exchange.start(self.container(0, 0), self.container(1, 0))
    }
}

pub(crate) fn flow(from: Ipv4Addr, port: u16, to: Ipv4Addr, at: u16) -> Flow {
    Flow {
        source: SocketAddrV4::new(from, port),
        destination: SocketAddrV4::new(to, at),
    }
}

fn third(world: &World, host: &Host) -> Result<Netns> {
    let ns = Netns::new(&world.lab.name, "third")?;
    let far = ns.name();
    host.ip(&format!(
        "link add third0 type veth peer name eth0 netns {far}"
    ))?;
    host.ip(&format!("address add {THIRD_GATEWAY}/24 dev third0"))?;
    host.ip("link set third0 up")?;
    ns.ip(&format!("address add {THIRD}/24 dev eth0"))?;
    ns.ip("link set eth0 up")?;
    ns.ip(&format!("route add default via {THIRD_GATEWAY}"))
        .context("the third network's way back")?;
    Ok(ns)
}

fn outside(ns: &Netns) -> NetnsAt<'_> {
    NetnsAt { ns, address: THIRD }
}
