//! Bridges that learn and containers that answer, which only a kernel has.

use std::{net::UdpSocket, thread, time::Duration};

use tokio::time::sleep;
use weft::netlink::{
    BridgeEntry, HostOp, LinkKind, NeighbourState, Netlink, ObservedHost, TunnelEntry,
    kernel::Rtnetlink,
};

use super::netns::{in_fresh_netns, run};

/// A bridge `br0` at 10.5.1.1/24 with a port `port0`, whose other end `eth0` is 10.5.1.2 in the
/// namespace of a thread that sleeps until the returned sender goes.
fn bridge_with_container() -> std::sync::mpsc::Sender<()> {
    run("ip link add br0 type bridge");
    run("ip addr add 10.5.1.1/24 dev br0");
    run("ip link set br0 up");
    run("ip link add port0 type veth peer name eth0");
    run("ip link set port0 master br0");
    run("ip link set port0 up");
    let (done, wait) = std::sync::mpsc::channel::<()>();
    let (ready, started) = std::sync::mpsc::channel();
    thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
        ready.send(nix::unistd::gettid()).unwrap();
        // Nothing is ever sent: this ends when the sender is dropped.
        assert!(wait.recv().is_err());
    });
    let container = started.recv().unwrap();
    let enter = format!("nsenter --net=/proc/self/task/{container}/ns/net");
    let enter = enter.replace("/self/", &format!("/{}/", std::process::id()));
    run(&format!(
        "ip link set eth0 netns /proc/{}/task/{container}/ns/net",
        std::process::id()
    ));
    run(&format!("{enter} ip addr add 10.5.1.2/24 dev eth0"));
    run(&format!("{enter} ip link set eth0 up"));
    done
}

/// One packet, so that both sides resolve and the bridge learns.
fn speak() {
    let socket = UdpSocket::bind("10.5.1.1:0").unwrap();
    socket.send_to(b"hello", "10.5.1.2:9").unwrap();
}

async fn observe_until(
    host: &Rtnetlink,
    what: &str,
    seen: impl Fn(&ObservedHost) -> bool,
) -> ObservedHost {
    for _ in 0..100 {
        let observed = host.observe().await.unwrap();
        if seen(&observed) {
            return observed;
        }
        sleep(Duration::from_millis(50)).await;
    }
    panic!("not seen in time: {what}: {:#?}", host.observe().await);
}

#[test]
fn a_bridge_and_its_container_are_observed() {
    in_fresh_netns(|| async {
        let _container = bridge_with_container();
        let host = Rtnetlink::new().unwrap();
        let addr = "10.5.1.2".parse().unwrap();
        speak();
        let observed = observe_until(&host, "an entry of the bridge", |observed| {
            // The bridge learns from whatever the container says first.
            let mut neighbours = observed.neighbours.values();
            !observed.bridge_fdb.is_empty()
                && neighbours.any(|neighbour| neighbour.state == NeighbourState::Valid)
        })
        .await;
        let bridge = observed.link_named("br0").unwrap();
        let port = observed.link_named("port0").unwrap();
        assert_eq!(
            bridge.kind,
            LinkKind::Bridge {
                vlan_filtering: false
            }
        );
        assert_eq!(
            port.kind,
            LinkKind::Veth {
                peer_elsewhere: true
            }
        );
        assert_eq!(port.master, Some(bridge.index));
        assert!(port.up && port.carrier);
        let neighbour = &observed.neighbours[&(bridge.index, addr)];
        assert_eq!(neighbour.state, NeighbourState::Valid);
        let entry = BridgeEntry {
            bridge: bridge.index,
            mac: neighbour.mac.unwrap(),
            port: port.index,
        };
        // The port's and the bridge's own addresses are left out.
        assert_eq!(observed.bridge_fdb, [entry].into());
    });
}

#[test]
fn managing_a_neighbour_keeps_what_is_known_of_it() {
    in_fresh_netns(|| async {
        let _container = bridge_with_container();
        let host = Rtnetlink::new().unwrap();
        let addr = "10.5.1.2".parse().unwrap();
        speak();
        let observed = observe_until(&host, "a resolved neighbour", |observed| {
            let neighbours = observed.neighbours.values();
            neighbours
                .into_iter()
                .any(|n| n.state == NeighbourState::Valid)
        })
        .await;
        let link = observed.link_named("br0").unwrap().index;
        let before = observed.neighbours[&(link, addr)].clone();
        for managed in [true, false] {
            let op = HostOp::ManageNeighbour {
                link,
                addr,
                managed,
            };
            host.apply(&op).await.unwrap();
            let after = host.observe().await.unwrap().neighbours[&(link, addr)].clone();
            assert_eq!((after.mac, after.state), (before.mac, before.state));
            assert_eq!(after.managed, managed);
        }
    });
}

#[test]
fn a_vxlan_device_in_a_bridge_keeps_its_own_entries_apart() {
    in_fresh_netns(|| async {
        run("ip link add br0 type bridge");
        run("ip link add vx0 type vxlan id 5 dstport 4789 local 192.0.2.1 nolearning");
        run("ip link set vx0 master br0 up");
        run("bridge fdb add 02:00:00:00:00:01 dev vx0 dst 192.0.2.8 self permanent");
        run("bridge fdb add 02:00:00:00:00:01 dev vx0 master static");
        let observed = Rtnetlink::new().unwrap().observe().await.unwrap();
        let index = |name| observed.link_named(name).unwrap().index;
        let mac = "02:00:00:00:00:01".parse().unwrap();
        let tunnel = TunnelEntry {
            link: index("vx0"),
            mac,
        };
        assert_eq!(
            observed.tunnel_fdb,
            [(tunnel, "192.0.2.8".parse().unwrap())].into()
        );
        let entry = BridgeEntry {
            bridge: index("br0"),
            mac,
            port: index("vx0"),
        };
        assert_eq!(observed.bridge_fdb, [entry].into());
    });
}
