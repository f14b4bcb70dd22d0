//! Renewal times, and what they are whatever the clock does.

use proptest::prelude::*;

use super::*;

const HOUR: Duration = Duration::from_secs(3600);
const START: Moment = Moment(Duration::from_secs(500_000));

fn every(ttl: Duration, margin: Duration) -> Duration {
    Keeper::new(ttl, margin, START).left(START)
}

#[test]
fn a_third_of_the_ttl_or_the_margin_whichever_is_earlier() {
    assert_eq!(every(TTL, HOUR), 8 * HOUR);
    assert_eq!(every(TTL, 20 * HOUR), 4 * HOUR);
    assert_eq!(every(TTL, 30 * HOUR), LEAST_WAIT);
    assert_eq!(every(Duration::ZERO, HOUR), LEAST_WAIT);
}

#[test]
fn the_margin_goes_with_the_ttl() {
    let short = Duration::from_secs(15);
    assert_eq!(every(short, HOUR), Duration::from_secs(5));
    assert_eq!(
        every(Duration::from_secs(24), 20 * HOUR),
        Duration::from_secs(4)
    );
    assert_eq!(every(10 * TTL, HOUR), 80 * HOUR);
}

#[test]
fn failures_are_retried_faster_and_then_every_minute() {
    let mut keeper = Keeper::new(TTL, HOUR, START);
    let mut at = START.after(keeper.left(START));
    for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        let wait = Duration::from_secs(seconds);
        let mut lucky = keeper.clone();
        lucky.failed(at, 1.0);
        assert_eq!(lucky.left(at), wait / 2);
        keeper.failed(at, 0.0);
        assert_eq!(keeper.left(at), wait);
        assert_eq!(keeper.standing(at), Standing::Overdue);
        at = at.after(wait);
    }
    keeper.renewed(at);
    assert_eq!(keeper.left(at), 8 * HOUR);
    assert_eq!(keeper.standing(at), Standing::Confirmed);
    keeper.failed(at, 0.0);
    assert_eq!(keeper.left(at), LEAST_WAIT);
}

#[test]
fn a_short_ttl_is_not_slept_through() {
    let mut keeper = Keeper::new(Duration::from_secs(16), HOUR, START);
    for seconds in [1, 2, 2, 2] {
        keeper.failed(START, 0.0);
        assert_eq!(keeper.left(START), Duration::from_secs(seconds));
    }
}

#[test]
fn after_the_ttl_nothing_is_sure() {
    let mut keeper = Keeper::new(TTL, HOUR, START);
    let end = START.after(TTL);
    let before = START.after(TTL - LEAST_WAIT);
    assert_eq!(keeper.standing(before), Standing::Confirmed);
    assert_eq!(keeper.standing(end), Standing::Unconfirmed);
    keeper.failed(end, 0.0);
    assert_eq!(keeper.standing(end), Standing::Unconfirmed);
    // A clock that went back is no reason for alarm.
    keeper.renewed(end);
    assert_eq!(keeper.standing(START), Standing::Confirmed);
}

/// What happens between two looks at the clock.
#[derive(Clone, Copy, Debug)]
enum Turn {
    /// Time passes.
    Passes(u64),
    /// The machine sleeps, or its clock is set by a broken hypervisor: forward or back.
    Leaps(i64),
}

fn turn() -> impl Strategy<Value = Turn> {
    const DAY: i64 = 25 * 3600;
    prop_oneof![
        8 => (1_u64..20_000).prop_map(Turn::Passes),
        1 => prop_oneof![Just(DAY), Just(-DAY), -DAY..DAY].prop_map(Turn::Leaps),
    ]
}

proptest! {
    /// However the clock leaps: no storm of renewals, none that comes too late, and no lease is
    /// given up before its time.
    #[test]
    fn leaps_of_the_clock_are_survived(
        ttl in 5_u64..100_000,
        margin in 1_u64..1440,
        turns in prop::collection::vec((turn(), any::<bool>()), 1..200),
    ) {
        let (ttl, margin) = (Duration::from_secs(ttl), Duration::from_secs(60 * margin));
        let mut now = Moment(100 * TTL);
        let mut keeper = Keeper::new(ttl, margin, now);
        let every = keeper.left(now);
        prop_assert!(every >= LEAST_WAIT && every <= (ttl / 3).max(LEAST_WAIT));
        // By the machine's own count: since the lease was renewed, since it was last asked for, and
        // since the wait began.
        let (mut alive, mut idle, mut waited) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut wait = every;
        for (turn, works) in turns {
            let passed = match turn {
                Turn::Passes(millis) => Duration::from_millis(millis),
                Turn::Leaps(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            };
            now = match turn {
                Turn::Leaps(back @ ..0) => {
                    let back = Duration::from_secs(back.unsigned_abs());
                    waited = waited.saturating_sub(back);
                    Moment(now.0.saturating_sub(back))
                }
                Turn::Passes(_) | Turn::Leaps(_) => now.after(passed),
            };
            for count in [&mut alive, &mut idle, &mut waited] {
                *count += passed;
            }
            prop_assert!(alive >= ttl || keeper.standing(now) != Standing::Unconfirmed);
            let left = keeper.left(now);
            prop_assert_eq!(left, wait.saturating_sub(waited));
            if left > Duration::ZERO {
                continue;
            }
            prop_assert!(idle >= LEAST_WAIT / 2, "asked again after {:?}", idle);
            (idle, waited) = (Duration::ZERO, Duration::ZERO);
            if works {
                keeper.renewed(now);
                alive = Duration::ZERO;
                prop_assert_eq!(keeper.left(now), every);
                prop_assert_eq!(keeper.standing(now), Standing::Confirmed);
            } else {
                keeper.failed(now, 0.5);
            }
            wait = keeper.left(now);
            prop_assert!(wait >= LEAST_WAIT / 2 && wait <= every.max(MOST_RETRY));
        }
    }
}
