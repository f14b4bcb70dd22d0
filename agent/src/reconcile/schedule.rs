//! When the loop looks, and at how much. Pure but for the clock.

use std::time::Duration;

use tokio::time::Instant;

use super::seen::Sight;

/// A look even when nothing was heard: a full one, or, where full ones are rarer, one at settings.
pub(super) const RESYNC: Duration = Duration::from_secs(5);
/// With thousands of peers a full look takes its time, and events tell of most changes: per peer,
/// so that an idle agent needs a few thousandths of a processor however many there are.
const RESYNC_EACH: Duration = Duration::from_millis(20);
/// How soon what failed is tried again at first; twice as late each time, up to `RESYNC`.
pub(super) const RETRY: Duration = Duration::from_secs(1);
/// Events that come this close together are answered by one look.
const QUIET: Duration = Duration::from_millis(5);
/// Full looks may take at most one part in this many of a processor's time.
const SHARE: u32 = 5;

/// What a look cost. On a busy machine it waits for others most of the time, and changes there are
/// as urgent as anywhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cost {
    /// From its beginning to its end.
    pub took: Duration,
    /// Of a processor's time.
    pub busy: Duration,
}

/// What is due, and when.
#[derive(Debug)]
pub struct Schedule {
    near: Option<Instant>,
    full: Option<Instant>,
    /// The next look at all even if nothing happens.
    resync: Instant,
    tick: Instant,
    /// No look of that kind before.
    near_from: Instant,
    full_from: Instant,
    retry: Duration,
}

impl Schedule {
    /// A first look is due at once.
    #[must_use]
    pub fn new() -> Self {
        let now = Instant::now();
        Self {
            near: None,
            full: Some(now),
            resync: now,
            tick: now + RESYNC,
            near_from: now,
            full_from: now,
            retry: RETRY,
        }
    }

    /// When to look next, and at how much.
    #[must_use]
    pub fn next(&self) -> (Instant, Sight) {
        let full = self.full.map_or(self.resync, |at| at.min(self.resync));
        let mut next = (full, Sight::Full);
        if let Some(at) = self.near
            && at < next.0
        {
            next = (at, Sight::Near);
        }
        if self.tick < next.0 {
            next = (self.tick, Sight::Tick);
        }
        next
    }

    /// Something happened. Counted from the first event: more of them must not put the look off.
    pub fn due(&mut self, sight: Sight) {
        let soon = Instant::now() + QUIET;
        match sight {
            Sight::Tick => {}
            Sight::Near => _ = self.near.get_or_insert(soon.max(self.near_from)),
            Sight::Full => _ = self.full.get_or_insert(soon.max(self.full_from)),
        }
    }

    /// A full look is due then even if nothing happens.
    pub fn no_later(&mut self, at: Instant) {
        self.resync = self.resync.min(at);
    }

    /// There is nothing to look for yet.
    pub fn wait(&mut self) {
        *self = Self {
            full: None,
            resync: Instant::now() + RESYNC,
            ..Self::new()
        };
    }

    /// Settings were looked at.
    pub fn ticked(&mut self) {
        self.tick = Instant::now() + RESYNC;
    }

    /// A look ended. What failed is looked at again soon.
    pub fn looked(&mut self, sight: Sight, cost: Cost, peers: usize, well: bool) {
        let now = Instant::now();
        self.tick = now + RESYNC;
        self.near = None;
        // A change of a lease waits less: an agent that does nothing else may take half the time.
        self.near_from = now
            + if sight == Sight::Near {
                cost.took
            } else {
                QUIET
            };
        if sight == Sight::Full {
            self.full = None;
            self.full_from = now + cost.took.max(cost.busy * SHARE);
            let peers = u32::try_from(peers).unwrap_or(u32::MAX);
            self.resync = now + RESYNC.max(RESYNC_EACH.saturating_mul(peers));
        }
        if well {
            self.retry = RETRY;
        } else {
            self.resync = now + self.retry;
            self.retry = (self.retry * 2).min(RESYNC);
        }
    }
}

impl Default for Schedule {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn in_millis(schedule: &Schedule) -> (u128, Sight) {
        let (at, sight) = schedule.next();
        let wait = at.saturating_duration_since(Instant::now());
        (wait.as_millis(), sight)
    }

    /// So many milliseconds on an idle machine.
    fn idle(millis: u64) -> Cost {
        let took = Duration::from_millis(millis);
        Cost { took, busy: took }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_agent_looks_rarely_where_there_are_many_peers() {
        let mut schedule = Schedule::new();
        assert_eq!(in_millis(&schedule), (0, Sight::Full));
        let took = idle(2);
        schedule.looked(Sight::Full, took, 100, true);
        assert_eq!(in_millis(&schedule), (5_000, Sight::Full));
        schedule.looked(Sight::Full, took, 10_000, true);
        for _ in 0..39 {
            assert_eq!(in_millis(&schedule), (5_000, Sight::Tick));
            advance(RESYNC).await;
            schedule.ticked();
        }
        assert_eq!(in_millis(&schedule), (5_000, Sight::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_a_peer_does_not_wait_for_the_next_full_look() {
        let mut schedule = Schedule::new();
        schedule.looked(Sight::Full, idle(200), 10_000, true);
        schedule.due(Sight::Full);
        assert_eq!(in_millis(&schedule), (1_000, Sight::Full));
        schedule.due(Sight::Near);
        assert_eq!(in_millis(&schedule), (5, Sight::Near));
        advance(Duration::from_millis(200)).await;
        schedule.looked(Sight::Near, idle(50), 10_000, true);
        // The near look did not answer for the full one.
        assert_eq!(in_millis(&schedule), (800, Sight::Full));
        schedule.due(Sight::Near);
        assert_eq!(in_millis(&schedule), (50, Sight::Near));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_a_processor_is_no_work() {
        let mut schedule = Schedule::new();
        let busy = Duration::from_millis(20);
        let took = Duration::from_millis(150);
        schedule.looked(Sight::Full, Cost { took, busy }, 10, true);
        schedule.due(Sight::Full);
        assert_eq!(in_millis(&schedule), (150, Sight::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_at_a_given_time_puts_no_other_off() {
        let mut schedule = Schedule::new();
        schedule.looked(Sight::Full, idle(2), 10_000, true);
        schedule.no_later(Instant::now() + Duration::from_millis(500));
        assert_eq!(in_millis(&schedule), (500, Sight::Full));
        schedule.due(Sight::Full);
        assert_eq!(in_millis(&schedule), (10, Sight::Full));
        schedule.no_later(Instant::now() + Duration::from_secs(900));
        assert_eq!(in_millis(&schedule), (10, Sight::Full));
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_is_tried_again_later_and_later() {
        let mut schedule = Schedule::new();
        schedule.looked(Sight::Full, Cost::default(), 10_000, true);
        for wait in [1_000, 2_000, 4_000, 5_000, 5_000] {
            schedule.looked(Sight::Near, Cost::default(), 10_000, false);
            assert_eq!(in_millis(&schedule), (wait, Sight::Full));
        }
        schedule.looked(Sight::Full, Cost::default(), 0, true);
        schedule.looked(Sight::Full, Cost::default(), 0, false);
        assert_eq!(in_millis(&schedule), (1_000, Sight::Full));
    }
}
