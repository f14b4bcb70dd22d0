//! Nodes that start, renew, lose, crash and come back in any order, with calls that do not arrive
//! and answers that are lost: no two live records overlap, and nobody believes what is not so.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use futures::future::join_all;
use proptest::{prelude::*, sample::select, strategy::ValueTree, test_runner::TestRunner};
use weft::{
    model::{
        lease::{Claim, Lease},
        network::NetworkConfig,
    },
    store::{LeaseStore, OnTwin, Retaken},
};

use crate::{
    bench::{Bench, Memory, attrs, claim, config, value},
    etcd::Etcd,
    history::{assert_apart, assert_never_overlapped},
};

/// Fewer subnets than nodes, and of two lengths, as while the config is being changed.
const WIDE: &str = r#"{"Network":"10.42.0.0/27","SubnetLen":29,"Backend":{"Type":"vxlan"}}"#;
const NARROW: &str = r#"{"Network":"10.42.0.0/28","SubnetLen":30,"Backend":{"Type":"vxlan"}}"#;
const NODES: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// The agent starts, knowing what its file says.
    Start,
    Renew,
    Retake(OnTwin),
    /// The host's address becomes its other one, and the record is to name it; or the first again.
    Move {
        away: bool,
    },
    Release,
    /// The agent dies; its file stays.
    Crash,
    /// The host goes for good, with its file.
    Reinstall,
    /// Its lease comes to its end.
    Expire,
    /// A stranger deletes its record, takes it over, or makes it a reservation.
    Delete,
    Steal,
    Reserve,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Wire {
    Fine,
    /// It happens, and nobody hears of it.
    AnswerLost,
    /// It is sent, and heard, twice.
    Twice,
}

#[derive(Clone, Copy, Debug)]
struct Step {
    node: usize,
    act: Act,
    wire: Wire,
    /// On a real store: the agent is killed this many microseconds later.
    killed: Option<u64>,
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    use Act::*;
    let act = select(vec![
        Start,
        Start,
        Start,
        Renew,
        Renew,
        Retake(OnTwin::Leave),
        Retake(OnTwin::Leave),
        Retake(OnTwin::Overwrite),
        Move { away: true },
        Move { away: false },
        Release,
        Crash,
        Reinstall,
        Expire,
        Expire,
        Delete,
        Steal,
        Reserve,
    ]);
    let wire = select(vec![Wire::Fine, Wire::Fine, Wire::AnswerLost, Wire::Twice]);
    let killed = prop::option::weighted(0.3, 0_u64..6000);
    let step = (0..NODES, act, wire, killed);
    let step = step.prop_map(|(node, act, wire, killed)| Step {
        node,
        act,
        wire,
        killed,
    });
    prop::collection::vec(step, 1..most)
}

struct Node {
    /// Its address, and the one that it may move to.
    addresses: [IpAddr; 2],
    claim: Claim,
    config: NetworkConfig,
    /// What it believes to hold.
    holds: Option<Lease>,
    /// What it held last.
    last: Option<Lease>,
}

impl Node {
    /// The first two are one machine and its copy: one address, two MACs.
    fn all() -> Vec<Self> {
        let node = |address: u8, mac: u8, text: &str| {
            let mut claim = claim(address);
            claim.attrs.backend = attrs(mac).backend;
            Self {
                addresses: [address, address + 100].map(|number| attrs(number).public_ip),
                claim,
                config: config(text),
                holds: None,
                last: None,
            }
        };
        vec![
            node(1, 1, NARROW),
            node(1, 77, NARROW),
            node(2, 2, WIDE),
            node(3, 3, NARROW),
        ]
    }

    fn believe(&mut self, lease: Option<Lease>) {
        if let Some(lease) = &lease {
            self.claim.previous = Some(lease.subnet);
            self.last = Some(lease.clone());
        }
        self.holds = lease;
    }

    /// One call, and what the node makes of the answer; whether it may now believe to hold.
    async fn call(&mut self, store: &impl LeaseStore, act: Act, heard: bool) -> bool {
        match act {
            Act::Start => {
                let answer = store.claim(&self.config, &self.claim).await;
                if heard {
                    self.believe(answer.ok());
                }
                heard && self.holds.is_some()
            }
            Act::Renew => {
                let Some(lease) = self.holds.clone() else {
                    return false;
                };
                let kept = store.renew(&lease).await.is_ok();
                if heard && !kept {
                    self.holds = None;
                }
                heard && kept
            }
            Act::Retake(on_twin) => {
                let Some(last) = self.last.clone() else {
                    return false;
                };
                let answer = store.retake(&last, on_twin).await;
                if !heard {
                    return false;
                }
                let held = match answer {
                    Ok(Retaken::Held(lease)) => {
                        assert_eq!(lease.subnet, last.subnet);
                        Some(lease)
                    }
                    Ok(Retaken::Taken { .. } | Retaken::Twin(_)) | Err(_) => None,
                };
                self.believe(held);
                self.holds.is_some()
            }
            Act::Move { away } => {
                let [home, other] = self.addresses;
                self.claim.attrs.public_ip = if away { other } else { home };
                if let Some(last) = &mut self.last {
                    last.attrs = self.claim.attrs.clone();
                }
                let Some(lease) = self.holds.clone() else {
                    return false;
                };
                let moved = store.republish(&lease, &self.claim.attrs).await;
                if heard {
                    self.believe(moved.ok());
                }
                heard && self.holds.is_some()
            }
            Act::Release => {
                if let Some(lease) = &self.last {
                    drop(store.release(lease).await);
                }
                self.holds = None;
                false
            }
            _ => false,
        }
    }

