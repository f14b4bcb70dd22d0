//! Routes that are many are made by the numbers of their next hops: how they look, who else may have
//! a number, and what is left of them.

use std::process::Command;

use weft::{
    model::net::IfIndex,
    netlink::{HostOp, Netlink, Route, kernel::Rtnetlink},
};

use super::netns::{in_fresh_netns, run};

const COUNT: u32 = 1400;

async fn overlay() -> (Rtnetlink, IfIndex) {
    run("ip link set lo up");
    run("ip link add flannel.1 type vxlan id 1 dstport 8472 local 127.0.0.1");
    run("ip link set flannel.1 up");
    let host = Rtnetlink::new().unwrap();
    let observed = host.observe().await.unwrap();
    let link = observed.link_named("flannel.1").unwrap().index;
    (host, link)
}

fn said(words: &str) -> Vec<String> {
    let out = Command::new("ip").args(words.split(' ')).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    text.lines().map(|line| line.trim().to_owned()).collect()
}

fn route(n: u32, link: IfIndex) -> Route {
    let network = std::net::Ipv4Addr::from((10 << 24) + (n << 8));
    Route {
        destination: format!("{network}/24").parse().unwrap(),
        gateway: Some(network.into()),
        link,
        onlink: true,
        metric: 0,
        mtu: None,
        protocol: 3,
    }
}

async fn all(host: &Rtnetlink, ops: Vec<HostOp>) {
    for (op, answer) in ops.iter().zip(host.apply_all(&ops).await) {
        answer.unwrap_or_else(|error| panic!("{op}: {error}"));
    }
}

/// Read as the routes that they are, the ways themselves included.
async fn ensure_there(host: &Rtnetlink, link: IfIndex, wanted: &[Route]) {
    let found = host.observe().await.unwrap().routes.into_iter();
    let found: Vec<Route> = found
        .filter(|route| route.link == link && route.gateway.is_some())
        .collect();
    let mut wanted = wanted.to_vec();
    wanted.sort();
    assert!(found == wanted, "{} of {}", found.len(), wanted.len());
}

#[test]
fn routes_that_are_many_have_numbers() {
    in_fresh_netns(|| async {
        run("ip link add up0 type veth peer name peer0");
        run("ip link set up0 up");
        run("ip link set peer0 up");
        run("ip address add 192.0.2.1/24 dev up0");
        let (host, link) = overlay().await;
        let routes: Vec<Route> = (1..=COUNT).map(|n| route(n, link)).collect();

        // A few are made as flannel makes them, and so is one whose number somebody else has.
        let (few, many) = routes.split_at(10);
        all(&host, few.iter().copied().map(HostOp::PutRoute).collect()).await;
        assert_eq!(said("nexthop show"), Vec::<String>::new());
        let taken = (10 << 24) + (20 << 8);
        run(&format!("ip nexthop add id {taken} via 192.0.2.9 dev up0"));
        all(&host, many.iter().copied().map(HostOp::PutRoute).collect()).await;
        ensure_there(&host, link, &routes).await;
        // The stranger's stands among them.
        assert_eq!(said("nexthop show").len(), many.len());
        let plain = |row: &&String| !row.contains(" nhid ");
        let rows = said("route show dev flannel.1");
        assert_eq!(rows.iter().filter(plain).count(), few.len() + 1);
        let looked_up = said("route get 10.0.77.5");
        assert!(
            looked_up[0].contains("via 10.0.77.0 dev flannel.1"),
            "{looked_up:?}"
        );

        // Another agent, or this one after a restart: both kinds are routes like any other.
        let next = Rtnetlink::new().unwrap();
        ensure_there(&next, link, &routes).await;
        all(
            &next,
            routes.iter().copied().map(HostOp::PutRoute).collect(),
        )
        .await;
        ensure_there(&next, link, &routes).await;

        // One that somebody replaced is removed all the same, and one that somebody removed is made.
        run("ip route replace 10.0.100.0/24 via 10.0.100.0 dev flannel.1 onlink proto boot");
        run("ip route del 10.0.101.0/24");
        all(&next, vec![HostOp::PutRoute(routes[100])]).await;
        ensure_there(&next, link, &routes).await;
        let (gone, rest) = routes.split_at(200);
        all(
            &next,
            gone.iter().copied().map(HostOp::DeleteRoute).collect(),
        )
        .await;
        ensure_there(&next, link, rest).await;
        all(
            &next,
            rest.iter().copied().map(HostOp::DeleteRoute).collect(),
        )
        .await;
        ensure_there(&next, link, &[]).await;
        let left = said("nexthop show");
        assert!(
            left.iter().any(|row| row.contains("via 192.0.2.9 dev up0")),
            "{left:?}"
        );
    });
}

