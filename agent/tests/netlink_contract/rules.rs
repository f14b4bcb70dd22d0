//! What the kernel tells of the host's rules: routing rules, queues, IPsec, nftables.

use std::{fs, time::Duration};

use futures::{Stream, StreamExt};
use tokio::time::{sleep, timeout};
use weft::{
    netlink::{Netlink, Side, kernel::Rtnetlink, nftables, xfrm},
    policy::{chains::Action, read},
};

use super::netns::{in_fresh_netns, run};

async fn is_told(events: &mut (impl Stream<Item = ()> + Unpin)) -> bool {
    let told = timeout(Duration::from_secs(2), events.next()).await;
    while timeout(Duration::from_millis(20), events.next())
        .await
        .is_ok()
    {}
    told == Ok(Some(()))
}

#[test]
fn rules_that_choose_a_table_are_seen() {
    in_fresh_netns(|| async {
        let host = Rtnetlink::new().unwrap();
        assert!(
            host.observe().await.unwrap().rules.is_empty(),
            "three that all hosts have"
        );
        run("ip rule add priority 5 lookup 70");
        assert!(host.observe().await.unwrap().rules.is_empty());
        let mut changes = host.changes().await.unwrap();
        run("ip rule add priority 7 from 192.0.2.0/24 to 198.51.100.1 ipproto udp lookup 70");
        assert!(
            timeout(Duration::from_secs(2), changes.next())
                .await
                .is_ok()
        );
        run("ip rule add priority 8 not fwmark 7 lookup 70");
        run("ip rule add priority 9 iif up0 lookup 70");
        let rules: Vec<_> = host.observe().await.unwrap().rules.into_iter().collect();
        assert_eq!(rules.len(), 3, "{rules:?}");
        assert_eq!(rules[0].source, Some("192.0.2.0/24".parse().unwrap()));
        assert_eq!(
            rules[0].destination,
            Some("198.51.100.1/32".parse().unwrap())
        );
        assert_eq!((rules[0].protocol, rules[0].inverted), (Some(17), false));
        assert_eq!((rules[1].priority, rules[1].inverted), (8, true));
        assert_eq!(rules[2].input.as_deref(), Some("up0"));
    });
}

#[test]
fn routes_to_nowhere_are_seen() {
    in_fresh_netns(|| async {
        let host = Rtnetlink::new().unwrap();
        let mut changes = host.changes().await.unwrap();
        run("ip route add blackhole 10.9.0.0/16");
        assert!(
            timeout(Duration::from_secs(2), changes.next())
                .await
                .is_ok()
        );
        run("ip route add unreachable 10.9.1.7");
        run("ip route add prohibit 10.9.2.0/24 table 70");
        let seen = host.observe().await.unwrap();
        let expected = ["10.9.0.0/16", "10.9.1.7/32"].map(|net| net.parse().unwrap());
        assert_eq!(seen.nowhere, expected.into());
        assert!(seen.routes.is_empty(), "{:?}", seen.routes);
    });
}

#[test]
fn queues_are_seen() {
    in_fresh_netns(|| async {
        run("ip link add v0 type veth peer name v1");
        run("ip link set v0 up");
        run("ip link set v1 up");
        let host = Rtnetlink::new().unwrap();
        let queue = async || {
            let seen = host.observe().await.unwrap();
            seen.link_named("v0").unwrap().qdisc.clone()
        };
        assert_eq!(queue().await.as_deref(), Some("noqueue"));
        run("tc qdisc add dev v0 clsact");
        assert_eq!(queue().await.as_deref(), Some("noqueue"));
        let mut changes = host.changes().await.unwrap();
        run("tc qdisc add dev v0 root tbf rate 20mbit burst 64k latency 100ms");
        assert_eq!(queue().await.as_deref(), Some("tbf"));
        assert!(
            timeout(Duration::from_secs(2), changes.next())
                .await
                .is_ok()
        );
    });
}