    /// What happens to the node, or to its record by other hands.
    async fn suffer(&mut self, bench: &impl Bench, act: Act, reserved: &mut BTreeSet<String>) {
        match act {
            Act::Crash => (self.holds, self.last) = (None, None),
            Act::Reinstall => {
                (self.holds, self.last, self.claim.previous) = (None, None, None);
            }
            _ => {}
        }
        let Some(last) = &self.last else {
            return;
        };
        let key = bench.node().key_of(last.subnet);
        let there = bench.get(&key).await;
        match (act, there) {
            (Act::Expire, _) => {
                if let Some(id) = last.store_lease {
                    bench.expire(id).await;
                }
            }
            (Act::Delete, _) => {
                reserved.remove(&key);
                bench.delete(&key).await;
            }
            (Act::Steal, Some(_)) => {
                reserved.remove(&key);
                bench.put(&key, &value(99), true).await;
            }
            (Act::Reserve, Some((text, _))) => {
                bench.put(&key, &text, false).await;
                reserved.insert(key);
            }
            _ => {}
        }
    }
}

/// All steps one after the other; everything is checked after each.
async fn in_order(bench: &impl Bench, steps: &[Step]) {
    let (mut nodes, mut reserved) = (Node::all(), BTreeSet::new());
    for step in steps {
        let node = &mut nodes[step.node];
        let store = bench.node();
        if step.wire == Wire::Twice {
            node.call(&store, step.act, false).await;
        }
        let holds = node
            .call(&store, step.act, step.wire != Wire::AnswerLost)
            .await;
        let snapshot = store.snapshot().await.unwrap();
        if holds {
            let lease = node.holds.as_ref().unwrap();
            let found = &snapshot.leases[&lease.subnet];
            assert_eq!(found.attrs, node.claim.attrs, "{step:?}");
            assert_eq!(found.store_lease, lease.store_lease, "{step:?}");
        }
        node.suffer(bench, step.act, &mut reserved).await;
        assert_apart(&store.snapshot().await.unwrap());
        for key in &reserved {
            let (_, lease) = bench.get(key).await.expect("a reservation was removed");
            assert_eq!(lease, 0, "{key} was given an end");
        }
    }
    assert_never_overlapped(&bench.node()).await;
}

#[test]
fn no_order_of_events_makes_two_records_overlap() {
    let config = ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let mut runner = TestRunner::new(config);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    let run = |steps: Vec<Step>| {
        runtime.block_on(in_order(&Memory::new(), &steps));
        Ok(())
    };
    runner.run(&steps(80), run).unwrap();
}

/// The same on a real store; then with all nodes at once, some killed in the middle of a call.
#[tokio::test]
async fn nor_do_nodes_at_once_that_are_killed_at_any_step() {
    let etcd = Etcd::start().await;
    let mut runner = TestRunner::deterministic();
    let mut draw = |most| steps(most).new_tree(&mut runner).unwrap().current();
    in_order(&etcd, &draw(60)).await;
    let etcd = Etcd::start().await;
    let mut nodes = Node::all();
    let mut plans: Vec<Vec<Step>> = (0..NODES).map(|_| draw(60)).collect();
    for plan in &mut plans {
        while plan.len() < 40 {
            plan.extend(draw(60));
        }
    }
    let running = nodes.iter_mut().zip(plans).map(|(node, plan)| async {
        let node = node;
        let store = etcd.node();
        for step in plan {
            let mut killed = false;
            match step.killed {
                None => {
                    _ = node
                        .call(&store, step.act, step.wire != Wire::AnswerLost)
                        .await
                }
                Some(micros) => {
                    let limit = Duration::from_micros(micros);
                    let call = node.call(&store, step.act, true);
                    killed = tokio::time::timeout(limit, call).await.is_err();
                }
            }
            if killed {
                (node.holds, node.last) = (None, None);
            }
            let mut reserved = BTreeSet::new();
            // Reservations and thefts are for the first part: they are no single write.
            if matches!(
                step.act,
                Act::Expire | Act::Crash | Act::Reinstall | Act::Delete
            ) {
                node.suffer(&etcd, step.act, &mut reserved).await;
            }
        }
    });
    join_all(running).await;
    let changes = assert_never_overlapped(&etcd.node()).await;
    assert!(changes >= 10, "only {changes} changes");
}
