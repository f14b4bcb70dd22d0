//! The record's keeper against conntrack and a record in memory.

use std::collections::BTreeMap;

use weft_common::{
    endpoint::EndpointEntry,
    flow::{FLOW_NATED, FLOW_SEEN, FlowEntry, FlowKey},
    peer::{PEER_FAST, PeerEntry},
    settings::{DatapathSettings, FAST_PATH},
    stats::Hook,
};
use zerocopy::FromZeros as _;

use super::*;
use crate::{
    datapath::{Attachment, DatapathState, fake::FakeDatapath},
    netlink::{
        conntrack::{Tracked, Tuple},
        fake::FakeHost,
    },
};

fn tracked(port: u16, natted: bool) -> Tracked {
    let [ours, theirs] = ["10.1.2.9", "10.1.5.9"].map(|text| text.parse().unwrap());
    Tracked {
        protocol: 6,
        original: Tuple {
            source: ours,
            destination: theirs,
            source_port: port,
            destination_port: 80,
        },
        reply: Tuple {
            source: theirs,
            destination: ours,
            source_port: 80,
            destination_port: port,
        },
        natted,
        settled: !natted,
    }
}

fn key(port: u16) -> FlowKey {
    FlowKey {
        local: [10, 1, 2, 9],
        remote: [10, 1, 5, 9],
        local_port: port.to_be_bytes(),
        remote_port: 80u16.to_be_bytes(),
        protocol: 6,
        _pad: [0; 3],
    }
}

fn keeper() -> FlowKeeper {
    let config = r#"{"Network":"10.1.0.0/16","Backend":{"Type":"vxlan"}}"#;
    let own: ipnet::IpNet = "10.1.2.0/24".parse().unwrap();
    let mut keeper = FlowKeeper::default();
    keeper.scope(
        &NetworkConfig::parse(config).unwrap(),
        Subnet::try_from(own).unwrap(),
        std::iter::empty(),
    );
    keeper
}

fn recorded(ports: &[u16]) -> FakeDatapath {
    FakeDatapath {
        flows: ports
            .iter()
            .map(|port| (key(*port), FlowEntry { why: FLOW_SEEN }))
            .collect(),
        ..FakeDatapath::default()
    }
}

