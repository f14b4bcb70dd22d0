//! What the verifier had to do: each program stays far from its limit of a million instructions.
//! `cargo xtask verify` reads the lines that are printed here.

use weft_common::stats::Hook;

use crate::world::World;

const BUDGET: u32 = 100_000;

#[test]
fn every_program_is_cheap_to_verify() {
    World::with(|world| {
        for hook in Hook::ALL {
            let cost = world.datapath.cost(*hook).unwrap();
            let (name, verified) = (hook.name(), cost.verified);
            println!("cost: {name} {verified} {}", cost.translated);
            assert!(verified > 0 && cost.translated > 0, "{name}");
            assert!(verified < BUDGET, "{name}: {verified}");
        }
    });
}
