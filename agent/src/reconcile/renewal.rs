//! Keeps our own lease alive, takes it again when it is lost and nobody else has it, and stops
//! writing when a second node believes to be us.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use tracing::{debug, error, info, warn};

use crate::{
    clock::Clock,
    lease::keeper::{Keeper, Moment, Standing},
    model::lease::Lease,
    store::{LeaseStore, OnTwin, Retaken, StoreError},
};

/// The clock is looked at this often: a sleep does not end early because the machine was suspended.
const SLICE: Duration = Duration::from_secs(5);

/// What is known of our own lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnLease {
    /// The store confirmed it.
    Held,
    /// The store has not confirmed it for a while: not a loss.
    Unconfirmed {
        /// When it last did.
        since: String,
        /// Why it does not.
        why: String,
    },
    /// It went, and is not ours again yet; nobody else is known to have it.
    Missing(String),
    /// Somebody else has our subnet.
    Lost(String),
    /// A second node writes our record: see `OnTwin`.
    Conflict(String),
}

impl OwnLease {
    /// Whether the node may call itself ready.
    #[must_use]
    pub const fn is_held(&self) -> bool {
        matches!(self, Self::Held | Self::Unconfirmed { .. })
    }

    /// Whether the subnet is somebody else's: its addresses must not be used in the overlay.
    #[must_use]
    pub const fn is_lost(&self) -> bool {
        matches!(self, Self::Lost(_))
    }
}

/// Everything that the task needs.
pub struct Renewal<S, C> {
    /// The store.
    pub store: Arc<S>,
    /// Where the time is read.
    pub clock: C,
    /// The lease, as we published it.
    pub lease: Lease,
    /// Our record named another MAC when we came: perhaps a second node's.
    pub found_other: bool,
    /// How long a lease lives without renewal.
    pub ttl: Duration,
    /// Renew at the latest this long before the end of a lease of the usual length.
    pub margin: Duration,
    /// The address that our record is to name.
    pub address: watch::Receiver<IpAddr>,
    /// Rung when our own key changed or went.
    pub bell: Arc<Notify>,
    /// Where the outcome goes.
    pub outcome: watch::Sender<OwnLease>,
}

impl<S: LeaseStore, C: Clock> Renewal<S, C> {
    /// Renews until it is dropped.
    pub async fn run(self) {
        let Self {
            store,
            clock,
            lease,
            found_other,
            ttl,
            margin,
            mut address,
            bell,
            outcome,
        } = self;
        let mut keeper = Keeper::new(ttl, margin, clock.now());
        let mut hold = Hold {
            store,
            published: lease.clone(),
            former: BTreeSet::new(),
            lease,
            found_other,
            silent: false,
            strange_writes: 0,
            now: OwnLease::Held,
        };
        loop {
            tokio::select! {
                () = due(&mut keeper, &clock) => {}
                () = bell.notified() => {}
                new = changed(&mut address) => hold.move_to(new),
            }
            let asked = clock.now();
            match hold.attempt().await {
                Ok(()) => keeper.renewed(asked),
                Err(why) => {
                    let now = clock.now();
                    keeper.failed(now, rand::random());
                    hold.doubt(&keeper, now, why);
                }
            }
            outcome.send_replace(hold.now.clone());
        }
    }
}

async fn due(keeper: &mut Keeper, clock: &impl Clock) {
    loop {
        let left = keeper.left(clock.now());
        if left.is_zero() {
            return;
        }
        sleep(left.min(SLICE)).await;
    }
}

/// Waits for another address; for ever where nobody tells of one.
async fn changed(address: &mut watch::Receiver<IpAddr>) -> IpAddr {
    if address.changed().await.is_err() {
        std::future::pending().await
    }
    *address.borrow_and_update()
}

/// Our hold on the subnet.
struct Hold<S> {
    store: Arc<S>,
    /// What we want the record to say.
    published: Lease,
    /// Addresses that our record has named: by a write that was not answered, or in data of an older
    /// day, it may name one of them still.
    former: BTreeSet<IpAddr>,
    /// The record that is kept alive.
    lease: Lease,
    found_other: bool,
    /// The store did not answer the last time, and that has been logged.
    silent: bool,
    /// How often a second node has written our record since we came.
    strange_writes: u32,
    now: OwnLease,
}

impl<S: LeaseStore> Hold<S> {
    fn move_to(&mut self, new: IpAddr) {
        let old = std::mem::replace(&mut self.published.attrs.public_ip, new);
        self.former.insert(old);
        self.former.remove(&new);
    }

    /// Renews, and takes again what is lost. `Err` is a reason to try again soon.
    async fn attempt(&mut self) -> Result<(), String> {
        match self.confirm().await {
            Ok(()) => {
                if std::mem::take(&mut self.silent) {
                    info!("our lease is renewed again");
                }
                if !matches!(self.now, OwnLease::Conflict(_)) {
                    self.now = OwnLease::Held;
                }
                Ok(())
            }
            Err(StoreError::LeaseLost { subnet, why }) => {
                if matches!(self.now, OwnLease::Conflict(_)) {
                    return self.follow_twin().await;
                }
                if !self.now.is_lost() {
                    warn!(%subnet, why, "our lease is lost: taking it again");
                }
                match self.retake().await {
                    Ok(Retaken::Twin(twin)) => self.meet(twin).await,
                    other => {
                        self.settle(other)?;
                        self.name_us().await.map_err(|error| error.to_string())
                    }
                }
            }
            Err(error) => {
                if self.silent {
                    debug!(%error, "our lease was not renewed again: will retry");
                } else {
                    warn!(%error, "our lease was not renewed: will retry");
                }
                self.silent = true;
                Err(error.to_string())
            }
        }
    }

