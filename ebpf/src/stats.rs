//! Counting: one packet, one reason at each hook.
#![expect(
    unsafe_code,
    reason = "a per-CPU counter is written through its pointer"
)]

use weft_common::stats::{Hook, Reason, index};

use crate::maps;

/// Counts a packet of `bytes` bytes under a reason.
#[inline(always)]
pub fn count(hook: Hook, reason: Reason, bytes: u32) {
    if let Some(counter) = maps::counter(index(hook, reason)) {
        // SAFETY: the entry is this CPU's own, and a program is not preempted by another that
        // writes the same counter at the same place more often than a count may be off by one.
        unsafe {
            (*counter).packets += 1;
            (*counter).bytes += u64::from(bytes);
        }
    }
}
