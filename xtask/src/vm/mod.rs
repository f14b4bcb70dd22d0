//! `cargo xtask vm`: the load tests, the program tests and two hosts, on an older kernel in a
//! virtual machine. The processor is emulated, so it needs no permission and is slow.

mod cpio;
mod kernel;
mod tree;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, BufWriter},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{kernel::Kernel, tree::Tree};
use crate::{
    setup, shell,
    test::{self, passed_tests},
    toolchain::{Lock, target},
};

const PACKAGES: &[&str] = &["binutils", "qemu-system-x86"];
const QEMU: &str = "qemu-system-x86_64";
/// Beyond every run that goes well.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Programs of this machine that the tests call.
const PROGRAMS: &[&str] = &[
    "/bin/cat",
    "/bin/mkdir",
    "/bin/mount",
    "/bin/sh",
    "/bin/umount",
    "/usr/bin/etcd",
    "/usr/bin/etcdctl",
    "/usr/sbin/bpftool",
    "/bin/ip",
    "/sbin/bridge",
    "/sbin/tc",
    "/usr/bin/nsenter",
    "/usr/bin/unshare",
    "/usr/bin/find",
    "/usr/sbin/nft",
    "/usr/sbin/iptables",
    "/usr/sbin/iptables-save",
    "/usr/sbin/iptables-restore",
    "/usr/sbin/iptables-legacy-save",
    "/usr/sbin/ethtool",
];
/// Other programs, in the simple form of busybox.
const APPLETS: &[&str] = &["bin/uname", "sbin/depmod", "sbin/modprobe", "sbin/poweroff"];
const LIBRARIES: &[&str] = &["/usr/lib/x86_64-linux-gnu/xtables"];

type Suite = (&'static str, &'static str);

/// What runs in the guest: a test program, and which of its tests.
const SUITES: &[Suite] = &[
    ("datapath_contract", "--test-threads=2 --show-output"),
    ("programs", "--test-threads=2 --show-output"),
    ("clsact", "--test-threads=1 --show-output two_hosts"),
];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Options {
    /// Only these suites: datapath_contract, programs, clsact.
    #[arg(long)]
    suite: Vec<String>,
}

pub(crate) fn run(options: &Options) -> Result<()> {
    setup::also(PACKAGES)?;
    let is_wanted =
        |name: &str| options.suite.is_empty() || options.suite.iter().any(|suite| suite == name);
    let mut suites = SUITES.to_vec();
    suites.retain(|(name, _)| is_wanted(name));
    ensure!(!suites.is_empty(), "no such suite: {:?}", options.suite);
    let kernel = Kernel::fetch()?;
    let folder = target().join("vm");
    let image = folder.join("initramfs");
    build(&kernel, &suites, &folder, &image)?;
    let start = Instant::now();
    let lines = boot(&kernel, &image)?;
    judge(&lines, suites.len())?;
    println!(
        "vm: {} s in the guest; all passed",
        start.elapsed().as_secs()
    );
    Ok(())
}

fn build(kernel: &Kernel, suites: &[Suite], folder: &Path, image: &Path) -> Result<()> {
    let mut tree = Tree::default();
    for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/etc", "/weft"] {
        tree.folder(folder);
    }
    // What the first process needs before it has mounted anything.
    tree.device("/dev/console", (5, 1));
    tree.device("/dev/null", (1, 3));
    for name in ["bin", "sbin", "lib", "lib64"] {
        tree.symlink(&format!("/{name}"), &format!("usr/{name}"));
    }
    tree.program(Path::new("/bin/busybox"))?;
    for applet in APPLETS {
        tree.symlink(&format!("/usr/{applet}"), "/bin/busybox");
    }
    for program in PROGRAMS {
        tree.program(Path::new(program))?;
    }
    for library in LIBRARIES {
        for entry in fs::read_dir(library).context("read a folder of libraries")? {
            tree.program(&entry?.path())?;
        }
    }
    tree.copy(Path::new("/etc/protocols"), "/etc/protocols");
    tree.content("/etc/hosts", "127.0.0.1 localhost\n");
    tree.content("/init", include_str!("init.sh"));
    tree.content("/weft/plan", plan(suites));
    kernel.install(&mut tree)?;
    for program in programs()? {
        let name = program.1;
        let bare = folder.join(&name);
        tree::stripped(&program.0, &bare)?;
        tree.libraries(&bare)?;
        tree.copy(&bare, &format!("/weft/{name}"));
    }
    let out = File::create(image).with_context(|| image.display().to_string())?;
    tree.write(BufWriter::new(out))?;
    Ok(())
}

