//! Which of the endpoints is in use, and which are left alone for a while. Pure.

use std::time::{Duration, Instant};

use rand::Rng;

use crate::store::backoff::Backoff;

/// How long a member that takes connections and answers nothing is left alone: each call that
/// meets it costs its full time limit.
pub const QUARANTINE: Duration = Duration::from_secs(30);

/// How a member failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It did not answer in time.
    Silent,
    /// The connection ended under what was to go on. Whether the member was killed or is frozen shows
    /// when it is asked again.
    Broken,
    /// It answered, or its host did, and that was no use: refused, reset, no leader, a learner.
    Useless,
}

/// One endpoint stays in use until it fails.
#[derive(Clone, Debug)]
pub struct Rotation {
    members: Vec<Member>,
    /// The one in use.
    at: usize,
    /// Counts the changes, so that two who saw one failure make one change.
    turn: usize,
}

#[derive(Clone, Debug, Default)]
struct Member {
    backoff: Backoff,
    out: Option<Out>,
}

#[derive(Clone, Debug)]
struct Out {
    until: Instant,
    fault: Fault,
    why: String,
}

impl Rotation {
    /// All members are as good; the first one is used.
    #[must_use]
    pub fn new(members: usize) -> Self {
        Self {
            members: vec![Member::default(); members],
            at: 0,
            turn: 0,
        }
    }

    /// The member in use.
    #[must_use]
    pub const fn at(&self) -> usize {
        self.at
    }

    /// To be handed back with what came of it.
    #[must_use]
    pub const fn turn(&self) -> usize {
        self.turn
    }

    /// The member of that turn answered. Where every one had failed, it was the way or the whole
    /// cluster, and not the members: what is held against them is forgotten.
    pub fn answered(&mut self, turn: usize) {
        if turn != self.turn {
            return;
        }
        let at = self.at;
        let all = self.members.iter().all(|member| member.out.is_some());
        for (index, member) in self.members.iter_mut().enumerate() {
            if all || index == at {
                *member = Member::default();
            }
        }
    }

    /// The member of that turn failed: the next one's turn, unless somebody else has said so.
    pub fn leave(
        &mut self,
        turn: usize,
        fault: Fault,
        why: &str,
        now: Instant,
        rng: &mut impl Rng,
    ) {
        if turn != self.turn {
            return;
        }
        if let Some(member) = self.members.get_mut(self.at) {
            let out = match fault {
                Fault::Silent => QUARANTINE,
                Fault::Broken | Fault::Useless => member.backoff.next(rng),
            };
            member.out = Some(Out {
                until: now + out,
                fault,
                why: why.to_owned(),
            });
        }
        self.turn = turn.wrapping_add(1);
        self.at = self.next(now);
    }

    /// A member that is left alone answered a question of its own, asked in that turn. What has
    /// happened since may have been its failure.
    pub fn forgive(&mut self, index: usize, turn: usize) {
        if turn == self.turn
            && let Some(member) = self.members.get_mut(index)
        {
            *member = Member::default();
        }
    }

    /// A member whose connection broke was asked for itself in that turn, and this is what ails it.
    pub fn judged(&mut self, index: usize, turn: usize, fault: Fault, now: Instant) {
        let member = self.members.get_mut(index).filter(|_| turn == self.turn);
        let Some(out) = member.and_then(|member| member.out.as_mut()) else {
            return;
        };
        if out.fault == Fault::Broken {
            out.fault = fault;
            if fault == Fault::Silent {
                out.until = now + QUARANTINE;
                "it does not answer".clone_into(&mut out.why);
            }
        }
    }

    /// The connection is to be made anew, to the same member.
    pub const fn renew(&mut self) {
        self.turn = self.turn.wrapping_add(1);
    }

