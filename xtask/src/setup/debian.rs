//! Debian's packages: one query, and one installation of what is missing.

use std::{collections::BTreeSet, fs, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    shell,
    toolchain::{BPF_RUSTC, llvm_major},
};

/// Building.
const BUILD: &[&str] = &[
    "gcc",
    "libc6-dev",
    "libprotobuf-dev",
    "libstd-rust-web-dev-bpf",
    "libzstd-dev",
    "pkg-config",
    "protobuf-compiler",
    "rustc-web",
    "zlib1g-dev",
];

/// Tests and the demo: real programs, no stand-ins.
const LAB: &[&str] = &[
    "bpftool",
    "busybox-static",
    "etcd-client",
    "etcd-server",
    "ethtool",
    "iproute2",
    "iptables",
    "iputils-ping",
    "nftables",
    "openssl",
    "procps",
    "tcpdump",
    "util-linux",
];

/// The engine that the Docker tests use, unless there is one already: Docker's own packages and
/// Debian's cannot both be installed.
const ENGINE: (&str, &str) = ("docker.io", "/usr/bin/dockerd");

/// Keeps packages from starting their service while they are installed: the lab starts its own.
const POLICY: &str = "/usr/sbin/policy-rc.d";

pub(crate) fn is_this() -> bool {
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    release
        .lines()
        .any(|line| matches!(line, "ID=debian" | "ID_LIKE=debian"))
}

/// Installs what is missing and returns the LLVM release that the compiler carries.
pub(crate) fn packages() -> Result<u32> {
    // The compiler decides which LLVM is wanted, so it comes first on a bare machine.
    if !fs::exists(BPF_RUSTC).unwrap_or(false) {
        install(&missing(&["rustc-web".to_owned()])?)?;
    }
    let llvm = llvm_major(BPF_RUSTC)?;
    let mut wanted: Vec<String> = BUILD.iter().chain(LAB).map(ToString::to_string).collect();
    let (engine, theirs) = ENGINE;
    if !fs::exists(theirs).unwrap_or(false) {
        wanted.push(engine.to_owned());
    }
    wanted.push(format!("llvm-{llvm}-dev"));
    wanted.push(format!("libpolly-{llvm}-dev"));
    let missing = missing(&wanted)?;
    if !missing.is_empty() {
        install(&missing)?;
    }
    Ok(llvm)
}

/// Installs what is missing of these.
pub(super) fn ensure(wanted: &[&str]) -> Result<()> {
    let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
    let missing = missing(&wanted)?;
    if missing.is_empty() {
        return Ok(());
    }
    install(&missing)
}

fn missing(wanted: &[String]) -> Result<Vec<String>> {
    let mut query = Command::new("dpkg-query");
    query
        .args(["--show", "--showformat", "${Package} ${db:Status-Status}\n"])
        .args(wanted);
    // It fails when a package is unknown, and still lists the others.
    let out = query.output().context("ask dpkg-query what is installed")?;
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(not_installed(wanted, &text))
}

fn not_installed(wanted: &[String], listing: &str) -> Vec<String> {
    let installed: BTreeSet<&str> = listing
        .lines()
        .filter_map(|line| line.strip_suffix(" installed"))
        .collect();
    wanted
        .iter()
        .filter(|name| !installed.contains(name.as_str()))
        .cloned()
        .collect()
}

fn install(packages: &[String]) -> Result<()> {
    println!("setup: installing {}", packages.join(" "));
    let quiet = [("DEBIAN_FRONTEND", "noninteractive".as_ref())];
    let _policy = Policy::hold()?;
    shell::run(shell::as_root_with(&quiet, "apt-get").args(["update", "-qq"]))?;
    let mut apt = shell::as_root_with(&quiet, "apt-get");
    apt.args(["install", "-y", "-qq", "--no-install-recommends"])
        .args(packages);
    shell::run(&mut apt)
}

/// While this lives, no package starts a service. A policy that is already there stays.
struct Policy {
    ours: bool,
}

impl Policy {
    fn hold() -> Result<Self> {
        if fs::exists(POLICY).unwrap_or(false) {
            return Ok(Self { ours: false });
        }
        let draft = std::env::temp_dir().join(format!("policy-rc.d.{}", std::process::id()));
        fs::write(&draft, "#!/bin/sh\nexit 101\n").context("write a service policy")?;
        let done = shell::quiet(
            shell::as_root("install")
                .args(["-m", "755"])
                .arg(&draft)
                .arg(POLICY),
        );
        fs::remove_file(&draft).context("remove the draft of the service policy")?;
        done.map(|()| Self { ours: true })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if !self.ours {
            return;
        }
        if let Err(error) = shell::quiet(shell::as_root("rm").args(["-f", POLICY])) {
            eprintln!("setup: {POLICY} was left behind: {error:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_installed_packages_count() {
        let wanted = ["gcc", "etcd-server", "docker.io"].map(str::to_owned);
        let listing = "gcc installed\ndocker.io config-files\n";
        assert_eq!(
            not_installed(&wanted, listing),
            ["etcd-server", "docker.io"]
        );
    }
}
