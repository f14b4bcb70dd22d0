//! A lost subnet where no programs are: rules drop what bears its addresses.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::{Container, Place as _, add_bridge},
    host::Host,
    subnet_env::SubnetEnv,
    wait,
    world::{CONFIG, Plan, World},
};

use crate::{LIMIT, answers, key, restart, steal, until_lease};

const NFTABLES: &str = r#"{"Network":"188.172.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan","DirectRouting":true}}"#;

/// Where the rules are.
#[derive(Clone, Copy)]
struct Rules {
    /// Prints them, with what they have counted.
    list: &'static str,
    /// Takes them away.
    flush: &'static str,
    named: &'static str,
}

const IN_IPTABLES: Rules = Rules {
    list: "iptables-save -c -t mangle",
    flush: "iptables -t mangle -F WEFT-LOST-1",
    named: "WEFT-LOST",
};
const IN_NFTABLES: Rules = Rules {
    list: "nft list ruleset",
    flush: "nft flush table ip weft-lost-1",
    named: "weft-lost",
};

impl Rules {
    fn there(self, host: &Host) -> Result<bool> {
        Ok(host.run(self.list)?.contains(self.named))
    }

    /// Packets that met rules which drop.
    fn dropped(self, host: &Host) -> Result<u64> {
        let text = host.run(self.list)?;
        let drops = text.lines().filter(|line| {
            line.ends_with("-j DROP") && line.contains("drop_subnet_lost")
                || line.ends_with(" drop") && line.contains("counter packets ")
        });
        let counts = drops.filter_map(|line| {
            let after = line.strip_prefix('[').or(line.split("packets ").nth(1))?;
            after.split([':', ' ']).next()?.parse::<u64>().ok()
        });
        Ok(counts.sum())
    }
}

/// What the old container sends into the overlay meets a rule, and its host hears it.
fn ensure_dropped(world: &World, rules: Rules) -> Result<()> {
    let (old, far) = world.pair()?;
    let host = &world.node(0)?.host;
    until_dropped(world, rules)?;
    let before = rules.dropped(host)?;
    ensure!(
        answers(old, far.address())? == 0,
        "it reaches {}",
        far.name()
    );
    let counted = rules.dropped(host)?;
    ensure!(counted >= before + 2, "{before} {counted}");
    let neighbour = world.node(0)?.container(1)?;
    let bridge = world.node(0)?.env.gateway();
    for (name, to) in [("neighbour", neighbour.address()), ("host", bridge)] {
        ensure!(answers(old, to)? == 2, "its {name} does not answer");
    }
    Ok(())
}

fn until_dropped(world: &World, rules: Rules) -> Result<()> {
    let host = &world.node(0)?.host;
    let lost = world.node(0)?.env.subnet.trunc();
    let said = format!("subnet_lost: {lost} dropped");
    wait::until_true("rules drop what is of the lost subnet", LIMIT, || {
        Ok(host.status()?.to_string().contains(&said) && rules.there(host)?)
    })
    .with_context(|| format!("{:?} {:?}", host.status(), host.run(rules.list)))
}

fn until_no_rules(host: &Host, rules: Rules) -> Result<()> {
    let gone = || Ok(!rules.there(host)?);
    wait::until_true("the rules are gone", LIMIT, gone)
}

/// A node that has not heard of the theft yet: what it sends does not come in, by the tunnel or, with
/// `DirectRouting`, by the wire.
fn ensure_nothing_comes_in(world: &mut World, rules: Rules, direct: bool) -> Result<()> {
    world.node_mut(1)?.agent()?.stop()?;
    let (near, distant) = (world.node(0)?, world.node(1)?);
    let net = near.env.subnet.trunc();
    let (gateway, vtep) = (net.addr(), near.host.address);
    let mac = near.host.run("cat /sys/class/net/flannel.1/address")?;
    let mac = mac.trim();
    let far = &distant.host;
    far.ip(&format!(
        "neighbour replace {gateway} lladdr {mac} dev flannel.1 nud permanent"
    ))?;
    far.run(&format!(
        "bridge fdb replace {mac} dev flannel.1 dst {vtep} self permanent"
    ))?;
    let mut ways = vec![format!("via {gateway} dev flannel.1 onlink")];
    ways.extend(direct.then(|| format!("via {vtep}")));
    for way in ways {
        far.ip(&format!("route replace {net} {way}"))?;
        let (old, from) = world.pair()?;
        let before = rules.dropped(&near.host)?;
        ensure!(answers(from, old.address())? == 0, "{way}");
        let counted = rules.dropped(&near.host)?;
        // On its way in: an answer, on its way out, would be counted as well.
        ensure!(counted == before + 2, "{way}: {before} {counted}");
    }
    let agent = world.node_mut(1)?.agent()?;
    agent.restart()?;
    agent.ready().map(drop)
}

