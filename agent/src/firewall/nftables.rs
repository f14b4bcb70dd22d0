//! flannel's rules in nftables, kept in place where flannel installs them once.

mod ruleset;
mod words;

use ipnet::Ipv4Net;
use serde_json::Value;

use self::ruleset::{Table, flannels, ours};
use super::{ATTEMPTS, FirewallConfig, FirewallError, Lost, run};

/// What `nft` says of a table that is not there.
const NOT_THERE: &str = "No such file or directory";
/// flannel makes this one, too, and leaves it empty where there is no IPv6.
const IPV6: &str = "flannel-ipv6";

/// nftables as this host has it.
#[derive(Debug)]
pub struct Nftables {
    vni: u32,
    others: Vec<Ipv4Net>,
    /// What `nft` printed after a write that its own words do not confirm, by table: another
    /// release may have another word for the same rule, which is no reason to write for ever.
    accepted: Vec<(String, Value)>,
}

impl Nftables {
    /// For the network of that VNI.
    #[must_use]
    pub const fn new(vni: u32) -> Self {
        Self {
            vni,
            others: Vec::new(),
            accepted: Vec::new(),
        }
    }

    /// Leaves the rules of these networks to their own agents.
    pub fn beside(&mut self, others: Vec<Ipv4Net>) {
        self.others = others;
    }

    /// Puts the rules in place and in order; says whether anything had to be written.
    pub async fn ensure(&mut self, config: &FirewallConfig) -> Result<bool, FirewallError> {
        let mut written = false;
        for table in [ours(config), flannels(config)] {
            written |= self.make(&table).await?;
        }
        Ok(written)
    }

    /// Puts the rules in place that drop what is of lost subnets, or removes them where there are
    /// none; says whether anything had to be written.
    pub async fn drop_lost(&mut self, lost: &Lost) -> Result<bool, FirewallError> {
        let table = Table::of_lost(lost);
        if !lost.subnets.is_empty() {
            return self.make(&table).await;
        }
        self.accepted.retain(|(name, _)| *name != table.name);
        if list("ip", &table.name).await?.is_none() {
            return Ok(false);
        }
        feed(&format!("delete table ip {}\n", table.name))
            .await
            .map(|()| true)
    }

    /// Removes all that is ours, by whichever configuration it was made; says whether anything was
    /// there.
    pub async fn remove(&mut self) -> Result<bool, FirewallError> {
        self.accepted.clear();
        let none = Table::flannels_empty();
        let mut script = String::new();
        if let Some(found) = list("ip", &none.name).await? {
            if none.is_shared(&found, &self.others) {
                script.push_str(&none.repair(Some(&found), &self.others).unwrap_or_default());
            } else {
                script.push_str(&format!("delete table ip {}\n", none.name));
                if list("ip6", IPV6).await?.is_some() {
                    script.push_str(&format!("delete table ip6 {IPV6}\n"));
                }
            }
        }
        for own in [ruleset::own_name(self.vni), ruleset::lost_name(self.vni)] {
            if list("ip", &own).await?.is_some() {
                script.push_str(&format!("delete table ip {own}\n"));
            }
        }
        if script.is_empty() {
            return Ok(false);
        }
        feed(&script).await.map(|()| true)
    }

    async fn make(&mut self, table: &Table) -> Result<bool, FirewallError> {
        let mut attempt = 1;
        loop {
            let found = list("ip", &table.name).await?;
            if found.is_some() && self.accepted(&table.name) == found.as_ref() {
                return Ok(attempt > 1);
            }
            let Some(script) = table.repair(found.as_ref(), &self.others) else {
                return Ok(attempt > 1);
            };
            match feed(&script).await {
                Ok(()) => {
                    self.accept(table).await?;
                    return Ok(true);
                }
                Err(FirewallError::Refused { .. }) if attempt < ATTEMPTS => attempt += 1,
                Err(other) => return Err(other),
            }
        }
    }

    fn accepted(&self, name: &str) -> Option<&Value> {
        let mut accepted = self.accepted.iter();
        accepted
            .find(|(table, _)| table == name)
            .map(|(_, value)| value)
    }

    async fn accept(&mut self, table: &Table) -> Result<(), FirewallError> {
        self.accepted.retain(|(name, _)| *name != table.name);
        if let Some(now) = list("ip", &table.name).await?
            && table.repair(Some(&now), &self.others).is_some()
        {
            self.accepted.push((table.name.clone(), now));
        }
        Ok(())
    }
}

/// A table as `nft -j` prints it; `None` where there is none.
async fn list(family: &str, name: &str) -> Result<Option<Value>, FirewallError> {
    match run("nft", &["-j", "list", "table", family, name], "").await {
        Ok(text) => serde_json::from_str(&text)
            .map(|listed| Some(without_counts(listed)))
            .map_err(|error| FirewallError::Refused {
                command: format!("nft -j list table {family} {name}"),
                said: error.to_string(),
            }),
        Err(FirewallError::Refused { said, .. }) if said.contains(NOT_THERE) => Ok(None),
        Err(other) => Err(other),
    }
}

/// What has been counted is no difference between two rules.
fn without_counts(mut listed: Value) -> Value {
    let objects = listed.get_mut("nftables").and_then(Value::as_array_mut);
    for object in objects.into_iter().flatten() {
        let statements = object
            .pointer_mut("/rule/expr")
            .and_then(Value::as_array_mut);
        for statement in statements.into_iter().flatten() {
            if let Some(counter) = statement.get_mut("counter") {
                *counter = Value::Null;
            }
        }
    }
    listed
}

/// All of it, or nothing.
async fn feed(script: &str) -> Result<(), FirewallError> {
    run("nft", &["-f", "-"], script).await.map(drop)
}
