//! Test programs side by side: most of a suite's time is waiting, for leases, timers of the kernel and
//! loads of fixed length, so that two of them take little longer than one. Each has hosts of its own.

use std::{
    collections::VecDeque,
    io::{BufRead as _, BufReader, pipe},
    process::Command,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail, ensure};

use crate::shell;

/// One for each of the two cores that the tests may count on.
const LANES: usize = 2;

/// These have the machine for themselves: their limits are a few milliseconds, or shares of what it
/// can carry; or they send so much at once (blasts, requests for addresses to two hundred ports) that
/// others would lose packets, for all hosts share the queues in front of a core.
const ALONE: &[&str] = &[
    "bench_pair",
    "churn",
    "endpoints",
    "faults",
    "injection",
    "lab",
    "nested",
    "programs",
];

/// What takes longest begins first, so that no lane has work left when the other is done.
const LONG: &[&str] = &["stack", "parity", "policy", "restart", "store_contract"];

/// A test program.
pub(crate) struct Suite {
    pub(crate) name: String,
    pub(crate) command: Command,
}

/// Runs all of them. After a failure none begins any more; what runs comes to its end, for a lab
/// that is killed leaves its hosts behind. `whole` where each must have run a test.
pub(crate) fn run(suites: Vec<Suite>, whole: bool) -> Result<()> {
    let (alone, mut others): (Vec<_>, Vec<_>) = suites
        .into_iter()
        .partition(|suite| ALONE.contains(&suite.name.as_str()));
    others.sort_by_key(|suite| {
        LONG.iter()
            .position(|name| *name == suite.name)
            .unwrap_or(LONG.len())
    });
    let queue = Mutex::new(VecDeque::from(others));
    let mut times = thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES)
            .map(|_| scope.spawn(|| lane(&queue, whole)))
            .collect();
        let ended: Vec<_> = lanes.into_iter().map(|lane| lane.join()).collect();
        let mut times = Vec::new();
        for lane in ended {
            times.extend(lane.map_err(|_panic| anyhow!("a lane of tests panicked"))??);
        }
        anyhow::Ok(times)
    })?;
    for suite in alone {
        times.push(ended(suite, whole, Output::AsItComes)?);
    }
    println!("{}", summary(times));
    Ok(())
}

type Took = (String, Duration);

/// Takes one suite after the other, and prints each in one piece.
fn lane(queue: &Mutex<VecDeque<Suite>>, whole: bool) -> Result<Vec<Took>> {
    let queue = || queue.lock().unwrap_or_else(PoisonError::into_inner);
    let mut times = Vec::new();
    loop {
        let Some(suite) = queue().pop_front() else {
            return Ok(times);
        };
        match ended(suite, whole, Output::InOnePiece) {
            Ok(took) => times.push(took),
            Err(error) => {
                queue().clear();
                return Err(error);
            }
        }
    }
}

/// When one can read what a suite says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Output {
    AsItComes,
    InOnePiece,
}

/// Runs a test program, and fails also when it ran nothing: an empty suite proves nothing.
pub(crate) fn ended(suite: Suite, whole: bool, output: Output) -> Result<Took> {
    let Suite { name, mut command } = suite;
    let line = shell::line(&command);
    let began = Instant::now();
    let (from, to) = pipe().context("make a pipe")?;
    let mut text = format!("$ {line}\n");
    if output == Output::AsItComes {
        print!("{}", std::mem::take(&mut text));
    } else {
        command.stderr(to.try_clone().context("share a pipe")?);
    }
    let mut child = command.stdout(to).spawn().with_context(|| line.clone())?;
    // Our ends of the pipe go with it.
    drop(command);
    let mut passed = 0;
    for said in BufReader::new(from).split(b'\n') {
        let said = said.context("read the output of the tests")?;
        let said = String::from_utf8_lossy(&said);
        passed += passed_tests(&said).unwrap_or(0);
        if output == Output::AsItComes {
            println!("{said}");
        } else {
            text.push_str(&said);
            text.push('\n');
        }
    }
    let status = child.wait().with_context(|| line.clone())?;
    print!("{text}");
    if !status.success() {
        bail!("{line}: {status}");
    }
    ensure!(passed > 0 || !whole, "{line}: ran no test");
    Ok((name, began.elapsed()))
}

/// From a line like `test result: ok. 3 passed; 0 failed; …`.
pub(crate) fn passed_tests(line: &str) -> Option<u32> {
    let rest = line.strip_prefix("test result: ok. ")?;
    rest.split_once(" passed")?.0.parse().ok()
}

/// The slowest first: where to look when the whole takes too long.
fn summary(mut times: Vec<Took>) -> String {
    times.sort_by_key(|(_, time)| std::cmp::Reverse(*time));
    let parts = times
        .iter()
        .map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64()));
    format!("suites: {}", parts.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> Suite {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Suite {
            name: name.to_owned(),
            command,
        }
    }

    #[test]
    fn passed_tests_are_counted() {
        let line = "test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; finished in 1s";
        assert_eq!(passed_tests(line), Some(12));
        assert_eq!(passed_tests("test a ... ok"), None);
    }

    /// Each waits for the other's file.
    #[test]
    fn two_run_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let script = |mine: &str, other: &str| {
            format!(
                "touch {at}/{mine}; n=0; until [ -e {at}/{other} ]; do n=$((n+1)); \
                 [ $n -lt 500 ] || exit 1; sleep 0.02; done; echo 'test result: ok. 1 passed'"
            )
        };
        let suites = vec![shell("a", &script("a", "b")), shell("b", &script("b", "a"))];
        run(suites, true).unwrap();
    }

    #[test]
    fn after_a_failure_none_begins() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().display();
        let good = "echo 'test result: ok. 1 passed'";
        let mut suites = vec![
            shell("stack", "exit 3"),
            // It ends once the failure is known.
            shell("parity", &format!("sleep 1; {good}")),
        ];
        suites.extend((0..5).map(|n| shell("later", &format!("touch {at}/{n}; {good}"))));
        suites.push(shell("faults", &format!("touch {at}/alone; {good}")));
        let error = run(suites, true).unwrap_err();
        assert!(error.to_string().contains("exit 3"), "{error}");
        assert_eq!(folder.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn a_suite_that_ran_nothing_fails() {
        let nothing = || vec![shell("a", "echo 'test result: ok. 0 passed'")];
        assert!(run(nothing(), true).is_err());
        assert!(run(nothing(), false).is_ok());
    }
}
