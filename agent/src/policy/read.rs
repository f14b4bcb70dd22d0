//! Runs the programs that print the host's rules.

use std::{io, process::Stdio, time::Duration};

use tokio::time::timeout;

use super::{
    Rules, RulesRead,
    chains::Table,
    iptables::{base_chains, tables},
    nft,
};
use crate::{
    child,
    netlink::{
        nftables::{self, TableName},
        xfrm,
    },
};

/// Legacy iptables' tables; empty where it was never used.
const LEGACY: &str = "/proc/thread-self/net/ip_tables_names";
/// What `iptables-save` of the nft kind says of itself in its first line.
const NFT_KIND: &str = "(nf_tables)";
/// Families of tables (`NFPROTO_*`).
const IPV4: u8 = 2;
const ARP: u8 = 3;
const IPV6: u8 = 10;
/// Thousands of rules take a second or two on a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// A program that is missing now may be in the middle of an upgrade, a table in that of a change.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_millis(150);

/// Reads everything. What fails is tried again before it counts.
pub async fn rules() -> RulesRead {
    let mut attempt = 1;
    loop {
        match read().await {
            Err(_) if attempt < ATTEMPTS => {
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer.map_err(|why| format!("rules cannot be read: {why}")),
        }
    }
}

/// Whether iptables of the old kind is in use in this network namespace: it tells nobody when its
/// rules change.
#[must_use]
pub fn has_legacy() -> bool {
    // Where the file is missing, or not for us to read, so are the tables.
    std::fs::read_to_string(LEGACY).is_ok_and(|names| !names.trim().is_empty())
}

/// The tables of legacy iptables alone.
pub async fn legacy() -> Result<Vec<Table>, String> {
    if !has_legacy() {
        return Ok(Vec::new());
    }
    for program in ["iptables-legacy-save", "iptables-save"] {
        match run(program, &[]).await? {
            Some(text) if !is_of_nft(&text) => return Ok(tables("iptables-legacy", &text)),
            _ => {}
        }
    }
    Err(format!(
        "{LEGACY} names tables, and there is no iptables-legacy-save to read them"
    ))
}

async fn read() -> RulesRead {
    let mut found = legacy().await?;
    let there = nftables::tables()
        .await
        .map_err(|error| error.to_string())?;
    if !there.is_empty() {
        found.extend(of_nft(&there).await?);
    }
    let ipsec = xfrm::policies().await.map_err(|error| error.to_string())?;
    Ok(Rules {
        tables: found,
        ipsec,
    })
}

/// What nftables holds, made by iptables or by others.
async fn of_nft(there: &[TableName]) -> Result<Vec<Table>, String> {
    let saved = saved().await?;
    let mut found = tables("iptables", &saved);
    let known: Vec<(&str, &str)> = base_chains(&saved).collect();
    match run("nft", &["-j", "list", "ruleset"]).await? {
        Some(text) => {
            let known = |table: &str, chain: &str| known.contains(&(table, chain));
            found.extend(nft::tables(&text, &known)?);
        }
        None => {
            let by_iptables = |name: &str| known.iter().any(|(table, _)| *table == name);
            let unread = there.iter().find(|(family, name)| match family {
                &IPV4 => !by_iptables(name) && name != nft::KUBE_PROXY,
                &IPV6 | &ARP => false,
                _ => name != nft::KUBE_PROXY,
            });
            if let Some((_, name)) = unread {
                return Err(format!(
                    "there is a table {name} of nftables; install nft (Debian package nftables)"
                ));
            }
        }
    }
    Ok(found)
}

/// What iptables of the nft kind has; empty without that program.
async fn saved() -> Result<String, String> {
    for program in ["iptables-nft-save", "iptables-save"] {
        match run(program, &[]).await? {
            Some(text) if is_of_nft(&text) => return Ok(text),
            _ => {}
        }
    }
    Ok(String::new())
}

fn is_of_nft(saved: &str) -> bool {
    saved
        .lines()
        .next()
        .is_some_and(|line| line.contains(NFT_KIND))
}

/// What a program prints; `None` when it is not installed.
async fn run(program: &str, args: &[&str]) -> Result<Option<String>, String> {
    let mut command = child::command(program);
    command
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(format!("run {program}: {error}")),
    };
    let output = timeout(PATIENCE, child.wait_with_output())
        .await
        .map_err(|_elapsed| format!("{program} did not end within {} s", PATIENCE.as_secs()))?
        .map_err(|error| format!("run {program}: {error}"))?;
    if output.status.success() {
        return Ok(Some(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}", said.trim()))
}
