//! What we change ourselves is no reason to look; the same from anybody else is.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;
use weft::netlink::{HostOp, Netlink, Route, TunnelEntry, kernel::Rtnetlink};

use super::{
    netns::{in_fresh_netns, run},
    suite::{BOOT, MAC, OTHER_MAC, ip, net},
};

type Changes = <Rtnetlink as Netlink>::Changes;

async fn wakes(changes: &mut Changes) -> bool {
    timeout(Duration::from_millis(300), changes.next())
        .await
        .is_ok()
}

async fn calm(changes: &mut Changes) {
    let mut stirs = 0;
    while wakes(changes).await {
        stirs += 1;
        assert!(stirs < 100, "it changes by itself, without end");
    }
}

#[test]
fn our_own_changes_are_no_reason_to_look() {
    in_fresh_netns(|| async {
        run("ip link set lo up");
        run("ip link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1 nolearning");
        // An address of its own would be found unique a second later: that is an event, too.
        run("ip link set flannel.1 addrgenmode none");
        run("ip link set flannel.1 up");
        let host = Rtnetlink::new().unwrap();
        let link = host.observe().await.unwrap();
        let link = link.link_named("flannel.1").unwrap().index;
        let mut changes = host.changes().await.unwrap();
        calm(&mut changes).await;
        let addr = ip("10.5.2.0");
        let route = Route {
            destination: net("10.5.2.0/24"),
            gateway: Some(addr),
            link,
            onlink: true,
            metric: 0,
            mtu: None,
            protocol: BOOT,
        };
        let (entry, other) = (
            TunnelEntry { link, mac: MAC },
            TunnelEntry {
                link,
                mac: OTHER_MAC,
            },
        );
        let neighbour = |mac| HostOp::PutNeighbour { link, addr, mac };
        let (near, far) = (ip("192.0.2.7"), ip("192.0.2.8"));
        for ops in [
            vec![
                neighbour(MAC),
                HostOp::PutTunnel(entry, near),
                HostOp::PutRoute(route),
            ],
            vec![
                neighbour(OTHER_MAC),
                HostOp::PutTunnel(entry, far),
                HostOp::PutTunnel(other, far),
                HostOp::DeleteTunnel(entry),
            ],
            vec![
                HostOp::DeleteRoute(route),
                HostOp::DeleteTunnel(other),
                HostOp::DeleteNeighbour(link, addr),
            ],
        ] {
            for (op, answer) in ops.iter().zip(host.apply_all(&ops).await) {
                answer.unwrap_or_else(|error| panic!("{op}: {error}"));
            }
            assert!(!wakes(&mut changes).await, "{ops:?}");
        }
        // What is there already brings no event, and no later one is taken for it.
        let put = HostOp::PutTunnel(entry, near);
        let ops = [put.clone(), put];
        assert!(host.apply_all(&ops).await.iter().all(Result::is_ok));
        assert!(!wakes(&mut changes).await);
        host.observe().await.unwrap();
        // Nor is anything after a removal that found nothing.
        let gone = [
            HostOp::DeleteTunnel(other),
            HostOp::DeleteNeighbour(link, addr),
        ];
        assert!(host.apply_all(&gone).await.iter().all(Result::is_ok));
        for words in [
            format!("bridge fdb replace {OTHER_MAC} dev flannel.1 dst 192.0.2.9 self permanent"),
            format!("bridge fdb del {OTHER_MAC} dev flannel.1"),
            format!("bridge fdb replace {MAC} dev flannel.1 dst 192.0.2.9 self permanent"),
            format!("bridge fdb replace {MAC} dev flannel.1 dst 192.0.2.7 self permanent"),
            format!("bridge fdb del {MAC} dev flannel.1"),
            format!("ip neigh replace {addr} lladdr {MAC} dev flannel.1 nud permanent"),
            format!("ip neigh del {addr} dev flannel.1"),
            format!("ip route replace 10.5.2.0/24 via {addr} dev flannel.1 onlink"),
            "ip route del 10.5.2.0/24".to_owned(),
        ] {
            run(&words);
            assert!(wakes(&mut changes).await, "{words}");
            calm(&mut changes).await;
        }
    });
}
