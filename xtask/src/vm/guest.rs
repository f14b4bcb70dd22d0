//! The virtual machine: started, listened to, ended.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::shell;

const QEMU: &str = "qemu-system-x86_64";
/// Emulated, so that it runs where virtualisation is not to be had; nothing but a serial line.
const MACHINE: &str = "-accel tcg,thread=multi -cpu max -smp 2 -m 3G -nodefaults \
                       -no-user-config -no-reboot -display none -serial stdio -nic none";
/// A panic ends the machine, and nothing in it needs guarding against.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr";
/// Beyond every run that goes well.
const LIMIT: Duration = Duration::from_secs(15 * 60);

/// Runs the guest to its end, showing what it says, and returns that.
pub(super) fn run(kernel: &Path, image: &Path) -> Result<Vec<String>> {
    let mut command = Command::new(QEMU);
    command.args(MACHINE.split_ascii_whitespace());
    command.arg("-kernel").arg(kernel).arg("-initrd").arg(image);
    command.args(["-append", KERNEL]);
    println!("$ {}", shell::line(&command));
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut guest = Guest(command.spawn().context(QEMU)?);
    let output = guest.0.stdout.take().context("the guest's output")?;
    let lines = collect(&heard(output))?;
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

/// The guest's lines as they come, until it ends.
fn heard(output: ChildStdout) -> Receiver<String> {
    let (told, heard) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            let line = String::from_utf8_lossy(&line).trim_end().to_owned();
            if told.send(line).is_err() {
                return;
            }
        }
    });
    heard
}

fn collect(heard: &Receiver<String>) -> Result<Vec<String>> {
    let end = Instant::now() + LIMIT;
    let mut lines = Vec::new();
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match heard.recv_timeout(left) {
            Ok(line) => {
                println!("{line}");
                lines.push(line);
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(lines),
            Err(RecvTimeoutError::Timeout) => bail!("the guest did not end within {LIMIT:?}"),
        }
    }
}
