//! Promises about addresses, neighbours, forwarding entries and routes.

use ipnet::IpNet;
use weft::netlink::{HostOp, Neighbour, NeighbourState, Netlink, ObservedHost, Route, TunnelEntry};

use super::{BOOT, KERNEL, MAC, OTHER_MAC, ip, link, net, overlay, put};

pub async fn addresses_come_and_go<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let own = net("10.5.1.0/32");
    let rows = |observed: &ObservedHost| -> Vec<IpNet> {
        let of_overlay = observed
            .addresses
            .iter()
            .filter(|(link, _)| *link == overlay);
        of_overlay
            .map(|(_, net)| *net)
            .filter(|net| net.addr().is_ipv4())
            .collect()
    };
    put(&host, HostOp::PutAddress(overlay, own)).await;
    put(&host, HostOp::PutAddress(overlay, own)).await;
    let observed = host.observe().await.unwrap();
    assert_eq!(rows(&observed), [own]);
    assert!(!observed.standings[&(overlay, own.addr())].dynamic);
    put(&host, HostOp::DeleteAddress(overlay, own)).await;
    assert_eq!(rows(&host.observe().await.unwrap()), []);
}

pub async fn neighbours_come_and_go<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let addr = ip("10.5.2.0");
    for mac in [MAC, OTHER_MAC, OTHER_MAC] {
        put(
            &host,
            HostOp::PutNeighbour {
                link: overlay,
                addr,
                mac,
            },
        )
        .await;
        let want = Neighbour {
            mac: Some(mac),
            state: NeighbourState::Permanent,
            managed: false,
        };
        let observed = host.observe().await.unwrap();
        assert_eq!(observed.neighbours.get(&(overlay, addr)), Some(&want));
    }
    put(&host, HostOp::DeleteNeighbour(overlay, addr)).await;
    assert_eq!(
        host.observe()
            .await
            .unwrap()
            .neighbours
            .get(&(overlay, addr)),
        None
    );
}

pub async fn tunnel_entries_come_and_go<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let entry = TunnelEntry {
        link: overlay,
        mac: MAC,
    };
    let other = TunnelEntry {
        link: overlay,
        mac: OTHER_MAC,
    };
    put(&host, HostOp::PutTunnel(other, ip("192.0.2.9"))).await;
    for vtep in ["192.0.2.2", "192.0.2.3", "192.0.2.3"] {
        put(&host, HostOp::PutTunnel(entry, ip(vtep))).await;
        let observed = host.observe().await.unwrap();
        let want = [(entry, ip(vtep)), (other, ip("192.0.2.9"))];
        assert_eq!(observed.tunnel_fdb, want.into());
        assert!(observed.bridge_fdb.is_empty());
    }
    put(&host, HostOp::DeleteTunnel(entry)).await;
    put(&host, HostOp::DeleteTunnel(other)).await;
    assert!(host.observe().await.unwrap().tunnel_fdb.is_empty());
}

pub async fn a_blackhole_never_stands_beside_a_route<N: Netlink>(host: N) {
    let up = link(&host, "up0").await;
    let subnet = net("10.5.1.0/24");
    for _ in 0..2 {
        put(&host, HostOp::PutBlackhole(subnet)).await;
        let observed = host.observe().await.unwrap();
        assert_eq!(observed.nowhere.iter().collect::<Vec<_>>(), [&subnet]);
    }
    for _ in 0..2 {
        put(&host, HostOp::DeleteBlackhole(subnet)).await;
        assert!(host.observe().await.unwrap().nowhere.is_empty());
    }
    let route = Route {
        destination: subnet,
        gateway: None,
        link: up,
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: BOOT,
    };
    put(&host, HostOp::PutRoute(route)).await;
    put(&host, HostOp::PutBlackhole(subnet)).await;
    let observed = host.observe().await.unwrap();
    assert!(observed.nowhere.is_empty() && observed.routes.contains(&route));
}

pub async fn the_route_of_an_address_is_put_back_where_nothing_else_is<N: Netlink>(host: N) {
    let up = link(&host, "up0").await;
    let own = net("10.5.1.1/24");
    let connected = Route {
        destination: net("10.5.1.0/24"),
        gateway: None,
        link: up,
        onlink: false,
        metric: 0,
        mtu: None,
        protocol: KERNEL,
    };
    let other = Route {
        protocol: BOOT,
        ..connected
    };
    put(&host, HostOp::PutAddress(up, own)).await;
    put(&host, HostOp::DeleteRoute(connected)).await;
    for _ in 0..2 {
        put(&host, HostOp::PutConnected(up, own)).await;
        assert!(host.observe().await.unwrap().routes.contains(&connected));
    }
    put(&host, HostOp::PutRoute(other)).await;
    put(&host, HostOp::PutConnected(up, own)).await;
    let routes = host.observe().await.unwrap().routes;
    assert!(routes.contains(&other) && !routes.contains(&connected));
}

