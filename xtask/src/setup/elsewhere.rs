//! Systems without apt: says what is missing and how to get it. Untested, and it says so.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::toolchain::BPF_LINKER;

/// A program, and what it is for.
const PROGRAMS: &[(&str, &str)] = &[
    ("rustup", "the nightly compiler for the BPF target"),
    ("bpf-linker", "linking the BPF object"),
    (
        "protoc",
        "the etcd client (with the well-known .proto files)",
    ),
    ("etcd", "tests, demo"),
    ("etcdctl", "tests, demo"),
    ("python3", "tests: fetches a second etcd with pip"),
    ("dockerd", "tests, demo --docker"),
    ("busybox", "the image of the Docker tests; must be static"),
    ("ip", "tests, demo"),
    ("bridge", "tests, demo"),
    ("nsenter", "tests, demo"),
    ("bpftool", "tests"),
    ("nft", "tests"),
    ("iptables", "the agent's rules, tests"),
    ("ethtool", "tests"),
    ("tcpdump", "tests"),
];

pub(crate) fn check() -> Result<()> {
    let missing: Vec<_> = PROGRAMS.iter().filter(|(name, _)| !on_path(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("setup: only Debian 12 is set up automatically. Missing here:");
    for (name, purpose) in &missing {
        eprintln!("  {name:<12} {purpose}");
    }
    eprintln!("The compiler and linker for the BPF half, through rustup (untested):");
    eprintln!("  rustup toolchain install nightly --component rust-src");
    eprintln!("  cargo install bpf-linker --version {BPF_LINKER}");
    bail!("{} programs are missing", missing.len());
}

fn on_path(name: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths).any(|folder| folder.join(name).exists())
        || Path::new("/usr/sbin").join(name).exists()
        || Command::new(name).arg("--version").output().is_ok()
}
