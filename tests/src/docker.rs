//! A real Docker engine on each host, as its users start it from `subnet.env`.

use std::{
    collections::BTreeSet,
    ffi::OsStr,
    fs::{self, File},
    net::Ipv4Addr,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    command,
    container::Place,
    daemon::Daemon,
    host::Host,
    netns,
    paths::{BUSYBOX, DOCKER, DOCKERD, required},
    wait,
};

pub const BRIDGE: &str = "docker0";
pub const IMAGE: &str = "weft-busybox";
/// Below the host's own `/run`.
const SOCKET: &str = "unix:///run/docker.sock";
const LIMIT: Duration = Duration::from_secs(60);
/// What the walk-through needs of busybox, as names in the image.
const APPLETS: &[&str] = &[
    "sh", "cat", "dd", "head", "md5sum", "nc", "ping", "sleep", "tee", "wget", "httpd", "ip",
];

#[derive(Debug)]
pub struct Docker {
    host: Arc<Host>,
    daemon: Daemon,
}

impl Docker {
    /// Starts an engine with `options` (what `weft docker-opts` prints) and imports the image.
    pub fn start(host: &Arc<Host>, options: &[String]) -> Result<Self> {
        let folder = host.folder().join("docker");
        fs::create_dir_all(&folder).context("make Docker's folder")?;
        let mut command = host.command(required(DOCKERD)?);
        command.args([
            "-H",
            SOCKET,
            "--exec-root",
            "/run/docker",
            "--pidfile",
            "/run/docker.pid",
        ]);
        command.arg("--data-root").arg(&folder);
        // The lab's folder may be on any file system, and nothing here is large.
        command.args(["--storage-driver", "vfs", "--cgroup-parent", &cgroup(host)]);
        command.args(options);
        let what = format!("dockerd on {}", host.label);
        let daemon = Daemon::start(&what, command, host.folder().join("dockerd.log"))?;
        let mut docker = Self {
            host: Arc::clone(host),
            daemon,
        };
        docker.ready(&what)?;
        docker.import()?;
        Ok(docker)
    }

    fn ready(&mut self, what: &str) -> Result<()> {
        let done = wait::until_true(&format!("{what} answers"), LIMIT, || {
            self.daemon.ensure_running()?;
            let asked = self.docker(&["info", "--format", "{{.ID}}"])?;
            Ok(!asked.trim().is_empty())
        });
        done.with_context(|| self.daemon.tail())
    }

    /// An engine that starts again has it already.
    fn import(&self) -> Result<()> {
        if self.docker(&["image", "inspect", IMAGE]).is_ok() {
            return Ok(());
        }
        let tar = self.host.folder().join("image.tar");
        write_image(&self.host.folder().join("image"), &tar)?;
        self.docker(&["import", &tar.to_string_lossy(), IMAGE])
            .map(drop)
    }

    /// `docker` with these words, against this host's engine.
    pub fn docker(&self, words: &[&str]) -> Result<String> {
        let mut command = self.host.command(required(DOCKER)?);
        command.args(["-H", SOCKET]).args(words);
        command::run(&mut command)
    }

    /// `docker run -d` of a shell command; `flags` come before the image.
    pub fn run(&self, name: &str, flags: &[&str], script: &str) -> Result<DockerContainer> {
        let mut words = vec!["run", "-d", "--name", name];
        words.extend(flags);
        words.extend([IMAGE, "sh", "-c", script]);
        self.docker(&words).with_context(|| self.daemon.tail())?;
        let format = "{{.State.Pid}} {{.NetworkSettings.IPAddress}}";
        let text = self.docker(&["inspect", "--format", format, name])?;
        let (pid, address) = text
            .trim()
            .split_once(' ')
            .context("a process and an address")?;
        Ok(DockerContainer {
            name: name.to_owned(),
            label: format!("{}/{name}", self.host.label),
            pid: pid
                .parse()
                .with_context(|| format!("process id {text:?}"))?,
            address: address
                .parse()
                .with_context(|| format!("address {text:?}"))?,
        })
    }