fn lost_without_programs(test: &str, config: &str, rules: Rules) -> Result<()> {
    let mut world = World::start(&Plan {
        config: config.to_owned(),
        datapath: "kernel",
        containers: 2,
        flags: vec!["--iptables-resync=1".to_owned()],
        ..Plan::new(test)
    })?;
    let host = world.node(0)?.host.clone();
    let stolen = world.node(0)?.env;
    let (old, far) = world.pair()?;
    ensure!(answers(old, far.address())? == 2, "nothing works yet");
    ensure!(!rules.there(&host)?, "there are rules already");

    // Left to the operator, and free again.
    let taken = steal(&world, 0)?;
    until_lease(&host, false, "subnet_lost")?;
    ensure_dropped(&world, rules)?;
    host.run(rules.flush)?;
    let back = || Ok(ensure_dropped(&world, rules).is_ok());
    wait::until_true("what a stranger took away is back", LIMIT, back)?;
    world.lab.etcd.delete(&taken)?;
    until_lease(&host, true, "held")?;
    until_no_rules(&host, rules)?;
    let (old, far) = world.pair()?;
    let heals = || Ok(answers(old, far.address())? == 2);
    wait::until_true("the container is back", LIMIT, heals)?;

    // Renumbered: the old containers stay out, also of what works again for others.
    let more = [
        "--iptables-resync=1",
        "--on-subnet-lost=renumber",
        "--lease-ttl=15s",
    ];
    let env = restart(&mut world, &more)?;
    ensure!(env.subnet == stolen.subnet, "{env:?}");
    steal(&world, 0)?;
    let read = || SubnetEnv::read(&host.file(SubnetEnv::path()));
    let moved = || Ok(read()?.subnet != stolen.subnet);
    wait::until_true("subnet.env has a new subnet", LIMIT, moved)?;
    until_lease(&host, true, "were this host's")?;
    ensure_dropped(&world, rules)?;
    ensure_nothing_comes_in(&mut world, rules, config.contains("DirectRouting"))?;
    let env = restart(&mut world, &["--iptables-resync=1"])?;
    ensure_dropped(&world, rules)?;

    // With addresses of the new subnet they are back.
    let node = world.node_mut(0)?;
    node.containers.clear();
    node.env = env;
    host.ip("link delete cni0")?;
    add_bridge(&host, &env)?;
    node.containers.push(Container::new(&host, &env, 1)?);
    until_no_rules(&host, rules)?;
    let (new, far) = world.pair()?;
    let heals = || Ok(answers(new, far.address())? == 2 && answers(far, new.address())? == 2);
    wait::until_true("the new container is reached", LIMIT, heals)?;

    // What is there at the end goes with everything else.
    let leases = world.lab.etcd.leases()?;
    let own = leases.iter().any(|(name, _)| *name == key(&env));
    ensure!(own, "{leases:?}");
    steal(&world, 0)?;
    until_dropped(&world, rules)?;
    world.node_mut(0)?.agent()?.stop()?;
    let (code, text, errors) = host.weft(&["cleanup"])?;
    ensure!(code == 0, "{code}: {text} {errors}");
    ensure!(!rules.there(&host)?, "rules are left: {text}");
    Ok(())
}

#[test]
fn a_lost_subnet_is_dropped_by_iptables_where_no_programs_are() -> Result<()> {
    lost_without_programs("rulesipt", CONFIG, IN_IPTABLES)
}

#[test]
fn a_lost_subnet_is_dropped_by_nftables_where_no_programs_are() -> Result<()> {
    lost_without_programs("rulesnft", NFTABLES, IN_NFTABLES)
}