pub async fn neighbours_of_some_links_are_read_again<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let up = link(&host, "up0").await;
    let mut seen = host.observe().await.unwrap();
    let before = seen.clone();
    let entry = TunnelEntry {
        link: overlay,
        mac: OTHER_MAC,
    };
    put(&host, HostOp::PutTunnel(entry, ip("192.0.2.2"))).await;
    for (link, addr) in [(overlay, "10.5.2.0"), (up, "192.0.2.7")] {
        let (addr, mac) = (ip(addr), MAC);
        put(&host, HostOp::PutNeighbour { link, addr, mac }).await;
    }
    // What the kernel does by itself meanwhile is no business of this promise.
    let rows = |host: &ObservedHost| {
        let permanent = host.neighbours.iter();
        let permanent = permanent.filter(|(_, entry)| entry.state == NeighbourState::Permanent);
        let permanent: Vec<_> = permanent.map(|(place, _)| *place).collect();
        (permanent, host.tunnel_fdb.clone())
    };
    host.observe_neighbours(&mut seen, &[up].into())
        .await
        .unwrap();
    let (neighbours, tunnels) = rows(&seen);
    assert_eq!(neighbours, [(up, ip("192.0.2.7"))]);
    assert_eq!(tunnels, before.tunnel_fdb);
    host.observe_neighbours(&mut seen, &[overlay].into())
        .await
        .unwrap();
    assert_eq!(rows(&seen), rows(&host.observe().await.unwrap()));
    assert_eq!(rows(&seen).1, [(entry, ip("192.0.2.2"))].into());
}

pub async fn routes_come_and_go<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let up = link(&host, "up0").await;
    put(&host, HostOp::PutAddress(up, net("192.0.2.1/24"))).await;
    let through_overlay = Route {
        destination: net("10.5.2.0/24"),
        gateway: Some(ip("10.5.2.0")),
        link: overlay,
        onlink: true,
        metric: 0,
        mtu: None,
        protocol: BOOT,
    };
    let direct = Route {
        gateway: None,
        link: up,
        onlink: false,
        ..through_overlay
    };
    let second = Route {
        metric: 50,
        ..direct
    };
    let boot = |observed: ObservedHost| -> Vec<Route> {
        let routes = observed.routes.into_iter();
        routes.filter(|route| route.protocol == BOOT).collect()
    };
    let narrow = |mtu, route| Route {
        mtu: Some(mtu),
        ..route
    };
    for route in [
        through_overlay,
        through_overlay,
        narrow(1350, through_overlay),
        narrow(1200, through_overlay),
        through_overlay,
        narrow(1350, direct),
        direct,
        narrow(1350, through_overlay),
    ] {
        put(&host, HostOp::PutRoute(route)).await;
        assert_eq!(boot(host.observe().await.unwrap()), [route]);
    }
    // Another metric is another route.
    put(&host, HostOp::PutRoute(second)).await;
    let mut want = vec![narrow(1350, through_overlay), second];
    want.sort();
    assert_eq!(boot(host.observe().await.unwrap()), want);
    put(&host, HostOp::DeleteRoute(second)).await;
    // A route like it, but not it, is none of ours; one that takes other packets is.
    put(&host, HostOp::DeleteRoute(direct)).await;
    let left = narrow(1350, through_overlay);
    assert_eq!(boot(host.observe().await.unwrap()), [left]);
    put(&host, HostOp::DeleteRoute(through_overlay)).await;
    assert_eq!(boot(host.observe().await.unwrap()), []);
}

pub async fn neighbours_are_managed<N: Netlink>(host: N) {
    let up = link(&host, "up0").await;
    let addr = ip("192.0.2.7");
    put(&host, HostOp::PutAddress(up, net("192.0.2.1/24"))).await;
    for managed in [true, true, false, false, true] {
        put(
            &host,
            HostOp::ManageNeighbour {
                link: up,
                addr,
                managed,
            },
        )
        .await;
        let observed = host.observe().await.unwrap();
        assert_eq!(observed.neighbours[&(up, addr)].managed, managed);
    }
    put(&host, HostOp::DeleteNeighbour(up, addr)).await;
    // What is not there needs no release, and is not made by one.
    put(
        &host,
        HostOp::ManageNeighbour {
            link: up,
            addr,
            managed: false,
        },
    )
    .await;
    assert_eq!(
        host.observe().await.unwrap().neighbours.get(&(up, addr)),
        None
    );
}

pub async fn the_way_to_an_address_is_found<N: Netlink>(host: N) {
    let up = link(&host, "up0").await;
    assert_eq!(host.route_to(ip("198.51.100.1")).await.unwrap(), None);
    put(&host, HostOp::PutAddress(up, net("192.0.2.1/24"))).await;
    put(
        &host,
        HostOp::SetMtu {
            link: up,
            mtu: 1480,
        },
    )
    .await;
    put(
        &host,
        HostOp::PutRoute(Route {
            destination: net("198.51.100.0/24"),
            gateway: Some(ip("192.0.2.254")),
            link: up,
            onlink: false,
            metric: 0,
            mtu: None,
            protocol: BOOT,
        }),
    )
    .await;
    let (hop, source) = host.route_to(ip("198.51.100.1")).await.unwrap().unwrap();
    assert_eq!(hop.link, up);
    assert_eq!(hop.gateway, Some(ip("192.0.2.254")));
    assert_eq!(hop.mtu, 1480);
    let destination = net("198.51.100.0/24");
    let routes = host.observe().await.unwrap().routes;
    let mut route = *routes
        .iter()
        .find(|route| route.destination == destination)
        .unwrap();
    route.mtu = Some(1400);
    put(&host, HostOp::PutRoute(route)).await;
    let (hop, _) = host.route_to(ip("198.51.100.1")).await.unwrap().unwrap();
    assert_eq!(hop.mtu, 1400);
    assert_eq!(source, Some(ip("192.0.2.1")));
    assert_eq!(host.route_to(ip("203.0.113.1")).await.unwrap(), None);
}
