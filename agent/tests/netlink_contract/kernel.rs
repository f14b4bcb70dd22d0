//! What else only a kernel can show: routes of all kinds, its words, links that vanish.

use std::{fs, thread, time::Duration};

use futures::StreamExt;
use ipnet::IpNet;
use tokio::time::timeout;
use weft::{
    model::net::{Mac, Vni},
    netlink::{HostOp, LinkKind, Netlink, VxlanAttrs, VxlanDevice, kernel::Rtnetlink},
    uplink::{self, UplinkRequest},
};

use super::netns::{in_fresh_netns, run};

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
fn the_route_that_is_put_back_goes_with_its_address() {
    in_fresh_netns(|| async {
        run("ip link add br0 up type bridge");
        run("ip addr add 10.5.1.1/24 dev br0");
        let host = Rtnetlink::new().unwrap();
        let before = host.observe().await.unwrap();
        run("ip route del 10.5.1.0/24");
        let br0 = before.link_named("br0").unwrap().index;
        let own = "10.5.1.1/24".parse().unwrap();
        host.apply(&HostOp::PutConnected(br0, own)).await.unwrap();
        assert_eq!(host.observe().await.unwrap().routes, before.routes);
        run("ip addr del 10.5.1.1/24 dev br0");
        let routes = host.observe().await.unwrap().routes;
        assert!(
            routes
                .iter()
                .all(|route| route.destination.addr().is_ipv6())
        );
    });
}

#[test]
fn errors_carry_the_kernels_words() {
    in_fresh_netns(|| async {
        run("ip link add flannel.9 type vxlan id 9 dstport 8472");
        let host = Rtnetlink::new().unwrap();
        let observed = host.observe().await.unwrap();
        let mut device = VxlanDevice {
            name: "other".to_owned(),
            attrs: VxlanAttrs {
                vni: Vni::try_from(9).unwrap(),
                port: 8472,
                local: None,
                lower: None,
                learning: false,
                gbp: false,
            },
            mac: Mac([2, 0, 0, 0, 0, 9]),
            mtu: 1450,
        };
        let error = host
            .apply(&HostOp::CreateVxlan(device.clone()))
            .await
            .unwrap_err();
        assert!(error.to_string().contains("(kernel: "), "{error}");
        // A router on the overlay configures nothing here.
        device.attrs.port = 4789;
        host.apply(&HostOp::CreateVxlan(device.clone()))
            .await
            .unwrap();
        let accepts = fs::read_to_string("/proc/sys/net/ipv6/conf/other/accept_ra").unwrap();
        assert_eq!(accepts.trim(), "0");
        device.attrs.port = 8472;
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

#[test]
fn every_next_hop_is_a_route() {
    in_fresh_netns(|| async {
        run("ip link add up0 type veth peer name peer0");
        run("ip link set peer0 up");
        run("ip link set up0 up");
        run("ip addr add 192.0.2.1/24 dev up0");
        run("ip addr add fd00::1/64 dev up0 nodad");
        run("ip route add default nexthop via 192.0.2.8 nexthop via 192.0.2.9 onlink dev up0");
        run("ip route add 198.51.100.0/24 via inet6 fd00::9");
        run("ip route add fd01::/64 via fd00::9");
        let observed = Rtnetlink::new().unwrap().observe().await.unwrap();
        let link = observed.link_named("up0").unwrap();
        assert_eq!(
            link.kind,
            LinkKind::Veth {
                peer_elsewhere: false
            }
        );
        let of = |net: &str| -> Vec<_> {
            let net: IpNet = net.parse().unwrap();
            let routes = observed
                .routes
                .iter()
                .filter(|route| route.destination == net);
            routes
                .map(|route| {
                    (
                        route.gateway.unwrap().to_string(),
                        route.onlink,
                        route.metric,
                    )
                })
                .collect()
        };
        let want = [
            ("192.0.2.8".to_owned(), false, 0),
            ("192.0.2.9".to_owned(), true, 0),
        ];
        assert_eq!(of("0.0.0.0/0"), want);
        assert_eq!(of("198.51.100.0/24"), [("fd00::9".to_owned(), false, 0)]);
        assert_eq!(of("fd01::/64"), [("fd00::9".to_owned(), false, 1024)]);
        assert!(
            observed
                .addresses
                .contains(&(link.index, "fd00::1/64".parse().unwrap()))
        );
    });
}

#[test]
fn the_uplink_is_found_as_the_kernel_orders_addresses() {
    in_fresh_netns(|| async {
        run("ip link add up0 type veth peer name peer0");
        run("ip link set peer0 up");
        run("ip link set up0 up");
        run("ip addr add 192.0.2.77/24 dev up0 valid_lft 600 preferred_lft 600");
        run("ip addr add 192.0.2.9/24 dev up0");
        run("ip addr add 192.0.2.5/24 dev up0 valid_lft 600 preferred_lft 0");
        run("ip addr add 198.51.100.6/24 dev up0");
        run("ip addr add 198.51.100.3/24 dev up0");
        run("ip route add default via 192.0.2.254");
        let host = Rtnetlink::new().unwrap();
        let observed = host.observe().await.unwrap();
        let mut request = UplinkRequest::default();
        let uplink = uplink::choose(&observed, &request).unwrap();
        // The first of its prefix, and without a lifetime.
        assert_eq!((uplink.name.as_str(), uplink.mtu), ("up0", 1500));
        assert_eq!(uplink.address.to_string(), "198.51.100.6");
        let reached = host.route_to("203.0.113.1".parse().unwrap()).await.unwrap();
        let (hop, source) = reached.unwrap();
        request.can_reach = Some((hop.link, source.unwrap()));
        let uplink = uplink::choose(&observed, &request).unwrap();
        assert_eq!(uplink.address.to_string(), "192.0.2.77");
    });
}
