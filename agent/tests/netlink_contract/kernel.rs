//! What only a kernel can show: bridges that learn, neighbours that answer, links that vanish.

use std::{net::UdpSocket, thread, time::Duration};

use futures::StreamExt;
use tokio::time::{sleep, timeout};
use weft::netlink::{
    BridgeEntry, HostOp, LinkKind, NeighbourState, Netlink, ObservedHost, rtnetlink::Rtnetlink,
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
            !observed.bridge_fdb.is_empty()
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
fn the_metric_mtu_of_a_route_wins() {
    in_fresh_netns(|| async {
        run("ip link set lo up");
        run("ip link add up0 type veth peer name peer0");
        run("ip link set peer0 up");
        run("ip link set up0 up");
        run("ip addr add 192.0.2.1/24 dev up0");
        run("ip route add 198.51.100.0/24 via 192.0.2.254 mtu 1300");
        run("ip route add blackhole 203.0.113.0/24");
        run("ip route add unreachable 203.0.114.0/24");
        let host = Rtnetlink::new().unwrap();
        let (hop, _) = host
            .route_to("198.51.100.7".parse().unwrap())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(hop.mtu, 1300);
        for nowhere in ["203.0.113.1", "203.0.114.1", "8.8.8.8"] {
            assert_eq!(
                host.route_to(nowhere.parse().unwrap()).await.unwrap(),
                None,
                "{nowhere}"
            );
        }
    });
}

#[test]
fn errors_carry_the_kernels_words() {
    in_fresh_netns(|| async {
        run("ip link add flannel.9 type vxlan id 9 dstport 8472");
        let host = Rtnetlink::new().unwrap();
        let observed = host.observe().await.unwrap();
        let mut device = weft::netlink::VxlanDevice {
            name: "other".to_owned(),
            attrs: weft::netlink::VxlanAttrs {
                vni: weft::model::net::Vni::try_from(9).unwrap(),
                port: 8472,
                local: None,
                lower: None,
                learning: false,
                gbp: false,
            },
            mac: weft::model::net::Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1450,
        };
        let error = host
            .apply(&HostOp::CreateVxlan(device.clone()))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("(kernel: "), "{error}");
        // `ip` asked for learning by leaving it at the kernel's default.
        device.attrs.learning = true;
        let found = observed.link_named("flannel.9").unwrap();
        assert_eq!(found.kind, LinkKind::Vxlan(device.attrs));
    });
}

#[test]
fn links_that_come_and_go_do_not_fail_an_observation() {
    in_fresh_netns(|| async {
        let host = Rtnetlink::new().unwrap();
        let mut changes = host.changes().await.unwrap();
        let stir = thread::spawn(|| {
            for round in 0..60 {
                run(&format!(
                    "ip link add x{round} type veth peer name y{round}"
                ));
                run(&format!("ip link set x{round} up"));
                run(&format!("ip link del x{round}"));
            }
        });
        let mut observations = 0;
        while !stir.is_finished() {
            host.observe().await.unwrap();
            observations += 1;
        }
        stir.join().unwrap();
        assert!(observations > 10, "{observations}");
        timeout(Duration::from_secs(1), changes.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(host.observe().await.unwrap().links.len(), 1);
    });
}
