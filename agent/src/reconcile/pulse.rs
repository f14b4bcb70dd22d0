//! Signs of life of the two tasks that everything rests on: the loop and the store's follower.

use std::{
    fmt,
    future::Future,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};

use tokio::time::Instant;

/// Whoever has nothing to do gives a sign of life this often.
pub const EVERY: Duration = Duration::from_secs(1);
/// Between two steps of a task less than this goes by, also where it waits for a silent store.
const HUNG: Duration = Duration::from_secs(4);
/// A machine that is short of everything may hold up a task for long: this is a hang for certain,
/// and worth a restart.
const STUCK: Duration = Duration::from_secs(60);

/// Who gives signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// The loop.
    Reconcile,
    /// Who follows the leases.
    Store,
}

/// A task without a sign of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hung {
    /// Which.
    pub task: Task,
    /// For how long.
    pub age: Duration,
}

/// Touched by the tasks, read by whoever is asked for their health.
#[derive(Debug, Default)]
pub struct Pulse {
    reconcile: Mutex<Option<Instant>>,
    store: Mutex<Option<Instant>>,
}

impl Pulse {
    /// The task has done another step.
    pub fn beat(&self, task: Task) {
        self.set(task, Some(Instant::now()));
    }

    /// The task ends, and another one begins later.
    pub fn rest(&self, task: Task) {
        self.set(task, None);
    }

    /// Each step of the future is a sign of life. For a task that limits all its waits.
    pub async fn of<F: Future>(self: Arc<Self>, task: Task, future: F) -> F::Output {
        let _end = Resting(&self, task);
        let mut future = pin!(future);
        std::future::poll_fn(|context| {
            self.beat(task);
            let polled = future.as_mut().poll(context);
            if polled.is_pending() {
                self.beat(task);
                return Poll::Pending;
            }
            polled
        })
        .await
    }

    /// Tasks that have not moved for longer than they may. One that has not begun is not among
    /// them: what it waits for is told elsewhere.
    #[must_use]
    pub fn hung(&self) -> Vec<Hung> {
        self.silent_for(HUNG)
    }

    /// Tasks that will not move any more.
    #[must_use]
    pub fn stuck(&self) -> Vec<Hung> {
        self.silent_for(STUCK)
    }

    fn silent_for(&self, limit: Duration) -> Vec<Hung> {
        let silent = |task| {
            let last = *self
                .last(task)
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let age = last?.elapsed();
            (age > limit).then_some(Hung { task, age })
        };
        [Task::Reconcile, Task::Store]
            .into_iter()
            .filter_map(silent)
            .collect()
    }

    fn set(&self, task: Task, to: Option<Instant>) {
        *self
            .last(task)
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = to;
    }

    const fn last(&self, task: Task) -> &Mutex<Option<Instant>> {
        match task {
            Task::Reconcile => &self.reconcile,
            Task::Store => &self.store,
        }
    }
}

struct Resting<'a>(&'a Pulse, Task);

impl Drop for Resting<'_> {
    fn drop(&mut self) {
        self.0.rest(self.1);
    }
}

impl fmt::Display for Hung {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match self.task {
            Task::Reconcile => "reconcile",
            Task::Store => "store",
        };
        write!(f, "{who}: stuck for {} s", self.age.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_move_is_hung_and_later_stuck() {
        let pulse = Pulse::default();
        tokio::time::advance(STUCK * 2).await;
        assert_eq!(pulse.hung(), []);
        pulse.beat(Task::Reconcile);
        tokio::time::advance(HUNG).await;
        assert_eq!(pulse.hung(), []);
        tokio::time::advance(SECOND).await;
        let (task, age) = (Task::Reconcile, HUNG + SECOND);
        assert_eq!(pulse.hung(), [Hung { task, age }]);
        assert_eq!(Hung { task, age }.to_string(), "reconcile: stuck for 5 s");
        assert_eq!(pulse.stuck(), []);
        tokio::time::advance(STUCK).await;
        assert_eq!(pulse.stuck().len(), 1);
        pulse.beat(Task::Reconcile);
        assert_eq!(pulse.hung(), []);
        pulse.rest(Task::Reconcile);
        tokio::time::advance(STUCK * 2).await;
        assert_eq!(pulse.hung(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn steps_of_a_future_are_signs_of_life_until_it_ends() {
        let pulse = Arc::new(Pulse::default());
        let (go, gone) = tokio::sync::oneshot::channel::<()>();
        let task = tokio::spawn(Arc::clone(&pulse).of(Task::Store, async move {
            tokio::time::sleep(HUNG).await;
            tokio::time::sleep(HUNG).await;
            gone.await
        }));
        for _ in 0..2 {
            tokio::time::sleep(HUNG + SECOND / 2).await;
            assert_eq!(pulse.hung(), []);
        }
        tokio::time::sleep(HUNG).await;
        assert_eq!(
            pulse.hung().first().map(|hung| hung.task),
            Some(Task::Store)
        );
        drop(go);
        assert!(task.await.unwrap().is_err());
        assert_eq!(pulse.hung(), []);
    }
}