    /// Members that are left alone: which, for how long still, and why.
    pub fn left_alone(&self, now: Instant) -> impl Iterator<Item = (usize, Duration, &str)> {
        let members = self.members.iter().enumerate();
        members.filter_map(move |(index, member)| {
            let out = member.out.as_ref().filter(|out| out.until > now)?;
            let left = out.until.saturating_duration_since(now);
            Some((index, left, out.why.as_str()))
        })
    }

    /// Members that are to be asked for themselves: those of them that did not answer, and whose
    /// connection broke. What answers uselessly is left alone for a short time anyway.
    pub fn doubtful(&self, now: Instant) -> impl Iterator<Item = usize> {
        let members = self.members.iter().enumerate();
        members.filter_map(move |(index, member)| {
            let out = member.out.as_ref()?;
            let is_doubtful = match out.fault {
                Fault::Silent => out.until > now,
                Fault::Broken => true,
                Fault::Useless => false,
            };
            is_doubtful.then_some(index)
        })
    }

    /// The next member around that is not left alone. Where all are, simply the next: one that
    /// may answer is better than none.
    fn next(&self, now: Instant) -> usize {
        let around = || (1..=self.members.len()).map(|step| self.around(step));
        let usable = |index: &usize| {
            let member = self.members.get(*index);
            member.is_some_and(|member| member.out.as_ref().is_none_or(|out| out.until <= now))
        };
        around().find(usable).unwrap_or_else(|| self.around(1))
    }

