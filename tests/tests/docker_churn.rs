//! A real Docker engine replaces a container under its address and MAC, and makes its bridge anew.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::{Agent, Flags},
    container::{Container, Place as _, add_bridge},
    docker::{self, Docker, DockerContainer},
    dump::Share,
    lab::Lab,
    probe::{self, Exchange, Running},
    report::Udp,
    wait,
    walkthrough::docker_opts,
    world::CONFIG,
};

const PATIENCE: Duration = Duration::from_secs(10);
const RATE: u64 = 1000;

/// A container made by hand on the first host, an engine on the second.
struct Pair {
    // In the order in which they go.
    near: Container,
    engine: Docker,
    agents: Vec<Agent>,
    lab: Lab,
}

impl Pair {
    fn start(test: &str) -> Result<Self> {
        let lab = Lab::new(test, 2)?;
        lab.etcd.put_config(CONFIG)?;
        let start = |host| Agent::start(host, Flags::new(&lab.etcd.endpoint()));
        let mut agents: Vec<_> = lab.hosts.iter().map(start).collect::<Result<_>>()?;
        let mut envs = Vec::new();
        for agent in &mut agents {
            envs.push(agent.ready()?);
        }
        for agent in &mut agents {
            agent.knows(1)?;
        }
        let env = envs.first().context("the first host")?;
        add_bridge(&*lab.host(0)?, env)?;
        let near = Container::new(&lab.host(0)?, env, 1)?;
        let agent = agents.last().context("the second host")?;
        let engine = Docker::start(&agent.host, &docker_opts(agent)?)?;
        Ok(Self {
            near,
            engine,
            agents,
            lab,
        })
    }

    /// The engine ends with all its containers and its bridge, and starts again.
    fn restart(&mut self) -> Result<()> {
        let agent = self.agents.last().context("the second host")?;
        let options = docker_opts(agent)?;
        self.engine.stop()?;
        agent.host.ip(&format!("link delete {}", docker::BRIDGE))?;
        self.engine = Docker::start(&agent.host, &options)?;
        Ok(())
    }

    /// What Docker calls the container's MAC.
    fn mac(&self, container: &DockerContainer) -> Result<String> {
        let format = "{{.NetworkSettings.MacAddress}}";
        let mac = self
            .engine
            .docker(&["inspect", "--format", format, &container.name])?;
        Ok(mac.trim().to_owned())
    }

    /// The port that the second host's programs know an address and MAC behind.
    fn port(&self, address: &str, mac: &str) -> Result<Option<String>> {
        let all = self.lab.host(1)?.endpoints()?;
        let found = all
            .into_iter()
            .find(|end| end.address == address && end.mac == mac);
        Ok(found.and_then(|end| end.port.as_str().map(str::to_owned)))
    }

    fn until_known(&self, container: &DockerContainer) -> Result<String> {
        let (address, mac) = (container.address.to_string(), self.mac(container)?);
        wait::until(&format!("{address} is known"), PATIENCE, || {
            self.port(&address, &mac)
        })
        .with_context(|| format!("{:?}", self.lab.host(1).map(|host| host.endpoints())))
    }

    fn share(&self, during: impl FnOnce() -> Result<()>) -> Result<Share> {
        let counters = || -> Result<Vec<_>> {
            let hosts = self.lab.hosts.iter();
            hosts.map(|host| host.counters()).collect()
        };
        let before = counters()?;
        during()?;
        let now = counters()?;
        let shares: Vec<_> = now.iter().zip(&before).map(|(a, b)| a.since(b)).collect();
        Ok(weft_tests::world::total(&shares))
    }

    fn ensure_fast(&self, far: &DockerContainer, port: u16) -> Result<()> {
        let packets = Exchange {
            port,
            rate: 1000,
            count: 300,
            size: 64,
        };
        let share =
            self.share(|| probe::ensure_complete("a new flow", packets.run(&self.near, far)?))?;
        ensure!(share.milli_percent() >= 99_000, "{share}");
        Ok(())
    }

    /// One side of a flow between the two.
    fn side(&self, far: &DockerContainer, is_near: bool, count: u64) -> Result<Running> {
        let (near, there) = (self.near.address(), far.address());
        let line = |bind, to| {
            format!("udp --rate {RATE} --count {count} --bind {bind}:9000 --to {to}:9000")
        };
        if is_near {
            probe::start(&self.near, &line(near, there))
        } else {
            probe::start(far, &line(there, near))
        }
    }
}

#[test]
fn docker_replaces_a_container_and_its_bridge() -> Result<()> {
    let mut pair = Pair::start("docker_churn")?;
    let first = pair.engine.run("first", &[], "sleep 1000")?;
    pair.engine
        .exec(&first, &format!("ping -c 2 -W 2 {}", pair.near.address))?;
    let port = pair.until_known(&first)?;
    pair.ensure_fast(&first, 9001)?;

    // Its successor has its address and its MAC, while somebody goes on sending.
    let mac = pair.mac(&first)?;
    let sender = pair.side(&first, true, 5 * RATE)?;
    let partner = pair.side(&first, false, 5 * RATE)?;
    pair.engine.docker(&["rm", "-f", "first"])?;
    drop(partner);
    let second = pair.engine.run("second", &[], "sleep 1000")?;
    ensure!(
        second.address == first.address && pair.mac(&second)? == mac,
        "Docker gave it another place: {second:?}"
    );
    let heard: Udp = pair.side(&second, false, RATE)?.report()?;
    let _: Udp = sender.report()?;
    println!("the successor heard {heard:?}");
    ensure!(heard.received + heard.duplicates > 500, "{heard:?}");
    let new = pair.until_known(&second)?;
    ensure!(new != port, "still {port}");
    pair.ensure_fast(&second, 9002)?;

    // Docker's bridge, made anew with everything behind it.
    pair.restart()?;
    let third = pair.engine.run("third", &[], "sleep 1000")?;
    pair.engine
        .exec(&third, &format!("ping -c 2 -W 2 {}", pair.near.address))?;
    pair.until_known(&third)?;
    pair.ensure_fast(&third, 9003)?;
    let left = pair.lab.host(1)?.endpoints()?;
    ensure!(left.len() == 1, "{left:?}");
    Ok(())
}
