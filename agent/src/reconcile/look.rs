//! What one look reads, and what is looked at between two.

use super::{
    run::{Reconciler, Report},
    seen::{Seen, Sight},
};
use crate::{
    datapath::Datapath,
    netlink::{Netlink, NetlinkError},
};

impl<N: Netlink, D: Datapath> Reconciler<N, D> {
    /// Reads host and maps, as far as what was seen of them does not count any more.
    pub(super) async fn see(&mut self) -> Result<Seen, String> {
        let said = |error: NetlinkError| error.to_string();
        let touched = std::mem::take(&mut self.memory.touched);
        let (host, maps) = match self.memory.seen.take() {
            Some(Seen { mut host, maps }) => {
                if !touched.is_empty() {
                    let read = self.netlink.observe_neighbours(&mut host, &touched);
                    read.await.map_err(said)?;
                }
                (host, maps)
            }
            None => (self.netlink.observe().await.map_err(said)?, None),
        };
        let maps = match (&self.datapath, maps) {
            (None, _) => None,
            (Some(datapath), None) => Some(datapath.observe()),
            (Some(datapath), Some(before)) => Some(datapath.observe_near(before)),
        };
        let maps = maps.transpose().map_err(|error| error.to_string())?;
        Ok(Seen { host, maps })
    }

    /// What can be seen without a look at the tables, and whether one is due. Nothing tells of a
    /// change of settings, of programs of others, or that a container was not confirmed.
    pub(super) async fn tick(&mut self, report: &mut Report) -> Option<Sight> {
        let mut failures = Vec::new();
        let operations = self.memory.operations;
        self.keep_forwarding(&mut failures);
        report.operations = self.memory.operations;
        let kernel = self.kernel;
        self.follow_defaults();
        let mut due = kernel != self.kernel || operations != self.memory.operations;
        if let (Some(datapath), Some(seen)) = (&mut self.datapath, &mut self.memory.seen)
            && let Some(before) = seen.maps.take()
        {
            due |= !self.memory.provisional.is_empty();
            let known = before.without_peers();
            match datapath.observe_near(before) {
                Ok(now) => {
                    due |= now.without_peers() != known;
                    seen.maps = Some(now);
                }
                Err(error) => self.memory.complain(&mut failures, error.to_string()),
            }
            if let Err(error) = datapath.keep_pins() {
                self.memory.complain(&mut failures, error.to_string());
            }
            let promotion = self.memory.promotion;
            self.memory
                .flows
                .tend(datapath, &self.netlink, promotion)
                .await;
            report.flows = Some(self.memory.flows.state());
        }
        if !failures.is_empty() {
            return Some(Sight::Full);
        }
        due.then_some(Sight::Near)
    }
}
