//! The row about an agent that hangs: 6.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::{
        ptrace,
        signal::Signal,
        wait::{WaitPidFlag, waitpid},
    },
    unistd::Pid,
};

use super::{
    Injected,
    stage::{HEALTH, Stage},
};
use crate::{agent::READY, supervisor::Supervisor, wait};

/// By then a hang is told.
const TOLD: Duration = Duration::from_secs(5);
/// For a request and a process to start, on top.
const ASKING: Duration = Duration::from_millis(500);

/// Row 6: all of the process, and then its loop alone. A supervisor restarts it.
pub fn hung(stage: &mut Stage) -> Result<Injected> {
    let watchdog = Duration::from_secs(if stage.thorough { 30 } else { 6 });
    let mut supervisor = Supervisor::new(stage.folder(), watchdog)?;
    let agent = stage.agent(0)?;
    let plain = agent.flags.clone();
    agent.kill_hard()?;
    agent.flags.environment = supervisor.environment();
    let outcome = supervised(stage, &mut supervisor);
    let agent = stage.agent(0)?;
    agent.flags = plain;
    if agent.runs() {
        agent.kill_hard()?;
    }
    stage.revive(0)?;
    let (silent, told) = outcome?;
    Ok(Injected::now().note(format!(
        "killed after {silent:.1?} of silence, a loop that is stuck was told after {told:.1?}"
    )))
}

fn supervised(stage: &mut Stage, supervisor: &mut Supervisor) -> Result<(Duration, Duration)> {
    stage.agent(0)?.restart()?;
    supervisor.until("READY=1", READY)?;
    supervisor.until("WATCHDOG=1", READY)?;
    let silent = frozen(stage, supervisor).context("all of it is stopped")?;
    supervisor.until("READY=1", READY)?;
    let told = blocked(stage, supervisor).context("its loop is stopped")?;
    Ok((silent, told))
}

/// The whole process stops: the watchdog ends it, and it is started again.
fn frozen(stage: &mut Stage, supervisor: &mut Supervisor) -> Result<Duration> {
    stage.agent(0)?.daemon()?.signal(Signal::SIGSTOP)?;
    let began = Instant::now();
    let (code, _, said) = stage.node(0)?.host.weft(&["status"])?;
    let took = began.elapsed();
    ensure!(
        code == 3,
        "status of a hung agent ended with {code}: {said}"
    );
    ensure!(
        took < Duration::from_secs(3),
        "status took {took:.1?} to say so"
    );
    let silent = supervisor.until_silent(Duration::from_secs(60))?;
    let agent = stage.agent(0)?;
    supervisor.abort(agent.daemon()?)?;
    agent.restart()?;
    agent.ready()?;
    Ok(silent)
}

/// Only the thread of the loop stops: the others say so, and the watchdog hears nothing.
fn blocked(stage: &mut Stage, supervisor: &mut Supervisor) -> Result<Duration> {
    let pid = stage.agent(0)?.pid().context("the agent")?;
    let host = std::sync::Arc::clone(&stage.node(0)?.host);
    let (status, body) = host.get(HEALTH, "/livez")?;
    ensure!(status.contains("200"), "before: {status} {body}");
    let thread = Stopped::seize(pid)?;
    let began = Instant::now();
    wait::until_true("/livez says that the loop is stuck", TOLD + ASKING, || {
        let (status, body) = host.get(HEALTH, "/livez")?;
        Ok(status.contains("503") && body.starts_with("reconcile: stuck"))
    })?;
    let told = began.elapsed();
    let status = host.status()?.to_string();
    ensure!(
        status.contains("reconcile: stuck"),
        "the status does not name it: {status}"
    );
    supervisor.until_silent(Duration::from_secs(60))?;
    drop(thread);
    supervisor.until("WATCHDOG=1", TOLD)?;
    let (status, body) = host.get(HEALTH, "/livez")?;
    ensure!(status.contains("200"), "after: {status} {body}");
    Ok(told)
}

/// One thread of a process, stopped as by a debugger: the agent's main thread runs the loop.
struct Stopped(Pid);

impl Stopped {
    fn seize(thread: u32) -> Result<Self> {
        let thread = Pid::from_raw(i32::try_from(thread).context("process id")?);
        ptrace::seize(thread, ptrace::Options::empty()).context("seize the thread")?;
        let stopped = Self(thread);
        ptrace::interrupt(thread).context("stop the thread")?;
        waitpid(thread, Some(WaitPidFlag::__WALL)).context("wait for the thread to stop")?;
        Ok(stopped)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // It goes on when we end, at the latest.
        let _ = ptrace::detach(self.0, None);
    }
}
