//! The walk-through with real Docker engines, Docker's own firewall rules in place.

use anyhow::{Result, ensure};
use weft_tests::walkthrough::{Masquerade, Walk};

fn walk(test: &str, masquerade: Masquerade) -> Result<()> {
    let walk = Walk::start(test, masquerade)?;
    let found = walk.walk()?;
    for download in &found.downloads {
        println!("{download:?}");
    }
    for share in &found.shares {
        println!("{share}");
        ensure!(share.taken > 0, "nothing was taken: {share}");
    }
    ensure!(found.complete(), "{found:?}");
    Ok(())
}

#[test]
fn containers_talk_while_docker_masquerades() -> Result<()> {
    walk("docker", Masquerade::Docker)
}

#[test]
fn containers_talk_while_the_agent_masquerades() -> Result<()> {
    walk("docker_ip_masq", Masquerade::Agent)
}
