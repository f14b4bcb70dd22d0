//! What an administrator does to a host means on ours what it means on flannel's: the same commands
//! on a pair of each, the same packets let through and the same stopped.

mod allowed;
mod devices;
mod filters;
mod routes;
mod tunnel;

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::Place as _,
    host::Host,
    probe::{self, Exchange},
    report::Ping,
    twins::{Side, Twins},
    wait,
};

/// For the agent to answer what was done: it looks every five seconds, and a machine may be busy.
const PATIENCE: Duration = Duration::from_secs(15);

/// Which hosts the commands run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// That of the container that asks.
    Near,
    /// That of the container that answers.
    Far,
}

/// What the agent does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing: it concerns no packet of ours.
    Fast,
    /// Nothing is taken on this host, for a reason that contains this.
    Off(&'static str),
    /// The other node is left to the kernel.
    Kernel(&'static str),
    /// The container's port is.
    Kept(&'static str),
    /// The container's address is not known as one.
    NoEndpoint,
}

#[derive(Debug)]
struct Case {
    what: &'static str,
    at: At,
    /// `{near}` and `{far}` stand for the nodes' addresses, `{a}` and `{b}` for the containers'.
    commands: &'static [&'static str],
    undo: &'static [&'static str],
    passes: bool,
    way: Way,
}

#[test]
fn what_is_done_to_a_host_means_the_same() -> Result<()> {
    let twins = Twins::start("rules", 1)?;
    ensure_passing(&twins)?;
    twins.world.until_met()?;
    let tables = [
        allowed::CASES,
        filters::CASES,
        tunnel::CASES,
        devices::CASES,
        routes::CASES,
    ];
    // Every case, however the others end.
    let mut failed = Vec::new();
    for case in tables.into_iter().flatten() {
        let began = Instant::now();
        let done = check(&twins, case);
        println!("{:>6.1?}  {}", began.elapsed(), case.what);
        if let Err(error) = done {
            failed.push(format!("{}: {error:#}", case.what));
        }
    }
    let all = failed.join("\n");
    ensure!(failed.is_empty(), "{all}\n{}", twins.world.describe());
    Ok(())
}

fn check(twins: &Twins, case: &Case) -> Result<()> {
    for side in Side::BOTH {
        do_all(twins, side, case.at, case.commands)?;
    }
    let outcome = outcome(twins, case);
    for side in Side::BOTH {
        do_all(twins, side, case.at, case.undo)?;
    }
    outcome?;
    until_way(ours(twins, case.at)?, Way::Fast)
}

fn outcome(twins: &Twins, case: &Case) -> Result<()> {
    let host = ours(twins, case.at)?;
    let answered = until_way(host, case.way);
    let before = twins.world.counters()?;
    if case.passes {
        ensure_passing(twins)?;
    } else {
        ensure_stopped(twins)?;
    }
    answered?;
    if case.way == Way::Fast {
        let shares = twins.world.shares(&before)?;
        ensure!(shares.iter().all(|share| share.taken > 0), "{shares:?}");
    }
    // It was not only slow to answer.
    until_way(host, case.way)
}

fn ours(twins: &Twins, at: At) -> Result<&Host> {
    let [near, far] = twins.nodes(Side::Ours)?;
    Ok(match at {
        At::Near => &near.host,
        At::Far => &far.host,
    })
}

fn do_all(twins: &Twins, side: Side, at: At, commands: &[&str]) -> Result<()> {
    let [near, far] = twins.nodes(side)?;
    let (a, b) = twins.pair(side)?;
    let node = if at == At::Near { near } else { far };
    for command in commands {
        let command = command
            .replace("{near}", &near.host.address.to_string())
            .replace("{far}", &far.host.address.to_string())
            .replace("{a}", &a.address.to_string())
            .replace("{b}", &b.address.to_string());
        node.host.run(&command)?;
    }
    Ok(())
}

fn until_way(host: &Host, way: Way) -> Result<()> {
    let done = wait::until_true(&format!("{}: {way:?}", host.label), PATIENCE, || {
        let (fast, why) = host.fast_path()?;
        let (peers, ports) = (
            host.component("kernel_only")?,
            host.component("kept_ports")?,
        );
        Ok(match way {
            Way::Fast => fast == "on" && peers == "none" && ports == "none",
            Way::Off(reason) => fast == "off" && why.contains(reason),
            // A rule that cannot be told from one about containers stops everything beside.
            Way::Kernel(reason) => peers.contains(reason),
            Way::Kept(reason) => fast == "on" && ports.contains(reason),
            Way::NoEndpoint => host.endpoints()?.is_empty(),
        })
    });
    done.with_context(|| {
        let parts = ["kernel_only", "kept_ports"].map(|part| host.component(part));
        format!("{:?} {parts:?}", host.fast_path())
    })
}

/// Every packet of an exchange in both directions and a transfer arrive, on both sides.
fn ensure_passing(twins: &Twins) -> Result<()> {
    let packets = Exchange {
        port: 9000,
        rate: 1000,
        count: 300,
        size: 512,
    };
    let start = |side| {
        let (a, b) = twins.pair(side)?;
        Ok((side, packets.start(a, b)?))
    };
    let both: Vec<_> = Side::BOTH.into_iter().map(start).collect::<Result<_>>()?;
    for (side, running) in both {
        let reports = running.reports().with_context(|| format!("on {side:?}"))?;
        probe::ensure_complete(&format!("UDP on {side:?}"), reports)?;
        let (a, b) = twins.pair(side)?;
        let tcp = probe::transfer(a, b, 9001, 1 << 20)?;
        ensure!(tcp.complete(), "TCP on {side:?}: {tcp:?}");
    }
    Ok(())
}

/// Not one ping is answered, on either side.
fn ensure_stopped(twins: &Twins) -> Result<()> {
    let start = |side| {
        let (a, b) = twins.pair(side)?;
        let to = b.address();
        let pings = format!("ping --to {to} --count 2 --patience-ms 250");
        Ok((side, probe::start(a, &pings)?))
    };
    let both: Vec<_> = Side::BOTH.into_iter().map(start).collect::<Result<_>>()?;
    for (side, running) in both {
        let pings: Ping = running.report()?;
        ensure!(pings.replies == 0, "passed on {side:?}: {pings:?}");
    }
    Ok(())
}
