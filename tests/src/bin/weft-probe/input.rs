//! Standard input as a leash: whoever holds its other end says when to stop, by letting go.

use std::{
    io::{self, Read as _},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// Becomes true when standard input ends.
pub(crate) fn ended() -> Arc<AtomicBool> {
    let ended = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&ended);
    thread::spawn(move || {
        let mut ignored = [0_u8; 64];
        // A broken input says nothing more either.
        while matches!(io::stdin().read(&mut ignored), Ok(size) if size > 0) {}
        told.store(true, Ordering::Relaxed);
    });
    ended
}
