//! Rules in nftables, and back to iptables with the backend keys that keep the programs out.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::BRIDGE,
    host::Host,
    probe, rules, wait,
    world::{CONFIG, Plan, World},
};

use crate::{PATIENCE, ensure_fast, reach_each_other};

const NFTABLES: &str =
    r#"{"Network":"188.172.0.0/16","EnableNFTables":true,"Backend":{"Type":"vxlan"}}"#;
const STAYS_WITH_THE_KERNEL: &str =
    r#"{"Network":"188.172.0.0/16","Backend":{"Type":"vxlan","GBP":true,"Learning":true}}"#;
const HEALTH: u16 = 8081;

fn table(host: &Host, name: &str) -> Result<String> {
    host.run(&format!("nft -s list table ip {name}"))
}

fn restart(world: &mut World, fast_path: &'static str) -> Result<()> {
    for index in 0..2 {
        let agent = world.node_mut(index)?.agent()?;
        agent.stop()?;
        agent.flags.fast_path = fast_path;
        agent.restart()?;
    }
    for index in 0..2 {
        let agent = world.node_mut(index)?.agent()?;
        agent.ready()?;
        agent.knows(1)?;
    }
    Ok(())
}

#[test]
fn nftables_and_back() -> Result<()> {
    let mut world = World::start(&Plan {
        config: NFTABLES.to_owned(),
        flags: ["--ip-masq", "-iptables-resync", "1", "-healthz-port=0x1f91"]
            .map(str::to_owned)
            .to_vec(),
        ..Plan::new("nftables")
    })?;
    let host = world.lab.host(0)?;
    health(&host)?;

    // flannel's names, nothing in iptables, and no rule that keeps the programs out.
    let made = table(&host, "flannel-ipv4")?;
    for chain in ["chain forward", "chain postrtg", "masquerade fully-random"] {
        ensure!(made.contains(chain), "{made}");
    }
    let iptables = host.run("iptables-save")?;
    ensure!(!iptables.contains("FLANNEL"), "{iptables}");
    host.until_mode("on", "", PATIENCE)?;
    reach_each_other(&world)?;
    ensure_fast(&world)?;
    let seen = probe::ask(world.node(0)?.container(0)?, &world.lab.outside(), 9101)?;
    ensure!(
        seen == host.address,
        "outside a container appears as {seen}"
    );

    // What a stranger takes away comes back.
    host.run("nft flush chain ip flannel-ipv4 postrtg")?;
    host.run("nft delete table ip weft-1")?;
    wait::until_true("the rules are back", PATIENCE, || {
        Ok(table(&host, "flannel-ipv4")? == made && table(&host, "weft-1").is_ok())
    })?;

    keeps_addresses(&mut world)?;
    to_iptables(&mut world)
}

fn health(host: &Host) -> Result<()> {
    let alive = host.get(HEALTH, "/healthz")?;
    ensure!(
        alive
            == (
                "HTTP/1.0 200 OK".to_owned(),
                "flanneld is running".to_owned()
            )
    );
    let ready = host.get(HEALTH, "/readyz")?;
    ensure!(ready == ("HTTP/1.0 200 OK".to_owned(), "flanneld is ready".to_owned()));
    // Whoever finds the port taken is told, and ends.
    let flags = ["--healthz-port=8081", "--socket=/run/weft/other.sock"];
    let (code, log, _) = crate::refused(host, &flags)?;
    ensure!(
        code == 64 && log.contains("--healthz-port"),
        "{code}: {log}"
    );
    Ok(())
}

/// Docker would rewrite what leaves its subnet, overlay or not. On the stack's way the rule in front
/// prevents it.
fn keeps_addresses(world: &mut World) -> Result<()> {
    restart(world, "off")?;
    let host = world.lab.host(0)?;
    rules::masquerade(&host, world.node(0)?.env.subnet, BRIDGE)?;
    let seen = |world: &World| -> Result<_> {
        let (a, b) = world.pair()?;
        probe::ask(a, b, 9102)
    };
    let own = world.node(0)?.container(0)?.address;
    ensure!(seen(world)? == own);
    // The control: without the table it is rewritten.
    world.node_mut(0)?.agent()?.stop()?;
    host.run("nft delete table ip weft-1")?;
    let rewritten = seen(world)?;
    ensure!(
        rewritten != own,
        "nobody rewrites here, and nothing was tested"
    );
    world.node_mut(0)?.agent()?.restart()?;
    world.node_mut(0)?.agent()?.ready()?;
    ensure!(seen(world)? == own);
    host.run("iptables -t nat -F POSTROUTING").map(drop)
}

/// Another config at the next start: the tables are gone, the device is made with what it asks for,
/// and the kernel moves all packets.
fn to_iptables(world: &mut World) -> Result<()> {
    world.lab.etcd.put_config(STAYS_WITH_THE_KERNEL)?;
    restart(world, "auto")?;
    let host = world.lab.host(0)?;
    wait::until_true("the rules are in iptables", PATIENCE, || {
        let nft = host.run("nft list tables")?;
        let iptables = host.run("iptables-save")?;
        let gone = !nft.contains("flannel-ipv4") && !nft.contains("weft-1");
        Ok(gone && iptables.contains("FLANNEL-POSTRTG"))
    })?;
    let device = host.ip("-d link show dev flannel.1")?;
    ensure!(
        device.contains("gbp") && !device.contains("nolearning"),
        "{device}"
    );
    let (fast, why) = host.fast_path()?;
    ensure!(fast == "off" && why.contains("GBP"), "{fast}: {why}");
    reach_each_other(world).context("by the kernel, with group policies")?;
    world.lab.etcd.put_config(CONFIG)
}
