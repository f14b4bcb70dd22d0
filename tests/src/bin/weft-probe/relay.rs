//! A relay for TCP that stands for a bad network, where the kernel has none to offer: what passes
//! is late, and a connection breaks when it has brought enough.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};

use crate::RelayOptions;

/// What a connection may do.
#[derive(Debug)]
struct Rules {
    delay: Duration,
    jitter: u64,
    cut_after: Option<u64>,
    /// Connections that may still be cut.
    cuts: AtomicU32,
    dice: AtomicU64,
}

/// Serves until killed.
pub(crate) fn run(options: &RelayOptions) -> Result<()> {
    let listener = TcpListener::bind(options.bind);
    let listener = listener.with_context(|| format!("listen on {}", options.bind))?;
    println!("listening");
    let rules = Arc::new(Rules {
        delay: Duration::from_millis(options.delay_ms),
        jitter: options.jitter_ms,
        cut_after: options.cut_after,
        cuts: AtomicU32::new(options.cuts),
        dice: AtomicU64::new(0x9e37_79b9),
    });
    for near in listener.incoming() {
        let near = near.context("accept")?;
        // The server may be away: then the client hears the same from us.
        let Ok(far) = TcpStream::connect(options.to) else {
            continue;
        };
        let (near_again, far_again) = (near.try_clone()?, far.try_clone()?);
        let there = Arc::clone(&rules);
        thread::spawn(move || pass(near, far_again, &there, None));
        let back = Arc::clone(&rules);
        thread::spawn(move || {
            let limit = back.cut_after;
            pass(far, near_again, &back, limit);
        });
    }
    Ok(())
}

/// Passes one direction on until an end goes, or until it has passed as much as it may.
fn pass(mut from: TcpStream, mut to: TcpStream, rules: &Rules, limit: Option<u64>) {
    let (late, due) = mpsc::channel::<(Instant, Vec<u8>)>();
    let Ok(mut out) = to.try_clone() else {
        return;
    };
    let writer = thread::spawn(move || {
        for (at, piece) in due {
            thread::sleep(at.saturating_duration_since(Instant::now()));
            if out.write_all(&piece).is_err() {
                return;
            }
        }
    });
    let mut passed = 0;
    let mut block = vec![0_u8; 16 * 1024];
    while let Ok(size) = from.read(&mut block) {
        let piece = block.get(..size).unwrap_or_default().to_vec();
        passed += size as u64;
        // What would go beyond is lost: the server believes that it has answered.
        if limit.is_some_and(|limit| passed > limit) && rules.may_cut() {
            break;
        }
        if size == 0 || late.send((Instant::now() + rules.wait(), piece)).is_err() {
            break;
        }
    }
    drop(late);
    let _ = writer.join();
    // Both ways end together, as when a machine on the way goes.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.flush();
}

impl Rules {
    fn wait(&self) -> Duration {
        let dice = self
            .dice
            .fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        let mixed = (dice ^ (dice >> 31)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33;
        self.delay + Duration::from_millis(mixed % (self.jitter + 1))
    }

    fn may_cut(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        let taken = self
            .cuts
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        taken.is_ok()
    }
}
