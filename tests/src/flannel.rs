//! All that flannel leaves on a host beside the kernel's tables: rules, `subnet.env`, a lease with
//! an end of its own, and entries for nodes that are long gone.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{
    etcd::Etcd,
    kernel_host::{DEVICE, KernelHost, Peer, lease_key, lease_value},
    rules::feed,
    subnet_env::SubnetEnv,
};

/// flannel's own; a host keeps its subnet for a day.
const TTL: &str = "86400";

/// A node that went away while nobody removed what led to it (flannel#2554).
fn gone() -> Result<Peer> {
    Ok(Peer {
        subnet: "188.172.240.0/24".parse()?,
        public: "192.0.2.240".parse()?,
        mac: "0a:1b:2c:3d:4e:f0".to_owned(),
    })
}

/// The MAC that a living node had before its device was made anew: flannel forgets its entry.
const OLD_MAC: &str = "0a:1b:2c:3d:4e:f1";

/// Finishes a host that [`KernelHost::new`] began and that knows its peers, as a flanneld that ran
/// with `--ip-masq` leaves it.
pub fn furnish(kernel: &KernelHost, etcd: &Etcd) -> Result<()> {
    kernel.add_peer(&gone()?)?;
    kernel.host.run(&format!(
        "bridge fdb append {OLD_MAC} dev {DEVICE} dst 192.0.2.241 self permanent"
    ))?;
    kernel
        .host
        .ns
        .sysctl(&format!("net/ipv6/conf/{DEVICE}/accept_ra"), "0")?;
    feed(
        &kernel.host,
        "iptables-restore --noflush",
        &rules(&kernel.env),
    )?;
    let file = kernel.host.file(SubnetEnv::path());
    fs::write(&file, kernel.env.text()).with_context(|| format!("write {}", file.display()))?;
    lease(kernel, etcd)
}

/// flannel's chains, rules, order and comments.
fn rules(env: &SubnetEnv) -> String {
    let (network, subnet) = (env.network, env.subnet.trunc());
    let masq = r#"-m comment --comment "flanneld masq""#;
    let forward = r#"-m comment --comment "flanneld forward""#;
    let to = "-A FLANNEL-POSTRTG";
    format!(
        "*nat\n:FLANNEL-POSTRTG - [0:0]\n\
         -A POSTROUTING {masq} -j FLANNEL-POSTRTG\n\
         {to} -m mark --mark 0x4000/0x4000 {masq} -j RETURN\n\
         {to} -s {subnet} -d {network} {masq} -j RETURN\n\
         {to} -s {network} -d {subnet} {masq} -j RETURN\n\
         {to} ! -s {network} -d {subnet} {masq} -j RETURN\n\
         {to} -s {network} ! -d 224.0.0.0/4 {masq} -j MASQUERADE --random-fully\n\
         {to} ! -s {network} -d {network} {masq} -j MASQUERADE --random-fully\nCOMMIT\n\
         *filter\n:FLANNEL-FWD - [0:0]\n\
         -A FORWARD {forward} -j FLANNEL-FWD\n\
         -A FLANNEL-FWD -s {network} {forward} -j ACCEPT\n\
         -A FLANNEL-FWD -d {network} {forward} -j ACCEPT\nCOMMIT\n"
    )
}

/// The record again, with a lease of etcd's behind it.
fn lease(kernel: &KernelHost, etcd: &Etcd) -> Result<()> {
    let said = etcd.ctl(&["lease", "grant", TTL])?;
    let id = said.split_whitespace().nth(1);
    let id = id.with_context(|| format!("a lease: {said:?}"))?;
    let (key, value) = (lease_key(kernel.env.subnet), lease_value(&kernel.peer()));
    etcd.ctl(&["put", &format!("--lease={id}"), &key, &value])?;
    Ok(())
}

/// What a starting flanneld compares of a device that it finds, and what it then keeps: a
/// difference would make it a new one.
#[derive(Debug, PartialEq, Eq)]
pub struct Adoptable {
    pub device: String,
    pub addresses: String,
    pub env: String,
}

impl Adoptable {
    pub fn of(kernel: &crate::host::Host) -> Result<Self> {
        let shown = kernel.ip(&format!("-d -o link show {DEVICE}"))?;
        ensure!(shown.contains("vxlan id 1"), "no VXLAN device: {shown}");
        Ok(Self {
            device: shown,
            addresses: kernel.ip(&format!("-4 -o address show dev {DEVICE}"))?,
            env: fs::read_to_string(kernel.file(SubnetEnv::path())).context("subnet.env")?,
        })
    }
}
