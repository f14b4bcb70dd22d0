//! A clock that goes on while the machine sleeps, and that nobody sets; and that of our own work.

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

/// Processor time that this process has had, with what the kernel did for it.
pub fn worked() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// What the machine of [`it_goes_on_in_suspend`] has slept.
    const SLEPT: Duration = Duration::from_secs(86_400);
    const ASLEEP: &str = "TEST_OF_A_MACHINE_THAT_SLEPT";

    /// The test runs itself again in a time namespace, whose clocks are those of a machine that slept
    /// for a day. Needs root.
    #[test]
    fn it_goes_on_in_suspend() {
        if std::env::var_os(ASLEEP).is_some() {
            let awake = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap());
            let all = BootClock.now().since(Moment(awake));
            assert!(all >= SLEPT, "{all:?}");
            return;
        }
        let again = Command::new("unshare")
            .args(["--time", "--boottime", &SLEPT.as_secs().to_string(), "--"])
            .arg(std::env::current_exe().unwrap())
            .args(["--exact", "clock::tests::it_goes_on_in_suspend"])
            .env(ASLEEP, "")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&again.stdout).into_owned();
        assert!(
            again.status.success() && said.contains("1 passed"),
            "{said}"
        );
    }

    #[test]
    fn it_goes_on() {
        let first = BootClock.now();
        assert!(first > Moment::default());
        while BootClock.now() == first {}
        assert!(BootClock.now() > first);
    }
}
