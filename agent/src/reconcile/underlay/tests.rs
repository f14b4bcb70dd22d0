//! The uplink on a host that changes.

use tokio::time::advance;

use super::*;
use crate::netlink::{LinkKind, Route, fake::FakeHost};

fn host() -> (FakeHost, IfIndex, IfIndex) {
    let host = FakeHost::default();
    let [eth0, eth1] =
        ["eth0", "eth1"].map(|name| host.add_link(name, LinkKind::Other(String::new())));
    host.edit(|host| {
        for (link, net, metric) in [(eth0, "192.0.2.1/24", 0), (eth1, "198.51.100.1/24", 100)] {
            host.addresses.insert((link, net.parse().unwrap()));
            host.routes.insert(Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                gateway: None,
                link,
                onlink: false,
                metric,
                mtu: None,
                protocol: 4,
            });
        }
    });
    (host, eth0, eth1)
}

async fn watch(host: &FakeHost, request: UplinkRequest, can_reach: Option<IpAddr>) -> UplinkWatch {
    let seen = host.observe().await.unwrap();
    let asked = with_route(&request, can_reach, host).await.unwrap();
    let uplink = uplink::choose(&seen, &asked.unwrap()).unwrap();
    UplinkWatch::new(request, can_reach, uplink)
}

async fn look(watch: &mut UplinkWatch, host: &FakeHost) -> Result<IfIndex, String> {
    let seen = host.observe().await.unwrap();
    watch.look(&seen, host).await?;
    Ok(watch.uplink.link)
}

/// Looks until another address has been there for long enough.
async fn patient_look(watch: &mut UplinkWatch, host: &FakeHost) -> Result<IfIndex, String> {
    let why = look(watch, host).await.unwrap_err();
    assert!(why.contains("if it stays"), "{why}");
    advance(watch.due().unwrap() - Instant::now()).await;
    look(watch, host).await
}

fn addresses(watch: &UplinkWatch) -> [String; 2] {
    let Uplink {
        address, public_ip, ..
    } = watch.uplink;
    [address, public_ip].map(|address| address.to_string())
}

#[tokio::test]
async fn a_default_route_that_moves_is_no_reason_to_leave() {
    let (host, eth0, _) = host();
    let mut watch = watch(&host, UplinkRequest::default(), None).await;
    host.edit(|host| host.routes.retain(|route| route.link != eth0));
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    host.edit(|host| host.routes.clear());
    host.edit(|host| host.links.get_mut(&eth0).unwrap().mtu = 1300);
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    assert_eq!(watch.uplink.mtu, 1300);
    // Without the interface it is.
    host.edit(|host| _ = host.links.remove(&eth0));
    let why = look(&mut watch, &host).await.unwrap_err();
    assert!(why.contains("eth0 is gone"), "{why}");
    assert_eq!(watch.uplink.link, eth0, "the last one stays");
}

#[tokio::test]
async fn the_address_may_move_to_another_interface() {
    let (host, eth0, eth1) = host();
    let mut watch = watch(&host, UplinkRequest::default(), None).await;
    host.edit(|host| {
        let net = "192.0.2.1/24".parse().unwrap();
        host.addresses.clear();
        host.addresses.insert((eth1, net));
        host.routes.retain(|route| route.link != eth0);
    });
    assert_eq!(look(&mut watch, &host).await, Ok(eth1));
}

#[tokio::test(start_paused = true)]
async fn a_public_address_that_no_interface_has_follows_the_interface() {
    let (host, eth0, _) = host();
    let request = UplinkRequest {
        ifaces: vec!["eth0".to_owned()],
        public_ip: Some("203.0.113.7".parse().unwrap()),
        ..UplinkRequest::default()
    };
    let mut watch = watch(&host, request, None).await;
    let new = host.edit(|host| {
        let mut link = host.links.remove(&eth0).unwrap();
        let new = IfIndex::try_from(77).unwrap();
        link.index = new;
        host.links.insert(new, link);
        host.addresses
            .insert((new, "192.0.2.9/24".parse().unwrap()));
        new
    });
    assert_eq!(patient_look(&mut watch, &host).await, Ok(new));
    assert_eq!(addresses(&watch), ["192.0.2.9", "203.0.113.7"]);
    // What else comes is no matter while ours is there.
    host.edit(|host| {
        host.addresses
            .insert((new, "192.0.2.2/24".parse().unwrap()))
    });
    assert_eq!(look(&mut watch, &host).await, Ok(new));
    assert_eq!(addresses(&watch), ["192.0.2.9", "203.0.113.7"]);
}

#[tokio::test]
async fn the_way_to_an_address_is_looked_up_again() {
    let (host, eth0, _) = host();
    let target = Some("203.0.113.9".parse().unwrap());
    let mut watch = watch(&host, UplinkRequest::default(), target).await;
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    host.edit(|host| host.routes.clear());
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    host.edit(|host| host.addresses.clear());
    let why = look(&mut watch, &host).await.unwrap_err();
    assert!(why.contains("--iface-can-reach"), "{why}");
}

