//! Builds the eBPF object and leaves it where `include_bytes_aligned!` finds it.
//!
//! `WEFT_EBPF=stub` leaves an empty object instead: for lints, documents and tests that load
//! nothing. `WEFT_BPF_RUSTC` and `WEFT_BPF_LINKER` name the compiler and the linker; without them
//! it is Debian's `/usr/bin/rustc` and what `cargo xtask setup` built.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    for name in ["WEFT_EBPF", "WEFT_BPF_RUSTC", "WEFT_BPF_LINKER"] {
        println!("cargo:rerun-if-env-changed={name}");
    }
    for path in ["../ebpf", "../common", "build.rs"] {
        println!("cargo:rerun-if-changed={path}");
    }
    let object = PathBuf::from(variable("OUT_DIR")?).join("weft-ebpf");
    if env::var_os("WEFT_EBPF").is_some_and(|mode| mode == "stub") {
        fs::write(object, [])?;
        return Ok(());
    }
    let manifest = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let root = manifest
        .parent()
        .ok_or("the agent's crate has no parent folder")?;
    let target = target_folder(&PathBuf::from(variable("OUT_DIR")?))?;
    build(root, &target, &object)
}

/// Runs cargo for the BPF target in a folder of its own: the outer cargo holds a lock on its own.
fn build(root: &Path, target: &Path, object: &Path) -> Result<(), Failure> {
    let rustc = env::var_os("WEFT_BPF_RUSTC").unwrap_or_else(|| OsString::from("/usr/bin/rustc"));
    let linker = env::var_os("WEFT_BPF_LINKER")
        .unwrap_or_else(|| target.join("tools/bin/bpf-linker").into_os_string());
    for (what, path) in [("compiler", &rustc), ("linker", &linker)] {
        if !Path::new(path).exists() {
            return Err(format!(
                "the BPF {what} {} is not there: run `cargo xtask setup`, or set WEFT_EBPF=stub",
                Path::new(path).display()
            )
            .into());
        }
    }
    let arch = variable("CARGO_CFG_TARGET_ARCH")?;
    let mut flags = OsString::from(format!(
        "--cfg=bpf_target_arch=\"{}\"",
        arch.to_string_lossy()
    ));
    flags.push("\u{1f}-Cdebuginfo=2\u{1f}-Clink-arg=--btf\u{1f}-Clinker=");
    flags.push(&linker);

    let folder = target.join("ebpf");
    let mut cargo = Command::new(variable("CARGO")?);
    cargo
        .current_dir(root)
        .args([
            "build",
            "--release",
            "--package",
            "weft-ebpf",
            "--bin",
            "weft-ebpf",
        ])
        .args(["--target", "bpfel-unknown-none", "--target-dir"])
        .arg(&folder)
        .env("RUSTC", &rustc)
        // aya-ebpf turns on `asm_experimental_arch` for the BPF target.
        .env("RUSTC_BOOTSTRAP", "aya_ebpf")
        .env("CARGO_ENCODED_RUSTFLAGS", flags);
    if env::var_os("CARGO_FEATURE_BPF_LOG").is_some() {
        cargo.args(["--features", "log"]);
    }
    if env::var_os("CARGO_FEATURE_OTHER_LAYOUT").is_some() {
        cargo.args(["--features", "other-layout"]);
    }
    for name in [
        "RUSTFLAGS",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "RUSTDOC",
        "CARGO_MAKEFLAGS",
    ] {
        cargo.env_remove(name);
    }
    let status = cargo.status()?;
    if !status.success() {
        return Err(format!("building the eBPF object failed: {cargo:?}").into());
    }
    fs::copy(folder.join("bpfel-unknown-none/release/weft-ebpf"), object)?;
    Ok(())
}

/// The workspace's target folder: the one above `<profile>/build/<crate>/out`.
fn target_folder(out: &Path) -> Result<PathBuf, Failure> {
    out.ancestors()
        .find(|folder| {
            folder.join(".rustc_info.json").exists() || folder.join("CACHEDIR.TAG").exists()
        })
        .map(Path::to_path_buf)
        .ok_or_else(|| format!("no target folder above {}", out.display()).into())
}

fn variable(name: &str) -> Result<OsString, Failure> {
    env::var_os(name).ok_or_else(|| format!("cargo did not set {name}").into())
}
