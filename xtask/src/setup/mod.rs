//! `cargo xtask setup`: installs and checks what the machine lacks.
//! Every other command calls it first, so a second run must do nothing, and quickly.

mod debian;
mod elsewhere;
pub(crate) mod etcd;

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{
    shell,
    toolchain::{self, BPF_LINKER, Lock, Object},
};

pub(crate) fn run() -> Result<()> {
    if debian::is_this() {
        let llvm = debian::packages()?;
        bpf_linker(llvm)
    } else {
        elsewhere::check()
    }
}

/// Packages that only one command needs.
pub(crate) fn also(packages: &[&str]) -> Result<()> {
    if !debian::is_this() {
        bail!("this needs Debian's packages: {}", packages.join(" "));
    }
    debian::ensure(packages)
}

/// Builds the linker against the LLVM of the compiler, unless the right one is there.
fn bpf_linker(llvm: u32) -> Result<()> {
    if installed_linker().as_deref() == Some(BPF_LINKER) {
        return Ok(());
    }
    println!("setup: building bpf-linker {BPF_LINKER} for LLVM {llvm}, about a minute");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    let feature = format!("llvm-{llvm}");
    let mut cargo = Lock::Fixed.cargo(Object::Stub, "install");
    cargo.args([
        "bpf-linker",
        "--version",
        BPF_LINKER,
        "--force",
        "--no-default-features",
    ]);
    cargo
        .args(["--features", &feature, "--root"])
        .arg(toolchain::tools());
    // The linker's own build script reads the first, llvm-sys the second.
    cargo
        .env("LLVM_PREFIX", &prefix)
        .env(format!("LLVM_SYS_{llvm}1_PREFIX"), &prefix);
    shell::run(&mut cargo).context("build bpf-linker")
}

fn installed_linker() -> Option<String> {
    let linker = toolchain::bpf_linker();
    if !linker.exists() {
        return None;
    }
    let text = shell::output(Command::new(linker).arg("--version")).ok()?;
    text.split_whitespace().last().map(str::to_owned)
}