#[tokio::test(start_paused = true)]
async fn it_compares_at_the_start_at_intervals_and_when_events_were_lost() {
    let host = FakeHost::default();
    let mut datapath = recorded(&[1]);
    let mut keeper = keeper();
    host.set_connections(Ok(vec![tracked(2, true)]));
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    let want = BTreeMap::from([(key(2), FlowEntry { why: FLOW_NATED })]);
    assert_eq!(datapath.flows, want);
    assert_eq!(keeper.state().unwrap(), "1 flows stay with the stack");

    host.set_connections(Ok(Vec::new()));
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    assert_eq!(datapath.flows.len(), 1, "not due yet");
    keeper.heard(&ConntrackEvent::Overrun);
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    assert_eq!(datapath.flows.len(), 0);

    host.set_connections(Ok(vec![tracked(3, false)]));
    tokio::time::advance(EVERY).await;
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    assert_eq!(datapath.flows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_ended_is_forgotten() {
    let mut datapath = recorded(&[1, 2]);
    let ended = ConntrackEvent::Destroyed(tracked(1, false));
    let host = FakeHost::default();
    host.set_connections(Ok(Vec::new()));
    let mut keeper = keeper();
    keeper.heard(&ended);
    assert!(keeper.is_unsettled());
    keeper.settle(&mut datapath, &host).await;
    let left: Vec<_> = datapath.flows.into_keys().collect();
    assert_eq!(left, [key(2)]);
    assert!(!keeper.is_unsettled());
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_began_again_with_the_same_ports_stays_recorded() {
    let mut datapath = recorded(&[1]);
    let host = FakeHost::default();
    // The packet that ended the old entry opened the new one: conntrack has it, the event is late.
    host.set_connections(Ok(vec![tracked(1, true)]));
    let mut keeper = keeper();
    keeper.heard(&ConntrackEvent::Destroyed(tracked(1, false)));
    keeper.settle(&mut datapath, &host).await;
    assert!(datapath.flows.contains_key(&key(1)));
}

#[tokio::test(start_paused = true)]
async fn an_overflow_makes_room_and_ends() {
    let host = FakeHost::default();
    let mut datapath = recorded(&[1, 2, 3]);
    let mut keeper = keeper();
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    datapath.flows.insert(key(4), FlowEntry { why: FLOW_SEEN });
    datapath.full = true;
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    assert!(datapath.flows.is_empty() && !datapath.full);

    // As long as nobody knows which flows have ended, it stays.
    datapath.full = true;
    host.set_connections(Err(libc::EPERM));
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    assert!(datapath.full && keeper.state().is_err());
}

/// Programs that would take the flows of [`tracked`].
fn willing() -> DatapathState {
    let text = |text: &str| text.parse().unwrap();
    DatapathState {
        settings: Some(DatapathSettings {
            flags: FAST_PATH,
            ready: 1,
            ..DatapathSettings::default()
        }),
        peers: [(
            "10.1.5.0/24".parse().unwrap(),
            PeerEntry {
                flags: PEER_FAST,
                ..PeerEntry::new_zeroed()
            },
        )]
        .into(),
        endpoints: [(text("10.1.2.9"), EndpointEntry::new_zeroed())].into(),
        attachments: [Attachment {
            hook: Hook::FromOverlay,
            link: 5u32.try_into().unwrap(),
            name: "flannel.1".to_owned(),
        }]
        .into(),
        ..DatapathState::default()
    }
}

#[tokio::test(start_paused = true)]
async fn a_plain_flow_is_taken_from_the_stack_and_a_translated_one_is_not() {
    let host = FakeHost::default();
    host.set_connections(Ok(vec![tracked(1, false), tracked(2, true)]));
    let mut datapath = recorded(&[1]);
    datapath.state = willing();
    let mut keeper = keeper();
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    assert_eq!(
        datapath.flows.len(),
        2,
        "nothing is promoted against the rules"
    );
    // As soon as it is allowed, and not at the next comparison.
    keeper.tend(&mut datapath, &host, Promotion::Allowed).await;
    let left: Vec<_> = datapath.flows.keys().copied().collect();
    assert_eq!(left, [key(2)]);
    assert_eq!(host.connections().await.unwrap(), [tracked(2, true)]);
    let said = keeper.state().unwrap();
    assert_eq!(said, "1 flows stay with the stack, 1 were taken from it");
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_came_straight_back_stays() {
    let host = FakeHost::default();
    host.set_connections(Ok(vec![tracked(1, false)]));
    let mut datapath = recorded(&[1]);
    datapath.state = willing();
    let mut keeper = keeper();
    keeper.tend(&mut datapath, &host, Promotion::Allowed).await;
    assert!(datapath.flows.is_empty());
    for _ in 0..3 {
        host.set_connections(Ok(vec![tracked(1, false)]));
        tokio::time::advance(EVERY).await;
        keeper.tend(&mut datapath, &host, Promotion::Allowed).await;
        assert_eq!(datapath.flows.len(), 1);
    }
    // Until it ends.
    host.set_connections(Ok(Vec::new()));
    tokio::time::advance(EVERY).await;
    keeper.tend(&mut datapath, &host, Promotion::Allowed).await;
    host.set_connections(Ok(vec![tracked(1, false)]));
    tokio::time::advance(EVERY).await;
    keeper.tend(&mut datapath, &host, Promotion::Allowed).await;
    assert!(datapath.flows.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_conntrack_does_not_let_go_keeps_its_record() {
    let host = FakeHost::default();
    host.set_connections(Ok(vec![tracked(1, false)]));
    host.keep_connections(libc::EPERM);
    let mut datapath = recorded(&[1]);
    datapath.state = willing();
    let mut keeper = keeper();
    keeper.tend(&mut datapath, &host, Promotion::Allowed).await;
    assert_eq!(datapath.flows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_never_compared_is_not_in_step() {
    let host = FakeHost::default();
    host.set_connections(Err(libc::EPERM));
    let mut datapath = recorded(&[1]);
    let mut keeper = keeper();
    keeper
        .tend(&mut datapath, &host, Promotion::Forbidden)
        .await;
    let why = keeper.ensure_synced(&mut datapath, &host).await;
    assert!(why.unwrap_err().contains("conntrack"));
    assert_eq!(datapath.flows.len(), 1, "forgotten without knowing");
    host.set_connections(Ok(Vec::new()));
    assert_eq!(keeper.ensure_synced(&mut datapath, &host).await, Ok(()));
}
