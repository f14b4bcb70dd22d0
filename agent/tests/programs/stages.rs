//! What each step of a program costs: packets that go further and further and are then left to the
//! kernel. `cargo xtask bench --stages` reads the lines that are printed here.

use std::time::Duration;

use weft_common::stats::{Hook, Reason};

use super::{
    frames::{IPV4, ethernet},
    packets::{
        BOX_MAC, BRIDGE_MAC, ROUTER_MAC, SLOW_REMOTE, SLOW_VTEP, from_box, incoming, outgoing,
        tunnel,
    },
    world::{At, World},
};

/// How often each is run where nobody asks for more: to see that it runs.
const RUNS: u32 = 1000;
const ROUNDS: usize = 7;
/// Asks for more.
const VARIABLE: &str = "WEFT_STAGE_RUNS";

/// One packet, and how far it goes.
struct Stage {
    hook: Hook,
    at: At,
    /// What comes on top of the stage before it.
    step: &'static str,
    reason: Reason,
    frame: Vec<u8>,
    given: fn(&mut World),
}

fn out(step: &'static str, reason: Reason, frame: Vec<u8>) -> Stage {
    Stage {
        hook: Hook::FromContainer,
        at: At::BoxPort,
        step,
        reason,
        frame,
        given: |_| {},
    }
}

fn inward(step: &'static str, reason: Reason, frame: Vec<u8>) -> Stage {
    Stage {
        hook: Hook::FromUplink,
        at: At::Uplink,
        ..out(step, reason, frame)
    }
}

fn record(world: &mut World) {
    world.record(super::frames::TCP, 40000, 80);
}

fn stages() -> Vec<Stage> {
    let to = |address| from_box(&outgoing().but(|ip| ip.destination = address));
    let mut not_ip = from_box(&outgoing());
    not_ip[12..14].copy_from_slice(&[0x88, 0xb5]);
    let mut other_port = tunnel();
    other_port.port = 4790;
    let mut other_vni = tunnel();
    other_vni.vxlan[6] = 9;
    let mut slow = tunnel();
    slow.outer.source = SLOW_VTEP;
    let from_slow = incoming().but(|ip| ip.source = SLOW_REMOTE);
    let nobody = incoming().but(|ip| ip.destination = [10, 1, 2, 99]);
    vec![
        out("call, SETTINGS, COUNTERS", Reason::NotIpv4, not_ip.clone()),
        out(
            "34 bytes read, PEERS missed",
            Reason::NotOverlay,
            to([192, 0, 2, 77]),
        ),
        out(
            "PEERS found, IPv4 header checked",
            Reason::PeerKernelOnly,
            to(SLOW_REMOTE),
        ),
        out(
            "sizes, ENDPOINTS found",
            Reason::OtherMac,
            ethernet(ROUTER_MAC, BOX_MAC, IPV4, &outgoing().bytes()),
        ),
        Stage {
            given: record,
            ..out(
                "FLOW_STATE, ports read, FLOWS found",
                Reason::RecordedFlow,
                ethernet(BRIDGE_MAC, BOX_MAC, IPV4, &outgoing().bytes()),
            )
        },
        inward("call, SETTINGS, COUNTERS", Reason::NotIpv4, not_ip),
        inward(
            "34 and 2 bytes read",
            Reason::NotOverlay,
            other_port.frame(&incoming().bytes()),
        ),
        inward(
            "50 bytes read",
            Reason::OtherVxlan,
            other_vni.frame(&incoming().bytes()),
        ),
        inward(
            "PEERS found, guard, headers read again and checked, LOCALS missed",
            Reason::PeerKernelOnly,
            slow.frame(&from_slow.bytes()),
        ),
        inward(
            "ENDPOINTS missed",
            Reason::NoEndpoint,
            tunnel().frame(&nobody.bytes()),
        ),
        Stage {
            given: record,
            ..inward(
                "ENDPOINTS found and LOCALS spared, FLOW_STATE, ports read, FLOWS found",
                Reason::RecordedFlow,
                tunnel().frame(&incoming().bytes()),
            )
        },
    ]
}

#[test]
fn each_step_has_its_cost() {
    let runs = std::env::var(VARIABLE).map_or(RUNS, |runs| runs.parse().expect(VARIABLE));
    World::with(move |world| {
        let stages = stages();
        // The quickest of several rounds: what disturbs a run makes it longer, never shorter.
        let mut least = vec![Duration::MAX; stages.len()];
        for _ in 0..ROUNDS {
            for (stage, least) in stages.iter().zip(&mut least) {
                *least = time(world, stage, runs).min(*least);
            }
        }
        for (stage, least) in stages.iter().zip(least) {
            assert!(least > Duration::ZERO, "{}", stage.step);
            let name = stage.hook.name();
            println!("stage: {name} {} {}", least.as_nanos(), stage.step);
        }
    });
}

fn time(world: &mut World, stage: &Stage, runs: u32) -> Duration {
    world.reset();
    world.doing = stage.step;
    (stage.given)(world);
    // That it ends where it should, and changes nothing on its way.
    let (reason, _) = world.trial(stage.hook, stage.at, &stage.frame, 0);
    assert_eq!(reason, stage.reason, "{}", stage.step);
    let time = world
        .datapath
        .time_packet(stage.hook, &stage.frame, World::ifindex(stage.at), runs);
    time.unwrap()
}
