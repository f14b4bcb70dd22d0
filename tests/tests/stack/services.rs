//! Flows that the hosts translate: services, published ports and node ports. No reply may be lost,
//! by whichever tool and however bridges are filtered.

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{HostAt, Place},
    dump::Counters,
    probe::{self, Running},
    rules::{self, At, Service, Tool},
    world::{Plan, World, total},
};

use crate::{SMALL, met};

/// Servers of every kind, in every container and on every host that answers for itself.
pub(crate) const UDP: u16 = 7000;
pub(crate) const TCP: u16 = 7001;
const NOBODY: u16 = 7999;
const CLUSTER: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);

/// Ports above a combination's first.
const REMOTE: u16 = 0;
const SILENT: u16 = 1;
const MYSELF: u16 = 2;
const FROM_HOST: u16 = 3;
const PUBLISHED: u16 = 4;
const NODE_NEAR: u16 = 5;
const NODE_FAR: u16 = 6;

/// One translating tool and one setting of the bridges.
#[derive(Clone, Copy, Debug)]
struct Combination {
    tool: Tool,
    bridge_netfilter: bool,
    first: u16,
}

const COMBINATIONS: [Combination; 4] = [
    Combination {
        tool: Tool::Iptables,
        bridge_netfilter: false,
        first: 20_000,
    },
    Combination {
        tool: Tool::Iptables,
        bridge_netfilter: true,
        first: 20_100,
    },
    Combination {
        tool: Tool::Nft,
        bridge_netfilter: false,
        first: 20_200,
    },
    Combination {
        tool: Tool::Nft,
        bridge_netfilter: true,
        first: 20_300,
    },
];

/// Who asks whom.
struct Case<'a> {
    what: &'static str,
    from: &'a dyn Place,
    to: SocketAddrV4,
}

/// Both protocols at one port.
fn both(at: At, port: u16, backend: Ipv4Addr, masquerade: bool) -> [Service; 2] {
    [("udp", UDP), ("tcp", TCP)].map(|(protocol, to)| Service {
        at,
        protocol,
        port,
        backend: SocketAddrV4::new(backend, to),
        masquerade,
    })
}

/// What kube-proxy and Docker would write for one combination.
fn services(world: &World, first: u16) -> Result<[Vec<Service>; 2]> {
    let (a, b) = world.pair()?;
    let cluster = At::Address(CLUSTER);
    let mut near = both(cluster, first + REMOTE, b.address, false).to_vec();
    near.extend(both(cluster, first + MYSELF, a.address, false));
    near.extend(both(cluster, first + FROM_HOST, b.address, true));
    near.push(Service {
        at: cluster,
        protocol: "udp",
        port: first + SILENT,
        backend: SocketAddrV4::new(b.address, NOBODY),
        masquerade: false,
    });
    let mut far = both(At::Local, first + PUBLISHED, b.address, false).to_vec();
    far.extend(both(At::Local, first + NODE_NEAR, b.address, true));
    far.extend(both(At::Local, first + NODE_FAR, a.address, true));
    Ok([near, far])
}

fn install(world: &World, tool: Tool) -> Result<()> {
    let mut all = [Vec::new(), Vec::new()];
    for combination in COMBINATIONS.iter().filter(|one| one.tool == tool) {
        for (all, more) in all.iter_mut().zip(services(world, combination.first)?) {
            all.extend(more);
        }
    }
    for (node, services) in world.nodes.iter().zip(&all) {
        rules::serve(&node.host, tool, services)?;
    }
    Ok(())
}

/// Conntrack forgets a UDP flow after a second, so that a pause is longer than its memory.
pub(crate) fn prepare(world: &World) -> Result<()> {
    for node in &world.nodes {
        rules::drop_invalid(&node.host)?;
        for key in [
            "nf_conntrack_udp_timeout",
            "nf_conntrack_udp_timeout_stream",
        ] {
            node.host.ns.sysctl(&format!("net/netfilter/{key}"), "1")?;
        }
    }
    // As the kubelet does: where bridges are filtered, what a container sends itself leaves by the
    // port that it came in by.
    let (a, b) = world.pair()?;
    a.host
        .run(&format!("bridge link set dev {} hairpin on", a.port))?;
    // Every refusal is to be told, not one a second.
    b.ns.sysctl("net/ipv4/icmp_ratelimit", "0")
}

pub(crate) fn servers(places: &[&dyn Place]) -> Result<Vec<Running>> {
    let mut servers = Vec::new();
    for place in places {
        let address = place.address();
        servers.push(probe::serve(*place, &format!("udp-echo {address}:{UDP}"))?);
        servers.push(probe::serve(*place, &format!("tcp-brief {address}:{TCP}"))?);
    }
    Ok(servers)
}

