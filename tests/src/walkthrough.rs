//! The walk-through that the project grew from: etcd, a config, an agent and a real Docker engine
//! on each of two hosts, and containers that talk.

use std::{net::Ipv4Addr, time::Instant};

use anyhow::{Context as _, Result, ensure};

use crate::{
    agent::{Agent, Flags},
    container::{HostAt, Place as _},
    docker::{Docker, DockerContainer},
    dump::{Counters, PeerEntry, Share},
    lab::Lab,
    probe,
    reach::{self, Effort, Reached},
};

/// As the walk-through types it, spaces included.
const CONFIG: &str = r#"{ "Network": "188.172.0.0/16", "Backend": {"Type": "vxlan"}}"#;
const MEGABYTES: u32 = 200;
const PUBLISHED: u16 = 8080;

/// Who hides the containers behind the host's address on the way out of the overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    Agent,
    Docker,
}

#[derive(Debug)]
pub struct Walk {
    // In the order in which they go.
    containers: Vec<DockerContainer>,
    engines: Vec<Docker>,
    agents: Vec<Agent>,
    pub lab: Lab,
}

/// What the walk found.
#[derive(Debug, Default)]
pub struct Found {
    pub peers: Vec<(String, PeerEntry)>,
    pub reached: Vec<Reached>,
    pub downloads: Vec<Download>,
    pub shares: Vec<Share>,
}

/// A file fetched over HTTP, by its checksum at both ends.
#[derive(Clone, Debug)]
pub struct Download {
    pub what: String,
    pub megabytes: u32,
    pub equal: bool,
    pub milliseconds: u128,
}

impl Found {
    pub fn complete(&self) -> bool {
        self.reached.iter().all(Reached::complete) && self.downloads.iter().all(|get| get.equal)
    }
}

impl Walk {
    pub fn start(test: &str, masquerade: Masquerade) -> Result<Self> {
        let lab = Lab::new(test, 2)?;
        lab.etcd.put_config(CONFIG)?;
        let mut agents = Vec::new();
        for host in &lab.hosts {
            let mut flags = Flags::new(&lab.etcd.endpoint());
            if masquerade == Masquerade::Agent {
                flags.more.push("--ip-masq".to_owned());
            }
            agents.push(Agent::start(host, flags)?);
        }
        let mut engines = Vec::new();
        for agent in &mut agents {
            let env = agent.ready()?;
            ensure!(env.ip_masq == (masquerade == Masquerade::Agent), "{env:?}");
            agent.knows(1)?;
            engines.push(Docker::start(&agent.host, &docker_opts(agent)?)?);
        }
        let mut walk = Self {
            containers: Vec::new(),
            engines,
            agents,
            lab,
        };
        walk.run_containers()?;
        Ok(walk)
    }

    fn run_containers(&mut self) -> Result<()> {
        let publish = format!("{PUBLISHED}:80");
        let script = format!(
            "mkdir /www && dd if=/dev/urandom of=/www/large bs=1M count={MEGABYTES} && \
             md5sum < /www/large > /www/sum && httpd -f -p 80 -h /www"
        );
        for engine in &self.engines {
            self.containers
                .push(engine.run("web", &["-p", &publish], &script)?);
        }
        for (engine, container) in self.engines.iter().zip(&self.containers) {
            crate::wait::until_true("the container serves", crate::agent::READY, || {
                engine
                    .exec(container, "wget -q -O /dev/null http://127.0.0.1/sum")
                    .map(|_| true)
            })?;
        }
        Ok(())
    }

