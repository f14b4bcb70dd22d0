//! A fresh network namespace for one test. It lives as long as its thread: nothing to clean up.

use std::{process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs a test in its own network namespace, on its own thread with its own runtime.
pub fn in_fresh_netns<F>(test: impl FnOnce() -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes a network namespace: run it as root"
    );
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Runs a command line, split at spaces, and returns what it printed.
pub fn run(line: &str) -> String {
    let mut words = line.split_ascii_whitespace();
    let program = words.next().unwrap();
    let output = Command::new(program).args(words).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "`{line}` failed: {error}{text}");
    text
}
