//! When to renew, and how sure we are of the lease. The clock is passed in.

use std::time::{Duration, Instant};

/// Never sooner, whatever the TTL and margin: a slip in either must not become a storm.
const LEAST_WAIT: Duration = Duration::from_secs(1);
/// The longest wait between two attempts while the store fails. flannel's number.
pub(crate) const MOST_RETRY: Duration = Duration::from_secs(60);

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
    confirmed: Instant,
    failures: u32,
    next: Instant,
}

impl Keeper {
    /// Renews every third of the TTL, or `margin` before its end where that is earlier.
    /// `now` is when the lease was last known to be alive.
    #[must_use]
    pub fn new(ttl: Duration, margin: Duration, now: Instant) -> Self {
        let every = (ttl / 3).min(ttl.saturating_sub(margin)).max(LEAST_WAIT);
        Self {
            ttl,
            every,
            confirmed: now,
            failures: 0,
            next: now + every,
        }
    }

    /// When to renew next.
    #[must_use]
    pub const fn due(&self) -> Instant {
        self.next
    }

    /// The store renewed the lease. `asked` is when it was asked, not when it answered: the TTL
    /// runs from some time between the two.
    pub fn renewed(&mut self, asked: Instant) {
        self.confirmed = asked;
        self.failures = 0;
        self.next = asked + self.every;
    }

    /// The store could not be asked: try again after a second, two, four, up to a minute.
    pub fn failed(&mut self, now: Instant) {
        let wait = LEAST_WAIT.saturating_mul(1 << self.failures.min(6));
        self.failures = self.failures.saturating_add(1);
        self.next = now + wait.min(MOST_RETRY);
    }

    /// How sure we are of the lease.
    #[must_use]
    pub fn standing(&self, now: Instant) -> Standing {
        let age = now.saturating_duration_since(self.confirmed);
        if age >= self.ttl {
            Standing::Unconfirmed
        } else if self.failures > 0 {
            Standing::Overdue
        } else {
            Standing::Confirmed
        }
    }

    /// Since when the lease has been known to be alive, for status and metrics.
    #[must_use]
    pub const fn confirmed(&self) -> Instant {
        self.confirmed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::TTL;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_third_of_the_ttl_or_the_margin_whichever_is_earlier() {
        let now = Instant::now();
        assert_eq!(Keeper::new(TTL, HOUR, now).due(), now + 8 * HOUR);
        assert_eq!(Keeper::new(TTL, 20 * HOUR, now).due(), now + 4 * HOUR);
        assert_eq!(Keeper::new(TTL, 30 * HOUR, now).due(), now + LEAST_WAIT);
        assert_eq!(
            Keeper::new(Duration::ZERO, HOUR, now).due(),
            now + LEAST_WAIT
        );
    }

    #[test]
    fn failures_are_retried_faster_and_then_every_minute() {
        let now = Instant::now();
        let mut keeper = Keeper::new(TTL, HOUR, now);
        let mut at = keeper.due();
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            keeper.failed(at);
            assert_eq!(keeper.due(), at + Duration::from_secs(seconds));
            assert_eq!(keeper.standing(at), Standing::Overdue);
            at = keeper.due();
        }
        keeper.renewed(at);
        assert_eq!(keeper.due(), at + 8 * HOUR);
        assert_eq!(keeper.standing(at), Standing::Confirmed);
        keeper.failed(at);
        assert_eq!(keeper.due(), at + LEAST_WAIT);
    }

    #[test]
    fn after_the_ttl_nothing_is_sure() {
        let now = Instant::now();
        let mut keeper = Keeper::new(TTL, HOUR, now);
        assert_eq!(keeper.standing(now + TTL - LEAST_WAIT), Standing::Confirmed);
        assert_eq!(keeper.standing(now + TTL), Standing::Unconfirmed);
        keeper.failed(now + TTL);
        assert_eq!(keeper.standing(now + TTL), Standing::Unconfirmed);
        // A clock that went back is no reason for alarm.
        keeper.renewed(now + TTL);
        assert_eq!(keeper.standing(now), Standing::Confirmed);
    }
}
