//! `cargo xtask ci`: everything that CI runs, in order, with a time for each step.

use std::time::{Duration, Instant};

use anyhow::Result;

use crate::{lint, test, tidy, toolchain::Lock, verify, vm};

type Step = (&'static str, fn() -> Result<()>);

const STEPS: &[Step] = &[
    ("tidy", tidy::run),
    ("lint", || lint::run(Lock::Fixed)),
    ("verify", || {
        verify::run(Lock::Fixed, &verify::Options::default())
    }),
    ("test", || test::run(Lock::Fixed, &test::Options::default())),
    ("vm", || vm::run(&vm::Options::default())),
];

pub(crate) fn run() -> Result<()> {
    let mut times = Vec::new();
    for (name, step) in STEPS {
        println!("==> {name}");
        let start = Instant::now();
        let outcome = step();
        times.push((*name, start.elapsed()));
        if let Err(error) = outcome {
            println!("ci: {}; {name} FAILED", summary(&times));
            return Err(error.context(*name));
        }
    }
    println!("ci: {}; all passed", summary(&times));
    Ok(())
}

fn summary(times: &[(&str, Duration)]) -> String {
    let parts: Vec<_> = times
        .iter()
        .map(|(name, time)| format!("{name} {} s", time.as_secs()))
        .collect();
    parts.join(", ")
}
