//! The loop's sign of life: when it last came round.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The loop comes round every few seconds, whatever happens. A look takes seconds on a large and
/// slow host, so that this is a hang.
const STUCK: Duration = Duration::from_secs(60);

/// Touched by the loop, read by whoever is asked for its health.
#[derive(Debug, Default)]
pub struct Pulse(Mutex<Option<Instant>>);

impl Pulse {
    /// The loop comes round.
    pub fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// The loop ends, and another one begins later.
    pub fn rest(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// For how long it has not, when that is too long. A loop that has not begun yet is not stuck:
    /// what it waits for is told elsewhere.
    #[must_use]
    pub fn stuck(&self) -> Option<Duration> {
        let last = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.map(|last| last.elapsed()).filter(|age| *age > STUCK)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_does_not_come_round_is_stuck() {
        let pulse = Pulse::default();
        tokio::time::advance(STUCK * 2).await;
        assert_eq!(pulse.stuck(), None);
        pulse.beat();
        tokio::time::advance(STUCK).await;
        assert_eq!(pulse.stuck(), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(pulse.stuck(), Some(STUCK + Duration::from_secs(1)));
        pulse.beat();
        assert_eq!(pulse.stuck(), None);
        pulse.rest();
        tokio::time::advance(STUCK * 2).await;
        assert_eq!(pulse.stuck(), None);
    }
}
