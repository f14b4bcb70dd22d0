//! What the host's rules forbid stays forbidden on the fast path, and what is meant to see packets
//! on their way goes on to see them.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::Place as _,
    host::Host,
    probe,
    reach::{self, Effort},
    wait,
    world::{Plan, World},
};

/// How soon a change of rules must have been answered, with what a busy machine adds.
const SOON: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(15);

const SMALL: Effort = Effort {
    pings: 3,
    packets: 50,
    tcp_bytes: 1 << 18,
};

fn world(test: &str) -> Result<World> {
    let world = World::start(&Plan::new(test))?;
    reach::ensure_all(&reach::everybody(&world, SMALL)?).with_context(|| world.describe())?;
    Ok(world)
}

/// Waits until the fast path is as told, for a reason that contains `why`, and says how long it took.
fn until_mode(host: &Host, fast: &str, why: &str) -> Result<Duration> {
    host.until_mode(fast, why, PATIENCE)
}

fn fed(host: &Host, program: &str, rules: &str) -> Result<()> {
    let file = host.folder().join("rules");
    std::fs::write(&file, rules)?;
    host.run(&format!("{program} {}", file.display()))?;
    Ok(())
}

/// How often the agent has found other rules.
fn readings(host: &Host) -> Result<usize> {
    let log = std::fs::read_to_string(host.folder().join("weft.log"))?;
    Ok(log
        .matches("the host's packet filter rules changed")
        .count())
}

/// How many of three pings from the first container to the second are answered.
fn answered(world: &World) -> Result<u64> {
    let (a, b) = world.pair()?;
    Ok(u64::from(
        probe::ping(a, b.address(), "--count 3 --patience-ms 1000")?.replies,
    ))
}

/// Packets that the programs of both hosts took while the containers exchanged some.
fn taken(world: &World) -> Result<u64> {
    let before = world.counters()?;
    reach::ensure_all(&reach::everybody(world, SMALL)?).with_context(|| world.describe())?;
    Ok(world.shares(&before)?.iter().map(|share| share.taken).sum())
}

#[test]
fn a_drop_by_hand_holds_within_a_second() -> Result<()> {
    let world = world("drop")?;
    let first = &world.node(0)?.host;
    let (a, b) = world.pair()?;
    ensure!(first.fast_path()?.0 == "on", "{:?}", first.fast_path()?);
    first.run("iptables -N DOCKER-USER")?;
    first.run("iptables -I FORWARD -j DOCKER-USER")?;
    let rule = format!(
        "DOCKER-USER -s {}/32 -d {}/32 -j DROP",
        a.address, b.address
    );
    first.run(&format!("iptables -A {rule}"))?;
    let mut times = vec![until_mode(first, "off", &rule)?];
    ensure!(answered(&world)? == 0, "the rule was passed by");
    // The other host has no such rule, and is not asked to have it.
    ensure!(world.node(1)?.host.fast_path()?.0 == "on");

    first.run(&format!("iptables -D {rule}"))?;
    times.push(until_mode(first, "on", "nothing speaks against it")?);
    ensure!(answered(&world)? == 3, "{}", world.describe());
    // Once it may be the machine that is late, but not mostly.
    first.run(&format!("iptables -A {rule}"))?;
    times.push(until_mode(first, "off", &rule)?);
    first.run(&format!("iptables -D {rule}"))?;
    times.push(until_mode(first, "on", "")?);
    println!("answered after {times:?}");
    let late = times.iter().filter(|took| **took > SOON).count();
    ensure!(late <= 1, "{times:?}");
    Ok(())
}

