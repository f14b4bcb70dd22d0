//! Rows about the uplink, the bridge and the file system that an agent stands on: 26 to 29, 35,
//! 39.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use super::{Injected, stage::Stage};
use crate::{
    agent::Agent, container::add_bridge, host::Host, lab::SWITCH, paths::BPFTOOL, probe,
    subnet_env::SubnetEnv, wait,
};

const LIMIT: Duration = Duration::from_secs(20);
/// The host that these happen to: the third, beside the load.
const HOST: usize = 2;
/// A second, and what the lab needs to look.
const SOON: Duration = Duration::from_millis(2000);

fn until_settled(stage: &Stage, what: &str) -> Result<Duration> {
    let took = stage.settle(LIMIT).context(what.to_owned())?;
    ensure!(took < SOON, "{what}: right after {took:.1?}");
    Ok(took)
}

/// The kernel forgets the default route with the device that it goes by.
fn default_route(stage: &Stage) -> Result<()> {
    let host = &stage.node(HOST)?.host;
    host.ip(&format!("route replace default via {SWITCH}"))
        .map(drop)
}

/// Row 26.
pub fn a_flapping_uplink(stage: &mut Stage) -> Result<Injected> {
    let mut slowest = Duration::ZERO;
    let times = stage.times(5, 20);
    for _ in 0..times {
        let host = &stage.node(HOST)?.host;
        host.ip("link set eth0 down")?;
        host.ip("link set eth0 up")?;
        default_route(stage)?;
        slowest = slowest.max(until_settled(stage, "up again")?);
    }
    Ok(Injected::now().note(format!("{times} times, right after {slowest:.1?} at most")))
}

/// Row 27.
pub fn a_moved_uplink(stage: &mut Stage) -> Result<Injected> {
    let old = stage.node(HOST)?.host.address;
    let new = Ipv4Addr::new(192, 0, 2, 63);
    let born = stage.born(HOST)?;
    let mut slowest = Duration::ZERO;
    for (from, to) in [(old, new), (new, old)] {
        let host = &stage.node(HOST)?.host;
        host.ip(&format!("address del {from}/24 dev eth0"))?;
        host.ip(&format!("address add {to}/24 dev eth0"))?;
        default_route(stage)?;
        let began = Instant::now();
        stage
            .settle(LIMIT)
            .with_context(|| format!("behind {to}"))?;
        slowest = slowest.max(began.elapsed());
    }
    ensure!(
        stage.born(HOST)? == born,
        "its key was gone meanwhile: not a compare-and-swap"
    );
    Ok(Injected::now().note(format!(
        "the key and the peers followed within {slowest:.1?}"
    )))
}

/// Row 28, without a bond.
pub fn a_new_uplink(stage: &mut Stage) -> Result<Injected> {
    let node = stage.node(HOST)?;
    let (address, far) = (node.host.address, node.host.ns.name().to_owned());
    stage.switch.ip("link del p3")?;
    stage
        .switch
        .ip(&format!("link add p3 type veth peer name eth0 netns {far}"))?;
    stage.switch.ip("link set p3 master br0 up")?;
    let host = &stage.node(HOST)?.host;
    host.ip(&format!("address add {address}/24 dev eth0"))?;
    host.ip("link set eth0 up")?;
    default_route(stage)?;
    let mut times = vec![until_settled(stage, "made again")?];

    let host = &stage.node(HOST)?.host;
    host.ip("link set eth0 address 02:00:00:00:00:13")?;
    times.push(until_settled(stage, "another MAC")?);

    for (mtu, overlay) in [(1400, 1350), (1500, 1450)] {
        let host = &stage.node(HOST)?.host;
        host.ip(&format!("link set eth0 mtu {mtu}"))?;
        let path = host.file(SubnetEnv::path());
        wait::until_true("subnet.env has the new MTU", LIMIT, || {
            Ok(SubnetEnv::read(&path)?.mtu == overlay)
        })?;
        let told = host.status()?.pointer("/mtu").and_then(|mtu| mtu.as_u64());
        ensure!(
            told == Some(u64::from(overlay)),
            "status says {told:?}, not {overlay}"
        );
        times.push(until_settled(stage, "another MTU")?);
        // The container still has what it was told at first.
        let told = stage.node(HOST)?.host.component("port_mtu")?;
        let port = &stage.node(HOST)?.container(0)?.port;
        ensure!(
            told.contains(&format!("{port}: 1450")) == (overlay < 1450),
            "with {overlay} the status says of ports: {told}"
        );
    }
    Ok(Injected::now().note(format!("right after {times:.1?}")))
}

