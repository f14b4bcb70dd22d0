//! The promises, for any implementation. Each starts on a host with an uplink `up0`.

mod links;
mod rows;

use std::net::IpAddr;

use ipnet::IpNet;
use weft::{
    model::net::{IfIndex, Mac, Vni},
    netlink::{HostOp, Netlink, VxlanAttrs, VxlanDevice},
};

pub use self::{links::*, rows::*};

pub(crate) const MAC: Mac = Mac([0x02, 0x11, 0x22, 0x33, 0x44, 0x55]);
pub(crate) const OTHER_MAC: Mac = Mac([0x02, 0xaa, 0xbb, 0xcc, 0xdd, 0xee]);
pub(crate) const BOOT: u8 = 3;
pub(crate) const KERNEL: u8 = 2;

/// `flannel.1` over `up0`, set up.
async fn overlay(host: &impl Netlink) -> IfIndex {
    let device = device(link(host, "up0").await);
    put(host, HostOp::CreateVxlan(device)).await;
    let index = link(host, "flannel.1").await;
    put(host, HostOp::SetUp(index)).await;
    index
}

fn device(lower: IfIndex) -> VxlanDevice {
    VxlanDevice {
        name: "flannel.1".to_owned(),
        attrs: VxlanAttrs {
            vni: Vni::try_from(1).unwrap(),
            port: 8472,
            local: Some(ip("192.0.2.1")),
            lower: Some(lower),
            learning: false,
            gbp: false,
        },
        mac: MAC,
        mtu: 1450,
    }
}

fn delete(link: IfIndex) -> HostOp {
    HostOp::DeleteLink {
        link,
        name: "flannel.1".to_owned(),
    }
}

async fn link(host: &impl Netlink, name: &str) -> IfIndex {
    host.observe()
        .await
        .unwrap()
        .link_named(name)
        .unwrap()
        .index
}

async fn put(host: &impl Netlink, op: HostOp) {
    if let Err(error) = host.apply(&op).await {
        panic!("{op}: {error}");
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}
