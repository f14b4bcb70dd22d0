//! flannel's rules, in iptables or in nftables, and one of our own in front of them: containers
//! talk to containers of other nodes by their own address, whatever else rewrites addresses on this
//! host.

mod lost;
mod nftables;
mod rules;

use std::{io, process::Stdio, time::Duration};

use ipnet::Ipv4Net;
use tokio::{io::AsyncWriteExt, time::timeout};

use self::rules::Wanted;
pub use self::{lost::Lost, nftables::Nftables, rules::FirewallConfig};
use crate::child;

/// Another program may hold the lock of the tables for a moment.
const WAIT: &str = "--wait=5";

/// Tens of thousands of rules take seconds. Whoever takes longer hangs, and nobody would look after the
/// rules any more.
const LIMIT: Duration = Duration::from_secs(30);

/// Rules can change between reading them and repairing them, which then fails as a whole. More
/// than a few times in a row is somebody else's fault.
const ATTEMPTS: u32 = 3;

/// What `iptables-save` prints, and succeeds, in place of a table that somebody has put rules of
/// nft's own into. `iptables-restore` goes on to write to it.
const UNREADABLE: &str = "is incompatible, use 'nft' tool";

/// Tables that iptables has in the kernel by itself; naming one that is not there would make it.
const LEGACY_TABLES: &str = "/proc/thread-self/net/ip_tables_names";

/// Why the rules are not in place.
#[derive(Debug, thiserror::Error)]
pub enum FirewallError {
    /// A program is missing.
    #[error("{program} is not installed; {remedy}")]
    Missing {
        /// The program.
        program: String,
        /// What to do about it.
        remedy: &'static str,
    },
    /// Cannot be read back, so that repairing would add the same rules for ever.
    #[error(
        "table {table} holds rules that {program} cannot read; move them out of the way (`nft list \
         table ip {table}` shows them), or set EnableNFTables in the network config"
    )]
    Unreadable {
        /// The table.
        table: &'static str,
        /// The program.
        program: String,
    },
    /// A program could not be run.
    #[error("run {program}: {source}")]
    Run {
        /// The program.
        program: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A program did not end.
    #[error("{program} did not end within {} s", LIMIT.as_secs())]
    Hung {
        /// The program.
        program: String,
    },
    /// A program refused.
    #[error("{command} failed: {said}")]
    Refused {
        /// The command line.
        command: String,
        /// What it printed.
        said: String,
    },
}

/// iptables as this host has it.
#[derive(Clone, Debug)]
pub struct Iptables {
    program: String,
    random_fully: bool,
    /// Its tables are those of nftables.
    is_nft: bool,
    others: Vec<Ipv4Net>,
}

impl Iptables {
    /// Finds `iptables` and what it can do.
    pub async fn open() -> Result<Self, FirewallError> {
        Self::open_named("iptables").await
    }

    /// The same with another name, such as `iptables-legacy`; its companions are `<name>-save`
    /// and `<name>-restore`.
    pub async fn open_named(program: &str) -> Result<Self, FirewallError> {
        let version = run(program, &["--version"], "").await?;
        Ok(Self {
            program: program.to_owned(),
            random_fully: knows_random_fully(&version),
            is_nft: version.contains("nf_tables"),
            others: Vec::new(),
        })
    }

    /// Leaves the rules of these networks to their own agents.
    #[must_use]
    pub fn beside(mut self, others: &[Ipv4Net]) -> Self {
        self.others = others.to_vec();
        self
    }

    /// Puts the rules in place and in order; says whether anything had to be written.
    pub async fn ensure(&self, config: &FirewallConfig) -> Result<bool, FirewallError> {
        let config = FirewallConfig {
            random_fully: config.random_fully && self.random_fully,
            ..config.clone()
        };
        self.make(Wanted::all(&config)).await
    }

    /// Puts the rules in place that drop what is of lost subnets, or removes them where there are
    /// none; says whether anything had to be written.
    pub async fn drop_lost(&self, lost: &Lost) -> Result<bool, FirewallError> {
        let none = lost.subnets.is_empty();
        if none && !self.is_nft && !legacy_has(lost::TABLE) {
            return Ok(false);
        }
        let made = self.make_table(lost::TABLE, |saved| lost.repair(saved));
        match made.await {
            // We put nothing into such a table, and need nothing in it.
            Err(FirewallError::Unreadable { .. }) if none => Ok(false),
            made => made,
        }
    }

