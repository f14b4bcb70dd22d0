//! Debian's kernel for clouds: fetched with apt, taken apart, never installed.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};

use super::tree::Tree;
use crate::{shell, toolchain::target};

/// The kernel that Debian 12 stays on.
const SERIES: &str = "6.1.";
const META: &str = "linux-image-cloud-amd64";

/// What of the modules the tests can ask for; the kernel loads them by itself.
const MODULES: &[&str] = &[
    "kernel/net",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/vxlan",
    "kernel/lib",
    "kernel/crypto",
    "kernel/arch/x86/crypto",
];

/// A kernel taken apart.
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    release: String,
    modules: PathBuf,
}

impl Kernel {
    /// The one that apt knows, fetched once.
    pub(super) fn fetch() -> Result<Self> {
        let package = package()?;
        let folder = target().join("vm").join(&package);
        let unpacked = folder.join("root");
        if !unpacked.exists() {
            fs::create_dir_all(&folder).context("make the kernel's folder")?;
            let mut apt = Command::new("apt-get");
            apt.current_dir(&folder)
                .args(["-o", "APT::Sandbox::User=root", "-qq", "download"])
                .arg(&package);
            shell::run(&mut apt)?;
            let archive = only_entry(&folder, ".deb")?;
            // Only a folder that is complete bears its name.
            let draft = folder.join("draft");
            let mut dpkg = Command::new("dpkg-deb");
            shell::run(dpkg.arg("--extract").arg(&archive).arg(&draft))?;
            fs::remove_file(archive).context("remove the package")?;
            fs::rename(draft, &unpacked).context("name the kernel's folder")?;
        }
        let modules = only_entry(&unpacked.join("lib/modules"), "")?;
        let release = modules.file_name().context("a release")?;
        let release = release.to_string_lossy().into_owned();
        Ok(Self {
            image: unpacked.join(format!("boot/vmlinuz-{release}")),
            release,
            modules,
        })
    }

    /// Puts the modules into the guest, with the lists by which modprobe finds them.
    pub(super) fn install(&self, tree: &mut Tree) -> Result<()> {
        let root = format!("/usr/lib/modules/{}", self.release);
        for name in [
            "modules.builtin",
            "modules.builtin.modinfo",
            "modules.order",
        ] {
            tree.copy(&self.modules.join(name), &format!("{root}/{name}"));
        }
        for part in MODULES {
            self.copy(&self.modules.join(part), &root, tree)?;
        }
        Ok(())
    }

    fn copy(&self, path: &Path, root: &str, tree: &mut Tree) -> Result<()> {
        if path.is_file() {
            let place = path.strip_prefix(&self.modules)?;
            tree.copy(path, &format!("{root}/{}", place.display()));
            return Ok(());
        }
        let entries = fs::read_dir(path).with_context(|| path.display().to_string())?;
        for entry in entries {
            self.copy(&entry?.path(), root, tree)?;
        }
        Ok(())
    }
}

fn package() -> Result<String> {
    let text = shell::output(Command::new("apt-cache").args(["depends", META]))?;
    let name = text
        .lines()
        .find_map(|line| line.trim().strip_prefix("Depends: "))
        .with_context(|| format!("{META} names no kernel"))?;
    ensure!(
        name.starts_with(&format!("linux-image-{SERIES}")),
        "the kernel of this system is {name}; the older one is that of Debian 12, {SERIES}x"
    );
    Ok(name.to_owned())
}

/// The one entry of a folder whose name ends like this.
fn only_entry(folder: &Path, end: &str) -> Result<PathBuf> {
    let entries = fs::read_dir(folder).with_context(|| folder.display().to_string())?;
    let mut found = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    ensure!(found.len() == 1, "{}: {found:?}", folder.display());
    found.pop().context("one entry")
}
