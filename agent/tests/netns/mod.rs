//! Fresh namespaces for one test. They live as long as its thread: nothing to clean up.

#![allow(dead_code, reason = "each crate of tests uses one of the two ways in")]

use std::{
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
};

use nix::{
    mount::{MsFlags, mount, umount},
    sched::{CloneFlags, unshare},
};

/// Held while a child runs. At its start it holds a copy of every descriptor, those of other tests
/// included, and what they close meanwhile stays open.
static CHILD: Mutex<()> = Mutex::new(());

/// Where the kernel's BPF file system belongs.
const BPFFS: &str = "/sys/fs/bpf";

/// Runs a test in its own network namespace, on its own thread with its own runtime.
pub fn in_fresh_netns<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    apart(CloneFlags::CLONE_NEWNET, move || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
}

/// Runs a test in network and mount namespaces of its own, on its own thread, without any BPF file
/// system.
pub fn without_bpffs(test: impl FnOnce() + Send + 'static) {
    apart(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS, || {
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
        while umount(BPFFS).is_ok() {}
        test();
    });
}

/// The same with an empty BPF file system: what is pinned goes with the thread.
pub fn with_bpffs(test: impl FnOnce() + Send + 'static) {
    without_bpffs(|| {
        let nothing = MsFlags::empty();
        mount(Some("bpf"), BPFFS, Some("bpf"), nothing, None::<&str>).unwrap();
        test();
    });
}

fn apart(namespaces: CloneFlags, test: impl FnOnce() + Send + 'static) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes a network namespace: run it as root"
    );
    let thread = thread::spawn(move || {
        unshare(namespaces).unwrap();
        test();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Does what must end with the last descriptor, while no child holds copies.
pub fn undisturbed<T>(act: impl FnOnce() -> T) -> T {
    let _guard = CHILD.lock().unwrap_or_else(PoisonError::into_inner);
    act()
}

/// Runs a command line, split at spaces, and returns what it printed.
pub fn run(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let program = words.next().unwrap();
    let output = undisturbed(|| Command::new(program).args(words).output().unwrap());
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed: {error}{text}");
    text
}
