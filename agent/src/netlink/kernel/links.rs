//! Links: reading them, and making and changing the VXLAN device.

use std::{collections::BTreeMap, net::IpAddr};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        InfoBridge, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags,
        LinkInfo, LinkLayerType, LinkMessage,
    },
};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVxlan};

use super::calls::{Calls, accept};
use crate::{
    model::net::{IfIndex, Mac, Vni},
    netlink::{Link, LinkKind, NetlinkError, VxlanAttrs, VxlanDevice},
    sysctl::Sysctls,
};

/// What flannel's config calls port 0: the kernel's default, from before the port was assigned.
const KERNEL_PORT: u16 = 8472;

pub(super) async fn observe(calls: &Calls) -> Result<BTreeMap<IfIndex, Link>, NetlinkError> {
    let mut request = LinkMessage::default();
    // Statistics are most of an answer and none of our business.
    request
        .attributes
        .push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    let rows = calls
        .dump("read links", RouteNetlinkMessage::GetLink(request))
        .await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewLink(message) => read(message),
            _ => None,
        })
        .map(|link| (link.index, link))
        .collect())
}

pub(super) async fn mtu(calls: &Calls, link: IfIndex) -> Result<u32, NetlinkError> {
    let call = format!("read link {link}");
    let request = LinkMessageBuilder::<LinkUnspec>::default()
        .index(link.get())
        .build();
    let answer = calls
        .ask(&call, RouteNetlinkMessage::GetLink(request))
        .await?;
    match answer {
        RouteNetlinkMessage::NewLink(message) => read(message).map(|link| link.mtu),
        _ => None,
    }
    .ok_or_else(|| NetlinkError::errno(call, libc::ENODEV))
}

pub(super) async fn create_vxlan(
    calls: &Calls,
    call: &str,
    device: &VxlanDevice,
) -> Result<(), NetlinkError> {
    let VxlanDevice {
        name,
        attrs:
            VxlanAttrs {
                vni,
                port,
                local,
                lower,
                learning,
                gbp,
            },
        mac,
        mtu,
    } = device;
    let port = if *port == 0 { KERNEL_PORT } else { *port };
    // No group, so nothing is flooded; no checksum attribute, so the kernel's default applies.
    let mut builder = LinkVxlan::new(name, vni.get())
        .port(port)
        .learning(*learning)
        .mtu(*mtu)
        .address(mac.0.to_vec());
    if let Some(lower) = lower {
        builder = builder.dev(lower.get());
    }
    builder = match local {
        Some(IpAddr::V4(local)) => builder.local(*local),
        Some(IpAddr::V6(local)) => builder.local6(*local),
        None => builder,
    };
    if *gbp {
        builder = builder.gbp();
    }
    let request = RouteNetlinkMessage::NewLink(builder.build());
    calls.act(call, request, NLM_F_CREATE | NLM_F_EXCL).await?;
    // As flannel: a router on the overlay must not configure this host. A kernel without IPv6
    // has no such file.
    drop(Sysctls::host().set_device("ipv6", name, "accept_ra", "0"));
    Ok(())
}

pub(super) async fn delete(calls: &Calls, call: &str, link: IfIndex) -> Result<(), NetlinkError> {
    let request = LinkMessageBuilder::<LinkUnspec>::default()
        .index(link.get())
        .build();
    let result = calls
        .act(call, RouteNetlinkMessage::DelLink(request), 0)
        .await;
    accept(result, &[libc::ENODEV])
}

pub(super) async fn set_mtu(
    calls: &Calls,
    call: &str,
    link: IfIndex,
    mtu: u32,
) -> Result<(), NetlinkError> {
    let request = LinkMessageBuilder::<LinkUnspec>::default()
        .index(link.get())
        .mtu(mtu)
        .build();
    calls
        .act(call, RouteNetlinkMessage::NewLink(request), 0)
        .await
}

pub(super) async fn set_up(calls: &Calls, call: &str, link: IfIndex) -> Result<(), NetlinkError> {
    let request = LinkMessageBuilder::<LinkUnspec>::default()
        .index(link.get())
        .up()
        .build();
    calls
        .act(call, RouteNetlinkMessage::NewLink(request), 0)
        .await
}