fn move_to(host: &FakeHost, link: IfIndex, net: &str) {
    host.edit(|host| {
        host.addresses.retain(|(owner, _)| *owner != link);
        host.addresses.insert((link, net.parse().unwrap()));
    });
}

#[tokio::test(start_paused = true)]
async fn another_address_of_the_interface_is_followed() {
    let (host, eth0, _) = host();
    for request in [
        UplinkRequest::default(),
        UplinkRequest {
            ifaces: vec!["eth0".to_owned()],
            ..UplinkRequest::default()
        },
    ] {
        move_to(&host, eth0, "192.0.2.1/24");
        let mut watch = watch(&host, request, None).await;
        move_to(&host, eth0, "192.0.2.7/24");
        assert_eq!(patient_look(&mut watch, &host).await, Ok(eth0));
        assert_eq!(addresses(&watch), ["192.0.2.7"; 2]);
        assert_eq!(watch.due(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_left_between_two_addresses_is_not_followed() {
    let (host, eth0, _) = host();
    let mut watch = watch(&host, UplinkRequest::default(), None).await;
    move_to(&host, eth0, "169.254.7.7/16");
    for _ in 0..2 {
        let why = look(&mut watch, &host).await.unwrap_err();
        assert!(why.contains("169.254.7.7 is link-local"), "{why}");
        assert_eq!(watch.due(), None);
        advance(PATIENCE * 2).await;
    }
    // A VIP first, then the new address: each has to stay by itself.
    move_to(&host, eth0, "192.0.2.200/32");
    look(&mut watch, &host).await.unwrap_err();
    advance(PATIENCE / 2).await;
    move_to(&host, eth0, "192.0.2.7/24");
    look(&mut watch, &host).await.unwrap_err();
    advance(PATIENCE / 2).await;
    look(&mut watch, &host).await.unwrap_err();
    assert_eq!(addresses(&watch), ["192.0.2.1"; 2], "the last one stays");
    // No look was possible: the next is not at once.
    advance(PATIENCE).await;
    assert_eq!(watch.due(), Some(Instant::now() + PATIENCE));
    // Nor does it count that it was there before, with ours.
    move_to(&host, eth0, "192.0.2.1/24");
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    advance(PATIENCE).await;
    move_to(&host, eth0, "192.0.2.7/24");
    assert_eq!(patient_look(&mut watch, &host).await, Ok(eth0));
    assert_eq!(addresses(&watch), ["192.0.2.7"; 2]);
}

#[tokio::test(start_paused = true)]
async fn the_address_that_was_left_is_ours_at_once_when_it_comes_back() {
    let (host, eth0, _) = host();
    let mut watch = watch(&host, UplinkRequest::default(), None).await;
    for vip in ["192.0.2.200/32", "192.0.2.201/32"] {
        move_to(&host, eth0, vip);
        assert_eq!(patient_look(&mut watch, &host).await, Ok(eth0));
    }
    assert_eq!(addresses(&watch), ["192.0.2.201"; 2]);
    let back = || {
        host.edit(|host| {
            let ours = (eth0, "192.0.2.1/24".parse().unwrap());
            host.addresses.insert(ours);
        });
    };
    back();
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    assert_eq!(addresses(&watch), ["192.0.2.1"; 2]);
    // Much later it is an address like any other.
    move_to(&host, eth0, "192.0.2.200/32");
    assert_eq!(patient_look(&mut watch, &host).await, Ok(eth0));
    advance(RETURNS).await;
    back();
    assert_eq!(look(&mut watch, &host).await, Ok(eth0));
    assert_eq!(addresses(&watch), ["192.0.2.200"; 2]);
}

#[tokio::test(start_paused = true)]
async fn the_default_route_may_come_back_later_than_the_address() {
    let (host, eth0, eth1) = host();
    let mut watch = watch(&host, UplinkRequest::default(), None).await;
    host.edit(|host| host.routes.retain(|route| route.link != eth0));
    host.edit(|host| host.addresses.retain(|(owner, _)| *owner != eth0));
    let why = look(&mut watch, &host).await.unwrap_err();
    assert!(
        why.contains("eth0 has lost 192.0.2.1") && why.contains("eth1"),
        "{why}"
    );
    assert_eq!(watch.uplink.link, eth0, "the last one stays");
    move_to(&host, eth0, "192.0.2.7/24");
    assert_eq!(patient_look(&mut watch, &host).await, Ok(eth0));
    assert_eq!(watch.uplink.public_ip.to_string(), "192.0.2.7");
    // Asked for by its address, it is nothing without it.
    let request = UplinkRequest {
        ifaces: vec!["198.51.100.1".to_owned()],
        ..UplinkRequest::default()
    };
    let mut watch = self::watch(&host, request, None).await;
    move_to(&host, eth1, "198.51.100.9/24");
    let why = look(&mut watch, &host).await.unwrap_err();
    assert!(why.contains("eth1 is gone, or has lost"), "{why}");
}
