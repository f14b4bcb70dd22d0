//! What everybody can read of a running agent: no password. Needs root.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "all of this file is tests, which clippy sees only of functions marked so"
)]

mod netns;

use std::{
    fs,
    os::unix::process::CommandExt as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const PASSWORD: &str = "for-nobody-else";
const LIMIT: Duration = Duration::from_secs(20);

/// An agent that waits for a store which is not there.
struct Waiting(Child);

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The words of a process, or the variables that it was started with.
fn words(pid: u32, file: &str) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.split_terminator('\0').map(str::to_owned).collect()
}

#[test]
fn a_typed_password_is_in_no_process_list() {
    netns::without_bpffs(in_no_process_list);
}

fn in_no_process_list() {
    netns::run("ip link add underlay type veth peer name far");
    netns::run("ip address add 192.0.2.1/24 dev underlay");
    netns::run("ip link set underlay up");
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weft.sock");
    let socket = format!("-socket={}", socket.display());
    let flags = [
        "-iface=underlay",
        "--etcd-endpoints=http://127.0.0.1:1",
        "--etcd-username=agent",
        "-etcd-prefix",
        "/nobody's",
    ];
    // By a name that is not that of its file.
    let program = folder.path().join("weft");
    fs::copy(env!("CARGO_BIN_EXE_weft"), &program).unwrap();
    let mut command = Command::new(&program);
    command.arg0("flanneld").args(flags).arg(&socket);
    command.args(["--etcd-password", PASSWORD]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut agent = Waiting(command.spawn().unwrap());
    let pid = agent.0.id();
    let mut wanted = vec!["flanneld".to_owned()];
    wanted.extend(flags.iter().map(ToString::to_string));
    wanted.push(socket);

    let end = Instant::now() + LIMIT;
    while words(pid, "cmdline") != wanted {
        assert_eq!(agent.0.try_wait().unwrap(), None, "it ended");
        assert!(Instant::now() < end, "{:?}", words(pid, "cmdline"));
        std::thread::sleep(Duration::from_millis(5));
    }
    let variable = format!("WEFT_ETCD_PASSWORD={PASSWORD}");
    assert!(words(pid, "environ").contains(&variable));
    while !folder.path().join("weft.sock").exists() {
        assert_eq!(agent.0.try_wait().unwrap(), None, "it ended");
        assert!(Instant::now() < end, "it does not answer");
        std::thread::sleep(Duration::from_millis(5));
    }
}