/// Row 29.
pub fn a_new_bridge(stage: &mut Stage) -> Result<Injected> {
    let node = stage.node(HOST)?;
    node.host.ip("link del cni0")?;
    add_bridge(&node.host, &node.env)?;
    for container in &node.containers {
        node.host
            .ip(&format!("link set {} master cni0", container.port))?;
        // It has another MAC. Who was told the old one goes on with that for seconds, on flannel, too.
        container.ip("neigh flush dev eth0")?;
    }
    let took = until_settled(stage, "a new bridge")?;
    let (from, to) = (
        stage.node(0)?.container(0)?,
        stage.node(HOST)?.container(0)?,
    );
    let pings = probe::ping(from, to.address, "--count 3")?;
    ensure!(pings.replies == 3, "{pings:?}");
    Ok(Injected::now().note(format!("attached after {took:.1?}")))
}

/// Row 35. Another bpffs over ours while the agent runs, and one more while it does not.
pub fn a_file_system_over_ours(stage: &mut Stage) -> Result<Injected> {
    const OVER: &str = "mount -t bpf none /sys/fs/bpf";
    let host = stage.node(0)?.host.clone();
    let links = links(stage)?;
    host.run(OVER)?;
    let again = stage.settle(LIMIT).context("with another bpffs in place");
    let restarted = again.and_then(|took| {
        stage.agent(0)?.kill_hard()?;
        host.run(OVER)?;
        stage.revive(0)?;
        stage
            .settle(LIMIT)
            .context("after a start where nothing is pinned")?;
        host.run("umount /sys/fs/bpf")?;
        Ok(took)
    });
    host.run("umount /sys/fs/bpf")?;
    let took = restarted?;
    // The first one's pins are back: they are of the same links.
    stage.agent(0)?.kill_hard()?;
    stage.revive(0)?;
    stage.settle(LIMIT).context("with the first bpffs again")?;
    let now = self::links(stage)?;
    ensure!(
        now == links,
        "other links than before: {now:?}, not {links:?}"
    );
    Ok(Injected::now().note(format!(
        "pinned again after {took:.1?}, the same links all along"
    )))
}

/// The disk is full: the file cannot be written, and nothing half written stands in its place.
fn no_room(host: &Host) -> Result<()> {
    host.run("mount -t tmpfs -o size=4k none /run/flannel")?;
    let full = std::fs::write(host.file("/run/flannel/filler"), [1; 4096]);
    let said = wait::until_true("it says that there is no room", LIMIT, || {
        let detail = host.component("subnet_file")?;
        Ok(detail.contains("No space left") && detail.contains("--subnet-file"))
    });
    let half = host.file(SubnetEnv::path()).exists();
    host.run("umount /run/flannel")?;
    full.context("fill the disk")?;
    said?;
    ensure!(!half, "a file without its content was left");
    Ok(())
}

/// Numbers of the first host's pinned links, by their pins.
fn links(stage: &Stage) -> Result<BTreeMap<String, u64>> {
    let host = &stage.node(0)?.host;
    let pins = host.run("find /sys/fs/bpf/weft -path */links/*")?;
    let number = |pin: &str| {
        let text = host.run(&format!("{BPFTOOL} -j link show pinned {pin}"))?;
        let link: serde_json::Value = serde_json::from_str(&text).context("parse a link")?;
        let id = link.pointer("/id").and_then(|id| id.as_u64());
        Ok((pin.to_owned(), id.context("a link's number")?))
    };
    pins.lines().map(number).collect()
}

/// Row 39.
pub fn no_place_for_the_file(stage: &mut Stage) -> Result<Injected> {
    let host = stage.node(0)?.host.clone();
    host.run("mount -t tmpfs -o ro none /run/flannel")?;
    let said = wait::until_true("it says so", LIMIT, || {
        let detail = host.component("subnet_file")?;
        Ok(detail.contains("--subnet-file"))
    });
    host.run("umount /run/flannel")?;
    said?;
    no_room(&host)?;
    std::fs::remove_dir_all(host.file("/run/flannel")).context("remove the folder")?;
    wait::until_true("folder and file are made again", LIMIT, || {
        Ok(SubnetEnv::read(&host.file(SubnetEnv::path())).is_ok())
    })?;

    // The first write is another matter: nobody has started by the file yet.
    let spare = stage.host(6)?;
    spare.run("mount -t tmpfs -o ro none /run/flannel")?;
    let mut agent = Agent::start(&spare, stage.flags())?;
    wait::until_true("the start says so", LIMIT, || {
        agent.daemon()?.ensure_running()?;
        Ok(spare
            .component("subnet_file")
            .is_ok_and(|detail| detail.contains("--subnet-file")))
    })?;
    let (code, ..) = spare.weft(&["status"])?;
    ensure!(code == 1, "status without the file ended with {code}");
    agent.kill_hard()?;
    let records = super::truth::records(&stage.cluster, &stage.bad)?;
    let own = records
        .iter()
        .find(|record| record.address == spare.address);
    let name = own
        .context("the spare's lease")?
        .subnet
        .to_string()
        .replace('/', "-");
    stage.cluster.revoke(&crate::cluster::lease_key(&name))?;
    Ok(Injected::now())
}
