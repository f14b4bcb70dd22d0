//! Keeps the host's rules read: after a change, and now and then.

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt as _};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};
use tracing::{info, warn};

use super::{RulesRead, read};

/// Changes that come this close together are read once.
const QUIET: Duration = Duration::from_millis(200);
/// Without any news.
const EVERY: Duration = Duration::from_secs(30);
/// Legacy iptables tells nobody that it changed.
const LEGACY: Duration = Duration::from_secs(2);

/// Reads the rules whenever `changes` says so, and tells when they differ. Ends with `told`.
pub async fn keep(changes: impl Stream<Item = ()> + Unpin, told: watch::Sender<Arc<RulesRead>>) {
    // Without events there is the interval.
    let mut changes = changes.chain(futures::stream::pending());
    let mut legacy = read::legacy().await;
    let mut read_at = Instant::now();
    loop {
        let heard = tokio::select! {
            _ = changes.next() => true,
            () = sleep(LEGACY) => false,
            () = told.closed() => return,
        };
        if heard {
            // Whatever else comes now is part of it.
            let quiet = Instant::now() + QUIET;
            while timeout_at(quiet, changes.next()).await.is_ok() {}
        } else {
            let now = read::legacy().await;
            let same = now == legacy;
            legacy = now;
            if same && read_at.elapsed() < EVERY {
                continue;
            }
        }
        read_at = Instant::now();
        let now = read::rules().await;
        told.send_if_modified(|before| {
            if **before == now {
                return false;
            }
            match &now {
                Ok(_) => info!("the host's packet filter rules changed"),
                Err(why) => warn!(why, "packets stay with the kernel"),
            }
            *before = Arc::new(now);
            true
        });
    }
}