#[test]
fn network_policies_hold() -> Result<()> {
    let world = world("netpol")?;
    let first = &world.node(0)?.host;
    let a = world.node(0)?.container(0)?.address;
    for (name, chains, rules) in [
        (
            "cali-tw-1",
            ":cali-FORWARD - [0:0]\n:cali-tw-1 - [0:0]",
            format!(
                "-I FORWARD -m comment --comment \"cali:x\" -j cali-FORWARD\n\
                 -A cali-FORWARD -s {a}/32 -g cali-tw-1\n\
                 -A cali-tw-1 -m mark ! --mark 0x10000/0x10000 -j DROP"
            ),
        ),
        (
            "KUBE-POD-FW-1",
            ":KUBE-ROUTER-FORWARD - [0:0]\n:KUBE-POD-FW-1 - [0:0]",
            format!(
                "-I FORWARD -m comment --comment \"kube-router netpol\" -j KUBE-ROUTER-FORWARD\n\
                 -A KUBE-ROUTER-FORWARD -s {a}/32 -j KUBE-POD-FW-1\n\
                 -A KUBE-POD-FW-1 -m mark ! --mark 0x10000/0x10000 -j REJECT"
            ),
        ),
    ] {
        let text = format!("*filter\n{chains}\n{rules}\nCOMMIT\n");
        fed(first, "iptables-restore --noflush", &text)?;
        until_mode(first, "off", name)?;
        ensure!(answered(&world)? == 0, "{name} was passed by");
        first.run("iptables -D FORWARD 1")?;
        until_mode(first, "on", "")?;
        ensure!(answered(&world)? == 3, "{name} is still there");
    }
    // Legacy iptables tells nobody.
    first.run(&format!("iptables-legacy -A FORWARD -s {a} -j DROP"))?;
    until_mode(first, "off", "iptables-legacy -t filter -A FORWARD")?;
    ensure!(answered(&world)? == 0);
    first.run(&format!("iptables-legacy -D FORWARD -s {a} -j DROP"))?;
    until_mode(first, "on", "")?;
    // And what is nft's own.
    let table = format!(
        "table inet mine {{ chain f {{ type filter hook forward priority 0; ip saddr {a} drop\n }}\n }}\n"
    );
    fed(first, "nft -f", &table)?;
    until_mode(first, "off", "nft inet mine chain f")?;
    ensure!(answered(&world)? == 0);
    Ok(())
}

#[test]
fn harmless_rules_leave_it_on() -> Result<()> {
    let world = world("harmless")?;
    let first = &world.node(0)?.host;
    let docker = "*filter\n:FORWARD DROP [0:0]\n:DOCKER - [0:0]\n:DOCKER-USER - [0:0]\n\
        :DOCKER-ISOLATION-STAGE-1 - [0:0]\n:DOCKER-ISOLATION-STAGE-2 - [0:0]\n\
        -I FORWARD -o cni0 -j DOCKER\n-I FORWARD -j DOCKER-ISOLATION-STAGE-1\n\
        -I FORWARD -j DOCKER-USER\n\
        -A DOCKER-ISOLATION-STAGE-1 -i cni0 ! -o cni0 -j DOCKER-ISOLATION-STAGE-2\n\
        -A DOCKER-ISOLATION-STAGE-2 -o cni0 -j DROP\n-A DOCKER-USER -j RETURN\nCOMMIT\n";
    fed(first, "iptables-restore --noflush", docker)?;
    let kube_proxy = "*filter\n:KUBE-FORWARD - [0:0]\n:KUBE-FIREWALL - [0:0]\n:KUBE-SERVICES - [0:0]\n\
        -I FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES\n-I FORWARD -j KUBE-FORWARD\n\
        -I INPUT -j KUBE-FIREWALL\n-I OUTPUT -j KUBE-FIREWALL\n\
        -A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP\n\
        -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
        -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP\n\
        -A KUBE-SERVICES -d 10.96.0.7/32 -p tcp -m tcp --dport 80 -j REJECT\nCOMMIT\n";
    fed(first, "iptables-restore --noflush", kube_proxy)?;
    // What is judged after them is judged with them.
    let a = world.node(0)?.container(0)?.address;
    first.run(&format!("iptables -I FORWARD -s {a} -j DROP"))?;
    until_mode(first, "off", &a.to_string())?;
    first.run(&format!("iptables -D FORWARD -s {a} -j DROP"))?;
    until_mode(first, "on", "nothing speaks against it")?;
    ensure!(first.component("kernel_only")? == "none");
    ensure!(taken(&world)? > 300, "{}", world.describe());
    Ok(())
}

#[test]
fn on_overrides_the_rules() -> Result<()> {
    let mut plan = Plan::new("override");
    plan.fast_path = "on";
    let world = World::start(&plan)?;
    reach::ensure_all(&reach::everybody(&world, SMALL)?)?;
    let first = &world.node(0)?.host;
    let before = readings(first)?;
    first.run("iptables -I FORWARD -m comment --comment nothing -p sctp -j DROP")?;
    wait::until_true("the rules are read again", PATIENCE, || {
        Ok(readings(first)? > before)
    })?;
    // A look that follows, as this shows, knows of them.
    for (verb, kept) in [("add", "ip rule with priority 99"), ("del", "none")] {
        first.run(&format!("ip rule {verb} fwmark 7 table 77 priority 99"))?;
        wait::until_true("the agent has looked", PATIENCE, || {
            Ok(first.component("kernel_only")?.contains(kept))
        })?;
    }
    wait::until_true(
        "both ways are back",
        PATIENCE,
        || Ok(answered(&world)? == 3),
    )?;
    let (fast, why) = first.fast_path()?;
    ensure!(fast == "on" && why == "--fast-path=on", "{fast} {why}");
    ensure!(taken(&world)? > 300, "{}", world.describe());
    Ok(())
}