/// Ours, and what each is called in the guest.
fn programs() -> Result<Vec<(PathBuf, String)>> {
    let lock = Lock::MayChange;
    let mut found = vec![
        (test::build_agent(lock)?, "weft".to_owned()),
        (test::build_probe(lock)?, "weft-probe".to_owned()),
    ];
    let words = ["-p", "weft", "--features", "fakes"];
    let agent = ["--test", "datapath_contract", "--test", "programs"];
    let agent: Vec<_> = words.into_iter().chain(agent).collect();
    for words in [&agent[..], &["-p", "weft-tests", "--test", "clsact"]] {
        found.extend(test::build_programs(lock, words)?);
    }
    Ok(found)
}

/// The middle of `init.sh`.
fn plan(suites: &[Suite]) -> String {
    let suites = suites.iter().map(|(name, words)| {
        format!("echo 'weft-vm: {name} {words}'\n./{name} {words} || failed=$((failed + 1))\n")
    });
    suites.collect()
}

/// Runs the guest to its end, showing what it says.
fn boot(kernel: &Kernel, image: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(QEMU);
    command
        .args([
            "-accel",
            "tcg,thread=multi",
            "-cpu",
            "max",
            "-smp",
            "2",
            "-m",
            "3G",
        ])
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
        ])
        .args(["-serial", "stdio", "-nic", "none"])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(image)
        .args([
            "-append",
            "console=ttyS0 quiet panic=-1 mitigations=off nokaslr",
        ]);
    println!("$ {}", shell::line(&command));
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context(QEMU)?;
    let mut guest = Guest(child);
    let output = guest.0.stdout.take().context("the guest's output")?;
    let (told, heard) = mpsc::channel();
    let reader = thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if told.send(line).is_err() {
                return;
            }
        }
    });
    let end = Instant::now() + LIMIT;
    let mut lines = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match heard.recv_timeout(left) {
            Ok(line) => {
                println!("{line}");
                lines.push(line);
            }
            Err(RecvTimeoutError::Timeout) => bail!("the guest did not end within {LIMIT:?}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(reader.join());
    let status = guest.0.wait().context("wait for the guest")?;
    ensure!(status.success(), "{QEMU}: {status}");
    Ok(lines)
}

/// Ends with its owner.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// The guest's last line, and that every suite ran something.
fn judge(lines: &[String], suites: usize) -> Result<()> {
    let closing = lines
        .iter()
        .rev()
        .find_map(|line| line.strip_prefix("weft-vm: finished, "));
    match closing {
        None => bail!("the guest ended without saying how: see its last lines"),
        Some("0 failed") => {}
        Some(failed) => bail!("in the guest: {failed}"),
    }
    let ran = lines.iter().filter_map(|line| passed_tests(line));
    let ran: Vec<_> = ran.filter(|passed| *passed > 0).collect();
    ensure!(
        ran.len() == suites,
        "{suites} suites, but {} ran a test",
        ran.len()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(closing: &str, suites: usize) -> Result<()> {
        let ok = "test result: ok. 3 passed; 0 failed; 0 ignored";
        let mut lines = vec![ok.to_owned(); suites];
        lines.push(closing.to_owned());
        lines.push("reboot: Power down".to_owned());
        judge(&lines, SUITES.len())
    }

    #[test]
    fn only_a_guest_that_ran_everything_is_believed() {
        let closing = "weft-vm: finished, 0 failed";
        assert!(judged(closing, SUITES.len()).is_ok());
        assert!(judged(closing, SUITES.len() - 1).is_err());
        assert!(judged("weft-vm: finished, 1 failed", SUITES.len()).is_err());
        assert!(judged("Kernel panic", SUITES.len()).is_err());
    }
}
