//! Many containers that start at once, made with few processes.

use std::{
    ffi::OsStr,
    io::Write as _,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command,
    container::{BRIDGE, Place, until_forwarding},
    host::Host,
    subnet_env::SubnetEnv,
};

/// Their namespaces go with it.
#[derive(Debug)]
pub struct Crowd {
    pub members: Vec<Member>,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Member {
    pub address: Ipv4Addr,
    /// The host's end of its cable.
    pub port: String,
    /// Its namespace's name.
    name: String,
}

impl Crowd {
    /// Containers behind the host's bridge, with these numbers.
    pub fn start(
        host: &Arc<Host>,
        env: &SubnetEnv,
        numbers: impl IntoIterator<Item = u8>,
    ) -> Result<Self> {
        let member = |number| Member {
            address: env.container(number),
            port: format!("many{number}"),
            name: format!("{}-{}m{number}", host.lab().as_str(), host.label),
        };
        let crowd = Self {
            members: numbers.into_iter().map(member).collect(),
        };
        crowd.all(None, |member| vec![format!("netns add {}", member.name)])?;
        let mtu = env.mtu;
        crowd.all(Some(host.ns.name()), |member| {
            let Member { port, name, .. } = member;
            vec![
                format!("link add {port} type veth peer name eth0 netns {name}"),
                format!("link set {port} mtu {mtu} master {BRIDGE} up"),
            ]
        })?;
        for member in &crowd.members {
            let (address, length) = (member.address, env.subnet.prefix_len());
            let lines = [
                format!("link set eth0 mtu {mtu}"),
                format!("address add {address}/{length} dev eth0"),
                "link set eth0 up".to_owned(),
                format!("route add default via {}", env.gateway()),
            ];
            batch(Some(&member.name), &lines)?;
        }
        until_forwarding(host, crowd.members.iter().map(|member| &member.port))?;
        Ok(crowd)
    }

    /// The lines of every member in one go of `ip`.
    fn all(&self, ns: Option<&str>, lines: impl Fn(&Member) -> Vec<String>) -> Result<()> {
        let lines: Vec<_> = self.members.iter().flat_map(lines).collect();
        batch(ns, &lines)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        // The kernel takes their cables away a moment later.
        let gone = self.all(None, |member| vec![format!("netns delete {}", member.name)]);
        if let Err(error) = gone {
            eprintln!("lab: {error:#}");
        }
    }
}

impl Place for Member {
    fn name(&self) -> String {
        self.port.clone()
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn inside(&self, program: &OsStr) -> Command {
        let path = PathBuf::from("/run/netns").join(&self.name);
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", path.display()))
            .arg("--")
            .arg(program);
        command
    }
}

/// Lines for one `ip`, which stops at the first that fails.
fn batch(ns: Option<&str>, lines: &[String]) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(ns) = ns {
        command.args(["-n", ns]);
    }
    command.args(["-batch", "-"]);
    let line = command::line(&command);
    command.stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().with_context(|| line.clone())?;
    let mut into = child.stdin.take().context("the input of ip")?;
    let written = into.write_all((lines.join("\n") + "\n").as_bytes());
    drop(into);
    let out = child.wait_with_output().with_context(|| line.clone())?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.success(), "{line}: {}", errors.trim());
    written.with_context(|| line.clone())
}
