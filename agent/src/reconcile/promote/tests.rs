//! Every condition of a promotion alone keeps the flow with the stack.

use weft_common::{endpoint::EndpointEntry, flow::FLOW_NATED, settings::DatapathSettings};

use super::*;
use crate::{datapath::Attachment, netlink::conntrack::Tuple};

fn address(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn tracked() -> Tracked {
    let original = Tuple {
        source: address("10.1.2.9"),
        destination: address("10.1.5.7"),
        source_port: 4000,
        destination_port: 80,
    };
    Tracked {
        protocol: 6,
        original,
        reply: Tuple {
            source: original.destination,
            destination: original.source,
            source_port: 80,
            destination_port: 4000,
        },
        natted: false,
        settled: true,
    }
}

fn scope() -> Scope {
    Scope {
        own: "10.1.2.0/24".parse().unwrap(),
        network: "10.1.0.0/16".parse().unwrap(),
        locals: [address("10.1.2.0"), address("10.1.2.1")].into(),
    }
}

fn peer(flags: u32) -> PeerEntry {
    PeerEntry {
        subnet: [10, 1, 5, 0],
        subnet_len: 24,
        vtep_addr: [192, 0, 2, 5],
        vtep_mac: [2, 0, 0, 0, 0, 5],
        _pad: [0; 2],
        gateway: [192, 0, 2, 5],
        ifindex: 2,
        mtu: 1450,
        flags,
    }
}

fn endpoint(flags: u32) -> EndpointEntry {
    EndpointEntry {
        ifindex: 7,
        mac: [2, 0, 0, 0, 0, 9],
        bridge_mac: [2, 0, 0, 0, 0, 1],
        bridge_mtu: 1450,
        bridge: 6,
        flags,
    }
}

fn programs() -> DatapathState {
    DatapathState {
        settings: Some(DatapathSettings {
            flags: FAST_PATH,
            ready: 1,
            ..DatapathSettings::default()
        }),
        peers: [("10.1.5.0/24".parse().unwrap(), peer(PEER_FAST))].into(),
        endpoints: [(address("10.1.2.9"), endpoint(0))].into(),
        attachments: [Attachment {
            hook: Hook::FromOverlay,
            link: 5u32.try_into().unwrap(),
            name: "flannel.1".to_owned(),
        }]
        .into(),
        ..DatapathState::default()
    }
}

fn recorded(why: u32) -> BTreeMap<FlowKey, FlowEntry> {
    scope()
        .keys(&tracked())
        .into_keys()
        .map(|key| (key, FlowEntry { why }))
        .collect()
}

fn count(
    programs: &DatapathState,
    recorded: &BTreeMap<FlowKey, FlowEntry>,
    dump: Tracked,
) -> usize {
    promotable(&scope(), programs, recorded, &[dump]).len()
}

#[test]
fn a_settled_flow_between_known_ends_is_promoted_whoever_began_it() {
    let there = tracked();
    let back = Tracked {
        original: there.reply,
        reply: there.original,
        ..there
    };
    for dump in [there, back] {
        let found = promotable(&scope(), &programs(), &recorded(FLOW_SEEN), &[dump]);
        let want = recorded(FLOW_SEEN).into_keys().next().unwrap();
        assert_eq!(found, [(want, dump)]);
    }
}

#[test]
fn what_conntrack_needs_stays() {
    let unsettled = Tracked {
        settled: false,
        ..tracked()
    };
    assert_eq!(count(&programs(), &recorded(FLOW_SEEN), unsettled), 0);
    // Another entry of the same tuple is translated.
    assert_eq!(count(&programs(), &recorded(FLOW_NATED), tracked()), 0);
    assert_eq!(count(&programs(), &BTreeMap::new(), tracked()), 0);
}

#[test]
fn what_the_programs_would_leave_alone_stays() {
    let mut off = programs();
    off.settings = Some(DatapathSettings::default());
    let mut kernel_only = programs();
    kernel_only.peers = [("10.1.5.0/24".parse().unwrap(), peer(0))].into();
    // A reservation inside a fast subnet.
    let mut shadowed = programs();
    shadowed
        .peers
        .insert("10.1.5.0/28".parse().unwrap(), peer(0));
    let mut nobody = programs();
    nobody.peers.clear();
    let mut unknown = programs();
    unknown.endpoints.clear();
    let mut provisional = programs();
    provisional.endpoints = [(address("10.1.2.9"), endpoint(ENDPOINT_PROVISIONAL))].into();
    let mut kept = programs();
    let mut half = programs();
    half.attachments.clear();
    kept.endpoints = [(address("10.1.2.9"), endpoint(ENDPOINT_KERNEL))].into();
    for programs in [
        off,
        kernel_only,
        shadowed,
        nobody,
        unknown,
        provisional,
        half,
        kept,
    ] {
        assert_eq!(
            count(&programs, &recorded(FLOW_SEEN), tracked()),
            0,
            "{programs:?}"
        );
    }
}