    /// Removes all that is ours, by whichever configuration it was made, but for what drops packets
    /// of lost subnets.
    pub async fn remove(&self) -> Result<(), FirewallError> {
        self.make(Wanted::none()).await.map(drop)
    }

    async fn make(&self, wanted: [Wanted; 2]) -> Result<bool, FirewallError> {
        let mut repaired = false;
        for table in wanted {
            let wanted = table.beside(&self.others);
            let repair = |saved: &str| wanted.repair(saved);
            repaired |= self.make_table(wanted.table, repair).await?;
        }
        Ok(repaired)
    }

    async fn make_table(
        &self,
        table: &'static str,
        repair: impl Fn(&str) -> Option<String>,
    ) -> Result<bool, FirewallError> {
        let save = format!("{}-save", self.program);
        let restore = format!("{}-restore", self.program);
        let mut attempt = 1;
        loop {
            let saved = run(&save, &["-t", table], "").await?;
            if saved.contains(UNREADABLE) {
                return Err(FirewallError::Unreadable {
                    table,
                    program: self.program.clone(),
                });
            }
            let Some(repair) = repair(&saved) else {
                return Ok(attempt > 1);
            };
            match run(&restore, &[WAIT, "--noflush"], &repair).await {
                Ok(_) => return Ok(true),
                Err(FirewallError::Refused { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(other) => return Err(other),
            }
        }
    }
}

fn legacy_has(table: &str) -> bool {
    let names = std::fs::read_to_string(LEGACY_TABLES);
    names.is_ok_and(|names| names.lines().any(|name| name == table))
}

/// `--random-fully` came with 1.6.2, and so did `iptables-restore --wait`.
fn knows_random_fully(version: &str) -> bool {
    let numbers = version
        .split_ascii_whitespace()
        .find_map(|word| word.strip_prefix('v'))
        .unwrap_or_default();
    let numbers: Vec<u32> = numbers.split('.').map_while(|n| n.parse().ok()).collect();
    numbers >= vec![1, 6, 2]
}

/// Runs a program to its end and returns what it printed. It is killed if nobody waits any more.
async fn run(program: &str, args: &[&str], input: &str) -> Result<String, FirewallError> {
    let ended = timeout(LIMIT, run_to_its_end(program, args, input)).await;
    ended.unwrap_or_else(|_elapsed| {
        Err(FirewallError::Hung {
            program: program.to_owned(),
        })
    })
}

async fn run_to_its_end(
    program: &str,
    args: &[&str],
    input: &str,
) -> Result<String, FirewallError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => FirewallError::Missing {
            program: program.to_owned(),
            remedy: match program {
                "nft" => {
                    "install the Debian package nftables, or take EnableNFTables out of the \
                     network config"
                }
                _ => {
                    "install the Debian package iptables, or pass --ip-masq=false \
                     --iptables-forward-rules=false"
                }
            },
        },
        _ => FirewallError::Run {
            program: program.to_owned(),
            source,
        },
    };
    let mut child = child::command(program)
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()).await {
            // It has said its word already, which is the better error.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            other => other.map_err(failed)?,
        }
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if !output.status.success() {
        return Err(FirewallError::Refused {
            command: format!("{program} {}", args.join(" ")),
            said: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
        });
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart() {
        for (version, knows) in [
            ("iptables v1.8.9 (nf_tables)", true),
            ("iptables v1.6.2", true),
            ("iptables v1.6.1", false),
            ("iptables v1.10.0 (legacy)", true),
            ("something else", false),
        ] {
            assert_eq!(knows_random_fully(version), knows, "{version}");
        }
    }

    /// The clock is stopped: it moves when nobody has anything to do.
    #[tokio::test(start_paused = true)]
    async fn a_program_that_hangs_is_named() {
        let error = run("sleep", &["600"], "").await.unwrap_err();
        assert_eq!(error.to_string(), "sleep did not end within 30 s");
    }

    #[tokio::test]
    async fn a_missing_program_names_its_package() {
        let error = Iptables::open_named("no-such-iptables").await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("no-such-iptables is not installed"), "{text}");
        assert!(text.contains("Debian package iptables"), "{text}");
    }
}
