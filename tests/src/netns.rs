//! Named network namespaces that go away with their owner, also when a test panics.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{command, craft::Mac};

const PREFIX: &str = "weft";
const FOLDER: &str = "/run/netns";

/// A network namespace under `/run/netns`, with loopback up.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// `lab` makes the name unique; `label` says which member of the lab this is.
    pub fn new(lab: &LabName, label: &str) -> Result<Self> {
        let name = format!("{}-{label}", lab.0);
        command::run_words(Command::new("ip"), &format!("netns add {name}"))?;
        let ns = Self { name };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> PathBuf {
        PathBuf::from(FOLDER).join(&self.name)
    }

    /// A command inside this namespace and the mount namespace of the caller.
    /// Unlike `ip netns exec` this leaves `/sys` as it is.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path().display()))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a whole command line inside.
    pub fn run(&self, words: &str) -> Result<String> {
        let (program, rest) = words.split_once(' ').unwrap_or((words, ""));
        command::run_words(self.command(program), rest)
    }

    /// `ip` on this namespace.
    pub fn ip(&self, words: &str) -> Result<String> {
        command::run_words(Command::new("ip"), &format!("-n {} {words}", self.name))
    }

    /// The hardware address of a device.
    pub fn mac(&self, device: &str) -> Result<Mac> {
        let text = self.ip(&format!("-brief link show dev {device}"))?;
        let address = text.split_whitespace().nth(2).unwrap_or_default();
        let bytes: Option<Vec<u8>> = address
            .split(':')
            .map(|pair| u8::from_str_radix(pair, 16).ok())
            .collect();
        let mac = bytes.and_then(|bytes| bytes.try_into().ok());
        mac.with_context(|| format!("no hardware address of {device} in {text:?}"))
    }

    /// Writes one setting of `/proc/sys`, named with slashes.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let text = format!("printf %s '{value}' > /proc/sys/{key}");
        command::run(self.command("sh").args(["-c", &text])).map(drop)
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove(&self.name);
    }
}

/// What the names of one lab's namespaces have in common: a hash of the test's name, the process,
/// and a number for a second lab of the same test.
#[derive(Clone, Debug)]
pub struct LabName(String);

impl LabName {
    pub fn new(test: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let hash = test.bytes().fold(0x811c_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        Self(format!(
            "{PREFIX}-{:04x}-{}-{number}",
            hash & 0xffff,
            std::process::id()
        ))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Removes what labs of processes that are gone have left behind.
pub fn sweep() {
    for name in orphans(Path::new(FOLDER)) {
        remove(&name);
    }
    let folders = std::env::temp_dir();
    for name in orphans(&folders) {
        if let Err(error) = fs::remove_dir_all(folders.join(&name)) {
            eprintln!("lab: {name}: {error}");
        }
    }
}

/// Entries of a folder that bear a lab's name and whose owner is gone.
pub(crate) fn orphans(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let gone = |pid: u32| !fs::exists(format!("/proc/{pid}")).unwrap_or(true);
    names.filter(|name| owner(name).is_some_and(gone)).collect()
}

/// The process that made a namespace or a folder, from its name.
fn owner(name: &str) -> Option<u32> {
    let mut parts = name.split('-');
    if parts.next() != Some(PREFIX) {
        return None;
    }
    parts.nth(1)?.parse().ok()
}

/// Everything that still runs inside ends first, or the namespace would live on without a name.
fn remove(name: &str) {
    for pid in members(name) {
        // It may have ended by itself in the meantime.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    if let Err(error) = command::run_words(Command::new("ip"), &format!("netns del {name}")) {
        eprintln!("lab: {error:#}");
    }
}

fn members(name: &str) -> Vec<i32> {
    let listing = command::run_words(Command::new("ip"), &format!("netns pids {name}"));
    listing
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.trim().parse().ok())
        .collect()
}

/// The lab changes kernel state: without root it says so at once.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab needs root: run it through `cargo xtask`");
    }
    fs::create_dir_all(FOLDER).context("make the folder of named namespaces")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_owner() {
        let name = format!("{}-h1c2", LabName::new("some test").as_str());
        assert_eq!(owner(&name), Some(std::process::id()));
        assert_eq!(owner("cni-1234"), None);
        assert_eq!(owner("weft"), None);
    }

    #[test]
    fn two_labs_of_one_test_differ() {
        assert_ne!(LabName::new("t").as_str(), LabName::new("t").as_str());
    }
}
