//! Keeps the rules in place, in a task of its own.

use std::time::Duration;

use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use crate::firewall::{FirewallConfig, Iptables};

/// State of the rules: in words, and whether they are in place.
pub type RulesState = Result<String, String>;

/// Looks, repairs, and tells, until it is dropped.
pub async fn keep(config: FirewallConfig, every: Duration, state: watch::Sender<RulesState>) {
    let mut repaired = 0u64;
    loop {
        let outcome = match Iptables::open().await {
            Ok(iptables) => iptables.ensure(&config).await,
            Err(error) => Err(error),
        };
        let now = match outcome {
            Ok(changed) => {
                if changed {
                    info!("firewall rules written");
                    repaired += 1;
                }
                Ok(format!("rules in place, written {repaired} times"))
            }
            Err(error) => {
                let error = error.to_string();
                if state.borrow().as_ref().err() != Some(&error) {
                    warn!(error, "firewall rules are not in place: will retry");
                }
                Err(error)
            }
        };
        state.send_if_modified(|state| {
            let changed = *state != now;
            *state = now;
            changed
        });
        sleep(every).await;
    }
}
