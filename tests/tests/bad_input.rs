//! Bad input: a documented exit code, a message that names the thing, nothing half-programmed.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    agent::{Agent, Flags},
    command,
    container::Place as _,
    etcd::PREFIX,
    host::Host,
    lab::Lab,
    paths, probe, wait,
    world::{CONFIG, Plan, World},
};

const LIMIT: Duration = Duration::from_secs(15);

/// Runs `weft run` to its end: exit code and log.
fn end(lab: &Lab, more: &[&str]) -> Result<(i32, String)> {
    let mut flags = Flags::new(&lab.etcd.endpoint());
    flags.more = more.iter().map(ToString::to_string).collect();
    let mut agent = Agent::start(&lab.host(0)?, flags)?;
    let daemon = agent.daemon()?;
    let status = daemon.wait(LIMIT).with_context(|| daemon.tail())?;
    Ok((status.code().context("ended by a signal")?, daemon.log()))
}

fn ensure_untouched(host: &Host) -> Result<()> {
    ensure!(
        host.ip("link show flannel.1").is_err(),
        "a device was left behind"
    );
    ensure!(
        !host.file("/run/flannel/subnet.env").exists(),
        "subnet.env was left behind"
    );
    Ok(())
}

#[test]
fn usage_errors_end_with_64() -> Result<()> {
    let lab = Lab::new("usage", 1)?;
    lab.etcd.put_config(CONFIG)?;
    let cases: [(&[&str], &str); 4] = [
        (&["--iface=nosuch0"], "nosuch0"),
        (&["--public-ip=not-an-address"], "public-ip"),
        (&["--no-such-flag"], "no-such-flag"),
        (&["--iface=198.51.100.7"], "198.51.100.7"),
    ];
    for (flags, named) in cases {
        let (code, log) = end(&lab, flags)?;
        ensure!(code == 64, "{flags:?}: {code}\n{log}");
        ensure!(
            log.contains(named),
            "{flags:?}: the message does not name {named}\n{log}"
        );
        ensure_untouched(&*lab.host(0)?)?;
    }
    Ok(())
}

#[test]
fn without_a_default_route_the_message_says_so() -> Result<()> {
    let lab = Lab::new("no_route", 1)?;
    lab.etcd.put_config(CONFIG)?;
    lab.host(0)?.ip("route del default")?;
    let (code, log) = end(&lab, &[])?;
    ensure!(code == 64, "{code}\n{log}");
    ensure!(
        log.contains("default route") && log.contains("--iface"),
        "{log}"
    );
    ensure_untouched(&*lab.host(0)?)
}

#[test]
fn a_store_that_does_not_answer_in_time_ends_with_69() -> Result<()> {
    let mut lab = Lab::new("store", 1)?;
    lab.etcd.outage()?;
    let (code, log) = end(&lab, &["--etcd-wait=2"])?;
    ensure!(code == 69, "{code}\n{log}");
    ensure!(
        log.contains(&lab.etcd.endpoint()),
        "the endpoint is not named\n{log}"
    );
    ensure_untouched(&*lab.host(0)?)
}

