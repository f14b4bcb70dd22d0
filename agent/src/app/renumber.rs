//! A new subnet in place of one that somebody else has.

use std::{future::pending, net::IpAddr, time::Duration};

use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    cli::OnSubnetLost,
    model::{lease::Claim, network::NetworkConfig},
    reconcile::{renewal::OwnLease, run::Report},
    store::LeaseStore,
};

const RETRY: Duration = Duration::from_secs(5);
/// How long the loop may take to cut the old addresses off.
const CUT_OFF: Duration = Duration::from_secs(30);

/// What is done when our subnet is lost. Only programs tell the packets of containers that still have
/// the old addresses from others.
pub fn policy(asked: OnSubnetLost, has_programs: bool) -> OnSubnetLost {
    if asked == OnSubnetLost::Renumber && !has_programs {
        warn!("--on-subnet-lost=renumber needs programs (--datapath): without them it is `stop`");
        return OnSubnetLost::Stop;
    }
    asked
}

/// Waits until our subnet is somebody else's, and a new one is leased. For ever where an operator is
/// to act.
pub async fn renumber(
    policy: OnSubnetLost,
    store: &impl LeaseStore,
    network: &NetworkConfig,
    (claim, address): (&Claim, watch::Receiver<IpAddr>),
    mut own: watch::Receiver<OwnLease>,
    mut report: watch::Receiver<Report>,
) {
    if policy == OnSubnetLost::Stop {
        return pending().await;
    }
    loop {
        if own.wait_for(OwnLease::is_lost).await.is_err() {
            return pending().await;
        }
        // The loop ends with the claim: the old addresses must be cut off before.
        let cut_off = report.wait_for(|report| report.cut_off);
        if timeout(CUT_OFF, cut_off).await.is_err() {
            warn!("the lost subnet could not be cut off in time: going on all the same");
        }
        let mut claim = claim.clone();
        claim.attrs.public_ip = *address.borrow();
        match store.claim(network, &claim).await {
            Ok(lease) => {
                info!(subnet = %lease.subnet, "a new subnet is leased");
                return;
            }
            Err(error) => warn!(%error, "no new subnet was leased: will retry"),
        }
        sleep(RETRY).await;
    }
}
