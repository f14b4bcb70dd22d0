//! Everything that is forged or damaged, damaged further at random and sent at full speed from the
//! wire and from a container at once. `WEFT_BLAST_SECONDS` says for how long.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    craft::{ARP, Frame, word},
    dump::Counters,
    load::backlog_drops,
    sender::{Blast, blast_by},
};

use crate::{
    damaged, inner,
    scene::Scene,
    table::{From, cases},
};

const SECONDS: u64 = 5;
/// By which a failure is repeated.
const SEEDS: [u64; 2] = [0x0077_6566_7431, 0x0077_6566_7432];

fn duration() -> Result<Duration> {
    let seconds = match std::env::var("WEFT_BLAST_SECONDS") {
        Ok(text) => text.parse().context("WEFT_BLAST_SECONDS is no number")?,
        Err(_) => SECONDS,
    };
    Ok(Duration::from_secs(seconds))
}

/// Every frame that the other tests send from there, but ARP: a container that claims another's
/// address on its own bridge is believed by the kernel already.
fn frames(scene: &Scene, from: From) -> Vec<Frame> {
    let forged = cases(scene).into_iter();
    let mut all = damaged::series(scene);
    all.extend(inner::series(scene));
    let forged = forged.filter(|case| case.from == from);
    let damaged = all.into_iter().filter(|series| series.from == from);
    forged
        .flat_map(|case| case.frames)
        .chain(damaged.flat_map(|series| series.frames))
        .filter(|frame| word(&frame.bytes, 12) != Some(ARP))
        .collect()
}

/// Packets that a hook has counted, under whatever reason.
fn seen(counters: &Counters, hook: &str) -> u64 {
    let of_hook = counters.counters.iter().filter(|one| one.hook == hook);
    of_hook.map(|one| one.packets).sum()
}

#[test]
fn a_blast_of_anything_leaves_the_overlay_well() -> Result<()> {
    let mut scene = Scene::new("blasted", "strict")?;
    scene.ensure_well()?;
    let time = duration()?;
    let (before, dropped) = (scene.counters()?, backlog_drops()?);
    let blasts = [
        (From::Wire, "from_uplink", "p1"),
        (From::Container, "from_container", "eth0"),
    ];
    let started = blasts.into_iter().zip(SEEDS);
    let started = started.map(|((from, _, interface), seed)| {
        let (frames, command) = (frames(&scene, from), scene.probe_at(from)?);
        let how = Blast::Mutate { seed, time };
        Ok(thread::spawn(move || {
            blast_by(command, interface, &frames, how)
        }))
    });
    let started: Vec<_> = started.collect::<Result<_>>()?;
    let mut sent = Vec::new();
    for blast in started {
        sent.push(blast.join().expect("the sender does not panic")?.sent);
    }
    let (now, dropped) = (scene.counters()?, backlog_drops()? - dropped);
    println!("sent {sent:?}, {dropped} dropped by the machine's backlog");
    println!("{}", now.changes(&before));
    for ((_, hook, _), sent) in blasts.iter().zip(sent) {
        let counted = seen(&now, hook) - seen(&before, hook);
        // A tag that is cut short is thrown away before any program sees it.
        let nearly = sent - sent / 1000;
        ensure!(
            sent > 10_000 && counted + dropped >= nearly,
            "{hook}: {counted} counted and {dropped} dropped of {sent}"
        );
    }
    scene.ensure_well()?;
    let agent = scene.world.node_mut(0)?.agent()?;
    agent.daemon()?.ensure_running()?;
    let log = agent.daemon()?.log();
    let error = log
        .lines()
        .find(|line| line.contains(" ERROR ") || line.contains("panicked"));
    ensure!(error.is_none(), "{error:?}");
    Ok(())
}
