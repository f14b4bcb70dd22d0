//! flanneld's flags about the interface, rules, routes, files and health, half of them as variables:
//! each does what it says.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::{Agent, Flags, READY},
    host::Host,
    lab::{Lab, SWITCH},
    subnet_env::SubnetEnv,
    wait,
    world::CONFIG,
};

use crate::PATIENCE;

const FILE: &str = "/run/flannel/other.env";

#[test]
fn flags_do_what_they_say() -> Result<()> {
    let lab = Lab::new("flags", 1)?;
    lab.etcd.put_config(CONFIG)?;
    let host = lab.host(0)?;
    // Without it only the flag tells which interface is meant.
    host.ip("link add decoy type veth peer name decoy0")?;
    host.ip("link set decoy0 up")?;
    host.ip("address add 198.51.100.1/24 dev decoy")?;
    host.ip("link set decoy up")?;
    host.ip("route replace default dev decoy")?;
    let mut flags = Flags::new(&lab.etcd.endpoint());
    flags.datapath = "kernel";
    flags.more = [
        "-iface=nosuch0",
        "--iface-regex",
        "^never",
        &format!("-iface-can-reach={SWITCH}"),
        "-subnet-file",
        FILE,
        "--iptables-resync=1",
        "-iptables-forward-rules=false",
    ]
    .map(str::to_owned)
    .to_vec();
    flags.environment = [
        ("FLANNELD_IP_MASQ", "true"),
        ("FLANNELD_IP_MASQ_FULLY_RANDOM_DISABLE", "1"),
        ("FLANNELD_IP_BLACKHOLE_ROUTE", "T"),
        ("FLANNELD_HEALTHZ_IP", "127.0.0.1"),
        ("FLANNELD_HEALTHZ_PORT", "0x1f91"),
        // What is typed wins.
        ("FLANNELD_IPTABLES_FORWARD_RULES", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    let mut agent = Agent::start(&host, flags)?;
    wait::until_true("the agent is ready", READY, || {
        agent.daemon()?.ensure_running()?;
        Ok(host.weft(&["status"])?.0 == 0)
    })
    .with_context(|| agent.tail())?;
    let env = SubnetEnv::read(&host.file(FILE))?;
    ensure!(env.ip_masq, "{env:?}");
    ensure!(!host.file(SubnetEnv::path()).exists(), "two files");
    let status = host.status()?;
    let uplink = status.get("uplink").context("an uplink")?;
    ensure!(uplink == "eth0", "{uplink}");
    rules_and_route(&host, &env)?;
    let listens = host.run("ss -ltnH sport = :8081")?;
    ensure!(listens.contains("127.0.0.1:8081"), "{listens}");
    ensure!(host.get(8081, "/readyz")?.0 == "HTTP/1.0 200 OK");

    agent.stop()?;
    let (code, said, _) = host.weft(&["cleanup", "--subnet-file", FILE])?;
    ensure!(code == 0, "{code}: {said}");
    let left = host.ip("route show type blackhole")?;
    ensure!(left.trim().is_empty(), "{left}");
    ensure!(!host.file(FILE).exists(), "the file is still there");
    Ok(())
}

fn rules_and_route(host: &Host, env: &SubnetEnv) -> Result<()> {
    let rules = host.run("iptables-save")?;
    let masquerade = rules.matches("-j MASQUERADE").count();
    ensure!(
        masquerade == 2 && !rules.contains("--random-fully"),
        "{rules}"
    );
    ensure!(!rules.contains("FLANNEL-FWD"), "{rules}");
    let nowhere = format!("blackhole {}", env.subnet.trunc());
    let there = || Ok(host.ip("route show type blackhole")?.contains(&nowhere));
    wait::until_true(&nowhere, PATIENCE, there)?;
    host.ip(&format!("route del {nowhere}"))?;
    wait::until_true("it is back", PATIENCE, there)
}