#[test]
fn a_shaped_port_keeps_its_rate() -> Result<()> {
    let world = world("shaped")?;
    let node = world.node(0)?;
    let port = &node.container(0)?.port;
    let (a, b) = world.pair()?;
    let free = probe::transfer(b, a, 9001, 8 << 20)?;
    node.host.run(&format!(
        "tc qdisc add dev {port} root tbf rate 20mbit burst 64k latency 100ms"
    ))?;
    wait::until_true("the port is kept", PATIENCE, || {
        Ok(node.host.component("kept_ports")?.contains("tbf"))
    })?;
    let shaped = probe::transfer(b, a, 9001, 4 << 20)?;
    println!("{} Mbit/s, shaped {} Mbit/s", free.mbit(), shaped.mbit());
    ensure!(shaped.complete() && shaped.mbit() < 40, "{shaped:?}");
    for hook in ["from_container", "from_uplink"] {
        ensure!(
            node.host.counters()?.of(hook, "port_kept") > 0,
            "{hook}\n{}",
            world.describe()
        );
    }
    // Flows from now on are fast again.
    node.host.run(&format!("tc qdisc del dev {port} root"))?;
    wait::until_true("the port is free", PATIENCE, || {
        Ok(node.host.component("kept_ports")? == "none")
    })?;
    ensure!(taken(&world)? > 300, "{}", world.describe());
    Ok(())
}

#[test]
fn ipsec_between_the_nodes_holds() -> Result<()> {
    let world = world("ipsec")?;
    let (first, second) = (&world.node(0)?.host, &world.node(1)?.host);
    let policy = format!("src {} dst {} dir out", first.address, second.address);
    first.run(&format!("ip xfrm policy add {policy} action block"))?;
    let peer = second.address.to_string();
    wait::until_true("the peer is the kernel's", PATIENCE, || {
        let kept = first.component("kernel_only")?;
        Ok(kept.contains(&peer) && kept.contains("xfrm policy src"))
    })?;
    ensure!(answered(&world)? == 0, "the policy was passed by");
    ensure!(first.counters()?.of("from_container", "peer_kernel_only") > 0);
    ensure!(first.fast_path()?.0 == "on", "one peer is not all");
    first.run(&format!("ip xfrm policy delete {policy}"))?;
    wait::until_true("the peer is fast", PATIENCE, || {
        Ok(first.component("kernel_only")? == "none")
    })?;
    ensure!(taken(&world)? > 300, "{}", world.describe());
    Ok(())
}

#[test]
fn rules_on_the_tunnels_port_hold() -> Result<()> {
    let world = world("tunnel")?;
    let (first, second) = (&world.node(0)?.host, &world.node(1)?.host);
    for (host, rule) in [
        (first, "INPUT -p udp -m udp --dport 8472 -j DROP"),
        (second, "OUTPUT -p udp -m udp --dport 8472 -j DROP"),
    ] {
        host.run(&format!("iptables -A {rule}"))?;
        wait::until_true("the peer is the kernel's", PATIENCE, || {
            Ok(host.component("kernel_only")?.contains(rule))
        })?;
        ensure!(answered(&world)? == 0, "{rule} was passed by");
        host.run(&format!("iptables -D {rule}"))?;
        wait::until_true("the peer is fast", PATIENCE, || {
            Ok(host.component("kernel_only")? == "none")
        })?;
    }
    ensure!(first.counters()?.of("from_uplink", "peer_kernel_only") > 0);
    // Policy routing by mark: the kernel's path asks it, ours does not.
    first.run("ip rule add fwmark 7 table 77 priority 99")?;
    wait::until_true("the peer is the kernel's", PATIENCE, || {
        Ok(first
            .component("kernel_only")?
            .contains("ip rule with priority 99"))
    })?;
    ensure!(answered(&world)? == 3, "{}", world.describe());
    Ok(())
}
