//! What the pinned maps hold, read without the agent.

use std::{fs, net::Ipv4Addr};

use anyhow::ensure;
use serde_json::{Value, json};
use weft_common::{
    peer::{PEER_DIRECT, PEER_FAST},
    stats::{Fate, Reason},
};

use crate::{
    datapath::{
        Counters,
        ebpf::{leftovers, maps::Maps, pins::PinDir},
    },
    model::net::{Mac, Vni},
};

/// What can be dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum What {
    /// Other nodes.
    Peers,
    /// Local containers.
    Endpoints,
    /// Packets by hook and reason.
    Counters,
    /// Flows that the kernel's stack carries.
    Flows,
    /// Pinned maps and programs.
    Pins,
}

/// Reads it, as JSON.
pub fn dump(what: What, vni: Vni) -> anyhow::Result<Value> {
    let pins = PinDir::new(vni);
    if what == What::Pins {
        return dump_pins(vni, &pins);
    }
    ensure!(
        pins.path().exists(),
        "no maps are pinned for VNI {vni}{}: the agent has not run here with programs, or `weft \
         cleanup` has removed them; `weft status` says what moves the packets",
        elsewhere(&pins)
    );
    let maps = Maps::open(&pins)?;
    Ok(match what {
        What::Peers => {
            let peers = maps.read()?.peers.into_iter().map(|(subnet, peer)| {
                json!({
                    "subnet": subnet,
                    "vtep": Ipv4Addr::from(peer.vtep_addr),
                    "mac": Mac(peer.vtep_mac).to_string(),
                    "gateway": Ipv4Addr::from(peer.gateway),
                    "device": link_name(peer.ifindex),
                    "mtu": peer.mtu,
                    "fast": peer.flags & (PEER_FAST | PEER_DIRECT) != 0,
                    "direct": peer.flags & PEER_DIRECT != 0,
                })
            });
            json!({ "schema": "weft/peers/v1", "peers": peers.collect::<Vec<_>>() })
        }
        What::Endpoints => {
            let endpoints = maps
                .read()?
                .endpoints
                .into_iter()
                .map(|(address, endpoint)| {
                    json!({
                        "address": address,
                        "mac": Mac(endpoint.mac).to_string(),
                        "port": link_name(endpoint.ifindex),
                        "bridge": link_name(endpoint.bridge),
                        "bridge_mtu": endpoint.bridge_mtu,
                        "flags": endpoint.flags,
                    })
                });
            json!({ "schema": "weft/endpoints/v1", "endpoints": endpoints.collect::<Vec<_>>() })
        }
        What::Flows => {
            let flows = maps.flows()?.into_iter().map(|(key, entry)| {
                json!({
                    "protocol": key.protocol,
                    "local": Ipv4Addr::from(key.local),
                    "local_port": u16::from_be_bytes(key.local_port),
                    "remote": Ipv4Addr::from(key.remote),
                    "remote_port": u16::from_be_bytes(key.remote_port),
                    "nated": entry.why == weft_common::flow::FLOW_NATED,
                })
            });
            json!({ "schema": "weft/flows/v1", "flows": flows.collect::<Vec<_>>() })
        }
        What::Counters => counters_json(&maps.counters()?),
        What::Pins => Value::Null,
    })
}

/// The counters, and the share of qualifying packets that was taken.
fn counters_json(counters: &Counters) -> Value {
    let sum = |wanted: &dyn Fn(Reason) -> bool| -> u64 {
        let matching = counters.iter().filter(|((_, reason), _)| wanted(*reason));
        matching.map(|(_, count)| count.packets).sum()
    };
    let taken = sum(&|reason| reason.fate() == Fate::Taken);
    let missed = sum(&|reason| reason.fate() == Fate::Missed);
    let rows = counters.iter().map(|((hook, reason), count)| {
        json!({
            "hook": hook.name(),
            "reason": reason.name(),
            "fate": fate_name(reason.fate()),
            "packets": count.packets,
            "bytes": count.bytes,
        })
    });
    json!({
        "schema": "weft/counters/v1",
        "counters": rows.collect::<Vec<_>>(),
        "taken": taken,
        "taken_aggregates": sum(&|reason| reason == Reason::TakenAggregate),
        "qualified": taken + missed,
    })
}

