//! Where the programs under test and the programs around them are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Debian's own; a client of another make may stand earlier in the search path.
pub const DOCKER: &str = "/usr/bin/docker";
pub const DOCKERD: &str = "/usr/sbin/dockerd";
pub const ETCD: &str = "/usr/bin/etcd";
pub const ETCDCTL: &str = "/usr/bin/etcdctl";
pub const BPFTOOL: &str = "/usr/sbin/bpftool";
pub const OPENSSL: &str = "/usr/bin/openssl";
pub const BUSYBOX: &str = "/bin/busybox";

/// The agent under test: `WEFT_BIN`, which `cargo xtask test` sets to a build with real programs.
pub fn weft() -> Result<PathBuf> {
    match std::env::var_os("WEFT_BIN") {
        Some(path) => exists(PathBuf::from(path)),
        None => beside("weft").context("find the agent; `cargo xtask test` builds and names it"),
    }
}

/// A build of the agent with another layout of the maps, which `cargo xtask faults` makes.
pub fn weft_of_other_layout() -> Result<PathBuf> {
    let path = std::env::var_os("WEFT_OTHER_BIN");
    exists(
        path.context("no WEFT_OTHER_BIN: run `cargo xtask faults`")?
            .into(),
    )
}

/// Our measuring program.
pub fn probe() -> Result<PathBuf> {
    match std::env::var_os("WEFT_PROBE") {
        Some(path) => exists(PathBuf::from(path)),
        None => beside("weft-probe").context("find the probe"),
    }
}

/// A file that a test cannot do without.
pub fn required(path: &str) -> Result<&Path> {
    let path = Path::new(path);
    if !path.exists() {
        bail!("{} is missing: run `cargo xtask setup`", path.display());
    }
    Ok(path)
}

/// A binary of the same build: tests run from `deps/`, xtask from the folder above.
fn beside(name: &str) -> Result<PathBuf> {
    let me = std::env::current_exe().context("find this program")?;
    let found = me
        .ancestors()
        .skip(1)
        .take(2)
        .map(|dir| dir.join(name))
        .find(|p| p.is_file());
    found.with_context(|| format!("no {name} near {}", me.display()))
}

fn exists(path: PathBuf) -> Result<PathBuf> {
    if !path.is_file() {
        bail!("{} is not a file", path.display());
    }
    // The hosts' commands start in another folder.
    path.canonicalize()
        .with_context(|| format!("resolve {}", path.display()))
}
