//! Tells systemd that the agent is ready, where systemd asked to be told (`Type=notify`).

use sd_notify::NotifyState;
use tracing::warn;

/// Once the agent is ready; units that are ordered after it start now.
pub fn ready() {
    if let Err(error) = sd_notify::notify(&[NotifyState::Ready]) {
        warn!(%error, "systemd was not told that the agent is ready");
    }
}
