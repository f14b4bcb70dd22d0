//! What the verifier had to do: each program stays far from its limit of a million instructions.

use aya::programs::{SchedClassifier, TcAttachType};
use nix::net::if_::if_nametoindex;
use weft::datapath::{Attachment, Datapath, DatapathOp};
use weft_common::stats::Hook;

use crate::{netns::undisturbed, world::World};

const BUDGET: u32 = 100_000;

#[test]
fn every_program_is_cheap_to_verify() {
    World::with(|world| {
        for hook in Hook::ALL {
            let at = Attachment {
                hook: *hook,
                link: if_nametoindex("up0").unwrap().try_into().unwrap(),
                name: "up0".to_owned(),
            };
            world
                .datapath
                .apply(&DatapathOp::Attach(at.clone()))
                .unwrap();
            let direction = match hook {
                Hook::ToContainer | Hook::ToOverlay => TcAttachType::Egress,
                Hook::FromContainer | Hook::FromBridge | Hook::FromUplink | Hook::FromOverlay => {
                    TcAttachType::Ingress
                }
            };
            let (_, chain) = SchedClassifier::query_tcx("up0", direction).unwrap();
            let [program] = &chain[..] else {
                panic!("{} programs at {}", chain.len(), hook.name());
            };
            assert_eq!(program.name_as_str(), Some(hook.name()));
            let verified = program.verified_instruction_count().unwrap();
            let bytes = program.size_translated().unwrap();
            println!("{}: {verified} verified, {bytes} bytes", hook.name());
            assert!(verified < BUDGET, "{}: {verified}", hook.name());
            undisturbed(|| world.put(DatapathOp::Detach(at)));
        }
    });
}
