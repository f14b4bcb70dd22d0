//! What the eBPF half is built with: versions, places, and the environment that `build.rs` reads.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};

use crate::shell;

/// The linker that turns LLVM bitcode into one BPF object.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// Debian's compiler, whose packages hold a prebuilt `core` for the BPF target.
pub(crate) const BPF_RUSTC: &str = "/usr/bin/rustc";

pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent()
        .map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

pub(crate) fn target() -> PathBuf {
    let Some(folder) = std::env::var_os("CARGO_TARGET_DIR") else {
        return root().join("target");
    };
    root().join(folder)
}

/// Where `cargo install --root` puts what we build for ourselves.
pub(crate) fn tools() -> PathBuf {
    target().join("tools")
}

pub(crate) fn bpf_linker() -> PathBuf {
    tools().join("bin/bpf-linker")
}

/// The LLVM that a compiler carries: bpf-linker must read the bitcode that it writes.
pub(crate) fn llvm_major(rustc: &str) -> Result<u32> {
    let text = shell::output(Command::new(rustc).arg("-vV"))?;
    parse_llvm_major(&text).with_context(|| format!("{rustc} -vV names no LLVM version"))
}

fn parse_llvm_major(text: &str) -> Option<u32> {
    let version = text
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.trim().parse().ok()
}

/// Whether the object inside the agent is the real one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Object {
    Real,
    /// An empty file in its place: enough for clippy and for tests that load nothing.
    Stub,
}

/// How cargo is called in this workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// A changed dependency updates the lock file, as a developer expects.
    MayChange,
    /// Such a change is an error: what CI tests is what is committed.
    Fixed,
}

impl Lock {
    /// `cargo <verb>`, with the environment that the agent's `build.rs` reads.
    pub(crate) fn cargo(self, object: Object, verb: &str) -> Command {
        // Cargo names itself to what it starts; the same one keeps the target folder valid.
        let program = std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let mut command = Command::new(program);
        command.current_dir(root()).arg(verb);
        if self == Self::Fixed {
            command.arg("--locked");
        }
        // What the outer cargo says of this crate is no business of the crates that are built: some
        // build scripts look at it, and would run again whenever somebody calls cargo directly.
        for (name, _) in std::env::vars_os() {
            let about_us = [
                "CARGO_PKG_",
                "CARGO_MANIFEST_",
                "CARGO_BIN_",
                "CARGO_CRATE_",
            ];
            if name
                .to_str()
                .is_some_and(|name| about_us.iter().any(|start| name.starts_with(start)))
            {
                command.env_remove(name);
            }
        }
        match object {
            Object::Real => command.env_remove("WEFT_EBPF"),
            Object::Stub => command.env("WEFT_EBPF", "stub"),
        };
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llvm_major_is_read_from_the_verbose_version() {
        let text = "rustc 1.96.0 (built from a source tarball)\nhost: x\nLLVM version: 22.1.8\n";
        assert_eq!(parse_llvm_major(text), Some(22));
        assert_eq!(parse_llvm_major("rustc 1.96.0\n"), None);
    }
}
