//! Everything that ever was in the store's prefix of leases, in its order: at no revision may two
//! live keys overlap.

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};

use super::truth::{self, Record};
use crate::{cluster::Cluster, daemon::Daemon, wait};

const LIMIT: Duration = Duration::from_secs(10);

/// A watch that writes down what it hears. It must not meet values with line ends.
#[derive(Debug)]
pub struct History {
    watch: Daemon,
    prefix: String,
}

/// One change of a key below the prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Put(String, String),
    Delete(String),
}

impl History {
    /// Records what is written below `prefix` from now on.
    pub fn start(cluster: &Cluster, prefix: &str, log: PathBuf) -> Result<Self> {
        let from = (cluster.revision()? + 1).to_string();
        let mut command = cluster.client()?;
        command.args(["watch", "--prefix", prefix, "--rev", &from]);
        let history = Self {
            watch: Daemon::start("etcdctl watch", command, log)?,
            prefix: prefix.to_owned(),
        };
        Ok(history)
    }

    /// Every change up to now: waits for a mark of its own, which it leaves behind and removes.
    pub fn changes(&self, cluster: &Cluster) -> Result<Vec<Change>> {
        let mark = format!("{}mark", self.prefix);
        cluster.put(&mark, "here")?;
        cluster.delete(&mark)?;
        let end = format!("DELETE\n{mark}\n");
        wait::until("the watch has heard everything", LIMIT, || {
            let log = self.watch.log();
            let Some((all, _)) = log.split_once(&end) else {
                return Ok(None);
            };
            parse(all, &self.prefix).map(Some)
        })
    }

    /// Fails if two live keys overlapped at any revision; answers with what is live at the end.
    pub fn ensure_apart(&self, cluster: &Cluster) -> Result<Vec<Record>> {
        let mut live = BTreeMap::new();
        for change in self.changes(cluster)? {
            match change {
                Change::Put(name, _) if name == "mark" => continue,
                Change::Put(name, value) => {
                    let record = truth::record(&name, &value)?;
                    live.insert(name, record);
                }
                Change::Delete(name) => drop(live.remove(&name)),
            }
            let records: Vec<_> = live.values().cloned().collect();
            truth::ensure_apart(&records).context("in the history")?;
        }
        Ok(live.into_values().collect())
    }
}

fn parse(text: &str, prefix: &str) -> Result<Vec<Change>> {
    let mut lines = text.lines();
    let mut changes = Vec::new();
    while let Some(what) = lines.next() {
        let key = lines.next().context("a key")?;
        let name = key.strip_prefix(prefix).context("a key of the prefix")?;
        let value = lines.next().unwrap_or_default();
        ensure!(what == "PUT" || what == "DELETE", "an event: {what:?}");
        changes.push(if what == "PUT" {
            Change::Put(name.to_owned(), value.to_owned())
        } else {
            Change::Delete(name.to_owned())
        });
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_in_their_order() {
        let text = "PUT\n/p/a\n{}\nDELETE\n/p/a\n\n";
        let put = Change::Put("a".to_owned(), "{}".to_owned());
        let deleted = Change::Delete("a".to_owned());
        assert_eq!(parse(text, "/p/").unwrap(), [put, deleted]);
        assert!(parse("PUT\n/q/a\n{}\n", "/p/").is_err());
    }
}