    /// Renews the record, or writes it where our address is another now. A second node's stays as it
    /// is.
    async fn confirm(&mut self) -> Result<(), StoreError> {
        let is_named = self.lease.attrs == self.published.attrs;
        if is_named || matches!(self.now, OwnLease::Conflict(_)) {
            return self.store.renew(&self.lease).await;
        }
        self.name_us().await
    }

    /// Takes the subnet again. A record with our MAC and an address that we had is ours, too.
    async fn retake(&self) -> Result<Retaken, StoreError> {
        let judged = self.store.retake(&self.published, OnTwin::Leave).await?;
        if matches!(judged, Retaken::Taken { .. }) {
            for address in &self.former {
                let mut before = self.published.clone();
                before.attrs.public_ip = *address;
                let ours = self.store.retake(&before, OnTwin::Leave).await?;
                if matches!(ours, Retaken::Held(_)) {
                    return Ok(ours);
                }
            }
        }
        Ok(judged)
    }

    /// Writes our address where the record names another.
    async fn name_us(&mut self) -> Result<(), StoreError> {
        let Lease { subnet, attrs, .. } = &self.published;
        if self.lease.attrs == *attrs {
            return Ok(());
        }
        self.lease = self.store.republish(&self.lease, attrs).await?;
        info!(%subnet, address = %attrs.public_ip, "our record names our new address");
        Ok(())
    }

    /// The store did not confirm the lease.
    fn doubt(&mut self, keeper: &Keeper, now: Moment, why: String) {
        match (&self.now, keeper.standing(now)) {
            // Silence does not give back what the store said is gone.
            (OwnLease::Missing(_) | OwnLease::Lost(_) | OwnLease::Conflict(_), _) => {}
            (_, Standing::Confirmed | Standing::Overdue) => self.now = OwnLease::Held,
            (OwnLease::Unconfirmed { since, why: _ }, Standing::Unconfirmed) => {
                let since = since.clone();
                self.now = OwnLease::Unconfirmed { since, why };
            }
            (OwnLease::Held, Standing::Unconfirmed) => {
                let confirmed = SystemTime::now().checked_sub(keeper.age(now));
                let since = confirmed.unwrap_or(SystemTime::UNIX_EPOCH);
                let since = humantime::format_rfc3339_seconds(since).to_string();
                warn!(
                    since,
                    why, "our lease is unconfirmed: not a loss, all goes on"
                );
                self.now = OwnLease::Unconfirmed { since, why };
            }
        }
    }

    /// What came of taking the same subnet again. Another one is of no use: the containers have
    /// addresses of this one.
    fn settle(&mut self, retaken: Result<Retaken, StoreError>) -> Result<(), String> {
        let own = self.published.subnet;
        match retaken {
            Ok(Retaken::Held(lease)) => {
                info!(subnet = %own, "our lease is ours again");
                self.lease = lease;
                self.now = OwnLease::Held;
                Ok(())
            }
            Ok(Retaken::Taken { by }) => {
                self.lose(&by);
                Err(by)
            }
            Ok(Retaken::Twin(_)) => {
                // It wrote between our look and our write, which was not done.
                let why = format!("{own} is being written by another node with our address");
                self.now = OwnLease::Missing(why.clone());
                Err(why)
            }
            Err(error) => {
                warn!(%error, "our subnet was not taken again: will retry");
                let why = error.to_string();
                if !self.now.is_lost() {
                    self.now = OwnLease::Missing(why.clone());
                }
                Err(why)
            }
        }
    }

    fn lose(&mut self, by: &str) {
        let own = self.published.subnet;
        if !self.now.is_lost() {
            error!(subnet = %own, by, "somebody else has our subnet");
        }
        self.now = OwnLease::Lost(format!(
            "{own} is somebody else's: {by}; restart weft for a new subnet, and containers after it, or remove that record"
        ));
    }

    /// A second node wrote our record. It may have been a slip, so the first time ours is put back.
    /// Who found the record with another MAC at the start has seen one such write already, and puts
    /// its own back only so that the other one sees a second as well.
    async fn meet(&mut self, twin: Lease) -> Result<(), String> {
        self.strange_writes += 1;
        let known = self.strange_writes > 1;
        let theirs = mac_of(&twin);
        warn!(subnet = %twin.subnet, mac = theirs, "another node with our address wrote our record");
        if !known {
            let retaken = self.store.retake(&self.published, OnTwin::Overwrite).await;
            self.settle(retaken)?;
        } else {
            self.lease = twin;
        }
        if known || self.found_other {
            let address = self.published.attrs.public_ip;
            let why = format!(
                "another node with the MAC {theirs} publishes {address} and {} too: give one of the two another address (--iface, --public-ip) and restart both",
                self.published.subnet
            );
            error!(why, "our record is not written any more");
            self.now = OwnLease::Conflict(why);
        }
        Ok(())
    }

    /// Our record changed while we do not write: whoever wrote it, it is kept alive, because packets
    /// still go by it, unless the subnet went to another node.
    async fn follow_twin(&mut self) -> Result<(), String> {
        let snapshot = self.store.snapshot().await;
        let mut snapshot = snapshot.map_err(|error| error.to_string())?;
        match snapshot.leases.remove(&self.published.subnet) {
            Some(found) if found.attrs.public_ip == self.published.attrs.public_ip => {
                self.lease = found;
                Ok(())
            }
            Some(found) => {
                let by = format!("{} holds it", found.attrs.public_ip);
                self.lose(&by);
                Err(by)
            }
            None => Err(format!("{} has no record", self.published.subnet)),
        }
    }
}

fn mac_of(lease: &Lease) -> String {
    let mac = lease.attrs.vtep_mac();
    mac.map_or_else(|| "(none)".to_owned(), |mac| mac.to_string())
}

#[cfg(test)]
mod tests;
