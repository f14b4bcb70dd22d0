//! Promises about links, and about what hangs on them.

use std::time::Duration;

use futures::StreamExt;
use tokio::time::timeout;
use weft::{
    model::net::Vni,
    netlink::{HostOp, LinkKind, Netlink, Route, TunnelEntry, VxlanAttrs, VxlanDevice},
};

use super::{BOOT, MAC, delete, device, ip, link, net, overlay, put};

pub async fn a_device_reads_back_as_made<N: Netlink>(host: N) {
    let up = link(&host, "up0").await;
    put(&host, HostOp::PutAddress(up, net("192.0.2.1/24"))).await;
    for (vni, port, learning, gbp) in [(1, 8472, false, false), (77, 4789, true, true)] {
        let device = VxlanDevice {
            name: format!("flannel.{vni}"),
            attrs: VxlanAttrs {
                vni: Vni::try_from(vni).unwrap(),
                port,
                local: Some(ip("192.0.2.1")),
                lower: Some(up),
                learning,
                gbp,
            },
            mac: MAC,
            mtu: 1450,
        };
        put(&host, HostOp::CreateVxlan(device.clone())).await;
        let observed = host.observe().await.unwrap();
        let found = observed.link_named(&device.name).unwrap();
        assert_eq!(found.kind, LinkKind::Vxlan(device.attrs));
        assert_eq!(
            (found.mac, found.mtu, found.ethernet),
            (Some(MAC), 1450, true)
        );
        assert!(!found.up);

        let index = found.index;
        put(&host, HostOp::SetUp(index)).await;
        put(&host, HostOp::SetUp(index)).await;
        put(
            &host,
            HostOp::SetMtu {
                link: index,
                mtu: 1400,
            },
        )
        .await;
        let observed = host.observe().await.unwrap();
        let found = &observed.links[&index];
        assert!(found.up && found.carrier);
        assert_eq!(found.mtu, 1400);
    }
}

pub async fn a_device_is_made_once<N: Netlink>(host: N) {
    overlay(&host).await;
    let again = device(link(&host, "up0").await);
    let error = host.apply(&HostOp::CreateVxlan(again)).await.unwrap_err();
    assert_eq!(error.source.raw_os_error(), Some(libc::EEXIST), "{error}");
    assert!(
        error.to_string().contains("make device flannel.1"),
        "{error}"
    );
}

pub async fn removing_a_link_takes_everything_along<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let addr = ip("10.5.2.0");
    put(&host, HostOp::PutAddress(overlay, net("10.5.1.0/32"))).await;
    put(
        &host,
        HostOp::PutNeighbour {
            link: overlay,
            addr,
            mac: MAC,
        },
    )
    .await;
    put(
        &host,
        HostOp::PutTunnel(
            TunnelEntry {
                link: overlay,
                mac: MAC,
            },
            addr,
        ),
    )
    .await;
    put(&host, delete(overlay)).await;
    let observed = host.observe().await.unwrap();
    assert_eq!(observed.link_named("flannel.1"), None);
    assert!(observed.addresses.iter().all(|(link, _)| *link != overlay));
    assert!(observed.neighbours.keys().all(|(link, _)| *link != overlay));
    assert!(observed.tunnel_fdb.is_empty());
}

pub async fn removing_what_is_gone_succeeds<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    let addr = ip("10.5.2.0");
    let removals = [
        HostOp::DeleteAddress(overlay, net("10.5.1.0/32")),
        HostOp::DeleteNeighbour(overlay, addr),
        HostOp::DeleteTunnel(TunnelEntry {
            link: overlay,
            mac: MAC,
        }),
        HostOp::DeleteRoute(Route {
            destination: net("10.5.2.0/24"),
            gateway: Some(addr),
            link: overlay,
            onlink: true,
            metric: 0,
            mtu: None,
            protocol: BOOT,
        }),
        HostOp::ManageNeighbour {
            link: overlay,
            addr,
            managed: false,
        },
        delete(overlay),
    ];
    // First the things are missing, then the link is.
    for op in removals.iter().chain(&removals) {
        put(&host, op.clone()).await;
    }
}

pub async fn a_missing_link_is_an_error<N: Netlink>(host: N) {
    let overlay = overlay(&host).await;
    put(&host, delete(overlay)).await;
    let addr = ip("10.5.2.0");
    for op in [
        HostOp::SetUp(overlay),
        HostOp::SetMtu {
            link: overlay,
            mtu: 1400,
        },
        HostOp::PutAddress(overlay, net("10.5.1.0/32")),
        HostOp::PutNeighbour {
            link: overlay,
            addr,
            mac: MAC,
        },
        HostOp::ManageNeighbour {
            link: overlay,
            addr,
            managed: true,
        },
        HostOp::PutTunnel(
            TunnelEntry {
                link: overlay,
                mac: MAC,
            },
            addr,
        ),
    ] {
        let error = host.apply(&op).await.unwrap_err();
        assert_eq!(error.source.raw_os_error(), Some(libc::ENODEV), "{error}");
        assert!(error.to_string().starts_with(&op.to_string()), "{error}");
    }
}

pub async fn changes_wake<N: Netlink>(host: N) {
    let mut changes = host.changes().await.unwrap();
    // What a namespace does by itself in its first moments comes to an end.
    let mut stirs = 0;
    while timeout(Duration::from_millis(50), changes.next())
        .await
        .is_ok()
    {
        stirs += 1;
        assert!(stirs < 100, "it changes by itself, without end");
    }
    let overlay = overlay(&host).await;
    timeout(Duration::from_secs(5), changes.next())
        .await
        .unwrap()
        .unwrap();
    // Drained, so that what comes next is new.
    while timeout(Duration::from_millis(300), changes.next())
        .await
        .is_ok()
    {}
    put(&host, HostOp::PutAddress(overlay, net("10.5.1.0/32"))).await;
    timeout(Duration::from_secs(5), changes.next())
        .await
        .unwrap()
        .unwrap();
}