    /// `docker exec` of a shell command in a container; returns its output.
    pub fn exec(&self, container: &DockerContainer, script: &str) -> Result<String> {
        self.docker(&["exec", &container.name, "sh", "-c", script])
    }

    /// Removes all containers and ends the engine; its bridge stays.
    pub fn stop(&mut self) -> Result<()> {
        // The engine waits for its containers; ours need no time to say goodbye.
        let list = self.docker(&["ps", "-aq"])?;
        let mut words = vec!["rm", "-f"];
        words.extend(list.split_whitespace());
        let removed = if words.len() > 2 {
            self.docker(&words).map(drop)
        } else {
            Ok(())
        };
        self.daemon.stop()?;
        removed
    }

    pub fn tail(&self) -> String {
        self.daemon.tail()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        if self.daemon.ensure_running().is_ok()
            && let Err(error) = self.stop()
        {
            eprintln!("lab: {error:#}");
        }
        remove_cgroups(&cgroup(&self.host));
    }
}

/// A container of Docker's, as a place for the probe: in its network, outside its file system.
#[derive(Clone, Debug)]
pub struct DockerContainer {
    pub name: String,
    label: String,
    pid: u32,
    pub address: Ipv4Addr,
}

impl Place for DockerContainer {
    fn name(&self) -> String {
        self.label.clone()
    }

    fn address(&self) -> Ipv4Addr {
        self.address
    }

    fn inside(&self, program: &OsStr) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net=/proc/{}/ns/net", self.pid))
            .arg("--")
            .arg(program);
        command
    }
}

/// A tar for `docker import`: one static busybox and its names.
fn write_image(root: &Path, tar: &Path) -> Result<()> {
    let bin = root.join("bin");
    for folder in ["bin", "tmp", "proc", "sys", "dev", "etc"] {
        fs::create_dir_all(root.join(folder)).context("make the image's folders")?;
    }
    fs::copy(required(BUSYBOX)?, bin.join("busybox")).context("copy busybox")?;
    for applet in APPLETS {
        symlink("busybox", bin.join(applet)).context("name an applet")?;
    }
    let out = File::create(tar).context("make the image's tar")?;
    let mut command = Command::new("tar");
    command.arg("-C").arg(root).args(["-c", "."]).stdout(out);
    ensure!(
        command.status().context("run tar")?.success(),
        "tar of the image"
    );
    Ok(())
}

/// The lab's own branch, so that what Docker leaves in it can be removed.
fn cgroup(host: &Host) -> String {
    format!("/{}-{}", host.lab().as_str(), host.label)
}

/// Ends and removes what engines of labs that are gone have left: containers outlive an engine
/// that was killed.
pub(crate) fn sweep() {
    for name in hierarchies()
        .iter()
        .flat_map(|root| netns::orphans(root))
        .collect::<BTreeSet<_>>()
    {
        remove_cgroups(&name);
    }
}

/// Whoever is still in a group of ours is ended first.
fn remove_cgroups(name: &str) {
    let name = name.trim_start_matches('/');
    for group in hierarchies()
        .iter()
        .map(|root| root.join(name))
        .filter(|group| group.is_dir())
    {
        remove_tree(&group);
    }
}

/// Of cgroup v1 each controller's own; the last is that of v2, where it is the only one.
fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    let below = fs::read_dir(&root).into_iter().flatten().flatten();
    below
        .map(|entry| entry.path())
        .filter(|path| path.is_dir())
        .chain([root.clone()])
        .collect()
}

fn remove_tree(group: &Path) {
    let below = fs::read_dir(group).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        remove_tree(&entry.path());
    }
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    for pid in members.lines().filter_map(|line| line.parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    // A group is free only when its last member is reaped.
    let _ = wait::until_true("the group is empty", Duration::from_secs(1), || {
        Ok(fs::remove_dir(group).is_ok() || !group.exists())
    });
}
