//! Connections that are older than the programs, or younger, live on when the programs come and go.

use std::net::SocketAddrV4;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    container::Place,
    dialogue::Dialogue,
    host::Host,
    probe::{self, Running},
    rules,
    world::{Plan, World, total},
};

use crate::{met, restart, until_fast};

const PORT: u16 = 7000;
/// Begun in each direction before there are programs, and with them.
const OLD: u32 = 100;
const NEW: u32 = 40;

/// Connections in both directions between two containers.
struct Talk {
    sides: [Dialogue; 2],
    held: u64,
    _servers: [Running; 2],
}

impl Talk {
    fn new(a: &dyn Place, b: &dyn Place) -> Result<Self> {
        let at = |place: &dyn Place| SocketAddrV4::new(place.address(), PORT);
        let serve = |place: &dyn Place| probe::serve(place, &format!("tcp-echo {}", at(place)));
        let servers = [serve(a)?, serve(b)?];
        Ok(Self {
            sides: [Dialogue::tcp(a, at(b))?, Dialogue::tcp(b, at(a))?],
            held: 0,
            _servers: servers,
        })
    }

    fn open(&mut self, more: u32) -> Result<()> {
        for side in &mut self.sides {
            side.open(more)?;
        }
        self.held += u64::from(more);
        Ok(())
    }

    fn round(&mut self, world: &World, when: &str) -> Result<()> {
        for side in &mut self.sides {
            side.complete_round(self.held)
                .with_context(|| format!("{when}\n{}", world.describe()))?;
        }
        Ok(())
    }
}

/// What becomes of connections that are older than the programs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Old {
    /// Conntrack does not follow them, or forgets them: the programs take them.
    Taken,
    /// The stack keeps them, and what begins fast could not go back to it.
    Kept,
}

/// Programs come, go, and come again under connections of every age; none may break.
fn outlive(test: &str, old: Old, policy: impl Fn(&Host, &World) -> Result<()>) -> Result<()> {
    let mut plan = Plan::new(test);
    plan.datapath = "kernel";
    let mut world = met(&plan)?;
    for node in &world.nodes {
        policy(&node.host, &world)?;
    }
    let (a, b) = world.pair()?;
    let mut talk = Talk::new(a, b)?;
    talk.open(OLD)?;
    talk.round(&world, "before any program")?;

    restart(&mut world, "ebpf")?;
    until_fast(&world)?;
    let before = world.counters()?;
    talk.round(&world, "the programs have come")?;
    let share = total(&world.shares(&before)?);
    ensure!(
        (share.taken > 0) == (old == Old::Taken),
        "of the old connections the programs took {share}\n{}",
        world.describe()
    );
    if old == Old::Kept {
        restart(&mut world, "kernel")?;
        talk.round(&world, "the programs have gone, and none is younger")?;
        restart(&mut world, "ebpf")?;
        return talk.round(&world, "the programs are back, and none is younger");
    }
    talk.open(NEW)?;
    talk.round(&world, "some are younger than the programs")?;
    let share = total(&world.shares(&before)?);
    println!("{test}: {share}");
    ensure!(share.taken > 0, "nothing was taken\n{}", world.describe());

    restart(&mut world, "kernel")?;
    for node in &world.nodes {
        ensure!(node.host.counters().is_err(), "the programs are still here");
    }
    talk.round(&world, "the programs have gone")?;
    restart(&mut world, "ebpf")?;
    until_fast(&world)?;
    let before = world.counters()?;
    talk.round(&world, "the programs are back")?;
    talk.open(NEW)?;
    talk.round(&world, "the programs are back, and some are new")?;
    let share = total(&world.shares(&before)?);
    ensure!(share.taken > 0, "nothing was taken\n{}", world.describe());
    Ok(())
}

#[test]
fn connections_outlive_the_programs() -> Result<()> {
    outlive("outlive", Old::Taken, |_, _| Ok(()))
}

#[test]
fn connections_outlive_them_where_invalid_packets_are_dropped() -> Result<()> {
    outlive("outlive_invalid", Old::Taken, |host, _| {
        rules::drop_invalid(host)
    })
}

#[test]
fn connections_outlive_them_where_only_state_opens_the_way() -> Result<()> {
    outlive("outlive_stateful", Old::Taken, |host, world| {
        rules::stateful(host, world.node(0)?.env.network)
    })
}

#[test]
fn connections_outlive_them_where_conntrack_wants_to_see_the_beginning() -> Result<()> {
    outlive("outlive_strict", Old::Kept, |host, _| {
        rules::drop_invalid(host)?;
        let loose = "net/netfilter/nf_conntrack_tcp_loose";
        host.ns.sysctl(loose, "0")
    })
}
