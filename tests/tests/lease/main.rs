//! A subnet that is lost, and nodes that believe to be one: what the agents do, and the packets.

mod kernel;

use std::{net::Ipv4Addr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::{Agent, Flags},
    container::{Container, Place as _, add_bridge},
    etcd::PREFIX,
    host::Host,
    lab::Lab,
    probe,
    subnet_env::SubnetEnv,
    wait,
    world::{CONFIG, Plan, World},
};

const LIMIT: Duration = Duration::from_secs(15);

/// The reason that status gives for the lease, once it contains `said`; `ready` as told.
fn until_lease(host: &Host, ready: bool, said: &str) -> Result<()> {
    wait::until_true(
        &format!("{}: ready {ready}, {said}", host.label),
        LIMIT,
        || {
            let status = host.status()?;
            let named = status.to_string().contains(said);
            Ok(named && status.get("ready").is_some_and(|is| is == ready))
        },
    )
    .with_context(|| format!("{:?}", host.status()))
}

fn key(env: &SubnetEnv) -> String {
    let net = env.subnet.trunc();
    format!("{PREFIX}/subnets/{}-{}", net.addr(), net.prefix_len())
}

/// Another node has the subnet now, as after a long partition.
fn steal(world: &World, index: usize) -> Result<String> {
    let key = key(&world.node(index)?.env);
    let thief = r#"{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:63"}}"#;
    world.lab.etcd.delete(&key)?;
    // The agent may be quicker, and have it again: it is overwritten then, as a stranger does.
    world.lab.etcd.put(&key, thief)?;
    Ok(key)
}

fn answers(from: &Container, to: Ipv4Addr) -> Result<u64> {
    Ok(probe::ping(from, to, "--count 2 --patience-ms 300")?
        .replies
        .into())
}

fn restart(world: &mut World, more: &[&str]) -> Result<SubnetEnv> {
    let agent = world.node_mut(0)?.agent()?;
    agent.stop()?;
    agent.flags.more = more.iter().map(ToString::to_string).collect();
    agent.restart()?;
    agent.ready()
}

/// A container of the old subnet is cut off, and what it sends is counted; its neighbour hears it.
fn ensure_cut_off(world: &World) -> Result<()> {
    let (old, far) = world.pair()?;
    let host = &world.node(0)?.host;
    // The status says it before the programs do.
    wait::until_true("what it sends is dropped, and counted", LIMIT, || {
        let before = host.counted("from_container", "drop_subnet_lost")?;
        let replies = answers(old, far.address())?;
        ensure!(replies == 0, "it reaches {}", far.name());
        Ok(host.counted("from_container", "drop_subnet_lost")? >= before + 2)
    })?;
    let neighbour = world.node(0)?.container(1)?;
    ensure!(
        answers(old, neighbour.address())? == 2,
        "its neighbour is cut off too"
    );
    let bridge = world.node(0)?.env.subnet.addr();
    ensure!(answers(old, bridge)? == 2, "its own host does not answer");
    Ok(())
}

#[test]
fn a_stolen_subnet_is_not_used_and_never_overwritten() -> Result<()> {
    let mut plan = Plan::new("stolen");
    plan.containers = 2;
    let mut world = World::start(&plan)?;
    let (old, far) = world.pair()?;
    ensure!(answers(old, far.address())? == 2, "nothing works yet");
    let stolen = world.node(0)?.env;

    let key = steal(&world, 0)?;
    until_lease(&world.node(0)?.host, false, "subnet_lost")?;
    let taken = world.lab.etcd.leases()?;
    ensure_cut_off(&world)?;
    // The other node sends to the thief now; what comes by the wire all the same is refused.
    ensure!(answers(world.pair()?.1, world.pair()?.0.address())? == 0);
    ensure!(world.lab.etcd.leases()? == taken, "something was written");

    // Free again, it is ours again, and all is as before.
    world.lab.etcd.delete(&key)?;
    until_lease(&world.node(0)?.host, true, "held")?;
    let (old, far) = world.pair()?;
    let heals = || Ok(answers(old, far.address())? == 2);
    wait::until_true("the container is back", LIMIT, heals)?;

    // Renumbered: a new subnet and a new file by itself, and the old containers stay out.
    let env = restart(
        &mut world,
        &["--on-subnet-lost=renumber", "--lease-ttl=15s"],
    )?;
    ensure!(env.subnet == stolen.subnet, "{env:?}");
    steal(&world, 0)?;
    let host = world.node(0)?.host.clone();
    let read = || SubnetEnv::read(&host.file(SubnetEnv::path()));
    let moved = || Ok(read()?.subnet != stolen.subnet);
    wait::until_true("subnet.env has a new subnet", LIMIT, moved)?;
    let env = read()?;
    until_lease(&host, true, "were this host's")?;
    ensure!(
        host.ip("address show dev flannel.1")?
            .contains(&format!("{}/32", env.overlay())),
        "the device keeps its address"
    );
    ensure_cut_off(&world)?;

    // A restart makes no difference to them; with addresses of the new subnet they are back.
    restart(&mut world, &[])?;
    ensure_cut_off(&world)?;
    let node = world.node_mut(0)?;
    node.containers.clear();
    node.host.ip("link delete cni0")?;
    add_bridge(&node.host, &env)?;
    node.containers.push(Container::new(&node.host, &env, 1)?);
    let (new, far) = world.pair()?;
    let heals = || Ok(answers(new, far.address())? == 2 && answers(far, new.address())? == 2);
    wait::until_true("the new container is reached", LIMIT, heals)?;
    // A new container is reached by its first ARP, before the next look.
    let forgotten = || Ok(!host.status()?.to_string().contains("were this host's"));
    wait::until_true("no former subnet is left", LIMIT, forgotten)?;
    give_back(&mut world, &env)
}

