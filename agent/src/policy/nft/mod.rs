//! Reads what `nft -j list ruleset` prints. Pure; counters do not matter.

mod statement;

use std::collections::BTreeMap;

use serde_json::Value;

use self::statement::{Outcome, statement};
use super::chains::{Action, Base, Chain, Condition, Hook, Layer, Rule, Table};

/// kube-proxy's own tables: what they drop is for services without a backend, and what connection
/// tracking calls invalid.
pub const KUBE_PROXY: &str = "kube-proxy";

/// Which chains are left out, because they were read otherwise: `ip` family, table, chain.
pub type Known<'a> = &'a dyn Fn(&str, &str) -> bool;

/// Named verdict maps: the pairs of a key and what follows, by family, table and name.
type Maps = BTreeMap<(String, String, String), Vec<Value>>;

/// The tables of a ruleset that IPv4 packets meet.
///
/// # Errors
///
/// When it is no ruleset.
pub fn tables(ruleset: &str, known: Known<'_>) -> Result<Vec<Table>, String> {
    let ruleset: Value =
        serde_json::from_str(ruleset).map_err(|error| format!("nft -j list ruleset: {error}"))?;
    let objects = ruleset
        .get("nftables")
        .and_then(Value::as_array)
        .ok_or("nft -j list ruleset: no ruleset in the answer")?;
    let maps = maps(objects);
    let mut tables: BTreeMap<(String, String), Table> = BTreeMap::new();
    for object in objects {
        let (kind, body) = match (object.get("chain"), object.get("rule")) {
            (Some(chain), _) => ("name", chain),
            (_, Some(rule)) => ("chain", rule),
            (None, None) => continue,
        };
        let (family, table, chain) = (text(body, "family"), text(body, "table"), text(body, kind));
        if matches!(family, "ip6" | "arp") || table == KUBE_PROXY {
            continue;
        }
        let entry = tables
            .entry((family.to_owned(), table.to_owned()))
            .or_insert_with(|| Table {
                name: format!("nft {family} {table}"),
                ..Table::default()
            });
        let at = Place {
            family,
            table,
            chain,
        };
        let chains: &mut BTreeMap<String, Chain> = &mut entry.chains;
        let chain = chains.entry(chain.to_owned()).or_default();
        if kind == "name" {
            if !(family == "ip" && known(table, at.chain)) {
                chain.base = base(family, body);
            }
        } else {
            chain.rules.extend(rules(&at, body, &maps));
        }
    }
    Ok(tables.into_values().collect())
}

/// Where a rule is.
struct Place<'a> {
    family: &'a str,
    table: &'a str,
    chain: &'a str,
}

fn maps(objects: &[Value]) -> Maps {
    objects
        .iter()
        .filter_map(|object| object.get("map"))
        .filter_map(|map| {
            let key = (
                text(map, "family").to_owned(),
                text(map, "table").to_owned(),
                text(map, "name").to_owned(),
            );
            // A map without elements names none.
            let elements = map.get("elem").and_then(Value::as_array).cloned();
            Some((key, elements.unwrap_or_default())).filter(|_| map.get("map").is_some())
        })
        .collect()
}

/// `None` for a chain that only other chains lead to.
fn base(family: &str, chain: &Value) -> Option<Base> {
    let hook = match chain.get("hook")?.as_str()? {
        "prerouting" => Hook::Prerouting,
        "input" => Hook::Input,
        "forward" => Hook::Forward,
        "output" => Hook::Output,
        "postrouting" => Hook::Postrouting,
        _ => Hook::Device,
    };
    let layer = match (family, hook) {
        (_, Hook::Device) => Layer::Devices(devices(chain.get("dev"))),
        ("bridge", _) => Layer::Bridge,
        _ => Layer::Ip,
    };
    Some(Base {
        hook,
        layer,
        drops: chain.get("policy").is_some_and(|policy| policy != "accept"),
    })
}

fn devices(dev: Option<&Value>) -> Vec<String> {
    match dev {
        Some(Value::String(name)) => vec![name.clone()],
        Some(Value::Array(names)) => names
            .iter()
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect(),
        _ => Vec::new(),
    }
}

/// One rule of nft can be several of ours: a verdict map has a verdict for each key.
fn rules(at: &Place<'_>, rule: &Value, maps: &Maps) -> Vec<Rule> {
    let handle = rule.get("handle").and_then(Value::as_u64).unwrap_or(0);
    let comment = match text(rule, "comment") {
        "" => String::new(),
        comment => format!(" \"{comment}\""),
    };
    let Place {
        family,
        table,
        chain,
    } = at;
    let place = format!("nft {family} {table} chain {chain} handle {handle}{comment}");
    let no_statements = Vec::new();
    let statements = rule.get("expr").and_then(Value::as_array);
    let mut when = Vec::new();
    let mut found = Vec::new();
    for words in statements.unwrap_or(&no_statements) {
        let named_map = |name: &str| {
            let key = ((*family).to_owned(), (*table).to_owned(), name.to_owned());
            maps.get(&key).map(Vec::as_slice)
        };
        match statement(words, &named_map) {
            Outcome::Nothing => {}
            Outcome::If(condition) => when.push(condition),
            Outcome::Then(then) => found.push(Rule {
                text: format!("{place}: {}", said(&then, words)),
                when: when.clone(),
                then,
            }),
            Outcome::Cases(cases) => {
                found.extend(cases.into_iter().map(|(condition, then)| {
                    let case: Vec<Condition> = when.iter().cloned().chain([condition]).collect();
                    Rule {
                        text: format!("{place}: {}", said(&then, words)),
                        when: case,
                        then,
                    }
                }));
            }
        }
    }
    found
}

/// What a rule does, in a word; in full when it is something unusual.
fn said(then: &Action, statement: &Value) -> String {
    match then {
        Action::Continue => "continue".to_owned(),
        Action::Accept => "accept".to_owned(),
        Action::Return => "return".to_owned(),
        Action::Jump(chain) => format!("jump {chain}"),
        Action::Goto(chain) => format!("goto {chain}"),
        Action::Stop => match statement.as_object().and_then(|map| map.keys().next()) {
            Some(word) if matches!(word.as_str(), "drop" | "reject" | "queue") => word.clone(),
            _ => statement.to_string(),
        },
    }
}

fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object
        .get(field)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
#[path = "../nft_tests.rs"]
mod tests;