#[test]
fn without_root_it_ends_with_77() -> Result<()> {
    let lab = Lab::new("root", 1)?;
    let host = lab.host(0)?;
    let mut setpriv = host.command("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    // The build's folder may be closed to others.
    let copy = host.file("/run/weft-for-all");
    std::fs::copy(paths::weft()?, &copy).context("copy the agent")?;
    setpriv.args([
        "/run/weft-for-all",
        "run",
        "--etcd-endpoints",
        &lab.etcd.endpoint(),
    ]);
    let out = command::output(&mut setpriv)?;
    let log = String::from_utf8_lossy(&out.stderr).into_owned();
    ensure!(out.status.code() == Some(77), "{}\n{log}", out.status);
    ensure!(
        log.contains("root") || log.contains("CAP_NET_ADMIN"),
        "{log}"
    );
    Ok(())
}

#[test]
fn a_config_that_is_wrong_is_waited_for() -> Result<()> {
    let lab = Lab::new("config", 1)?;
    let host = lab.host(0)?;
    let mut agent = Agent::start(&host, Flags::new(&lab.etcd.endpoint()))?;
    // Absent, then wrong in each way that flannel users know.
    let wrong = [
        None,
        Some("not json"),
        Some(r#"{"Network":"10.0.0.0/30","Backend":{"Type":"vxlan"}}"#),
        Some(r#"{"Network":"10.0.0.0/16"}"#),
        Some(r#"{"Network":"10.0.0.0/16","Backend":{"Type":"host-gw"}}"#),
    ];
    for config in wrong {
        let before = agent.daemon()?.log().len();
        if let Some(config) = config {
            lab.etcd.put_config(config)?;
        }
        wait::until_true(&format!("the agent speaks of {config:?}"), LIMIT, || {
            agent.daemon()?.ensure_running()?;
            Ok(agent
                .daemon()?
                .log()
                .get(before..)
                .is_some_and(|log| log.contains("config")))
        })
        .with_context(|| agent.tail())?;
        ensure!(
            host.weft(&["status", "-o", "json"])?.0 != 0,
            "ready with {config:?}"
        );
        ensure_untouched(&host)?;
    }
    lab.etcd.put_config(CONFIG)?;
    agent.ready().map(drop)
}

#[test]
fn a_broken_lease_harms_nobody_else() -> Result<()> {
    let world = World::start(&Plan::new("broken_lease"))?;
    let broken = [
        ("188.172.200.0-24", "not json"),
        ("188.172.201.0-24", r#"{"PublicIP":"192.0.2.99"}"#),
        (
            "188.172.202.0-24",
            r#"{"PublicIP":null,"BackendType":"vxlan"}"#,
        ),
        ("nonsense", "{}"),
    ];
    for (name, value) in broken {
        world
            .lab
            .etcd
            .put(&format!("{PREFIX}/subnets/{name}"), value)?;
    }
    let (a, b) = world.pair()?;
    let pings = probe::ping(a, b.address(), "--count 3")?;
    ensure!(pings.replies == 3, "{pings:?}");
    for node in &world.nodes {
        let routes = node.host.ip("route show dev flannel.1")?;
        ensure!(routes.lines().count() == 1, "{routes}");
        ensure!(
            node.host
                .status()?
                .get("ready")
                .is_some_and(|ready| ready == true)
        );
    }
    Ok(())
}

#[test]
fn no_free_subnet_is_said() -> Result<()> {
    let lab = Lab::new("full", 1)?;
    // One subnet, and somebody has it.
    let config = r#"{"Network":"10.9.0.0/22","SubnetLen":24,"SubnetMin":"10.9.1.0","SubnetMax":"10.9.1.0","Backend":{"Type":"vxlan"}}"#;
    lab.etcd.put_config(config)?;
    let taken = r#"{"PublicIP":"192.0.2.99","PublicIPv6":null,"BackendType":"vxlan","BackendData":{"VNI":1,"VtepMAC":"0a:00:00:00:00:01"}}"#;
    lab.etcd
        .put(&format!("{PREFIX}/subnets/10.9.1.0-24"), taken)?;
    let (code, log) = end(&lab, &[])?;
    ensure!(code == 69, "{code}\n{log}");
    ensure!(log.contains("no free subnet between 10.9.1.0/24"), "{log}");
    ensure_untouched(&*lab.host(0)?)
}

#[test]
fn an_uplink_too_small_for_the_overlay_is_said_before_a_subnet_is_claimed() -> Result<()> {
    let lab = Lab::new("small", 1)?;
    lab.etcd.put_config(CONFIG)?;
    lab.host(0)?.ip("link set eth0 mtu 600")?;
    let (code, log) = end(&lab, &[])?;
    ensure!(code == 64, "{code}\n{log}");
    ensure!(log.contains("an overlay MTU of 550"), "{log}");
    ensure!(lab.etcd.leases()?.is_empty(), "a subnet was claimed");
    ensure_untouched(&*lab.host(0)?)
}

#[test]
fn what_an_operator_overlooks_is_said() -> Result<()> {
    let lab = Lab::new("overlap", 1)?;
    // The lab's underlay is 192.0.2.0/24.
    let config = r#"{"Network":"192.0.0.0/16","Backend":{"Type":"vxlan"}}"#;
    lab.etcd.put_config(config)?;
    let mut agent = Agent::start(&lab.host(0)?, Flags::new(&lab.etcd.endpoint()))?;
    agent.ready()?;
    let log = agent.daemon()?.log();
    ensure!(log.contains("overlaps 192.0.2."), "{log}");
    Ok(())
}

/// What a caller who is not root, or asks where nothing is, gets: a code, one line, and JSON where
/// JSON was asked for.
#[test]
fn the_read_verbs_say_what_they_lack() -> Result<()> {
    let lab = Lab::new("verbs", 1)?;
    let host = lab.host(0)?;
    let (code, text, errors) = host.weft(&["status", "-o", "json"])?;
    ensure!(code == 3, "{code}: {errors}");
    ensure!(text.contains("\"ready\": false"), "{text}");
    let (code, text, errors) = host.weft(&["dump", "peers"])?;
    ensure!(code == 1 && text.is_empty(), "{code}: {text}");
    ensure!(errors.contains("no maps are pinned for VNI 1"), "{errors}");
    let (code, _, errors) = host.weft(&["docker-opts", "-f", "/nowhere"])?;
    ensure!(code == 1, "{code}: {errors}");
    ensure!(errors.matches("/nowhere").count() == 1, "{errors}");

    let copy = host.file("/run/weft-for-all");
    std::fs::copy(paths::weft()?, &copy).context("copy the agent")?;
    let mut setpriv = host.command("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
    let out = command::output(setpriv.args(["/run/weft-for-all", "dump", "peers"]))?;
    let errors = String::from_utf8_lossy(&out.stderr);
    ensure!(out.status.code() == Some(4), "{}\n{errors}", out.status);
    ensure!(errors.contains("root"), "{errors}");
    Ok(())
}
