//! Two networks on the same hosts: an agent, a device, a bridge and containers for each.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::NetnsAt,
    daemon::Daemon,
    host::Host,
    netns::Netns,
    paths,
    reach::{self, Effort},
    subnet_env::SubnetEnv,
    supervisor::Supervisor,
    wait,
    world::{Plan, World},
};

use crate::{PATIENCE, ensure_fast, ensure_ready, reach_each_other};

const PREFIX: &str = "/second/network";
const CONFIG: &str = r#"{"Network":"10.172.0.0/16","Backend":{"Type":"vxlan","VNI":2}}"#;
const FILE: &str = "/run/flannel/second.env";
const SOCKET: &str = "/run/weft/second.sock";
const BRIDGE: &str = "cni1";

/// The second network on a host.
struct Second {
    // In the order in which they go.
    agent: Daemon,
    container: Netns,
    env: SubnetEnv,
}

impl Second {
    fn start(world: &World, index: usize) -> Result<Self> {
        let host = world.lab.host(index)?;
        let mut command = host.command(paths::weft()?);
        command.args(["run", "--datapath=ebpf", "--ip-masq", "--iptables-resync=1"]);
        command.arg(format!("--etcd-endpoints={}", world.lab.etcd.endpoint()));
        command.args([
            "--etcd-prefix",
            PREFIX,
            "--subnet-file",
            FILE,
            "--socket",
            SOCKET,
        ]);
        // As systemd does with a unit of the type `notify`.
        let mut systemd = Supervisor::new(host.folder(), Duration::from_secs(30))?;
        command.envs(systemd.environment());
        let log = host.folder().join("second.log");
        let mut agent = Daemon::start("the second agent", command, log)?;
        wait::until_true(
            "the second agent is ready",
            weft_tests::agent::READY,
            || {
                agent.ensure_running()?;
                Ok(host.weft(&["status", "--socket", SOCKET])?.0 == 0)
            },
        )
        .with_context(|| agent.tail())?;
        systemd.until("READY=1", PATIENCE)?;
        let env = SubnetEnv::read(&host.file(FILE))?;
        let container = container(&host, &env)?;
        Ok(Self {
            agent,
            container,
            env,
        })
    }

    fn place(&self) -> NetnsAt<'_> {
        NetnsAt {
            ns: &self.container,
            address: self.env.container(1),
        }
    }
}

/// Behind a bridge of its own.
fn container(host: &Host, env: &SubnetEnv) -> Result<Netns> {
    let ns = Netns::new(host.lab(), &format!("{}s1", host.label))?;
    let (far, mtu) = (ns.name(), env.mtu);
    host.ip(&format!("link add {BRIDGE} type bridge"))?;
    host.ip(&format!("address add {} dev {BRIDGE}", env.subnet))?;
    host.ip(&format!("link set {BRIDGE} mtu {mtu} up"))?;
    host.ip(&format!(
        "link add second1 type veth peer name eth0 netns {far}"
    ))?;
    host.ip(&format!("link set second1 mtu {mtu} master {BRIDGE} up"))?;
    let address = env.container(1);
    ns.ip(&format!("link set eth0 mtu {mtu} up"))?;
    ns.ip(&format!(
        "address add {address}/{} dev eth0",
        env.subnet.prefix_len()
    ))?;
    ns.ip(&format!("route add default via {}", env.gateway()))?;
    Ok(ns)
}

fn second_reach_each_other(seconds: &[Second]) -> Result<()> {
    let [one, other] = seconds else {
        anyhow::bail!("two hosts")
    };
    let effort = Effort {
        pings: 2,
        packets: 100,
        tcp_bytes: 1 << 20,
    };
    for (from, to) in [(one, other), (other, one)] {
        let reached = reach::try_pair(&from.place(), &to.place(), effort)?;
        reach::ensure_all(&[reached]).with_context(|| from.agent.tail())?;
    }
    Ok(())
}

#[test]
fn two_networks_live_side_by_side() -> Result<()> {
    let world = World::start(&Plan {
        flags: ["--ip-masq", "--iptables-resync=1"]
            .map(str::to_owned)
            .to_vec(),
        ..Plan::new("networks")
    })?;
    world.lab.etcd.put(&format!("{PREFIX}/config"), CONFIG)?;
    let mut seconds = Vec::new();
    for index in 0..2 {
        seconds.push(Second::start(&world, index)?);
    }
    reach_each_other(&world)?;
    second_reach_each_other(&seconds)?;

    // Both are fast, and the rules of neither are the other's to repair.
    let host = world.lab.host(0)?;
    let written = rewrites(&host)?;
    reach_each_other(&world)?;
    second_reach_each_other(&seconds)?;
    ensure_fast(&world)?;
    ensure!(
        second_took(&host)? > 0,
        "the second network's programs took nothing"
    );
    ensure!(
        rewrites(&host)? == written,
        "{written:?}: the agents fight over rules"
    );
    let rules = host.run("iptables-save")?;
    for range in ["188.172.0.0/16", "10.172.0.0/16"] {
        ensure!(rules.contains(&format!("-s {range} ")), "{rules}");
    }

    // The end of one, and what it left, is nothing to the other.
    for second in &mut seconds {
        second.agent.stop()?;
    }
    let said = left_by(&host, SOCKET)?;
    ensure!(
        said.contains("data path up since ") && said.contains("VNI 2,") && !said.contains("VNI 1"),
        "{said}"
    );
    let words = ["cleanup", "--vni", "2", "--subnet-file", FILE];
    let (code, said, _) = host.weft(&words)?;
    ensure!(code == 0, "{said}");
    let rules = host.run("iptables-save")?;
    ensure!(
        !rules.contains("10.172.") && rules.contains("-s 188.172.0.0/16 "),
        "{rules}"
    );
    ensure!(host.run("ip link show dev flannel.2").is_err());
    let said = left_by(&host, SOCKET)?;
    ensure!(!said.contains("data path up"), "{said}");
    reach_each_other(&world)?;
    ensure_ready(&host)
}

/// What the status says of a dead agent's data path.
fn left_by(host: &Host, socket: &str) -> Result<String> {
    let (code, _, said) = host.weft(&["status", "--socket", socket])?;
    ensure!(code == 3, "{code}: {said}");
    Ok(said)
}

/// How often each agent has written rules.
fn rewrites(host: &Host) -> Result<Vec<String>> {
    let first = host.component("firewall")?;
    let table = host.weft(&["status", "--socket", SOCKET])?.1;
    let second = table.lines().find(|line| line.starts_with("firewall"));
    Ok(vec![first, second.context("a firewall")?.to_owned()])
}

/// Packets that the second network's programs brought to a container.
fn second_took(host: &Host) -> Result<u64> {
    let text = host
        .weft(&["dump", "counters", "--vni", "2", "-o", "json"])?
        .1;
    let counters: serde_json::Value = serde_json::from_str(&text).context("counters")?;
    let taken = counters.get("taken").and_then(serde_json::Value::as_u64);
    taken.context("what was taken")
}
