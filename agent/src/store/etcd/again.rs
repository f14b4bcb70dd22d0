//! Members that are left alone are asked again: one that was silent through an election, or is
//! thawed, is as good as any, and nobody should have to wait for the end of its quarantine, nor read
//! of it in the status.

use std::{sync::Arc, time::Duration};

use etcd_client::{Client, GetOptions};
use futures::future::join_all;
use rand::Rng as _;
use tokio::time::{sleep, timeout};

use super::{credentials::Loaded, failure::Failure, link::Link, rotation::Fault};

/// Pauses grow from about the first to about the second: what is slow under the questions of a fleet
/// must not be kept so by them.
const FIRST: Duration = Duration::from_secs(2);
const MOST: Duration = Duration::from_secs(15);

impl Link {
    /// Asks until it is dropped.
    pub(super) async fn ask_again(&self) {
        let mut pause = FIRST;
        loop {
            let spread: f64 = rand::rng().random_range(0.5..1.0);
            sleep(pause.mul_f64(spread)).await;
            let alone = self.doubtful();
            if alone.is_empty() {
                pause = FIRST;
                continue;
            }
            pause = (pause * 2).min(MOST);
            // Files that are wrong are told by the calls that need them.
            let Ok(loaded) = self.look_at_files() else {
                continue;
            };
            let turn = self.turn();
            let asked = alone.into_iter().map(|index| {
                let loaded = Arc::clone(&loaded);
                async move { (index, self.answer_of(index, &loaded).await) }
            });
            for (index, answer) in join_all(asked).await {
                self.judge_member(index, turn, answer);
            }
        }
    }

    /// Whether a member answers what has to go through the cluster's leader, or what ails it.
    async fn answer_of(&self, index: usize, loaded: &Loaded) -> Result<(), Fault> {
        let endpoint = self.endpoint(index);
        let options = self.config().options(endpoint, loaded, self.tuning());
        let key = self.keys().config();
        let asked = async {
            let client = Client::connect([endpoint], Some(options)).await?;
            let nothing = GetOptions::new().with_count_only();
            client.kv_client().get(key, Some(nothing)).await
        };
        match timeout(self.tuning().call, asked).await {
            Ok(Ok(_answer)) => Ok(()),
            Ok(Err(error)) if !matches!(self.judge(&error), Failure::Silent) => Err(Fault::Useless),
            Ok(Err(_)) | Err(_) => Err(Fault::Silent),
        }
    }
}
