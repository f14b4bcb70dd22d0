//! The row about who the agents are to etcd: 38. Certificates have tests of their own with the
//! store's contract.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::{Injected, stage::Stage};
use crate::{etcd::PREFIX, wait};

const LIMIT: Duration = Duration::from_secs(30);
/// A renewal is due every third of a lease's time; then the store says no.
const SAID: Duration = Duration::from_secs(12);
const ROOT: &str = "root:only-for-this-lab";
const PASSWORD: &str = "also-only-for-this-lab";

/// Turns authentication on, and starts every agent as a user of its own.
fn protect(stage: &mut Stage) -> Result<()> {
    let user = format!("weft:{PASSWORD}");
    let keys = format!("{PREFIX}/");
    let steps: [&[&str]; 7] = [
        &["user", "add", ROOT],
        &["user", "grant-role", "root", "root"],
        &["user", "add", &user],
        &["role", "add", "weft"],
        &[
            "role",
            "grant-permission",
            "weft",
            "--prefix=true",
            "readwrite",
            &keys,
        ],
        &["user", "grant-role", "weft", "weft"],
        &["auth", "enable"],
    ];
    for step in steps {
        stage.cluster.ctl(step)?;
    }
    stage.cluster.admin = Some(ROOT.to_owned());
    for index in 0..stage.nodes.len() {
        let agent = stage.agent(index)?;
        agent.kill_hard()?;
        agent.flags.more.push("--etcd-username=weft".to_owned());
        agent.flags.more.push(format!("--etcd-password={PASSWORD}"));
        stage.revive(index)?;
    }
    stage.settle(LIMIT).map(drop)
}

fn set_password(stage: &Stage, password: &str) -> Result<()> {
    let words = ["user", "passwd", "weft", "--interactive=false"];
    stage.cluster.tell(&words, &format!("{password}\n"))
}

/// Row 38: the password becomes another one, and is that of the agents again.
pub fn refused(stage: &mut Stage) -> Result<Injected> {
    stage.require("lease-ttl")?;
    protect(stage)?;
    set_password(stage, "nobody-told-the-agents")?;
    let began = Instant::now();
    wait::until_true("every agent says that it is refused", SAID, || {
        let mut all = true;
        for node in &stage.nodes {
            let status = node.host.status()?;
            let ready = status.pointer("/ready").is_some_and(|ready| ready == true);
            ensure!(ready, "a refusal made it unready: {status}");
            all &= status.to_string().contains("auth");
        }
        Ok(all)
    })?;
    let said = began.elapsed();
    for node in &stage.nodes {
        let log = std::fs::read_to_string(node.host.folder().join("weft.log"))?;
        ensure!(
            !log.contains(PASSWORD),
            "the password is in the log of {}",
            node.host.label
        );
    }
    set_password(stage, PASSWORD)?;
    let injected = Injected::now();
    stage.settle(LIMIT)?;
    let well = injected.healed.elapsed();
    ensure!(well < SAID, "well again after {well:.1?}");
    Ok(injected.note(format!(
        "said after {said:.1?}, well again after {well:.1?}"
    )))
}
