//! Members that are left alone are asked again: one that was silent through an election, or is
//! thawed, is as good as any, and nobody should have to wait for the end of its quarantine, nor read
//! of it in the status.

use std::{sync::Arc, time::Duration};

use etcd_client::{Client, GetOptions};
use futures::future::join_all;
use tokio::time::{sleep, timeout};

use super::{credentials::Loaded, link::Link};

/// How often. One that answers is asked once; one that does not has nothing else to do.
const EVERY: Duration = Duration::from_secs(2);

impl Link {
    /// Asks until it is dropped.
    pub(super) async fn ask_again(&self) {
        loop {
            sleep(EVERY).await;
            let alone = self.left_alone();
            if alone.is_empty() {
                continue;
            }
            // Files that are wrong are told by the calls that need them.
            let Ok(loaded) = self.look_at_files() else {
                continue;
            };
            let turn = self.turn();
            let asked = alone.into_iter().map(|index| {
                let loaded = Arc::clone(&loaded);
                async move { self.answers(index, &loaded).await.then_some(index) }
            });
            for index in join_all(asked).await.into_iter().flatten() {
                self.forgive(index, turn);
            }
        }
    }

    /// Whether a member answers what has to go through the cluster's leader.
    async fn answers(&self, index: usize, loaded: &Loaded) -> bool {
        let endpoint = self.endpoint(index);
        let options = self.config().options(endpoint, loaded, self.tuning());
        let key = self.keys().config();
        let asked = async {
            let client = Client::connect([endpoint], Some(options)).await?;
            let nothing = GetOptions::new().with_count_only();
            client.kv_client().get(key, Some(nothing)).await
        };
        let answer = timeout(self.tuning().call, asked).await;
        answer.is_ok_and(|answer| answer.is_ok())
    }
}
