//! What nobody may say: forged tunnel packets from the wire, from containers, and from peers that
//! speak for others. Each is refused under a reason of its own, and the real peer loses nothing.

mod blast;
mod damaged;
mod inner;
mod scene;
mod table;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    probe::{self, Exchange},
    report::Udp,
};

use damaged::Series;
use scene::Scene;
use table::{Case, cases};

/// Values of `rp_filter`, in the order of [`Case::arrives`].
const RP_FILTERS: [u8; 3] = [0, 1, 2];

/// What the real peer and the victim's container say meanwhile: for about as long as the cases take.
const PEERS_OWN: Exchange = Exchange {
    port: 9000,
    rate: 500,
    count: 400,
    size: 200,
};

/// All cases, each with how often its reason should be counted and whether it should arrive.
fn inject_all(scene: &mut Scene, expected: impl Fn(&Case) -> (u64, bool)) -> Result<()> {
    let mut wrong = Vec::new();
    let mut before = scene.counters()?;
    for case in cases(scene) {
        let (hook, reason) = case.refused;
        scene.send(case.from, &case.frames)?;
        // What was sent before the marker would be here before it.
        let heard = scene.mark(case.to)?;
        let arrived = heard.iter().any(|datagram| datagram.content == case.name);
        let now = scene.counters()?;
        let seen = (now.of(hook, reason) - before.of(hook, reason), arrived);
        before = now;
        let wanted = expected(&case);
        println!("{:<36} counted {} arrived {}", case.name, seen.0, seen.1);
        if seen != wanted {
            wrong.push(format!("{}: {seen:?} instead of {wanted:?}", case.name));
        }
    }
    ensure!(
        wrong.is_empty(),
        "{}\n{}",
        wrong.join("\n"),
        scene.world.describe()
    );
    Ok(())
}

#[test]
fn strict_refuses_all_of_it_and_the_peer_loses_nothing() -> Result<()> {
    let mut scene = Scene::new("injection", "strict")?;
    for value in RP_FILTERS {
        scene.rp_filter(value)?;
        let running = scene.exchange(PEERS_OWN)?;
        inject_all(&mut scene, |_| (1, false)).with_context(|| format!("rp_filter {value}"))?;
        let sides: (Udp, Udp) = running.reports()?;
        probe::ensure_complete("the real peer", sides).with_context(|| scene.world.describe())?;
    }
    Ok(())
}

/// The control: what flannel accepts does arrive, so the test above can fail.
#[test]
fn without_a_guard_it_arrives() -> Result<()> {
    let mut scene = Scene::new("unguarded", "flannel")?;
    for (at, value) in RP_FILTERS.into_iter().enumerate() {
        scene.rp_filter(value)?;
        let expected = |case: &Case| {
            let arrives = case.arrives.get(at).copied().unwrap_or_default();
            (u64::from(case.is_the_kernels()), arrives)
        };
        inject_all(&mut scene, expected).with_context(|| format!("rp_filter {value}"))?;
    }
    Ok(())
}

/// Of the senders only it asks whether they are peers.
#[test]
fn asking_for_peers_stops_strangers_only() -> Result<()> {
    let mut scene = Scene::new("peers", "peers")?;
    scene.rp_filter(0)?;
    inject_all(&mut scene, |case| {
        let stopped = case.refused.1 == "drop_unknown_peer";
        let [arrives, ..] = case.arrives;
        (
            u64::from(stopped || case.is_the_kernels()),
            arrives && !stopped,
        )
    })
}

/// What is damaged is counted for what it is, packet by packet, and arrives only where the kernel
/// alone would have let it arrive.
#[test]
fn bad_packets_are_counted_and_harm_nobody() -> Result<()> {
    let mut scene = Scene::new("damaged", "strict")?;
    scene.rp_filter(0)?;
    let mut all = damaged::series(&scene);
    all.extend(inner::series(&scene));
    let mut wrong = Vec::new();
    let mut before = scene.counters()?;
    for series in all {
        let Series {
            name,
            from,
            frames,
            to,
            counted: (hook, reason),
            arrives,
        } = series;
        scene.send(from, &frames)?;
        let heard = scene.mark(to)?;
        let arrived = heard
            .iter()
            .filter(|one| one.content.starts_with(name))
            .count();
        let now = scene.counters()?;
        // The marker is a packet that is taken, too.
        let marker = u64::from(reason == "taken");
        let more = now.of(hook, reason) - before.of(hook, reason) - marker;
        let all = frames.len() as u64;
        // Neighbours are looked for and IPv6 says hello whenever it likes.
        let more = if reason == "not_ipv4" {
            more.min(all)
        } else {
            more
        };
        let seen = (more, arrived);
        println!("{name:<36} {all:>4} {hook} {reason} {seen:?}");
        if seen != (all, arrives) {
            let elsewhere = now.changes(&before);
            wrong.push(format!(
                "{name}: {seen:?} instead of {:?}: {elsewhere}",
                (all, arrives)
            ));
        }
        before = now;
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.ensure_well()
}
