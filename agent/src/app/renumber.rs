//! A new subnet in place of one that somebody else has.

use std::{collections::BTreeSet, future::pending, net::IpAddr, time::Duration};

use ipnet::Ipv4Net;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{info, warn};

use crate::{
    cli::OnSubnetLost,
    model::lease::{Claim, Lease},
    reconcile::{renewal::OwnLease, run::Report},
    store::{LeaseStore, StoreError},
};

const RETRY: Duration = Duration::from_secs(5);
/// How long the loop may take to cut the old addresses off.
const CUT_OFF: Duration = Duration::from_secs(30);

/// Where it shows that the old addresses are cut off.
pub struct CutOff {
    /// The loop's reports.
    pub reports: watch::Receiver<Report>,
    /// Without programs: our subnet, and those of which rules drop everything.
    pub rules: Option<(Ipv4Net, watch::Receiver<BTreeSet<Ipv4Net>>)>,
}

impl CutOff {
    /// Until it is done, or was waited for as long as is of use. With a new subnet the tunnels work
    /// again: without rules, those who still have old addresses would have them back.
    async fn done(&mut self) {
        let cut_off = self.reports.wait_for(|report| report.cut_off);
        if timeout(CUT_OFF, cut_off).await.is_err() {
            warn!("the lost subnet could not be cut off in time: going on all the same");
        }
        let Some((subnet, dropped)) = &mut self.rules else {
            return;
        };
        let mut there = |dropped: &BTreeSet<Ipv4Net>| dropped.contains(subnet);
        if timeout(CUT_OFF, dropped.wait_for(&mut there))
            .await
            .is_err()
        {
            warn!("no rules drop what is of the lost subnet: no other is leased before they do");
            if dropped.wait_for(there).await.is_err() {
                pending().await
            }
        }
    }
}

/// Waits until our subnet is somebody else's, and a new one is leased. For ever where an operator is
/// to act.
pub async fn renumber(
    policy: OnSubnetLost,
    store: &impl LeaseStore,
    (claim, address): (&Claim, watch::Receiver<IpAddr>),
    mut own: watch::Receiver<OwnLease>,
    mut cut_off: CutOff,
) {
    if policy == OnSubnetLost::Stop {
        return pending().await;
    }
    loop {
        if own.wait_for(OwnLease::is_lost).await.is_err() {
            return pending().await;
        }
        // The loop ends with the claim: the old addresses must be cut off before.
        let ours_again = async {
            if own.wait_for(|own| !own.is_lost()).await.is_err() {
                pending().await
            }
        };
        tokio::select! {
            () = cut_off.done() => {}
            () = ours_again => continue,
        }
        let mut claim = claim.clone();
        claim.attrs.public_ip = *address.borrow();
        match take(store, &claim).await {
            Ok(lease) => {
                info!(subnet = %lease.subnet, "a new subnet is leased");
                return;
            }
            Err(error) => warn!(%error, "no new subnet was leased: will retry"),
        }
        sleep(RETRY).await;
    }
}

/// The next round goes by what the network config is now; so must the subnet that it begins with.
async fn take(store: &impl LeaseStore, claim: &Claim) -> Result<Lease, StoreError> {
    let network = store.network().await?;
    store.claim(&network, claim).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::lease::{Backend, LeaseAttrs},
        store::memory::MemoryStore,
    };

    fn config(range: &str) -> String {
        format!(r#"{{"Network":"10.3.0.0/16",{range}"Backend":{{"Type":"vxlan"}}}}"#)
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_subnet_is_one_of_the_config_as_it_is_now() {
        let store = MemoryStore::with_config("/x", &config(""));
        let claim = Claim {
            attrs: LeaseAttrs {
                public_ip: [192, 0, 2, 1].into(),
                backend: Backend::Other("any".to_owned()),
            },
            previous: None,
        };
        let (outcome, own) = watch::channel(OwnLease::Held);
        let (_loop, reports) = watch::channel(Report {
            cut_off: true,
            ..Report::default()
        });
        let cut_off = CutOff {
            reports,
            rules: None,
        };
        let range = r#""SubnetMin":"10.3.77.0","SubnetMax":"10.3.77.0","#;
        // What cannot be read now is no reason to go by what was.
        store.put_raw("/x/config", b"garbage", 0);
        outcome.send_replace(OwnLease::Lost("a thief holds it".to_owned()));
        // The address has changed since the round began.
        let now: IpAddr = [192, 0, 2, 9].into();
        let (_underlay, address) = watch::channel(now);
        let policy = OnSubnetLost::Renumber;
        let renumbered = renumber(policy, &store, (&claim, address), own, cut_off);
        let repair = async {
            sleep(RETRY * 3).await;
            let before = store.snapshot().await.unwrap().leases;
            store.put_raw("/x/config", config(range).as_bytes(), 0);
            before
        };
        let ((), before) = tokio::join!(renumbered, repair);
        assert!(before.is_empty(), "{before:?}");
        let leases = store.snapshot().await.unwrap().leases;
        let subnets: Vec<_> = leases.keys().map(ToString::to_string).collect();
        assert_eq!(subnets, ["10.3.77.0/24"]);
        assert!(leases.values().all(|lease| lease.attrs.public_ip == now));
    }
}
