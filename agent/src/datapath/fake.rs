//! A data path in memory, for tests of pure logic. Held to the same contract as the real one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use weft_common::flow::{FLOW_NATED, FlowEntry, FlowKey};

use super::{Counters, Datapath, DatapathError, DatapathOp, DatapathState};

/// Plain maps, and calls that can be told to fail.
#[derive(Debug, Default)]
pub struct FakeDatapath {
    /// What is in place.
    pub state: DatapathState,
    /// Recorded flows.
    pub flows: BTreeMap<FlowKey, FlowEntry>,
    /// Whether the record overflowed.
    pub full: bool,
    /// Numbers of the coming `apply` calls that fail, counted from zero.
    pub failing: Vec<usize>,
    /// Operations whose words contain this fail.
    pub refused: Option<String>,
    /// `apply` calls so far.
    pub calls: usize,
    /// What was applied, in order, without what failed.
    pub applied: Vec<DatapathOp>,
}

impl Datapath for FakeDatapath {
    fn observe(&self) -> Result<DatapathState, DatapathError> {
        Ok(self.state.clone())
    }

    fn apply(&mut self, op: &DatapathOp) -> Result<(), DatapathError> {
        let call = self.calls;
        self.calls += 1;
        let refused = |words: &String| op.to_string().contains(words);
        if self.failing.contains(&call) || self.refused.as_ref().is_some_and(refused) {
            let why = "told to fail".to_owned();
            return Err(DatapathError {
                call: op.to_string(),
                why,
                errno: None,
            });
        }
        let state = &mut self.state;
        match op.clone() {
            DatapathOp::PutSettings(settings) => {
                state.settings = (settings.ready != 0).then_some(settings);
            }
            DatapathOp::PutPeer(net, peer) => _ = state.peers.insert(net, peer),
            DatapathOp::DeletePeer(net) => _ = state.peers.remove(&net),
            DatapathOp::PutVtep(addr, entry) => _ = state.vteps.insert(addr, entry),
            DatapathOp::DeleteVtep(addr) => _ = state.vteps.remove(&addr),
            DatapathOp::PutEndpoint(addr, endpoint) => _ = state.endpoints.insert(addr, endpoint),
            DatapathOp::DeleteEndpoint(addr) => _ = state.endpoints.remove(&addr),
            DatapathOp::PutLocal(addr, ifindex) => _ = state.locals.insert(addr, ifindex),
            DatapathOp::DeleteLocal(addr) => _ = state.locals.remove(&addr),
            DatapathOp::PutPort(link, port) => _ = state.ports.insert(link, port),
            DatapathOp::DeletePort(link) => _ = state.ports.remove(&link),
            DatapathOp::Attach(at) => {
                state
                    .attachments
                    .retain(|old| (old.hook, old.link) != (at.hook, at.link));
                state.attachments.insert(at);
            }
            DatapathOp::Detach(at) => _ = state.attachments.remove(&at),
        }
        self.applied.push(op.clone());
        Ok(())
    }

    fn sweep(&mut self) -> Result<usize, DatapathError> {
        Ok(0)
    }

    fn keep_pins(&mut self) -> Result<usize, DatapathError> {
        Ok(0)
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        Ok(Counters::new())
    }

    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowEntry>, DatapathError> {
        Ok(self.flows.clone())
    }

    fn record_flow(&mut self, key: &FlowKey, entry: FlowEntry) -> Result<(), DatapathError> {
        let known = self.flows.entry(*key).or_insert(entry);
        if known.why != FLOW_NATED {
            *known = entry;
        }
        Ok(())
    }

    fn forget_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        self.flows.remove(key);
        Ok(())
    }

    fn tend_pairs(&mut self) -> Result<(), DatapathError> {
        Ok(())
    }

    fn flows_full(&mut self, clear: bool) -> Result<bool, DatapathError> {
        let full = self.full;
        self.full &= !clear;
        Ok(full)
    }
}

/// For tests that look at it while the loop owns it.
impl Datapath for Arc<Mutex<FakeDatapath>> {
    fn observe(&self) -> Result<DatapathState, DatapathError> {
        locked(self, |fake| fake.observe())
    }

    fn apply(&mut self, op: &DatapathOp) -> Result<(), DatapathError> {
        locked(self, |fake| fake.apply(op))
    }

    fn sweep(&mut self) -> Result<usize, DatapathError> {
        locked(self, FakeDatapath::sweep)
    }

    fn keep_pins(&mut self) -> Result<usize, DatapathError> {
        locked(self, FakeDatapath::keep_pins)
    }

    fn counters(&self) -> Result<Counters, DatapathError> {
        locked(self, |fake| fake.counters())
    }

    fn flows(&self) -> Result<BTreeMap<FlowKey, FlowEntry>, DatapathError> {
        locked(self, |fake| fake.flows())
    }

    fn record_flow(&mut self, key: &FlowKey, entry: FlowEntry) -> Result<(), DatapathError> {
        locked(self, |fake| fake.record_flow(key, entry))
    }

    fn forget_flow(&mut self, key: &FlowKey) -> Result<(), DatapathError> {
        locked(self, |fake| fake.forget_flow(key))
    }

    fn tend_pairs(&mut self) -> Result<(), DatapathError> {
        locked(self, FakeDatapath::tend_pairs)
    }

    fn flows_full(&mut self, clear: bool) -> Result<bool, DatapathError> {
        locked(self, |fake| fake.flows_full(clear))
    }
}

fn locked<R>(fake: &Mutex<FakeDatapath>, call: impl FnOnce(&mut FakeDatapath) -> R) -> R {
    // A test that panicked has failed already.
    call(&mut fake.lock().unwrap_or_else(PoisonError::into_inner))
}
