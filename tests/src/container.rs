//! A bridge as CNI or Docker makes it, and containers as namespaces behind it.

use std::{ffi::OsStr, net::Ipv4Addr, process::Command, sync::Arc};

use anyhow::Result;

use crate::{agent::READY, command, host::Host, netns::Netns, subnet_env::SubnetEnv, wait};

pub const BRIDGE: &str = "cni0";

/// Makes the host's container bridge from what `subnet.env` says.
pub fn add_bridge(host: &Host, env: &SubnetEnv) -> Result<()> {
    host.ip(&format!("link add {BRIDGE} type bridge"))?;
    host.ip(&format!("link set {BRIDGE} mtu {}", env.mtu))?;
    host.ip(&format!("address add {} dev {BRIDGE}", env.subnet))?;
    host.ip(&format!("link set {BRIDGE} up"))?;
    Ok(())
}

/// Waits until the bridge forwards to these ports. The kernel takes a cable into use in its own time,
/// which is long where many links change, and drops what is sent to it before.
pub(crate) fn until_forwarding(
    host: &Host,
    ports: impl IntoIterator<Item = impl AsRef<str>>,
) -> Result<()> {
    // `BR_STATE_FORWARDING`.
    const FORWARDING: &str = "3";
    let states = ports.into_iter().fold("cat".to_owned(), |line, port| {
        format!("{line} /sys/class/net/{}/brport/state", port.as_ref())
    });
    wait::until_true("the bridge forwards to the ports", READY, || {
        Ok(host.run(&states)?.lines().all(|state| state == FORWARDING))
    })
}

/// A place that a probe can run in and that others can reach.
pub trait Place {
    fn name(&self) -> String;
    fn address(&self) -> Ipv4Addr;
    /// A command inside.
    fn inside(&self, program: &OsStr) -> Command;
}

#[derive(Debug)]
pub struct Container {
    pub address: Ipv4Addr,
    /// The host's end of its cable.
    pub port: String,
    pub ns: Netns,
    pub host: Arc<Host>,
    label: String,
}

impl Container {
    /// Container `number`, counted from 1, behind the host's bridge.
    pub fn new(host: &Arc<Host>, env: &SubnetEnv, number: u8) -> Result<Self> {
        Self::make(host, env, number, "")
    }

    /// The same with a hardware address of the caller's choice.
    pub fn with_mac(host: &Arc<Host>, env: &SubnetEnv, number: u8, mac: &str) -> Result<Self> {
        Self::make(host, env, number, &format!("address {mac}"))
    }

    fn make(host: &Arc<Host>, env: &SubnetEnv, number: u8, of: &str) -> Result<Self> {
        let label = format!("{}c{number}", host.label);
        let ns = Netns::new(host.lab(), &label)?;
        let (port, address, mtu) = (format!("veth{number}"), env.container(number), env.mtu);
        let far = ns.name();
        host.ip(&format!(
            "link add {port} type veth peer name eth0 {of} netns {far}"
        ))?;
        host.ip(&format!("link set {port} mtu {mtu} master {BRIDGE} up"))?;
        ns.ip(&format!("link set eth0 mtu {mtu}"))?;
        ns.ip(&format!(
            "address add {address}/{} dev eth0",
            env.subnet.prefix_len()
        ))?;
        ns.ip("link set eth0 up")?;
        ns.ip(&format!("route add default via {}", env.gateway()))?;
        until_forwarding(host, [&port])?;
        Ok(Self {
            address,
            port,
            ns,
            host: Arc::clone(host),
            label,
        })
    }

    pub fn ip(&self, words: &str) -> Result<String> {
        self.ns.ip(words)
    }

    pub fn run(&self, words: &str) -> Result<String> {
        let (program, rest) = words.split_once(' ').unwrap_or((words, ""));
        command::run_words(self.ns.command(program), rest)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // The kernel takes a namespace's cables away some time after its name: the port's name must
        // be free at once. A test may have removed it already.
        let _ = self.host.ip(&format!("link delete {}", self.port));
    }
}

impl Place for Container {
    fn name(&self) -> String {
        self.label.clone()
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn inside(&self, program: &OsStr) -> Command {
        self.ns.command(program)
    }
}

/// The host itself, under one of its addresses.
#[derive(Clone, Debug)]
pub struct HostAt {
    pub host: Arc<Host>,
    pub address: Ipv4Addr,
}

impl Place for HostAt {
    fn name(&self) -> String {
        self.host.label.clone()
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn inside(&self, program: &OsStr) -> Command {
        self.host.command(program)
    }
}

/// A namespace under one of its addresses: no host of the overlay, or behind a container.
#[derive(Clone, Copy, Debug)]
pub struct NetnsAt<'a> {
    pub ns: &'a Netns,
    pub address: Ipv4Addr,
}

impl Place for NetnsAt<'_> {
    fn name(&self) -> String {
        self.ns.name().to_owned()
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn inside(&self, program: &OsStr) -> Command {
        self.ns.command(program)
    }
}
