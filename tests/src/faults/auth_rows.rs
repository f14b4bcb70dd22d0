//! The row about who the agents are to etcd, and etcd to them: 38.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use nix::sys::signal::Signal;

use super::{Injected, stage::Stage};
use crate::{
    certificates::{Authority, Guard, Identity, Valid},
    cluster::Cut,
    etcd::PREFIX,
    wait,
};

const LIMIT: Duration = Duration::from_secs(30);
/// Until a fault is said by every agent, and until all is well after it.
const SOON: Duration = Duration::from_secs(5);
const ROOT: &str = "root:only-for-this-lab";
const PASSWORD: &str = "also-only-for-this-lab";
/// The part of the status that says whether etcd lets us in.
const ACCESS: &str = "etcd_access";
const TOKEN_TTL: u64 = 3;

/// Everybody's papers.
struct Papers {
    ours: Authority,
    /// Who signs the servers' after a while.
    theirs: Authority,
    server: Identity,
    /// The agents'.
    agent: Identity,
    /// Whom the agents trust.
    trusted: PathBuf,
    /// The servers' names.
    names: String,
}

/// Row 38.
pub fn refused(stage: &mut Stage) -> Result<Injected> {
    stage.require("lease-ttl")?;
    let papers = protect(stage)?;
    ensure_hidden(stage)?;
    let mut told = String::new();
    for (what, fault) in [
        ("password", password as fn(&mut Stage, &Papers) -> _),
        ("role", role),
        ("token", token),
        ("server's certificate", server_certificate),
        ("client's certificate", client_certificate),
    ] {
        let note: String = fault(stage, &papers).context(what)?;
        let _ = write!(told, "{what}: {note}; ");
    }
    Ok(Injected::now().note(told.trim_end_matches("; ")))
}

/// Turns authentication and certificates on, and starts every agent as a user of its own.
fn protect(stage: &mut Stage) -> Result<Papers> {
    let user = format!("weft:{PASSWORD}");
    let keys = format!("{PREFIX}/");
    let steps: [&[&str]; 7] = [
        &["user", "add", ROOT],
        &["user", "grant-role", "root", "root"],
        &["user", "add", &user],
        &["role", "add", "weft"],
        &[
            "role",
            "grant-permission",
            "weft",
            "--prefix=true",
            "readwrite",
            &keys,
        ],
        &["user", "grant-role", "weft", "weft"],
        &["auth", "enable"],
    ];
    for step in steps {
        stage.cluster.ctl(step)?;
    }
    stage.cluster.admin = Some(ROOT.to_owned());
    let papers = papers(stage)?;
    for index in 0..stage.nodes.len() {
        stage.agent(index)?.kill_hard()?;
    }
    let endpoints = stage.cluster.endpoints();
    for index in 0..stage.nodes.len() {
        let agent = stage.agent(index)?;
        agent.flags.endpoint.clone_from(&endpoints);
        let mut more = vec![
            "--etcd-username=weft".to_owned(),
            format!("--etcd-password={PASSWORD}"),
            format!("--etcd-cafile={}", papers.trusted.display()),
            format!("--etcd-certfile={}", papers.agent.cert.display()),
            format!("--etcd-keyfile={}", papers.agent.key.display()),
        ];
        agent.flags.more.append(&mut more);
        stage.revive(index)?;
    }
    stage.settle(LIMIT)?;
    Ok(papers)
}

fn papers(stage: &mut Stage) -> Result<Papers> {
    let folder = stage.folder().join("certificates");
    let ours = Authority::new(&folder, "ours")?;
    let theirs = Authority::new(&folder, "theirs")?;
    let members = stage.cluster.members.iter();
    let names: Vec<_> = members
        .map(|member| format!("IP:{}", member.address))
        .collect();
    let papers = Papers {
        server: Identity::at(&folder, "server"),
        agent: Identity::at(&folder, "agent"),
        trusted: folder.join("trusted.pem"),
        names: names.join(","),
        ours,
        theirs,
    };
    let client = Identity::at(&folder, "client");
    papers
        .ours
        .issue(&papers.server, "etcd", &papers.names, Valid::Long)?;
    papers.ours.issue(&papers.agent, "agent", "", Valid::Long)?;
    papers.ours.issue(&client, "etcdctl", "", Valid::Long)?;
    fs::copy(papers.ours.cert(), &papers.trusted).context("whom agents trust")?;
    let authorities = folder.join("all.pem");
    let both = [
        fs::read(papers.ours.cert())?,
        fs::read(papers.theirs.cert())?,
    ];
    fs::write(&authorities, both.concat()).context("whom etcd and etcdctl trust")?;
    stage.cluster.protect(Guard {
        authorities,
        server: papers.server.clone(),
        client,
        token_ttl: TOKEN_TTL,
    })?;
    Ok(papers)
}

