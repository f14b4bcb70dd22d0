//! A container of our own: a network namespace with one cable to a bridge, for as long as a thread
//! lives. For measurements over the overlay, which nothing but a container's packet takes whole.

use std::{fs::File, net::Ipv4Addr, os::fd::AsRawFd as _, sync::mpsc, thread};

use anyhow::{Context as _, Result, anyhow};
use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use nix::sched::{CloneFlags, unshare};
use rtnetlink::{Handle, LinkUnspec, LinkVeth, RouteMessageBuilder, new_connection};

use crate::model::net::IfIndex;

/// Where the container hangs, and under which address.
#[derive(Clone, Debug)]
pub struct Place {
    /// The bridge.
    pub bridge: IfIndex,
    /// The container's address, with the length of the subnet.
    pub address: Ipv4Net,
    /// The bridge's own address.
    pub gateway: Ipv4Addr,
    /// MTU of the overlay.
    pub mtu: u32,
}

/// Runs `work` in a thread inside a fresh container; threads that it starts are inside too. The
/// container goes when the last of them ends.
pub fn inside<T: Send + 'static>(
    place: Place,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<thread::JoinHandle<Result<T>>> {
    let (tell, hear) = mpsc::channel();
    let (connected, go) = mpsc::channel::<()>();
    let names = names();
    let inner = names.1.clone();
    let there = place.clone();
    let guest = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        let own = File::open("/proc/thread-self/ns/net").context("open the network namespace")?;
        tell.send(own)
            .map_err(|_gone| anyhow!("nobody connects the container"))?;
        go.recv().context("the container was not connected")?;
        block_on(furnish(&there, &inner))?;
        work()
    });
    // A guest that has ended already says why when it is joined.
    if let Ok(own) = hear.recv() {
        block_on(connect(&place, &names, &own))?;
        let _ = connected.send(());
    }
    Ok(guest)
}

/// Both ends of the cable: unique to this process, and short enough for an interface.
fn names() -> (String, String) {
    let number = std::process::id();
    (format!("wb{number}"), format!("wc{number}"))
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start a runtime")?
        .block_on(work)
}

fn handle() -> Result<Handle> {
    let (connection, handle, _events) = new_connection().context("open rtnetlink")?;
    tokio::spawn(connection);
    Ok(handle)
}

async fn index(handle: &Handle, name: &str) -> Result<u32> {
    let mut found = handle.link().get().match_name(name.to_owned()).execute();
    let link = found.try_next().await.with_context(|| name.to_owned())?;
    Ok(link.with_context(|| name.to_owned())?.header.index)
}

/// Lays the cable and gives its far end away. What goes wrong leaves no cable.
async fn connect(place: &Place, names: &(String, String), guest: &File) -> Result<()> {
    let handle = handle()?;
    let (near, far) = names;
    let cable = LinkVeth::new(near, far).build();
    let made = handle.link().add(cable).execute().await;
    made.with_context(|| format!("make the cable {near}"))?;
    let plugged = plug(&handle, place, names, guest).await;
    if plugged.is_err()
        && let Ok(index) = index(&handle, near).await
    {
        // The first error is the one to tell.
        drop(handle.link().del(index).execute().await);
    }
    plugged
}

async fn plug(
    handle: &Handle,
    place: &Place,
    (near, far): &(String, String),
    guest: &File,
) -> Result<()> {
    let outer = LinkUnspec::new_with_name(near)
        .controller(place.bridge.get())
        .mtu(place.mtu)
        .up()
        .build();
    let set = handle.link().set(outer).execute().await;
    set.with_context(|| format!("plug {near} into the bridge"))?;
    let inner = LinkUnspec::new_with_name(far)
        .mtu(place.mtu)
        .setns_by_fd(guest.as_raw_fd())
        .build();
    let set = handle.link().set(inner).execute().await;
    set.with_context(|| format!("give {far} to the container"))
}

/// Inside: address, loopback and the way out.
async fn furnish(place: &Place, device: &str) -> Result<()> {
    let handle = handle()?;
    for name in ["lo", device] {
        let up = LinkUnspec::new_with_name(name).up().build();
        let set = handle.link().set(up).execute().await;
        set.with_context(|| format!("turn {name} on"))?;
    }
    let index = index(&handle, device).await?;
    let (address, length) = (place.address.addr().into(), place.address.prefix_len());
    let added = handle.address().add(index, address, length).execute().await;
    added.with_context(|| format!("take the address {}", place.address))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new()
        .gateway(place.gateway)
        .build();
    let added = handle.route().add(route).execute().await;
    added.with_context(|| format!("route by {}", place.gateway))
}
