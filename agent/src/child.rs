//! Programs of others that we run: they get none of what was told to us, such as etcd's password.

use std::ffi::OsString;

use tokio::process::Command;

/// Variables that are meant for us alone.
const OURS: [&str; 4] = ["WEFT_", "FLANNELD_", "NOTIFY_SOCKET", "WATCHDOG_"];

/// The program, in a language whose output we read.
#[must_use]
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if is_ours(&name) {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
    command
}

fn is_ours(name: &OsString) -> bool {
    let name = name.to_string_lossy();
    OURS.iter().any(|ours| name.starts_with(ours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_told_from_what_is_not() {
        for ours in [
            "WEFT_ETCD_PASSWORD",
            "FLANNELD_ETCD_PASSWORD",
            "NOTIFY_SOCKET",
            "WATCHDOG_USEC",
        ] {
            assert!(is_ours(&ours.into()), "{ours}");
        }
        for theirs in ["PATH", "XTABLES_LOCKFILE", "HOME"] {
            assert!(!is_ours(&theirs.into()), "{theirs}");
        }
    }
}
