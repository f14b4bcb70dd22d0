//! What the agent's read verbs say, as types.

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;
use serde_json::Value;

use crate::{command, host::Host, paths};

/// What `weft dump counters` says.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Counters {
    pub counters: Vec<Counter>,
    /// Packets that the programs carried, aggregates included.
    pub taken: u64,
    pub taken_aggregates: u64,
    /// Packets between two hosts' subnets that are plain enough to be carried.
    pub qualified: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Counter {
    pub hook: String,
    pub reason: String,
    pub fate: String,
    pub packets: u64,
    pub bytes: u64,
}

impl Counters {
    /// What was added since `earlier`.
    pub fn since(&self, earlier: &Self) -> Share {
        Share {
            taken: self.taken.saturating_sub(earlier.taken),
            aggregates: self
                .taken_aggregates
                .saturating_sub(earlier.taken_aggregates),
            qualified: self.qualified.saturating_sub(earlier.qualified),
        }
    }

    /// Packets that met this reason at this hook.
    pub fn of(&self, hook: &str, reason: &str) -> u64 {
        let mut all = self.counters.iter();
        let found = all.find(|counter| counter.hook == hook && counter.reason == reason);
        found.map_or(0, |counter| counter.packets)
    }

    /// Every counter that has moved since `earlier`, in one line.
    pub fn changes(&self, earlier: &Self) -> String {
        let moved = self.counters.iter().filter_map(|now| {
            let more = now.packets - earlier.of(&now.hook, &now.reason);
            (more > 0).then(|| format!("{} {} {more}", now.hook, now.reason))
        });
        moved.collect::<Vec<_>>().join(", ")
    }

    /// One line for each counter that is not zero.
    pub fn lines(&self) -> String {
        let shown = self.counters.iter().filter(|counter| counter.packets > 0);
        let line = |c: &Counter| {
            format!(
                "  {:<16} {:<24} {:<9} {:>10}\n",
                c.hook, c.reason, c.fate, c.packets
            )
        };
        shown.map(line).collect()
    }
}

/// Packets on the fast path among those that qualify for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub taken: u64,
    pub aggregates: u64,
    pub qualified: u64,
}

impl Share {
    /// In thousandths of a percent point, rounded down: 99 900 is 99.9 %.
    pub fn milli_percent(&self) -> u64 {
        if self.qualified == 0 {
            return 0;
        }
        self.taken.saturating_mul(100_000) / self.qualified
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let share = self.milli_percent();
        let Self {
            taken,
            aggregates,
            qualified,
        } = self;
        write!(
            f,
            "{}.{:03} % ({taken} of {qualified}, {aggregates} aggregates)",
            share / 1000,
            share % 1000
        )
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PeerEntry {
    pub subnet: String,
    pub vtep: String,
    pub mac: String,
    #[serde(default)]
    pub gateway: Option<String>,
    #[serde(default)]
    pub device: Option<Value>,
    #[serde(default)]
    pub mtu: Option<u32>,
    #[serde(default)]
    pub fast: bool,
    #[serde(default)]
    pub direct: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct EndpointEntry {
    pub address: String,
    pub mac: String,
    pub port: Value,
    #[serde(default)]
    pub bridge: Value,
}

#[derive(Deserialize)]
struct Peers {
    peers: Vec<PeerEntry>,
}

#[derive(Deserialize)]
struct Endpoints {
    endpoints: Vec<EndpointEntry>,
}

/// The read verbs, which need no handle on the agent's process.
impl Host {
    /// Runs `weft` with these words on this host: exit code, output, errors.
    pub fn weft(&self, words: &[&str]) -> Result<(i32, String, String)> {
        let out = command::output(self.command(paths::weft()?).args(words))?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let code = out.status.code().context("weft was killed by a signal")?;
        Ok((code, text(&out.stdout), text(&out.stderr)))
    }

    pub fn status(&self) -> Result<Value> {
        let (code, text, errors) = self.weft(&["status", "-o", "json"])?;
        serde_json::from_str(&text).with_context(|| format!("status: {code} {text} {errors}"))
    }

    /// Whether packets may be taken (`on` or `off`), and why.
    pub fn fast_path(&self) -> Result<(String, String)> {
        let status = self.status()?;
        let field = |name: &str| -> Result<String> {
            let value = status.pointer(&format!("/mode/{name}"));
            let value = value.and_then(Value::as_str).context("a mode")?;
            Ok(value.to_owned())
        };
        Ok((field("fast_path")?, field("why")?))
    }

    /// What the status says of a part of the agent.
    pub fn component(&self, name: &str) -> Result<String> {
        Ok(self.part(name)?.1)
    }

    /// The same, and whether that part is well.
    pub fn part(&self, name: &str) -> Result<(bool, String)> {
        let status = self.status()?;
        let all = status.pointer("/components").and_then(Value::as_array);
        let mut all = all.into_iter().flatten();
        let found = all.find(|part| part.pointer("/name").is_some_and(|own| own == name));
        let told = found.and_then(|part| {
            let detail = part.pointer("/detail")?.as_str()?;
            Some((part.pointer("/ok")?.as_bool()?, detail.to_owned()))
        });
        told.with_context(|| format!("no {name} in {status}"))
    }

    pub fn counters(&self) -> Result<Counters> {
        self.dump("counters")
    }

    pub fn peers(&self) -> Result<Vec<PeerEntry>> {
        Ok(self.dump::<Peers>("peers")?.peers)
    }

    pub fn endpoints(&self) -> Result<Vec<EndpointEntry>> {
        Ok(self.dump::<Endpoints>("endpoints")?.endpoints)
    }

    fn dump<T: serde::de::DeserializeOwned>(&self, what: &str) -> Result<T> {
        let (code, text, errors) = self.weft(&["dump", what, "-o", "json"])?;
        ensure!(code == 0, "weft dump {what} ended with {code}: {errors}");
        serde_json::from_str(&text).with_context(|| format!("weft dump {what}: {text}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn share_is_rounded_down() {
        let share = Share {
            taken: 99_899,
            aggregates: 0,
            qualified: 100_000,
        };
        assert_eq!(share.milli_percent(), 99_899);
        assert_eq!(Share::default().milli_percent(), 0);
    }
}