    /// Pings, packets, 200 MB each way, and the published port of the other host.
    pub fn walk(&self) -> Result<Found> {
        let mut found = Found::default();
        for agent in &self.agents {
            let entries = agent.host.peers()?.into_iter();
            found
                .peers
                .extend(entries.map(|entry| (agent.host.label.clone(), entry)));
        }
        let (a, b) = (self.container(0)?, self.container(1)?);
        // Warm-up: neighbours and endpoints are learned from the first packets.
        self.engine(0)?
            .exec(a, &format!("ping -c 3 -W 2 {}", b.address))?;
        self.engine(1)?
            .exec(b, &format!("ping -c 3 -W 2 {}", a.address))?;
        let before = self.counters()?;
        let effort = Effort {
            tcp_bytes: 8 << 20,
            ..Effort::default()
        };
        for (from, to) in [(a, b), (b, a)] {
            found.reached.push(reach::try_pair(from, to, effort)?);
            let seen = probe::ask(from, to, 9005)?;
            ensure!(seen == from.address(), "{} appears as {seen}", from.name());
        }
        found
            .downloads
            .push(self.download(0, 1, b.address, 80, "large")?);
        found
            .downloads
            .push(self.download(1, 0, a.address, 80, "large")?);
        let now = self.counters()?;
        found.shares = now
            .iter()
            .zip(&before)
            .map(|(now, then)| now.since(then))
            .collect();

        let [first, second] = [self.lab.host(0)?, self.lab.host(1)?];
        found
            .downloads
            .push(self.download(0, 1, second.address, PUBLISHED, "sum")?);
        found
            .downloads
            .push(self.download(1, 0, first.address, PUBLISHED, "sum")?);
        found.downloads.push(self.host_download(0, 1)?);
        Ok(found)
    }

    /// A container fetches a file from the other host's container, by whatever address.
    fn download(
        &self,
        by: usize,
        of: usize,
        at: Ipv4Addr,
        port: u16,
        file: &str,
    ) -> Result<Download> {
        let theirs = self
            .engine(of)?
            .exec(self.container(of)?, &format!("md5sum < /www/{file}"))?;
        let start = Instant::now();
        let script = format!("wget -q -O - http://{at}:{port}/{file} | md5sum");
        let ours = self.engine(by)?.exec(self.container(by)?, &script)?;
        Ok(Download {
            what: format!("{} from {at}:{port}", self.container(by)?.name()),
            megabytes: if file == "large" { MEGABYTES } else { 0 },
            equal: ours == theirs,
            milliseconds: start.elapsed().as_millis(),
        })
    }

    /// The host itself reaches what the other host publishes.
    fn host_download(&self, by: usize, of: usize) -> Result<Download> {
        let (host, other) = (self.lab.host(by)?, self.lab.host(of)?);
        let theirs = self.engine(of)?.exec(self.container(of)?, "cat /www/sum")?;
        let start = Instant::now();
        let at = format!("{}:{PUBLISHED}", other.address);
        let ours = host.run(&format!("/bin/busybox wget -q -O - http://{at}/sum"))?;
        let what = format!(
            "{} from {at}",
            HostAt {
                host,
                address: other.address
            }
            .name()
        );
        let milliseconds = start.elapsed().as_millis();
        Ok(Download {
            what,
            megabytes: 0,
            equal: ours == theirs,
            milliseconds,
        })
    }

    fn counters(&self) -> Result<Vec<Counters>> {
        self.agents
            .iter()
            .map(|agent| agent.host.counters())
            .collect()
    }

    fn container(&self, index: usize) -> Result<&DockerContainer> {
        self.containers
            .get(index)
            .with_context(|| format!("container {index}"))
    }

    fn engine(&self, index: usize) -> Result<&Docker> {
        self.engines
            .get(index)
            .with_context(|| format!("engine {index}"))
    }
}

/// The options of the combined variable, one by one.
pub fn docker_opts(agent: &Agent) -> Result<Vec<String>> {
    let (code, text, errors) = agent.host.weft(&["docker-opts", "-c"])?;
    ensure!(code == 0, "weft docker-opts ended with {code}: {errors}");
    parse_docker_opts(&text).with_context(|| format!("weft docker-opts: {text:?}"))
}

fn parse_docker_opts(text: &str) -> Option<Vec<String>> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("DOCKER_OPTS="))?;
    let inner = line.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some(inner.split_whitespace().map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_read_as_a_shell_would() {
        let text = "DOCKER_OPTS=\" --bip=10.1.74.1/24 --ip-masq=true --mtu=1472\"\n";
        let options = parse_docker_opts(text).unwrap();
        assert_eq!(
            options,
            ["--bip=10.1.74.1/24", "--ip-masq=true", "--mtu=1472"]
        );
    }
}
