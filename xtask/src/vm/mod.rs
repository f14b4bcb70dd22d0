//! `cargo xtask vm`: the load tests, the program tests and two hosts, on an older kernel in a
//! virtual machine. The processor is emulated, so it needs no permission and is slow.

mod cpio;
mod guest;
mod kernel;
mod tree;

use std::{
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use self::{kernel::Kernel, tree::Tree};
use crate::{
    setup,
    suites::passed_tests,
    test,
    toolchain::{Lock, target},
};

const PACKAGES: &[&str] = &["binutils", "qemu-system-x86"];

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
    let lines = guest::run(&kernel.image, &image)?;
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