/// A host that goes for good leaves no lease behind, and takes nobody else's.
fn give_back(world: &mut World, env: &SubnetEnv) -> Result<()> {
    world.node_mut(0)?.agent()?.stop()?;
    let before = world.lab.etcd.leases()?;
    let endpoints = format!("--etcd-endpoints={}", world.lab.etcd.endpoint());
    let host = &world.node(0)?.host;
    let (code, text, errors) = host.weft(&["cleanup", "--release", &endpoints])?;
    ensure!(
        code == 0 && text.contains("the lease of"),
        "{code}: {text} {errors}"
    );
    let after = world.lab.etcd.leases()?;
    let gone = key(env);
    let rest: Vec<_> = before.into_iter().filter(|(key, _)| *key != gone).collect();
    ensure!(after == rest, "{after:?}");
    ensure!(
        host.ip("link show flannel.1").is_err(),
        "the device is still there"
    );
    Ok(())
}

#[test]
fn nodes_with_one_address_say_so_and_write_no_more() -> Result<()> {
    let lab = Lab::new("twins", 2)?;
    lab.etcd.put_config(CONFIG)?;
    let mut flags = Flags::new(&lab.etcd.endpoint());
    flags.more = ["--iface=eth0", "--public-ip=192.0.2.50"]
        .map(str::to_owned)
        .to_vec();
    let mut first = Agent::start(&lab.host(0)?, flags.clone())?;
    let env = first.ready()?;
    let _second = Agent::start(&lab.host(1)?, flags)?;
    for host in &lab.hosts {
        until_lease(host, false, "public_ip_conflict")?;
    }
    let written = lab.etcd.ctl(&["get", "-w", "fields", &key(&env)])?;
    let revision = |text: &str| {
        let line = text.lines().find(|line| line.contains("ModRevision"));
        line.map(str::to_owned).context("no ModRevision")
    };
    // Their data paths go on: both follow a node that comes later, and have written nothing until then.
    let node = r#"{"PublicIP":"192.0.2.60","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:60"}}"#;
    lab.etcd
        .put(&format!("{PREFIX}/subnets/188.172.200.0-24"), node)?;
    for host in &lab.hosts {
        let what = format!("{} has the way to the new node", host.label);
        wait::until_true(&what, LIMIT, || {
            let routes = host.ip("route show dev flannel.1")?;
            let peers = format!("{:?}", host.peers()?);
            Ok(routes.contains("188.172.200.0/24") && peers.contains("188.172.200.0"))
        })?;
        until_lease(host, false, "public_ip_conflict")?;
    }
    let later = lab.etcd.ctl(&["get", "-w", "fields", &key(&env)])?;
    ensure!(
        revision(&written)? == revision(&later)?,
        "{written}\n{later}"
    );
    Ok(())
}

#[test]
fn an_agent_that_is_stopped_before_it_has_a_lease_leaves_no_maps() -> Result<()> {
    let lab = Lab::new("unleased", 1)?;
    lab.etcd.put_config(CONFIG)?;
    for words in [
        "user add root:root",
        "user grant-role root root",
        "role add reader",
        "role grant-permission reader read --prefix /coreos.com/",
        "user add reader:reader",
        "user grant-role reader reader",
        "auth enable",
    ] {
        let words: Vec<&str> = words.split(' ').collect();
        lab.etcd.ctl(&words)?;
    }
    let host = lab.host(0)?;
    let mut flags = Flags::new(&lab.etcd.endpoint());
    flags.more = ["--etcd-username=reader", "--etcd-password=reader"]
        .map(str::to_owned)
        .to_vec();
    let mut agent = Agent::start(&host, flags)?;
    let pins = || host.run("find /sys/fs/bpf -path */weft/* -type f");
    wait::until_true(
        "the agent waits for a subnet, with its maps pinned",
        LIMIT,
        || {
            let log = agent.daemon()?.log();
            Ok(log.contains("claim a subnet: waiting") && !pins()?.is_empty())
        },
    )
    .with_context(|| agent.tail())?;
    agent.stop()?;
    let left = pins()?;
    ensure!(left.is_empty(), "still pinned: {left}");
    Ok(())
}
