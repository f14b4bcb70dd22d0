//! When to renew, and how sure we are of the lease. The clock is passed in.

use std::time::Duration;

use super::TTL;

/// Never sooner, whatever the TTL and margin: a slip in either must not become a storm.
pub(crate) const LEAST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two attempts while the store fails. flannel's number.
pub(crate) const MOST_RETRY: Duration = Duration::from_secs(60);
/// Of a short TTL, a failing store is asked at least this many times.
const RETRIES: u32 = 8;

/// A point in time: how long the machine has been up, the time it slept included. A clock that is
/// set does not move it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(pub Duration);

impl Moment {
    /// Time from `earlier` to here; zero where that is not earlier.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// This much later.
    #[must_use]
    pub const fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(wait))
    }
}

/// How sure we are that the lease is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The store said so, less than a renewal ago.
    Confirmed,
    /// A renewal is due and has not succeeded; the lease still lives.
    Overdue,
    /// The store has had time to drop the lease. Only the store can say whether it did.
    Unconfirmed,
}

/// Renewal times of one lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keeper {
    ttl: Duration,
    every: Duration,
    confirmed: Moment,
    failures: u32,
    /// When the wait for the next attempt began, and how long it is.
    waiting: (Moment, Duration),
}

impl Keeper {
    /// Renews every third of the TTL, or `margin` before its end where that is earlier. The margin
    /// is meant for flannel's TTL, and shrinks or grows with ours.
    /// `now` is when the lease was last known to be alive.
    #[must_use]
    pub fn new(ttl: Duration, margin: Duration, now: Moment) -> Self {
        let margin = margin.mul_f64(ttl.as_secs_f64() / TTL.as_secs_f64());
        let every = (ttl / 3).min(ttl.saturating_sub(margin)).max(LEAST_WAIT);
        Self {
            ttl,
            every,
            confirmed: now,
            failures: 0,
            waiting: (now, every),
        }
    }

    /// How long to wait from now to the next attempt. Where the clock went back, the wait begins
    /// anew.
    pub fn left(&mut self, now: Moment) -> Duration {
        let (began, wait) = &mut self.waiting;
        *began = now.min(*began);
        began.after(*wait).since(now)
    }

    /// The store renewed the lease. `asked` is when it was asked, not when it answered: the TTL
    /// runs from some time between the two.
    pub fn renewed(&mut self, asked: Moment) {
        self.confirmed = asked;
        self.failures = 0;
        self.waiting = (asked, self.every);
    }

    /// The store could not be asked: try again after a second, two, four, up to a minute, and
    /// sooner than that with a short TTL. `luck`, from 0 to 1, takes off up to half, so that nodes
    /// that failed together do not ask together.
    pub fn failed(&mut self, now: Moment, luck: f64) {
        let most = MOST_RETRY.min(self.ttl / RETRIES).max(LEAST_WAIT);
        let wait = LEAST_WAIT
            .saturating_mul(1 << self.failures.min(6))
            .min(most);
        self.failures = self.failures.saturating_add(1);
        self.waiting = (now, wait.mul_f64(1.0 - luck.clamp(0.0, 1.0) / 2.0));
    }

    /// How sure we are of the lease.
    #[must_use]
    pub fn standing(&self, now: Moment) -> Standing {
        if self.age(now) >= self.ttl {
            Standing::Unconfirmed
        } else if self.failures > 0 {
            Standing::Overdue
        } else {
            Standing::Confirmed
        }
    }

    /// How long ago the lease was last known to be alive.
    #[must_use]
    pub const fn age(&self, now: Moment) -> Duration {
        now.since(self.confirmed)
    }
}

#[cfg(test)]
mod tests;
