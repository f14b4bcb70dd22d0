//! Keeps the rules in place, in a task of its own.

use std::{collections::BTreeSet, future::pending, time::Duration};

use ipnet::Ipv4Net;
use tokio::{sync::watch, time::timeout};
use tracing::{debug, info, warn};

use super::lock;
use crate::{
    firewall::{FirewallConfig, FirewallError, Iptables, Lost, Nftables},
    model::{net::Vni, network::NetworkConfig},
    reconcile::run::Report,
};

/// State of the rules: in words, and whether they are in place.
pub type RulesState = Result<String, String>;

/// What the task tells.
pub struct Told {
    /// State of the rules.
    pub state: watch::Sender<Option<RulesState>>,
    /// Lost subnets of which rules drop every packet of the overlay.
    pub dropped: watch::Sender<BTreeSet<Ipv4Net>>,
}

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
    /// Programs drop what is of lost subnets: rules would keep them from taking anything.
    pub has_programs: bool,
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

    /// Subnets of which rules are to drop everything; `None` while that is not known.
    fn lost(&self) -> Option<BTreeSet<Ipv4Net>> {
        let lost = self.reports.borrow().lost.clone();
        lost.map(|lost| {
            if self.has_programs {
                BTreeSet::new()
            } else {
                lost
            }
        })
    }

    /// Until either is another, for so long at most.
    async fn other_than(
        &mut self,
        direct: Option<&String>,
        lost: Option<&BTreeSet<Ipv4Net>>,
        every: Duration,
    ) {
        let other = async {
            let same = |now: &Self| {
                let unchanged = now.lost().is_none_or(|now| Some(&now) == lost);
                now.direct().as_ref() == direct && unchanged
            };
            while same(self) {
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
    told: Told,
) {
    let Told { state, dropped } = told;
    let mut repaired = 0u64;
    let mut nft = Nftables::new(vni.get());
    let mut other_is_gone = false;
    // As last known: who cannot look does not know better.
    let mut lost = None;
    let mut none_left = false;
    loop {
        config.direct = followed.direct();
        nft.beside(lock::networks(vni));
        let mut outcome = match manager {
            Manager::Iptables => ensure_iptables(&config, vni).await,
            Manager::Nftables => nft.ensure(&config).await,
        };
        lost = followed.lost().or(lost);
        if let Some(subnets) = &lost
            && !(subnets.is_empty() && none_left)
        {
            let wanted = Lost {
                vni: vni.get(),
                network: config.network,
                direct: config.direct.clone(),
                subnets: subnets.clone(),
            };
            let made = match manager {
                Manager::Iptables => drop_in_iptables(&wanted).await,
                Manager::Nftables => nft.drop_lost(&wanted).await,
            };
            none_left = made.is_ok() && subnets.is_empty();
            let now = if made.is_ok() {
                subnets.clone()
            } else {
                BTreeSet::new()
            };
            dropped.send_replace(now);
            outcome = outcome.and_then(|changed| Ok(made? || changed));
        }
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
                let cut = lost.iter().flatten().map(ToString::to_string);
                let cut = cut.collect::<Vec<_>>().join(", ");
                let cut = match cut.as_str() {
                    "" => String::new(),
                    cut => format!(", subnet_lost: {cut} dropped"),
                };
                Ok(format!("rules in place, written {repaired} times{cut}"))
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
        followed
            .other_than(config.direct.as_ref(), lost.as_ref(), every)
            .await;
    }
}

async fn ensure_iptables(config: &FirewallConfig, vni: Vni) -> Result<bool, FirewallError> {
    let iptables = Iptables::open().await?.beside(&lock::networks(vni));
    iptables.ensure(config).await
}

async fn drop_in_iptables(lost: &Lost) -> Result<bool, FirewallError> {
    Iptables::open().await?.drop_lost(lost).await
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
    iptables.drop_lost(&Lost::none(vni.get())).await?;
    iptables.remove().await
}

/// Removes what drops packets of lost subnets: nobody else knows when one is this host's again.
pub async fn remove_lost(vni: Vni) -> Result<(), FirewallError> {
    let none = Lost::none(vni.get());
    for removed in [
        drop_in_iptables(&none).await,
        Nftables::new(vni.get()).drop_lost(&none).await,
    ] {
        match removed {
            Ok(_) | Err(FirewallError::Missing { .. }) => {}
            Err(other) => return Err(other),
        }
    }
    Ok(())
}

/// Removes the rules of one network, by whichever manager they were made.
pub async fn remove(vni: Vni) -> Result<(), FirewallError> {
    let mut nft = Nftables::new(vni.get());
    nft.beside(lock::networks(vni));
    remove_other(Manager::Iptables, &mut nft, vni).await?;
    remove_other(Manager::Nftables, &mut nft, vni).await
}
