//! A clock that goes on while the machine sleeps, and that nobody sets.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use crate::lease::keeper::Moment;

/// Where the time is read; a test has a clock of its own.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Moment;
}

/// The kernel's `CLOCK_BOOTTIME`. `std::time::Instant` stands still while the machine sleeps.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Moment {
        // Every kernel since 2.6.39 has it.
        Moment(clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on() {
        let first = BootClock.now();
        assert!(first > Moment::default());
        while BootClock.now() == first {}
        assert!(BootClock.now() > first);
    }
}