/// What was typed is neither in a log nor in the process list.
fn ensure_hidden(stage: &mut Stage) -> Result<()> {
    for index in 0..stage.nodes.len() {
        let pid = stage.agent(index)?.pid().context("the agent")?;
        let line = fs::read(format!("/proc/{pid}/cmdline")).context("its command line")?;
        let line = String::from_utf8_lossy(&line).into_owned();
        ensure!(
            line.contains("--etcd-username=weft") && !line.contains(PASSWORD),
            "the process list has {line:?}"
        );
        let host = &stage.node(index)?.host;
        let log = fs::read_to_string(host.folder().join("weft.log"))?;
        ensure!(
            !log.contains(PASSWORD),
            "the password is in the log of {}",
            host.label
        );
    }
    Ok(())
}

/// Waits until every agent says why it is not let in, and is ready all the same.
fn until_said(stage: &Stage, part: &str, why: &str) -> Result<Duration> {
    let began = Instant::now();
    wait::until_true(&format!("every agent says {why:?}"), SOON, || {
        for node in &stage.nodes {
            let status = node.host.status()?;
            let ready = status.pointer("/ready").is_some_and(|ready| ready == true);
            ensure!(ready, "a refusal made it unready: {status}");
            let (ok, said) = node.host.part(part)?;
            ensure!(!ok && said.contains(why), "{}: {said}", node.host.label);
        }
        Ok(true)
    })?;
    Ok(began.elapsed())
}

fn until_well(stage: &Stage) -> Result<Duration> {
    let took = stage.settle(LIMIT)?;
    ensure!(took <= SOON, "well again after {took:.1?}");
    Ok(took)
}

fn after(stage: &Stage, said: Duration) -> Result<String> {
    let well = until_well(stage)?;
    Ok(format!("said after {said:.1?}, well after {well:.1?}"))
}

fn set_password(stage: &Stage, password: &str) -> Result<()> {
    let words = ["user", "passwd", "weft", "--interactive=false"];
    stage.cluster.tell(&words, &format!("{password}\n"))
}

/// The password becomes another one, and is that of the agents again.
fn password(stage: &mut Stage, _: &Papers) -> Result<String> {
    set_password(stage, "nobody-told-the-agents")?;
    let said = until_said(stage, ACCESS, "invalid user ID or password")?;
    set_password(stage, PASSWORD)?;
    after(stage, said)
}

/// The agents' user loses its role, and has it again.
fn role(stage: &mut Stage, _: &Papers) -> Result<String> {
    stage
        .cluster
        .ctl(&["user", "revoke-role", "weft", "weft"])?;
    let said = until_said(stage, ACCESS, "permission denied")?;
    stage.cluster.ctl(&["user", "grant-role", "weft", "weft"])?;
    after(stage, said)
}

/// No agent says anything for longer than a token lives: each gets itself a new one, in the same call.
fn token(stage: &mut Stage, _: &Papers) -> Result<String> {
    let before = stage.cluster.worthless_tokens()?;
    let signal = |stage: &mut Stage, signal| {
        (0..stage.nodes.len()).try_for_each(|index| stage.agent(index)?.daemon()?.signal(signal))
    };
    signal(stage, Signal::SIGSTOP)?;
    let idle = Duration::from_secs(TOKEN_TTL + 2);
    let endured = stage.endure(idle, idle);
    signal(stage, Signal::SIGCONT)?;
    endured?;
    let well = until_well(stage)?;
    wait::until_true("a token has run out", SOON, || {
        Ok(stage.cluster.worthless_tokens()? > before)
    })?;
    until_well(stage)?;
    Ok(format!("nothing to say, well after {well:.1?}"))
}

/// The servers' certificate is replaced by one of the same authority, which is no matter, and by
/// one of another, which the agents learn of later.
fn server_certificate(stage: &mut Stage, papers: &Papers) -> Result<String> {
    let Papers { server, names, .. } = papers;
    papers.ours.issue(server, "etcd", names, Valid::Long)?;
    reconnect(stage)?;
    until_well(stage).context("the same authority")?;
    papers.theirs.issue(server, "etcd", names, Valid::Long)?;
    reconnect(stage)?;
    let said = until_said(stage, ACCESS, "--etcd-cafile")?;
    fs::copy(papers.theirs.cert(), &papers.trusted).context("whom agents trust now")?;
    after(stage, said)
}

/// The agents' certificate has run out, and is replaced.
fn client_certificate(stage: &mut Stage, papers: &Papers) -> Result<String> {
    papers
        .ours
        .issue(&papers.agent, "agent", "", Valid::Expired)?;
    let said = until_said(stage, "etcd_files", "ran out")?;
    until_said(stage, ACCESS, "not available")?;
    papers.ours.issue(&papers.agent, "agent", "", Valid::Long)?;
    after(stage, said)
}

/// Every connection between agents and members ends: certificates are shown at the next one.
fn reconnect(stage: &Stage) -> Result<()> {
    for node in &stage.nodes {
        stage.cluster.cut_all(node.host.address, Cut::Refuse)?;
    }
    wait::until_true("no agent is connected", LIMIT, || {
        let mut connected = false;
        for node in &stage.nodes {
            let text = node.host.run("ss -Htn state established dport = :2379")?;
            connected |= !text.trim().is_empty();
        }
        Ok(!connected)
    })?;
    stage.cluster.heal()
}
