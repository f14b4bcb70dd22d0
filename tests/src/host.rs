//! A simulated host: a network namespace together with a mount namespace of its own.
//! `/run`, the lock of iptables, `/sys` and bpffs are private, as on a machine of its own.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead as _, BufReader},
    net::Ipv4Addr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    command,
    netns::{LabName, Netns},
};

/// Makes the mounts, says that they are there, and then lives as long as its standard input.
///
/// A fresh sysfs shows the devices of this network namespace and hides the control groups below
/// the old one, so those are carried over.
const HOLDER: &str = r#"
set -e
mount -t tmpfs -o mode=755 none "$1"
mkdir "$1/cgroup"
mount --rbind /sys/fs/cgroup "$1/cgroup"
mount -t sysfs none /sys
mount --rbind "$1/cgroup" /sys/fs/cgroup
umount -l "$1"
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/lock /run/flannel
if [ -d /etc/docker ]; then mount -t tmpfs none /etc/docker; fi
if [ "$2" = bpffs ]; then mount -t bpf -o mode=700 none /sys/fs/bpf; fi
echo ready
exec cat
"#;

/// Whether the host's bpffs is there before the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bpffs {
    Mounted,
    /// The agent has to mount it.
    Missing,
}

#[derive(Debug)]
pub struct Host {
    /// `h1`, `h2`, …
    pub label: String,
    /// The address of `eth0`.
    pub address: Ipv4Addr,
    pub ns: Netns,
    lab: LabName,
    folder: PathBuf,
    holder: Child,
}

impl Host {
    /// `folder` is for the host's logs and data; it outlives the host.
    pub fn new(
        lab: &LabName,
        label: &str,
        address: Ipv4Addr,
        folder: PathBuf,
        bpffs: Bpffs,
    ) -> Result<Self> {
        let ns = Netns::new(lab, label)?;
        fs::create_dir_all(folder.join("mnt")).context("make the host's folder")?;
        let bpffs = match bpffs {
            Bpffs::Mounted => "bpffs",
            Bpffs::Missing => "none",
        };
        let mut command = ns.command("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "--",
            "sh",
            "-c",
            HOLDER,
            "holder",
        ]);
        command.arg(folder.join("mnt")).arg(bpffs);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0);
        let mut holder = command.spawn().context("start the host's holder")?;
        let mut first = String::new();
        if let Some(out) = holder.stdout.take() {
            BufReader::new(out)
                .read_line(&mut first)
                .context("read from the holder")?;
        }
        let host = Self {
            label: label.to_owned(),
            address,
            ns,
            lab: lab.clone(),
            folder,
            holder,
        };
        ensure!(first.trim() == "ready", "the mounts of host {label} failed");
        Ok(host)
    }

    /// A command on this host: in its network and in its mount namespace.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let pid = self.holder.id();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{pid}/ns/net"));
        command
            .arg(format!("--mount=/proc/{pid}/ns/mnt"))
            .arg("--")
            .arg(program);
        command
    }

    /// Runs a whole command line on this host.
    pub fn run(&self, words: &str) -> Result<String> {
        let (program, rest) = words.split_once(' ').unwrap_or((words, ""));
        command::run_words(self.command(program), rest)
    }

    pub fn ip(&self, words: &str) -> Result<String> {
        self.ns.ip(words)
    }

    /// A file of this host, as seen from outside.
    pub fn file(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        let root = PathBuf::from(format!("/proc/{}/root", self.holder.id()));
        root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// For logs and data; not part of the host.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The lab's name, for namespaces that belong to this host.
    pub fn lab(&self) -> &LabName {
        &self.lab
    }

    /// What a person types to look around on this host.
    pub fn entry(&self) -> String {
        let pid = self.holder.id();
        format!("nsenter --net=/proc/{pid}/ns/net --mount=/proc/{pid}/ns/mnt")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Only this one process, by its id; its namespaces go with it.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
