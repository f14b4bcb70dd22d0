//! Keeps the rules in place, in a task of its own.

use std::{future::pending, time::Duration};

use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};

use super::lock;
use crate::{
    firewall::{FirewallConfig, FirewallError, Iptables, Nftables},
    model::{net::Vni, network::NetworkConfig},
    reconcile::run::Report,
};

/// State of the rules: in words, and whether they are in place.
pub type RulesState = Result<String, String>;

/// Where the rules are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Manager {
    /// As flannel has them, unless asked otherwise.
    Iptables,
    /// With `EnableNFTables`.
    Nftables,
}

/// What the rules follow while the agent runs.
pub struct Followed {
    /// The network config.
    pub networks: watch::Receiver<NetworkConfig>,
    /// The uplink's name at the start.
    pub uplink: String,
    /// The loop's reports, which name the uplink from then on.
    pub reports: watch::Receiver<Report>,
}

impl Followed {
    /// The interface by which nodes may be reached without a tunnel.
    fn direct(&self) -> Option<String> {
        if !self.networks.borrow().direct_routing {
            return None;
        }
        let reports = self.reports.borrow();
        let uplink = reports.uplink.as_ref().map(|uplink| &uplink.name);
        Some(uplink.unwrap_or(&self.uplink).clone())
    }

    /// Until that is another, for so long at most.
    async fn other_than(&mut self, before: Option<&String>, every: Duration) {
        let other = async {
            while self.direct().as_ref() == before {
                let gone = tokio::select! {
                    changed = self.networks.changed() => changed.is_err(),
                    changed = self.reports.changed() => changed.is_err(),
                };
                if gone {
                    return pending().await;
                }
            }
        };
        // Either way it is time to look.
        _ = timeout(every, other).await;
    }
}

/// Looks, repairs, and tells, until it is dropped. Nothing is told before the first look is over.
pub async fn keep(
    mut config: FirewallConfig,
    manager: Manager,
    vni: Vni,
    every: Duration,
    mut followed: Followed,
    state: watch::Sender<Option<RulesState>>,
) {
    let mut repaired = 0u64;
    let mut nft = Nftables::new(vni.get());
    let mut other_is_gone = false;
    loop {
        config.direct = followed.direct();
        nft.beside(lock::networks(vni));
        let mut outcome = match manager {
            Manager::Iptables => ensure_iptables(&config, vni).await,
            Manager::Nftables => nft.ensure(&config).await,
        };
        // After ours are in place: there is no moment without any.
        if outcome.is_ok() && !other_is_gone {
            match remove_other(manager, &mut nft, vni).await {
                Ok(()) => other_is_gone = true,
                Err(error) => outcome = Err(error),
            }
        }
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
                if *state.borrow() != Some(Err(error.clone())) {
                    warn!(error, "firewall rules are not in place: will retry");
                }
                Err(error)
            }
        };
        let now = Some(now);
        state.send_if_modified(|state| {
            let changed = *state != now;
            *state = now;
            changed
        });
        followed.other_than(config.direct.as_ref(), every).await;
    }
}

async fn ensure_iptables(config: &FirewallConfig, vni: Vni) -> Result<bool, FirewallError> {
    let iptables = Iptables::open().await?.beside(&lock::networks(vni));
    iptables.ensure(config).await
}

/// What an earlier run, or flannel, left with the manager that is not asked for.
async fn remove_other(manager: Manager, nft: &mut Nftables, vni: Vni) -> Result<(), FirewallError> {
    let removed = match manager {
        Manager::Iptables => nft.remove().await.map(drop),
        Manager::Nftables => remove_iptables(vni).await,
    };
    match removed {
        // Nothing of it can be there.
        Err(error @ FirewallError::Missing { .. }) => {
            debug!(%error, "no rules of the other kind");
            Ok(())
        }
        // Who was told to change to nftables for that reason must not be told so again.
        Err(error @ FirewallError::Unreadable { .. }) if manager == Manager::Nftables => {
            warn!(%error, "rules of an earlier run may be left there");
            Ok(())
        }
        other => other,
    }
}

async fn remove_iptables(vni: Vni) -> Result<(), FirewallError> {
    let iptables = Iptables::open().await?.beside(&lock::networks(vni));
    iptables.remove().await
}

/// Removes the rules of one network, by whichever manager they were made.
pub async fn remove(vni: Vni) -> Result<(), FirewallError> {
    let mut nft = Nftables::new(vni.get());
    nft.beside(lock::networks(vni));
    remove_other(Manager::Iptables, &mut nft, vni).await?;
    remove_other(Manager::Nftables, &mut nft, vni).await
}
