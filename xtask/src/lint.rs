//! `cargo xtask lint`: formatting, and clippy with warnings as errors.

use anyhow::Result;

use crate::{
    shell,
    toolchain::{Lock, Object},
};

pub(crate) fn run(lock: Lock) -> Result<()> {
    // Formatting asks for no lock file, and does not know the flag.
    let mut format = Lock::MayChange.cargo(Object::Stub, "fmt");
    shell::run(format.args(["--all", "--check"]))?;

    // The programs' binary exists only for the BPF target.
    let mut host = lock.cargo(Object::Stub, "clippy");
    host.args(["--workspace", "--exclude", "weft-ebpf", "--all-targets"]);
    shell::run(host.args(["--features", "weft/fakes", "--", "-D", "warnings"]))?;

    let mut programs = lock.cargo(Object::Stub, "clippy");
    programs.args(["-p", "weft-ebpf", "--lib", "--tests"]);
    shell::run(programs.args(["--", "-D", "warnings"]))
}
