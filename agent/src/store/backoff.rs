//! How long to wait between two attempts: longer each time, and never as long as the others wait.

use std::time::Duration;

use rand::Rng;

/// The first wait is at most this long.
pub const FIRST: Duration = Duration::from_millis(100);
/// No wait is longer.
pub const MOST: Duration = Duration::from_secs(5);

/// Attempts that failed in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The wait after one more failure: any time up to the limit, which doubles. A fleet whose
    /// store comes back must not ask it all at once.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        self.next_within(MOST, rng)
    }

    /// The same, with another limit.
    pub fn next_within(&mut self, most: Duration, rng: &mut impl Rng) -> Duration {
        let most = limit(self.failures).min(most);
        self.failures = self.failures.saturating_add(1);
        rng.random_range(Duration::ZERO..=most)
    }

    /// An attempt succeeded.
    pub const fn reset(&mut self) {
        self.failures = 0;
    }
}

fn limit(failures: u32) -> Duration {
    FIRST.saturating_mul(1 << failures.min(16)).min(MOST)
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn waits_grow_to_the_limit_and_are_spread_below_it() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut longest = [Duration::ZERO; 10];
        let mut shortest = [MOST; 10];
        for _ in 0..500 {
            let mut backoff = Backoff::default();
            for (n, (long, short)) in longest.iter_mut().zip(&mut shortest).enumerate() {
                let wait = backoff.next(&mut rng);
                assert!(wait <= limit(u32::try_from(n).unwrap()));
                *long = wait.max(*long);
                *short = wait.min(*short);
            }
        }
        for (n, most) in [100, 200, 400, 800, 1600, 3200, 5000, 5000, 5000, 5000]
            .into_iter()
            .enumerate()
        {
            let most = Duration::from_millis(most);
            assert!(longest[n] > most * 9 / 10, "{n}: {longest:?}");
            assert!(shortest[n] < most / 10, "{n}: {shortest:?}");
        }
    }

    #[test]
    fn after_a_success_waits_are_short_again() {
        let mut rng = StdRng::seed_from_u64(7);
        let mut backoff = Backoff::default();
        for _ in 0..100 {
            backoff.next(&mut rng);
        }
        backoff.reset();
        assert!(backoff.next(&mut rng) <= FIRST);
    }
}
