//! Keeps our own lease alive, and takes it again when it is lost and nobody else has it.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};
use tracing::{error, info, warn};

use crate::{
    lease::{
        TTL,
        keeper::{Keeper, Standing},
    },
    model::{
        lease::{Claim, Lease},
        network::NetworkConfig,
    },
    store::{LeaseStore, StoreError},
};

/// What is known of our own lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnLease {
    /// The store confirmed it.
    Held,
    /// The store has not confirmed it for a while: not a loss.
    Unconfirmed(String),
    /// Somebody else has our subnet, or it cannot be had any more.
    Lost(String),
}

/// Everything that the task needs.
pub struct Renewal<S> {
    /// The store.
    pub store: Arc<S>,
    /// Cluster configuration, for taking the subnet again.
    pub network: NetworkConfig,
    /// What we publish.
    pub claim: Claim,
    /// The lease.
    pub lease: Lease,
    /// Renew at the latest this long before the end.
    pub margin: Duration,
    /// Rung when our own key changed or went.
    pub bell: Arc<Notify>,
    /// Where the outcome goes.
    pub outcome: watch::Sender<OwnLease>,
}

impl<S: LeaseStore> Renewal<S> {
    /// Renews until it is dropped.
    pub async fn run(mut self) {
        let mut keeper = Keeper::new(TTL, self.margin, now());
        loop {
            tokio::select! {
                () = sleep_until(keeper.due().into()) => {}
                () = self.bell.notified() => {}
            }
            let asked = now();
            let state = match self.store.renew(&self.lease).await {
                Ok(()) => {
                    keeper.renewed(asked);
                    OwnLease::Held
                }
                Err(StoreError::LeaseLost { subnet, why }) => {
                    warn!(%subnet, why, "our lease is lost: taking it again");
                    self.take_again(&mut keeper, asked).await
                }
                Err(error) => {
                    keeper.failed(now());
                    warn!(%error, "our lease was not renewed: will retry");
                    match (&*self.outcome.borrow(), keeper.standing(now())) {
                        // Silence does not give back what the store said is gone.
                        (lost @ OwnLease::Lost(_), _) => lost.clone(),
                        (_, Standing::Confirmed | Standing::Overdue) => OwnLease::Held,
                        (_, Standing::Unconfirmed) => OwnLease::Unconfirmed(error.to_string()),
                    }
                }
            };
            self.outcome.send_replace(state);
        }
    }

    /// Claims the same subnet. Another one is of no use: the containers have addresses of this
    /// one, so it is given back.
    async fn take_again(&mut self, keeper: &mut Keeper, asked: std::time::Instant) -> OwnLease {
        let own = self.lease.subnet;
        let claim = Claim {
            previous: Some(own),
            ..self.claim.clone()
        };
        match self.store.claim(&self.network, &claim).await {
            Ok(lease) if lease.subnet == own => {
                info!(subnet = %own, "our lease is ours again");
                self.lease = lease;
                keeper.renewed(asked);
                OwnLease::Held
            }
            Ok(other) => {
                error!(subnet = %own, "somebody else holds our subnet");
                if let Err(error) = self.store.release(&other).await {
                    warn!(%error, subnet = %other.subnet, "an unneeded lease was not given back");
                }
                keeper.failed(now());
                OwnLease::Lost(format!(
                    "somebody else holds {own}: restart to take a new subnet"
                ))
            }
            Err(error) => {
                keeper.failed(now());
                warn!(%error, "our subnet was not taken again: will retry");
                OwnLease::Lost(error.to_string())
            }
        }
    }
}

/// The runtime's clock, which a test can stop.
fn now() -> std::time::Instant {
    Instant::now().into_std()
}

#[cfg(test)]
mod tests;