/// UDP with pauses that outlast conntrack's memory, and meanwhile TCP from one port again and again.
fn ask_all(world: &World, what: &str, client: u16, cases: &[Case<'_>]) -> Result<()> {
    let mut asked = Vec::new();
    for (case, port) in cases.iter().zip(client..) {
        let flags = "--count 3 --pause-ms 1400";
        asked.push(probe::ask_udp(case.from, port, case.to, flags)?);
    }
    for (case, port) in cases.iter().zip(client..) {
        let name = || format!("{what}, {}: TCP from port {port}", case.what);
        let asked = probe::reuse(case.from, port, case.to, 4)?;
        probe::ensure_answered(&name(), &asked).with_context(|| world.describe())?;
    }
    for (case, asked) in cases.iter().zip(asked) {
        let name = format!("{what}, {}: UDP", case.what);
        probe::ensure_answered(&name, &asked.report()?).with_context(|| world.describe())?;
    }
    Ok(())
}

fn cases<'a>(
    world: &'a World,
    first: u16,
    host: &'a HostAt,
    outside: &'a dyn Place,
) -> Result<Vec<Case<'a>>> {
    let (a, _) = world.pair()?;
    let far = world.node(1)?;
    let node = far.host.address;
    let case = |what, from: &'a dyn Place, to, port| Case {
        what,
        from,
        to: SocketAddrV4::new(to, first + port),
    };
    Ok(vec![
        case("service elsewhere", a, CLUSTER, REMOTE),
        case("service on oneself", a, CLUSTER, MYSELF),
        case("service for a host", host, CLUSTER, FROM_HOST),
        case("published at the node", a, node, PUBLISHED),
        case("published at .0", a, far.env.overlay(), PUBLISHED),
        case("published at .1", a, far.env.gateway(), PUBLISHED),
        case("node port, backend here", host, node, NODE_NEAR),
        case("node port, backend elsewhere", outside, node, NODE_FAR),
        case("node port for a container", a, node, NODE_FAR),
    ])
}

/// That nobody listens is said to the container that asked the service.
fn refused(world: &World, what: &str, first: u16) -> Result<()> {
    let (a, b) = world.pair()?;
    for (to, port) in [(CLUSTER, first + SILENT), (b.address, NOBODY)] {
        let to = SocketAddrV4::new(to, port);
        let asked = probe::ask_udp(a, first + 50, to, "--count 2")?
            .report::<weft_tests::report::Asked>()?;
        ensure!(
            asked.refused == 2,
            "{what}: {to}: {asked:?}\n{}",
            world.describe()
        );
    }
    Ok(())
}

#[test]
fn translated_flows_lose_no_reply() -> Result<()> {
    let world = met(&Plan::new("services"))?;
    prepare(&world)?;
    let (a, b) = world.pair()?;
    let _servers = servers(&[a, b])?;
    let host = HostAt {
        host: world.node(0)?.host.clone(),
        address: world.node(0)?.host.address,
    };
    let outside = world.lab.outside();
    let before = world.counters()?;
    for tool in [Tool::Iptables, Tool::Nft] {
        install(&world, tool)?;
        for combination in COMBINATIONS.iter().filter(|one| one.tool == tool) {
            let what = format!("{combination:?}");
            for node in &world.nodes {
                rules::bridge_netfilter(&node.host, combination.bridge_netfilter)?;
            }
            let cases = cases(&world, combination.first, &host, &outside)?;
            ask_all(&world, &what, combination.first + 60, &cases)?;
            refused(&world, &what, combination.first)?;
        }
        for node in &world.nodes {
            rules::forget(&node.host, tool)?;
        }
    }
    ensure_recorded(&world, &before)?;
    // All that time the others were fast.
    let before = world.counters()?;
    crate::reach::ensure_all(&crate::reach::everybody(&world, SMALL)?)?;
    let share = total(&world.shares(&before)?);
    ensure!(
        share.milli_percent() > 99_000,
        "{share}\n{}",
        world.describe()
    );
    Ok(())
}

/// The record was written and asked: for the client's host on its way in, for the other's on its
/// way out.
fn ensure_recorded(world: &World, before: &[Counters]) -> Result<()> {
    let wanted = [
        [
            ("to_overlay", "recorded_nat"),
            ("from_uplink", "recorded_flow"),
        ],
        [
            ("to_container", "recorded_nat"),
            ("from_container", "recorded_flow"),
        ],
    ];
    for ((now, before), wanted) in world.counters()?.iter().zip(before).zip(wanted) {
        for (hook, reason) in wanted {
            let more = now.of(hook, reason) - before.of(hook, reason);
            ensure!(more > 0, "no {reason} at {hook}\n{}", now.lines());
        }
    }
    Ok(())
}