fn read(message: LinkMessage) -> Option<Link> {
    let header = message.header;
    let mut link = Link {
        index: IfIndex::try_from(header.index).ok()?,
        name: String::new(),
        kind: LinkKind::Other(String::new()),
        mac: None,
        ethernet: header.link_layer_type == LinkLayerType::Ether,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        master: None,
        qdisc: None,
    };
    let mut info = Vec::new();
    let mut peer_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) => link.mac = bytes.try_into().ok().map(Mac),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = IfIndex::try_from(master).ok(),
            LinkAttribute::Qdisc(name) => link.qdisc = Some(name),
            LinkAttribute::LinkNetNsId(_) => peer_elsewhere = true,
            LinkAttribute::LinkInfo(found) => info = found,
            _ => {}
        }
    }
    if !link.ethernet {
        link.mac = None;
    }
    link.kind = kind(info, peer_elsewhere);
    Some(link)
}

fn kind(info: Vec<LinkInfo>, peer_elsewhere: bool) -> LinkKind {
    let mut name = None;
    let mut data = None;
    for part in info {
        match part {
            LinkInfo::Kind(kind) => name = Some(kind),
            LinkInfo::Data(found) => data = Some(found),
            _ => {}
        }
    }
    match (name, data) {
        (Some(InfoKind::Veth), _) => LinkKind::Veth { peer_elsewhere },
        (Some(InfoKind::Bridge), Some(InfoData::Bridge(parts))) => LinkKind::Bridge {
            vlan_filtering: parts.contains(&InfoBridge::VlanFiltering(true)),
        },
        (Some(InfoKind::Vxlan), Some(InfoData::Vxlan(parts))) => match vxlan(&parts) {
            Some(attrs) => LinkKind::Vxlan(attrs),
            None => LinkKind::Other(InfoKind::Vxlan.to_string()),
        },
        (Some(other), _) => LinkKind::Other(other.to_string()),
        (None, _) => LinkKind::Other(String::new()),
    }
}

fn vxlan(parts: &[InfoVxlan]) -> Option<VxlanAttrs> {
    let mut vni = None;
    let mut attrs = VxlanAttrs {
        vni: Vni::try_from(0).ok()?,
        port: KERNEL_PORT,
        local: None,
        lower: None,
        learning: false,
        gbp: false,
    };
    for part in parts {
        match part {
            InfoVxlan::Id(id) => vni = Vni::try_from(u64::from(*id)).ok(),
            InfoVxlan::Port(port) => attrs.port = *port,
            InfoVxlan::Local(local) => attrs.local = Some(IpAddr::V4(*local)),
            InfoVxlan::Local6(local) => attrs.local = Some(IpAddr::V6(*local)),
            InfoVxlan::Link(lower) => attrs.lower = IfIndex::try_from(*lower).ok(),
            InfoVxlan::Learning(learning) => attrs.learning = *learning,
            InfoVxlan::Gbp => attrs.gbp = true,
            _ => {}
        }
    }
    attrs.vni = vni?;
    Some(attrs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let bridge = |parts| {
            kind(
                vec![
                    LinkInfo::Kind(InfoKind::Bridge),
                    LinkInfo::Data(InfoData::Bridge(parts)),
                ],
                false,
            )
        };
        for vlan_filtering in [true, false] {
            let parts = vec![InfoBridge::VlanFiltering(vlan_filtering)];
            assert_eq!(bridge(parts), LinkKind::Bridge { vlan_filtering });
        }
        // A kernel without VLAN filtering does not mention it.
        let vlan_filtering = false;
        assert_eq!(bridge(Vec::new()), LinkKind::Bridge { vlan_filtering });
        let veth = |peer_elsewhere| kind(vec![LinkInfo::Kind(InfoKind::Veth)], peer_elsewhere);
        for peer_elsewhere in [true, false] {
            assert_eq!(veth(peer_elsewhere), LinkKind::Veth { peer_elsewhere });
        }
        let wireguard = kind(vec![LinkInfo::Kind(InfoKind::Wireguard)], false);
        assert_eq!(wireguard, LinkKind::Other("wireguard".to_owned()));
        assert_eq!(kind(Vec::new(), true), LinkKind::Other(String::new()));
    }
}