    fn around(&self, step: usize) -> usize {
        (self.at + step)
            .checked_rem(self.members.len())
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::store::backoff::MOST;

    struct World {
        rotation: Rotation,
        now: Instant,
        rng: StdRng,
    }

    impl World {
        fn new(members: usize) -> Self {
            Self {
                rotation: Rotation::new(members),
                now: Instant::now(),
                rng: StdRng::seed_from_u64(1),
            }
        }

        fn fail(&mut self, fault: Fault) -> usize {
            let turn = self.rotation.turn();
            self.rotation
                .leave(turn, fault, "told to", self.now, &mut self.rng);
            self.rotation.at()
        }

        fn alone(&self) -> Vec<usize> {
            self.rotation.left_alone(self.now).map(|it| it.0).collect()
        }
    }

    #[test]
    fn who_answers_again_is_left_alone_no_more() {
        let mut world = World::new(3);
        assert_eq!(world.fail(Fault::Silent), 1);
        let turn = world.rotation.turn();
        world.fail(Fault::Silent);
        world.rotation.forgive(1, turn);
        assert_eq!(world.alone(), [0, 1], "asked before it failed");
        world.rotation.forgive(1, world.rotation.turn());
        assert_eq!(world.alone(), [0]);
        assert_eq!(world.fail(Fault::Useless), 1);
        assert_eq!(world.rotation.doubtful(world.now).collect::<Vec<_>>(), [0]);
        world.rotation.forgive(9, world.rotation.turn());
        assert_eq!(world.alone(), [0, 2]);
    }

    #[test]
    fn whose_connection_broke_is_silent_once_it_is_asked_in_vain() {
        let mut world = World::new(3);
        assert_eq!(world.fail(Fault::Broken), 1);
        world.now += MOST;
        assert_eq!(world.alone(), [] as [usize; 0]);
        let doubtful =
            |world: &World| -> Vec<usize> { world.rotation.doubtful(world.now).collect() };
        assert_eq!(doubtful(&world), [0], "for as long as nobody has asked");
        let turn = world.rotation.turn();
        let judged = |world: &mut World, index, turn, fault| {
            world.rotation.judged(index, turn, fault, world.now);
        };
        judged(&mut world, 0, turn.wrapping_add(1), Fault::Silent);
        judged(&mut world, 2, turn, Fault::Silent);
        assert_eq!(world.alone(), [] as [usize; 0]);
        judged(&mut world, 0, turn, Fault::Silent);
        assert_eq!(world.alone(), [0]);
        world.now += QUARANTINE / 2;
        judged(&mut world, 0, turn, Fault::Useless);
        assert_eq!(world.alone(), [0], "it was judged already");
        // One that was killed refuses, and is asked no more.
        assert_eq!(world.fail(Fault::Broken), 2);
        let turn = world.rotation.turn();
        judged(&mut world, 1, turn, Fault::Useless);
        assert_eq!(doubtful(&world), [0]);
    }

    #[test]
    fn an_outage_of_all_is_held_against_none() {
        let mut world = World::new(3);
        for fault in [Fault::Silent, Fault::Useless, Fault::Silent] {
            world.fail(fault);
        }
        assert!(!world.alone().is_empty());
        world.rotation.answered(world.rotation.turn());
        assert!(world.alone().is_empty());
        // Of two that fail the third says nothing.
        assert_eq!(world.fail(Fault::Silent), 1);
        assert_eq!(world.fail(Fault::Silent), 2);
        world.rotation.answered(world.rotation.turn());
        assert_eq!(world.alone(), [0, 1]);
    }

    #[test]
    fn a_frozen_member_is_left_alone_for_its_time_and_the_next_one_stays() {
        let mut world = World::new(3);
        assert_eq!(world.fail(Fault::Silent), 1);
        assert_eq!(world.alone(), [0]);
        world.rotation.answered(world.rotation.turn());
        world.now += QUARANTINE / 2;
        assert_eq!(world.fail(Fault::Useless), 2);
        world.now += MOST;
        // The second one failed later, and is free again sooner.
        assert_eq!(world.fail(Fault::Useless), 1);
        world.now += QUARANTINE;
        assert_eq!(world.alone(), [] as [usize; 0]);
        assert_eq!(world.rotation.at(), 1, "it stays where it is");
    }

    #[test]
    fn where_all_fail_all_are_tried() {
        let mut world = World::new(3);
        let tried: Vec<usize> = (0..6).map(|_| world.fail(Fault::Silent)).collect();
        assert_eq!(tried, [1, 2, 0, 1, 2, 0]);
        assert_eq!(world.alone(), [0, 1, 2]);
        let mut alone = World::new(1);
        assert_eq!(alone.fail(Fault::Silent), 0);
    }

    #[test]
    fn one_failure_that_two_saw_is_one_change() {
        let mut world = World::new(3);
        let turn = world.rotation.turn();
        for _ in 0..2 {
            world
                .rotation
                .leave(turn, Fault::Silent, "told to", world.now, &mut world.rng);
        }
        assert_eq!(world.rotation.at(), 1);
        // Nor does an answer that was under way when the turn ended free anybody.
        world.rotation.answered(turn);
        assert_eq!(world.alone(), [0]);
    }

    #[test]
    fn a_new_connection_to_the_same_member_is_a_turn_of_its_own() {
        let mut world = World::new(2);
        let turn = world.rotation.turn();
        world.rotation.renew();
        assert_eq!(world.rotation.at(), 0);
        world
            .rotation
            .leave(turn, Fault::Silent, "told to", world.now, &mut world.rng);
        assert_eq!(world.rotation.at(), 0);
    }

    proptest! {
        /// Whatever happens, a member that answers is found within one round.
        #[test]
        fn a_healthy_member_is_found_within_a_round(
            members in 1_usize..6,
            healthy in 0_usize..6,
            steps in prop::collection::vec((any::<bool>(), 0_u64..40), 0..40),
        ) {
            let healthy = healthy % members;
            let mut world = World::new(members);
            for (silent, seconds) in steps {
                world.now += Duration::from_secs(seconds);
                world.fail(if silent { Fault::Silent } else { Fault::Useless });
            }
            // From now on the healthy one answers, and a caller tries until it is there.
            let mut tries = 0;
            while world.rotation.at() != healthy {
                world.fail(Fault::Silent);
                tries += 1;
                prop_assert!(tries <= 2 * members, "{tries} tries");
            }
        }
    }
}
