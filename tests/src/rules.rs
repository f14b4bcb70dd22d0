//! Packet filter rules as others write them on a host: service addresses as kube-proxy translates
//! them, published ports as Docker does, and the filters that often stand beside them.

use std::{fmt::Write as _, net::SocketAddrV4};

use anyhow::{Context as _, Result};

use crate::host::Host;

/// kube-proxy's mark on what is to be masqueraded.
const MARK: &str = "0x4000";

/// Who translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tool {
    Iptables,
    Nft,
}

/// Where a service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum At {
    /// An address that no host has.
    Address(std::net::Ipv4Addr),
    /// Every address of the host.
    Local,
}

/// A port of `protocol` that leads to a container.
#[derive(Clone, Copy, Debug)]
pub struct Service {
    pub at: At,
    pub protocol: &'static str,
    pub port: u16,
    pub backend: SocketAddrV4,
    /// Whether the backend sees this host instead of the client. When it is the client itself it
    /// always does.
    pub masquerade: bool,
}

/// Writes `text` where a program of the host reads its rules from.
pub fn feed(host: &Host, program: &str, text: &str) -> Result<()> {
    let file = host.folder().join("rules");
    std::fs::write(&file, text).context("write rules")?;
    let fed = host.run(&format!("{program} {}", file.display()));
    fed.map(drop).with_context(|| text.to_owned())
}

/// Makes these the services of the host.
pub fn serve(host: &Host, tool: Tool, services: &[Service]) -> Result<()> {
    match tool {
        Tool::Iptables => feed(host, "iptables-restore --noflush", &iptables(services)),
        Tool::Nft => feed(host, "nft -f", &nft(services)),
    }
}

/// Takes the services of this tool away.
pub fn forget(host: &Host, tool: Tool) -> Result<()> {
    if tool == Tool::Nft {
        return host.run("nft delete table ip services").map(drop);
    }
    for (parent, chain) in JUMPS {
        host.run(&format!("iptables -t nat -D {parent} -j {chain}"))?;
    }
    Ok(())
}

const JUMPS: [(&str, &str); 3] = [
    ("PREROUTING", "KUBE-SERVICES"),
    ("OUTPUT", "KUBE-SERVICES"),
    ("POSTROUTING", "KUBE-POSTROUTING"),
];

fn iptables(services: &[Service]) -> String {
    let mut text = String::from("*nat\n");
    for chain in ["KUBE-SERVICES", "KUBE-MARK-MASQ", "KUBE-POSTROUTING"] {
        line(&mut text, &format!(":{chain} - [0:0]"));
    }
    for (parent, chain) in JUMPS {
        line(&mut text, &format!("-A {parent} -j {chain}"));
    }
    line(
        &mut text,
        &format!("-A KUBE-MARK-MASQ -j MARK --or-mark {MARK}"),
    );
    let marked = format!("--mark {MARK}/{MARK}");
    for rest in [
        format!("-m mark ! {marked} -j RETURN"),
        format!("-j MARK --xor-mark {MARK}"),
        "-j MASQUERADE --random-fully".to_owned(),
    ] {
        line(&mut text, &format!("-A KUBE-POSTROUTING {rest}"));
    }
    for service in services {
        let Service {
            at,
            protocol,
            port,
            backend,
            masquerade,
        } = service;
        let at = match at {
            At::Address(address) => format!("-d {address}/32"),
            At::Local => "-m addrtype --dst-type LOCAL".to_owned(),
        };
        let of = format!("-A KUBE-SERVICES {at} -p {protocol} -m {protocol} --dport {port}");
        let client = match masquerade {
            true => String::new(),
            false => format!("-s {}/32", backend.ip()),
        };
        line(&mut text, &format!("{of} {client} -j KUBE-MARK-MASQ"));
        line(
            &mut text,
            &format!("{of} -j DNAT --to-destination {backend}"),
        );
    }
    line(&mut text, "COMMIT");
    text
}

fn nft(services: &[Service]) -> String {
    let mut text = String::from("table ip services {\n chain services {\n");
    for service in services {
        let Service {
            at,
            protocol,
            port,
            backend,
            masquerade,
        } = service;
        let at = match at {
            At::Address(address) => format!("ip daddr {address}"),
            At::Local => "fib daddr type local".to_owned(),
        };
        let of = format!("{at} {protocol} dport {port}");
        let client = match masquerade {
            true => String::new(),
            false => format!("ip saddr {}", backend.ip()),
        };
        let mark = format!("meta mark set meta mark | {MARK}");
        line(&mut text, &format!("  {of} {client} {mark}"));
        line(&mut text, &format!("  {of} dnat to {backend}"));
    }
    line(&mut text, " }");
    for (hook, priority, rule) in [
        ("prerouting", "-100", "jump services".to_owned()),
        ("output", "-100", "jump services".to_owned()),
        (
            "postrouting",
            "100",
            format!("meta mark & {MARK} == {MARK} masquerade"),
        ),
    ] {
        let base = format!("type nat hook {hook} priority {priority};");
        line(
            &mut text,
            &format!(" chain {hook} {{\n  {base}\n  {rule}\n }}"),
        );
    }
    line(&mut text, "}");
    text
}

fn line(text: &mut String, more: &str) {
    // A string takes everything.
    let _ = writeln!(text, "{more}");
}

/// kube-proxy's: what conntrack calls invalid is dropped, whoever would accept it further on.
pub fn drop_invalid(host: &Host) -> Result<()> {
    host.run("iptables -I FORWARD -m conntrack --ctstate INVALID -j DROP")
        .map(drop)
}

/// Only what is part of something is forwarded, and what begins in the overlay.
pub fn stateful(host: &Host, network: ipnet::Ipv4Net) -> Result<()> {
    host.run("iptables -P FORWARD DROP")?;
    let accept = |what: &str| format!("iptables -I FORWARD {what} -j ACCEPT");
    let state = "-m conntrack --ctstate";
    host.run(&accept(&format!("-s {network} {state} NEW")))?;
    host.run(&accept(&format!("{state} RELATED,ESTABLISHED")))?;
    drop_invalid(host)
}

/// Docker's: what leaves the subnet bears the host's address.
pub fn masquerade(host: &Host, subnet: ipnet::Ipv4Net, bridge: &str) -> Result<()> {
    let what = format!("-s {} ! -o {bridge}", subnet.trunc());
    host.run(&format!(
        "iptables -t nat -A POSTROUTING {what} -j MASQUERADE"
    ))
    .map(drop)
}

/// Whether frames that cross a bridge pass iptables, too.
pub fn bridge_netfilter(host: &Host, on: bool) -> Result<()> {
    let value = if on { "1" } else { "0" };
    host.ns.sysctl("net/bridge/bridge-nf-call-iptables", value)
}
