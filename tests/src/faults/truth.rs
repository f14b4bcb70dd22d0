//! What must be, from what the store holds: the lab reads it itself and asks no agent.

use std::{collections::BTreeSet, net::Ipv4Addr};

use anyhow::{Context as _, Result, ensure};
use ipnet::Ipv4Net;
use serde_json::Value;

use crate::{cluster::Cluster, etcd::PREFIX};

/// One lease in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Record {
    pub subnet: Ipv4Net,
    pub address: Ipv4Addr,
    pub mac: String,
}

/// Every lease of the network but those that the lab itself made bad.
pub fn records(cluster: &Cluster, bad: &BTreeSet<String>) -> Result<Vec<Record>> {
    let prefix = format!("{PREFIX}/subnets/");
    let names = cluster.ctl(&["get", "--prefix", "--keys-only", &prefix])?;
    let names = names.lines().filter_map(|key| key.strip_prefix(&prefix));
    let wanted: BTreeSet<&str> = names.filter(|name| !bad.contains(*name)).collect();
    if bad.is_empty() {
        return all(&cluster.ctl(&["get", "--prefix", &prefix])?, &prefix);
    }
    // A bad value may hold anything, lines included: the good ones are read one by one.
    let mut records = Vec::new();
    for name in wanted {
        records.extend(all(
            &cluster.ctl(&["get", &format!("{prefix}{name}")])?,
            &prefix,
        )?);
    }
    Ok(records)
}

fn all(text: &str, prefix: &str) -> Result<Vec<Record>> {
    let mut lines = text.lines();
    let mut records = Vec::new();
    while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
        let name = key.strip_prefix(prefix).context("a key of the prefix")?;
        records.push(record(name, value).with_context(|| format!("{key} {value}"))?);
    }
    records.sort();
    Ok(records)
}

/// One record, as flannel writes it.
pub fn record(name: &str, value: &str) -> Result<Record> {
    let value: Value = serde_json::from_str(value).context("parse it")?;
    let text = |at: &str| value.pointer(at).and_then(Value::as_str).context("a text");
    Ok(Record {
        subnet: name.replace('-', "/").parse().context("a subnet")?,
        address: text("/PublicIP")?.parse().context("an address")?,
        mac: text("/BackendData/VtepMAC")?.to_owned(),
    })
}

/// The value of a lease of somebody whom the lab only pretends.
pub fn value(address: &str, mac: &str) -> String {
    format!(
        r#"{{"PublicIP":"{address}","PublicIPv6":null,"BackendType":"vxlan","BackendData":{{"VNI":1,"VtepMAC":"{mac}"}}}}"#
    )
}

/// Fails if two live leases overlap (I2).
pub fn ensure_apart(records: &[Record]) -> Result<()> {
    for (index, one) in records.iter().enumerate() {
        for other in records.iter().skip(index + 1) {
            let (a, b) = (one.subnet, other.subnet);
            ensure!(
                !a.contains(&b) && !b.contains(&a),
                "I2: {one:?} and {other:?} overlap"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let value = value("192.0.2.7", "0a:00:00:00:00:07");
        let one = record("188.172.7.0-24", &value).unwrap();
        assert_eq!(one.address, Ipv4Addr::new(192, 0, 2, 7));
        assert_eq!(one.subnet.to_string(), "188.172.7.0/24");
        let wide = record("188.172.0.0-21", &value).unwrap();
        assert!(ensure_apart(&[one.clone(), wide]).is_err());
        let beside = record("188.172.8.0-24", &value).unwrap();
        assert!(ensure_apart(&[one, beside]).is_ok());
    }
}
