//! `cargo xtask run`: the agent on this very host, with everything a first run needs.

use std::{
    ffi::OsString,
    net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket},
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use weft_tests::{
    paths::{ETCD, ETCDCTL, required},
    wait,
};

use crate::{
    shell, signals, test,
    toolchain::{Lock, target},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Flags of `weft run`, after `--`.
    #[arg(last = true)]
    flags: Vec<OsString>,
}

const LOOPBACK: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 2379);
const URL: &str = "http://127.0.0.1:2379";
const PREFIX: &str = "/coreos.com/network";
const CONFIG: &str = r#"{ "Network": "10.244.0.0/16", "Backend": { "Type": "vxlan" } }"#;
/// A cluster-sized data folder opens in less.
const LIMIT: Duration = Duration::from_secs(20);

pub(crate) fn run(options: &Options) -> Result<ExitCode> {
    let weft = test::build_agent(Lock::MayChange)?;
    // Ctrl-C is for the agent; we stay to stop what we started beside it.
    signals::outlive_interrupts()?;
    let own = if names_etcd(&options.flags) {
        None
    } else {
        own_etcd(&options.flags)?
    };
    let mut agent = shell::as_root(weft);
    agent.arg("run").args(&options.flags);
    println!("$ {}", shell::line(&agent));
    let status = agent.status().with_context(|| shell::line(&agent))?;
    drop(own);
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// Whether the user has said where etcd is: as a flag, or in the environment.
fn names_etcd(flags: &[OsString]) -> bool {
    let is_flag = |flag: &OsString| {
        let text = flag.to_string_lossy();
        let name = text
            .trim_start_matches('-')
            .split('=')
            .next()
            .unwrap_or_default()
            .to_owned();
        text.starts_with('-') && name == "etcd-endpoints"
    };
    let variables = ["WEFT_ETCD_ENDPOINTS", "FLANNELD_ETCD_ENDPOINTS"];
    flags.iter().any(is_flag)
        || variables
            .iter()
            .any(|name| std::env::var_os(name).is_some())
}

/// Uses the etcd that is on loopback, or starts one; what we started ends with us.
fn own_etcd(flags: &[OsString]) -> Result<Option<Etcd>> {
    if listens() {
        println!("run: using the etcd that is at {URL}");
        return Ok(None);
    }
    let etcd = Etcd::start()?;
    let prefix = prefix(flags);
    let key = format!("{prefix}/config");
    println!("run: started etcd at {URL}, data in {}", folder().display());
    if etcdctl(&["get", "--print-value-only", &key])?
        .trim()
        .is_empty()
    {
        etcdctl(&["put", &key, CONFIG])?;
        println!("run: it had no network config, so now {key} is {CONFIG}");
    }
    println!("{}", how_to_join(&prefix));
    Ok(Some(etcd))
}

/// The flag `--etcd-prefix`, in both its spellings.
fn prefix(flags: &[OsString]) -> String {
    let words: Vec<_> = flags.iter().map(|flag| flag.to_string_lossy()).collect();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.trim_start_matches('-').split_once('=') {
            Some(("etcd-prefix", value)) => return value.trim_end_matches('/').to_owned(),
            None if word.trim_start_matches('-') == "etcd-prefix" => {
                return words
                    .next()
                    .map_or(PREFIX, |value| value.as_ref())
                    .to_owned();
            }
            Some(_) | None => {}
        }
    }
    PREFIX.to_owned()
}

/// The exact commands with which a second host shares this etcd.
fn how_to_join(prefix: &str) -> String {
    let me = own_address().map_or_else(|| "THIS-HOST".to_owned(), |address| address.to_string());
    let data = folder();
    let data = data.display();
    let (alone, more) = match prefix {
        PREFIX => (String::new(), String::new()),
        other => (
            format!(" -- --etcd-prefix={other}"),
            format!(" --etcd-prefix={other}"),
        ),
    };
    format!(
        "run: this etcd listens on loopback only. To join a second host, lend it over ssh, here:\n\
         \x20   ssh -N -R 2379:127.0.0.1:2379 SECOND-HOST\n\
         and on the second host, in a clone of this tree:\n\
         \x20   cargo xtask run{alone}\n\
         Or, on a network that you trust, stop this and run here:\n\
         \x20   etcd --data-dir {data} --listen-client-urls http://0.0.0.0:2379 \
         --advertise-client-urls http://{me}:2379 &\n\
         \x20   cargo xtask run{alone}\n\
         and on the second host:\n\
         \x20   cargo xtask run -- --etcd-endpoints=http://{me}:2379{more}\n"
    )
}

/// The address that this host uses towards others. Nothing is sent.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

fn folder() -> PathBuf {
    target().join("run/etcd")
}

fn listens() -> bool {
    TcpStream::connect_timeout(&LOOPBACK, Duration::from_secs(1)).is_ok()
}

fn etcdctl(words: &[&str]) -> Result<String> {
    let mut command = Command::new(required(ETCDCTL)?);
    command
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", URL])
        .args(words);
    shell::output(&mut command)
}

/// An etcd of ours; it ends when this value goes, and also when we are killed.
struct Etcd {
    child: Child,
}

impl Etcd {
    fn start() -> Result<Self> {
        let folder = folder();
        std::fs::create_dir_all(&folder).context("make etcd's folder")?;
        let log = folder.with_extension("log");
        let out = std::fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "--"])
            .arg(required(ETCD)?);
        command.arg("--data-dir").arg(&folder);
        command.args(["--listen-client-urls", URL, "--advertise-client-urls", URL]);
        command.args(["--listen-peer-urls", "http://127.0.0.1:2380"]);
        command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0);
        let child = command.spawn().with_context(|| shell::line(&command))?;
        let mut etcd = Self { child };
        wait::until_true("etcd answers", LIMIT, || {
            if let Some(status) = etcd.child.try_wait()? {
                bail!("etcd ended: {status}; see {}", log.display());
            }
            Ok(listens())
        })?;
        Ok(etcd)
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        let pid = i32::try_from(self.child.id()).map(nix::unistd::Pid::from_raw);
        if let Ok(pid) = pid {
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
        }
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(words: &str) -> Vec<OsString> {
        words.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn endpoints_are_seen_in_both_spellings() {
        assert!(names_etcd(&flags("--etcd-endpoints=http://a:1")));
        assert!(names_etcd(&flags(
            "--iface eth0 --etcd-endpoints http://a:1"
        )));
        assert!(!names_etcd(&flags("--iface etcd-endpoints")));
    }

    #[test]
    fn prefix_is_flannels_unless_named() {
        assert_eq!(prefix(&flags("--iface eth0")), PREFIX);
        assert_eq!(prefix(&flags("--etcd-prefix=/my/net/")), "/my/net");
        assert_eq!(prefix(&flags("--etcd-prefix /my/net")), "/my/net");
    }
}
