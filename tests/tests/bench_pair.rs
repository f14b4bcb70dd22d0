//! `weft bench` between two hosts, as an operator runs it: over the overlay and beside it.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use weft_tests::{
    daemon::Daemon,
    paths, wait,
    world::{Plan, World},
};

const LIMIT: Duration = Duration::from_secs(10);

#[test]
fn two_hosts_measure_the_way_between_them() -> Result<()> {
    let world = World::start(&Plan::new("bench_pair"))?;
    let [a, b] = [0, 1].map(|index| world.node(index));
    let (a, b) = (a?, b?);
    let mut command = b.host.command(paths::weft()?);
    command.args(["bench", "--server"]);
    let log = b.host.folder().join("bench.log");
    let mut server = Daemon::start("the bench's server", command, log)?;
    wait::until_true("the server waits", LIMIT, || {
        server.ensure_running()?;
        Ok(server.log().contains("listening"))
    })
    .with_context(|| server.tail())?;
    let before = world.counters()?;
    let peer = b.host.address.to_string();
    let words = ["bench", "--peer", &peer, "--millis", "40", "-o", "json"];
    let (code, text, errors) = a.host.weft(&words)?;
    ensure!(code == 0, "{code}: {errors}\n{}", server.tail());
    let found: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    for name in ["tcp_rr", "udp_rr_16", "crr", "udp_pps", "bulk", "bulk_back"] {
        let ratio = found.pointer(&format!("/samples/{name}/overlay~1host"));
        let ratio = ratio.and_then(Value::as_f64).unwrap_or_default();
        ensure!(ratio > 0.0, "{name}: {text}");
    }
    for share in world.shares(&before)? {
        println!("{share}");
        ensure!(share.taken > 1000, "{share}\n{}", world.describe());
        // What a container sends before the agent has confirmed it may be the stack's.
        ensure!(
            share.milli_percent() >= 90_000,
            "{share}\n{}",
            world.describe()
        );
    }
    server.stop()?;
    // The containers of the measurement go with its processes.
    for node in [a, b] {
        wait::until_true("no cable is left", LIMIT, || {
            let links = node.host.ip("-oneline link show type veth")?;
            Ok(!links.contains(": wb"))
        })?;
    }
    Ok(())
}

#[test]
fn without_an_agent_or_a_server_it_says_what_is_missing() -> Result<()> {
    let mut plan = Plan::new("bench_alone");
    plan.kinds.truncate(1);
    let world = World::start(&plan)?;
    let host = &world.node(0)?.host;
    let (code, _, errors) = host.weft(&["bench", "--peer", "192.0.2.1"])?;
    ensure!(
        code == 1 && errors.contains("weft bench --server"),
        "{code}: {errors}"
    );
    let words = ["bench", "--server", "--subnet-file", "/nowhere"];
    let (code, _, errors) = host.weft(&words)?;
    ensure!(
        code == 1 && errors.contains("is the agent running?"),
        "{code}: {errors}"
    );
    let (code, ..) = host.weft(&["bench"])?;
    ensure!(code != 0);
    Ok(())
}
