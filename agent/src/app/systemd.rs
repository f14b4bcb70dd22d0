//! What systemd is told of the agent (`Type=notify`, `WatchdogSec=`), where it asked to be told.

use std::{sync::Arc, time::Duration};

use sd_notify::NotifyState;
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval},
};
use tracing::{info, warn};

use crate::{admin::status::Status, reconcile::pulse::Pulse};

/// Signs of life within the time that systemd waits for one: one of them may come late.
const SIGNS: u32 = 3;
/// Characters of the state: systemd does not listen to long messages, and nobody reads them.
const LONGEST: usize = 200;

/// Once the agent is ready; units that are ordered after it start now.
pub fn ready() {
    tell(&NotifyState::Ready);
}

/// The agent was asked to stop, or ends by itself.
pub fn stopping() {
    tell(&NotifyState::Stopping);
}

/// Tells the state in a line whenever it changes, and, if there is a watchdog, that the agent is
/// alive: only while its tasks move, so that one that hangs is restarted. Runs until it is dropped.
pub async fn keep(mut status: watch::Receiver<Status>, pulse: Arc<Pulse>) {
    let limit = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
    if let Some(limit) = limit {
        info!(?limit, "systemd's watchdog waits for signs of life");
    }
    let mut beat = interval(limit.map_or(Duration::MAX, |limit| limit / SIGNS));
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        let line = line(&status.borrow_and_update());
        if line != told {
            tell(&NotifyState::Status(&line));
            told = line;
        }
        tokio::select! {
            changed = status.changed() => if changed.is_err() {
                return;
            },
            _ = beat.tick(), if limit.is_some() => if pulse.hung().is_empty() {
                tell(&NotifyState::Watchdog);
            },
        }
    }
}

/// The first thing that is wrong stands for all: `weft status` has them.
fn line(status: &Status) -> String {
    let wrong = status.components.iter().find(|part| !part.ok);
    let wrong = wrong.map(|part| format!("{}: {}", part.name, part.detail));
    let text = match (status.ready, wrong) {
        (true, None) => format!("ready, {} peers", status.peers),
        (true, Some(wrong)) => format!("ready, degraded: {wrong}"),
        (false, Some(wrong)) => format!("not ready: {wrong}"),
        (false, None) => "not ready".to_owned(),
    };
    // A line of its own would be another message.
    let mut text = text.replace('\n', " ");
    if let Some((end, _)) = text.char_indices().nth(LONGEST) {
        text.truncate(end);
        text.push('…');
    }
    text
}

fn tell(what: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(what)) {
        warn!(%error, ?what, "systemd was not told of the agent's state");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::Component;

    #[test]
    fn the_state_is_one_line() {
        let mut status = Status::default();
        assert_eq!(line(&status), "not ready");
        status.ready = true;
        assert_eq!(line(&status), "ready, 0 peers");
        status.components = vec![
            Component::good("lease", "held"),
            Component::bad("store", "silent\nREADY=1"),
            Component::bad("uplink", "gone"),
        ];
        assert_eq!(line(&status), "ready, degraded: store: silent READY=1");
        status.ready = false;
        assert_eq!(line(&status), "not ready: store: silent READY=1");
        status.components = vec![Component::bad("store", "ä".repeat(60_000))];
        assert_eq!(line(&status).chars().count(), LONGEST + 1);
    }
}