const fn fate_name(fate: Fate) -> &'static str {
    match fate {
        Fate::Taken => "taken",
        Fate::Passed => "passed",
        Fate::Missed => "missed",
        Fate::Dropped => "dropped",
        Fate::Recorded => "recorded",
    }
}

fn dump_pins(vni: Vni, pins: &PinDir) -> anyhow::Result<Value> {
    let maps = match fs::read_dir(pins.path().join("maps")) {
        Ok(entries) => entries
            .filter_map(|entry| Some(entry.ok()?.path().display().to_string()))
            .collect::<Vec<_>>(),
        Err(_nothing_pinned) => Vec::new(),
    };
    let (links, filters) = (links_of(pins)?, filters_of(vni)?);
    Ok(json!({ "schema": "weft/pins/v1", "maps": maps, "links": links, "filters": filters }))
}

fn links_of(pins: &PinDir) -> anyhow::Result<Vec<Value>> {
    Ok(pins
        .links()?
        .into_iter()
        .map(|(hook, link, path)| {
            json!({ "hook": hook.name(), "device": link_name(link.get()), "path": path })
        })
        .collect())
}

fn filters_of(vni: Vni) -> anyhow::Result<Vec<Value>> {
    let filters = leftovers::filters(vni)?.into_iter();
    let shown = filters.map(|(hook, place)| {
        let handle = format!("{:#x}", place.handle);
        json!({ "hook": hook.name(), "device": link_name(place.link.get()), "handle": handle })
    });
    Ok(shown.collect())
}

/// The name of an interface, or its number when it is gone.
fn link_name(index: u32) -> String {
    nix::net::if_::if_indextoname(index)
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_else(|| format!("#{index}"))
}

/// The networks that have maps, for whoever asked for one that has none.
fn elsewhere(pins: &PinDir) -> String {
    let beside = pins.path().parent().map(fs::read_dir);
    let Some(Ok(entries)) = beside else {
        return String::new();
    };
    let names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    if names.is_empty() {
        return String::new();
    }
    format!(" (there are some for {}: see --vni)", names.join(", "))
}

/// Plain text: a heading, one line an entry, and what stands beside the entries.
#[must_use]
pub fn text(value: &Value) -> String {
    let Value::Object(fields) = value else {
        return value.to_string();
    };
    let mut lines = Vec::new();
    for (name, field) in fields {
        match field {
            Value::Array(rows) => lines.extend(table(name, rows)),
            _ if name == "schema" => {}
            other => lines.push(format!("{name} {other}")),
        }
    }
    lines.join("\n")
}

/// Columns as wide as what is in them, in the order of the first entry's fields.
fn table(name: &str, rows: &[Value]) -> Vec<String> {
    let heading: Vec<String> = match rows.first() {
        Some(Value::Object(fields)) => fields.keys().cloned().collect(),
        Some(_) => vec![name.to_owned()],
        None => return vec![format!("no {name}")],
    };
    let mut cells = vec![heading.iter().map(|word| word.to_uppercase()).collect()];
    cells.extend(rows.iter().map(|row| {
        match row {
            Value::Object(fields) => heading
                .iter()
                .map(|name| fields.get(name).map(plain).unwrap_or_default())
                .collect::<Vec<_>>(),
            other => vec![plain(other)],
        }
    }));
    let width = |column: usize| {
        let column = cells.iter().filter_map(|row| row.get(column));
        column.map(String::len).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..heading.len()).map(width).collect();
    let line = |row: &Vec<String>| {
        let padded = row.iter().zip(&widths);
        let padded = padded.map(|(cell, width)| format!("{cell:<width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    cells.iter().map(line).collect()
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_has_a_heading_and_columns() {
        let value = json!({
            "schema": "x/v1",
            "peers": [
                { "subnet": "10.1.2.0/24", "fast": true },
                { "subnet": "10.1.12.0/24", "fast": false },
            ],
            "taken": 7,
        });
        assert_eq!(
            text(&value),
            "FAST   SUBNET\ntrue   10.1.2.0/24\nfalse  10.1.12.0/24\ntaken 7"
        );
        assert_eq!(text(&json!({ "flows": [] })), "no flows");
        assert_eq!(text(&json!({ "maps": ["/a"] })), "MAPS\n/a");
    }
}
