//! What a program answers, and the only place that knows TC and TCX codes.

use weft_common::stats::{Fate, Hook, Reason};

use crate::{packet::Packet, sample, stats};

/// "Go on": the next TCX program, classic filters, then the stack. `TC_ACT_OK` would hide the
/// packet from every later program (kernel `tcx_action_code`).
const NEXT: i32 = -1;
/// Drop.
const DROP: i32 = 2;

/// A packet that the program took.
#[derive(Clone, Copy)]
pub struct Verdict {
    /// What the redirect helper answered.
    pub action: i32,
    /// Whether it was an aggregate.
    pub aggregate: bool,
    /// Bytes when it came in.
    pub bytes: u32,
}

/// Counts the outcome and turns it into the action that the kernel wants.
#[inline(always)]
pub fn action(hook: Hook, packet: &Packet<'_>, outcome: Result<Verdict, Reason>) -> i32 {
    match outcome {
        Ok(verdict) => {
            let reason = if verdict.aggregate {
                Reason::TakenAggregate
            } else {
                Reason::Taken
            };
            packet.log(hook, reason);
            stats::count(hook, reason, verdict.bytes);
            verdict.action
        }
        Err(reason) => {
            packet.log(hook, reason);
            stats::count(hook, reason, packet.len());
            match reason.fate() {
                Fate::Dropped => {
                    sample::refused(packet, hook, reason);
                    DROP
                }
                Fate::Taken | Fate::Passed | Fate::Missed | Fate::Recorded => NEXT,
            }
        }
    }
}

/// Counts what a recorder did; but for what bears an address that is not ours any more, the packet
/// goes on.
#[inline(always)]
pub fn recorded(hook: Hook, packet: &Packet<'_>, reason: Reason) -> i32 {
    packet.log(hook, reason);
    stats::count(hook, reason, packet.len());
    if reason.fate() == Fate::Dropped {
        sample::refused(packet, hook, reason);
        return DROP;
    }
    NEXT
}
