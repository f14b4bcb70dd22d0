//! What the store says while the agent runs: another network config, leases of both families.

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    command,
    etcd::PREFIX,
    paths, wait,
    world::{CONFIG, Plan, World},
};

use crate::{PATIENCE, ensure_ready, reach_each_other, refused, until_said};

#[test]
fn what_the_store_says_meanwhile() -> Result<()> {
    let world = World::start(&Plan::new("meanwhile"))?;
    in_flannelds_place(&world).context("as flanneld")?;
    a_second_agent_is_refused(&world).context("a second agent")?;
    another_config_is_not_adopted(&world).context("another config")?;
    an_ipv4_half_makes_a_peer(&world).context("a lease of both families")
}

/// Under flanneld's name the program needs no verb.
fn in_flannelds_place(world: &World) -> Result<()> {
    let host = world.lab.host(0)?;
    let name = host.folder().join("flanneld");
    std::os::unix::fs::symlink(paths::weft()?, &name).context("a link")?;
    let said = command::output(host.command(&name).arg("-version"))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(
        said.status.success() && text.starts_with("weft "),
        "{said:?}"
    );
    let said = command::output(host.command(&name).args(["-iface", "eth7"]))?;
    let text = String::from_utf8_lossy(&said.stderr);
    ensure!(said.status.code() == Some(64), "{said:?}");
    // By the same socket it is told of the first agent before anything else.
    ensure!(text.contains("weft.sock"), "{text}");
    Ok(())
}

/// It names the first one, soon, and disturbs nothing.
fn a_second_agent_is_refused(world: &World) -> Result<()> {
    let host = world.lab.host(0)?;
    let endpoint = format!("--etcd-endpoints={}", world.lab.etcd.endpoint());
    let status = host.status()?;
    let first = status.get("pid").context("a process")?.to_string();
    let flags = [endpoint.as_str(), "--socket=/run/weft/other.sock"];
    let (code, log, took) = refused(&host, &flags)?;
    ensure!(
        code == 64 && log.contains(&format!("process {first}")),
        "{code}: {log}"
    );
    ensure!(took.as_millis() < 1000, "it took {took:?}");
    // By the same socket it is told before anything else.
    let (code, log, _) = refused(&host, &[endpoint.as_str()])?;
    ensure!(code == 64 && log.contains("weft.sock"), "{code}: {log}");
    ensure_ready(&host)
}

/// Row 19 of the fault matrix: nothing that runs is touched, and the status says what is wrong.
fn another_config_is_not_adopted(world: &World) -> Result<()> {
    let host = world.lab.host(0)?;
    let before = host.status()?.get("network").cloned();
    let key = format!("{PREFIX}/config");
    let etcd = &world.lab.etcd;
    for (config, told) in [
        (
            CONFIG.replace("188.172", "10.77"),
            "restart needed: Network",
        ),
        (
            CONFIG.replace("vxlan\"", "vxlan\",\"VNI\":9"),
            "Backend.VNI 1 is now 9",
        ),
        ("garbage".to_owned(), "not a JSON object"),
        (CONFIG.replace("vxlan", "udp"), "udp"),
    ] {
        etcd.put_config(&config)?;
        until_said(&host, "config", told)?;
        ensure_ready(&host)?;
    }
    etcd.delete(&key)?;
    until_said(&host, "config", "is not in the store")?;
    let table = host.weft(&["status"])?.1;
    ensure!(table.starts_with("ready, degraded"), "{table}");
    reach_each_other(world)?;
    ensure!(host.status()?.get("network") == before.as_ref());
    let limits = CONFIG.replace("\"Backend", "\"SubnetMax\":\"188.172.200.0\",\"Backend");
    etcd.put_config(&limits)?;
    until_said(&host, "config", "followed")?;
    etcd.put_config(CONFIG)?;
    until_said(&host, "config", "as it was read at the start")
}

fn an_ipv4_half_makes_a_peer(world: &World) -> Result<()> {
    let host = world.lab.host(0)?;
    let etcd = &world.lab.etcd;
    let alone = format!("{PREFIX}/subnets/188.172.77.0-24");
    let dual = format!("{alone}&fd00:172:77::-64");
    let value = |last: u8| {
        let data = |mac: &str| format!(r#"{{"VNI":1,"VtepMAC":"{mac}:{last:02x}"}}"#);
        let (v4, v6) = (data("02:aa:00:00:00"), data("02:bb:00:00:00"));
        format!(
            r#"{{"PublicIP":"192.0.2.{last}","PublicIPv6":"fd00::{last}","BackendType":"vxlan","BackendData":{v4},"BackendV6Data":{v6}}}"#
        )
    };
    let way = || host.run("ip neigh show 188.172.77.0 dev flannel.1");
    let until = |what: &str, mac: &str| {
        wait::until_true(what, PATIENCE, || {
            let there = way()?;
            Ok(if mac.is_empty() {
                there.is_empty()
            } else {
                there.contains(mac)
            })
        })
    };
    etcd.put(&dual, &value(77))?;
    until("the IPv4 half is a peer", "02:aa:00:00:00:4d")?;
    ensure!(host.peers()?.len() == 2, "{:?}", host.peers()?);
    // The same subnet under the other kind of key, and the end of the first.
    etcd.put(&alone, &value(78))?;
    until("the key for IPv4 alone counts", "02:aa:00:00:00:4e")?;
    etcd.delete(&dual)?;
    until_said(&host, "store", "answers")?;
    etcd.put(&dual, &value(79))?;
    etcd.delete(&alone)?;
    until("the other one is left", "02:aa:00:00:00:4f")?;
    etcd.delete(&dual)?;
    until("it is gone", "")?;
    reach_each_other(world)
}