/// Without a word on it the kernel keeps what the route before said of its width.
#[test]
fn a_width_comes_and_goes_and_the_number_stays() {
    in_fresh_netns(|| async {
        let (host, link) = overlay().await;
        let routes: Vec<Route> = (1..=COUNT).map(|n| route(n, link)).collect();
        let put = |routes: &[Route]| routes.iter().copied().map(HostOp::PutRoute).collect();
        all(&host, put(&routes)).await;
        let (some, rest) = routes.split_at(300);
        for mtu in [Some(1350), Some(1300), None, Some(1350), None] {
            let told: Vec<Route> = some.iter().map(|route| Route { mtu, ..*route }).collect();
            all(&host, put(&told)).await;
            let whole: Vec<Route> = told.iter().chain(rest).copied().collect();
            ensure_there(&host, link, &whole).await;
            let rows = said("route show dev flannel.1");
            let numbered = rows.iter().filter(|row| row.contains(" nhid "));
            assert_eq!(numbered.count(), routes.len());
            assert_eq!(said("nexthop show").len(), routes.len());
        }
        let narrow = |route: &Route| Route {
            mtu: Some(1350),
            ..*route
        };
        all(&host, put(&some.iter().map(narrow).collect::<Vec<_>>())).await;
        // After a restart, too.
        let next = Rtnetlink::new().unwrap();
        next.observe().await.unwrap();
        let gone = some.iter().map(|route| HostOp::DeleteRoute(narrow(route)));
        all(&next, gone.collect()).await;
        ensure_there(&next, link, rest).await;
        assert_eq!(said("nexthop show").len(), rest.len());
    });
}

#[test]
fn no_number_outlives_its_route() {
    in_fresh_netns(|| async {
        let (host, link) = overlay().await;
        let routes: Vec<Route> = (1..=COUNT).map(|n| route(n, link)).collect();
        all(
            &host,
            routes.iter().copied().map(HostOp::PutRoute).collect(),
        )
        .await;
        assert_eq!(said("nexthop show").len(), routes.len());
        let (gone, rest) = routes.split_at(300);
        all(
            &host,
            gone.iter().copied().map(HostOp::DeleteRoute).collect(),
        )
        .await;
        assert_eq!(said("nexthop show").len(), rest.len());
        // One comes back.
        all(&host, vec![HostOp::PutRoute(gone[0])]).await;
        assert_eq!(said("nexthop show").len(), rest.len() + 1);
        // Some lead another way for a while: their numbers are not in the way when that is over.
        run("ip link add up0 type veth peer name peer0");
        run("ip link set up0 up");
        run("ip link set peer0 up");
        run("ip address add 192.0.2.1/24 dev up0");
        let uplink = host.observe().await.unwrap();
        let uplink = uplink.link_named("up0").unwrap().index;
        let direct = |route: &Route| Route {
            gateway: Some([192, 0, 2, 9].into()),
            link: uplink,
            onlink: false,
            ..*route
        };
        let (moved, _) = rest.split_at(500);
        let there = moved.iter().map(|route| HostOp::PutRoute(direct(route)));
        all(&host, there.collect()).await;
        assert_eq!(said("nexthop show").len(), rest.len() + 1 - moved.len());
        let back = moved.iter().copied().map(HostOp::PutRoute);
        all(&host, back.collect()).await;
        assert_eq!(said("nexthop show").len(), rest.len() + 1);
        let mut wanted = rest.to_vec();
        wanted.push(gone[0]);
        ensure_there(&host, link, &wanted).await;
        let link_gone = HostOp::DeleteLink {
            link,
            name: "flannel.1".to_owned(),
        };
        all(&host, vec![link_gone]).await;
        assert_eq!(said("nexthop show"), Vec::<String>::new());
    });
}

/// Routes that somebody else replaced leave their numbers, which nobody names and we find again.
#[test]
fn a_number_that_a_stranger_left_behind_is_found_and_removed() {
    in_fresh_netns(|| async {
        let (host, link) = overlay().await;
        let routes: Vec<Route> = (1..=COUNT).map(|n| route(n, link)).collect();
        let put = || routes.iter().copied().map(HostOp::PutRoute).collect();
        all(&host, put()).await;
        assert!(host.observe().await.unwrap().idle_hops.is_empty());
        for n in [5, 6, 7] {
            run(&format!(
                "ip route replace 10.0.{n}.0/24 via 10.0.{n}.0 dev flannel.1 onlink proto boot"
            ));
        }
        // A stranger's group keeps one, and his own numbers are his, whatever they look like.
        let number = (10 << 24) + (7 << 8);
        run(&format!("ip nexthop add id 4711 group {number}"));
        let other = (10 << 24) + (250 << 16);
        run(&format!(
            "ip nexthop add id {other} via 10.250.0.0 dev flannel.1 onlink proto static"
        ));
        run("ip nexthop add id 4712 via 10.250.1.0 dev flannel.1 onlink proto boot");
        let idle = host.observe().await.unwrap().idle_hops;
        let want = [5, 6].map(|n| (link, [10, 0, n, 0].into()));
        assert_eq!(idle, want.into());
        let before = said("nexthop show").len();
        let gone = idle
            .iter()
            .map(|(link, gateway)| HostOp::DeleteNextHop(*link, *gateway));
        let gone: Vec<HostOp> = gone.collect();
        all(&host, gone.clone()).await;
        assert_eq!(said("nexthop show").len(), before - 2);
        all(&host, gone).await;
        ensure_there(&host, link, &routes).await;
        assert!(host.observe().await.unwrap().idle_hops.is_empty());
    });
}

#[test]
fn routes_have_none_where_they_would_be_listed_without_their_way() {
    in_fresh_netns(|| async {
        std::fs::write("/proc/sys/net/ipv4/nexthop_compat_mode", "0").unwrap();
        let (host, link) = overlay().await;
        let routes: Vec<Route> = (1..=COUNT).map(|n| route(n, link)).collect();
        all(
            &host,
            routes.iter().copied().map(HostOp::PutRoute).collect(),
        )
        .await;
        ensure_there(&host, link, &routes).await;
        assert_eq!(said("nexthop show"), Vec::<String>::new());
    });
}