#[test]
fn filters_at_classic_hooks_are_seen() {
    in_fresh_netns(|| async {
        for port in ["v0", "v1", "v2"] {
            run(&format!(
                "ip link add {port} type veth peer name far-{port}"
            ));
        }
        let host = Rtnetlink::new().unwrap();
        let mut changes = host.changes().await.unwrap();
        run("tc qdisc add dev v0 ingress");
        run("tc qdisc add dev v1 clsact");
        run("tc qdisc add dev v2 clsact");
        assert!(
            timeout(Duration::from_secs(2), changes.next())
                .await
                .is_ok()
        );
        assert_eq!(host.observe().await.unwrap().filters, [].into());
        run("tc filter add dev v0 ingress protocol ip u32 match u32 0 0 flowid 1:1");
        run("tc filter add dev v1 egress protocol ip u32 match u32 0 0 flowid 1:1");
        let seen = host.observe().await.unwrap();
        let named = |name: &str| seen.link_named(name).unwrap().index;
        let at = |name, side| seen.filters.get(&(named(name), side)).cloned();
        assert_eq!(at("v0", Side::Ingress), Some("u32".to_owned()));
        assert_eq!(at("v1", Side::Egress), Some("u32".to_owned()));
        assert_eq!(at("v1", Side::Ingress), None);
        assert!(seen.filters.keys().all(|(link, _)| *link != named("v2")));
    });
}

#[test]
fn ipsec_policies_are_seen() {
    in_fresh_netns(|| async {
        let mut changes = xfrm::changes().unwrap().unwrap();
        assert_eq!(xfrm::policies().await.unwrap(), []);
        run(
            "ip xfrm policy add src 192.0.2.1 dst 192.0.2.2 proto udp dport 8472 dir out action block",
        );
        assert!(is_told(&mut changes).await);
        run(
            "ip xfrm policy add src 10.0.0.0/8 dst 0.0.0.0/0 dir out tmpl proto esp mode transport",
        );
        // These leave packets as they are, or are of no concern.
        run("ip xfrm policy add src 10.0.0.0/8 dst 0.0.0.0/0 dir in action allow");
        run("ip -6 xfrm policy add src 2001:db8::1 dst 2001:db8::2 dir out action block");
        let mut said: Vec<_> = xfrm::policies().await.unwrap();
        said.sort_by_key(|policy| policy.source);
        assert_eq!(
            said.iter().map(ToString::to_string).collect::<Vec<_>>(),
            [
                "xfrm policy src 10.0.0.0/8 dst 0.0.0.0/0",
                "xfrm policy src 192.0.2.1/32 dst 192.0.2.2/32"
            ]
        );
        assert_eq!((said[1].protocol, said[1].port), (17, (8472, 0xffff)));
    });
}

#[test]
fn changes_of_every_kind_of_iptables_are_read() {
    in_fresh_netns(|| async {
        let mut changes = nftables::changes().unwrap();
        assert_eq!(nftables::tables().await.unwrap(), []);
        assert_eq!(read::rules().await.unwrap().tables, []);
        run("iptables -A FORWARD -s 10.1.2.3 -j DROP");
        assert!(is_told(&mut changes).await);
        assert_eq!(
            nftables::tables().await.unwrap(),
            [(2, "filter".to_owned())]
        );
        run("iptables-legacy -A FORWARD -s 10.1.2.4 -j DROP");
        assert!(read::has_legacy());
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules");
        fs::write(
            &file,
            "table inet t {\n chain c {\n type filter hook forward priority 0\n drop\n }\n }\n",
        )
        .unwrap();
        run(&format!("nft -f {}", file.display()));
        assert!(is_told(&mut changes).await);
        let before = read::rules().await.unwrap();
        let stops: Vec<_> = before
            .tables
            .iter()
            .flat_map(|table| table.chains.values())
            .filter(|chain| chain.base.is_some())
            .flat_map(|chain| &chain.rules)
            .filter(|rule| rule.then == Action::Stop)
            .map(|rule| rule.text.as_str())
            .collect();
        assert_eq!(
            stops,
            [
                "iptables-legacy -t filter -A FORWARD -s 10.1.2.4/32 -j DROP",
                "iptables -t filter -A FORWARD -s 10.1.2.3/32 -j DROP",
                "nft inet t chain c handle 2: drop"
            ]
        );
        // Reading changes nothing, and tells nobody.
        sleep(Duration::from_millis(50)).await;
        assert_eq!(read::rules().await.unwrap(), before);
        assert!(!is_told(&mut changes).await);
    });
}
