//! Which nftables rules there should be, and what to feed `nft -f` so that they are. Pure: it reads
//! what `nft -j` prints.

mod lost;

use ipnet::Ipv4Net;
use serde_json::{Value, json};

pub(super) use self::lost::lost_name;
use super::words::{
    Is::{In, NotIn},
    Rule,
    Word::{Accept, Destination, Keep, MarkIs, MarkLacks, Masquerade, Output, Return, Source},
};
use crate::firewall::{FirewallConfig, rules::OWN_COMMENT};

const MULTICAST: Ipv4Net = Ipv4Net::new_assert(std::net::Ipv4Addr::new(224, 0, 0, 0), 4);
/// `srcnat` and `filter`, as numbers and as names.
const SRCNAT: (i64, &str) = (100, "srcnat");
const FILTER: (i64, &str) = (0, "filter");
/// Before anybody's source translation.
const BEFORE_SRCNAT: (i64, &str) = (99, "srcnat - 1");

/// A table and its chains.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) name: String,
    comment: Option<&'static str>,
    chains: Vec<Chain>,
}

#[derive(Clone, Debug)]
struct Chain {
    name: &'static str,
    comment: Option<&'static str>,
    kind: &'static str,
    hook: &'static str,
    priority: (i64, &'static str),
    rules: Vec<Rule>,
}

pub(super) fn own_name(vni: u32) -> String {
    format!("weft-{vni}")
}

/// Our own rules. A `return` would end only its own chain: here every chain is asked, until one has
/// translated.
pub(super) fn ours(config: &FirewallConfig) -> Table {
    let rule = |way| {
        Rule(vec![
            Source(In, config.subnet.trunc()),
            Destination(In, config.network.trunc()),
            Output(way),
            // What kube-proxy marks must be masqueraded.
            MarkLacks,
            Keep,
        ])
    };
    Table {
        name: own_name(config.vni),
        comment: None,
        chains: vec![Chain {
            name: "postrouting",
            comment: Some(OWN_COMMENT),
            kind: "nat",
            hook: "postrouting",
            priority: BEFORE_SRCNAT,
            rules: config.ways().map(rule).collect(),
        }],
    }
}

/// flannel's, in flannel's order.
pub(super) fn flannels(config: &FirewallConfig) -> Table {
    let (network, subnet) = (config.network.trunc(), config.subnet.trunc());
    let masquerade = || Masquerade {
        random: config.random_fully,
    };
    let mut table = Table::flannels_empty();
    let [forward, postrouting] = table.chains.as_mut_slice() else {
        return table;
    };
    if config.forward {
        forward.rules = vec![
            Rule(vec![Source(In, network), Accept]),
            Rule(vec![Destination(In, network), Accept]),
        ];
    }
    if config.masquerade {
        postrouting.rules = vec![
            Rule(vec![MarkIs, Return]),
            Rule(vec![Source(In, subnet), Destination(In, network), Return]),
            Rule(vec![Source(In, network), Destination(In, subnet), Return]),
            Rule(vec![
                Source(NotIn, subnet),
                Destination(In, network),
                Return,
            ]),
            Rule(vec![
                Source(In, network),
                Destination(NotIn, MULTICAST),
                masquerade(),
            ]),
            Rule(vec![
                Source(NotIn, network),
                Destination(In, network),
                masquerade(),
            ]),
        ];
    }
    table
}

impl Table {
    /// flannel's without a rule.
    pub(super) fn flannels_empty() -> Self {
        Self {
            name: "flannel-ipv4".to_owned(),
            comment: Some("rules for flannel-ipv4"),
            chains: vec![
                Chain {
                    name: "forward",
                    comment: Some("chain to accept flannel traffic"),
                    kind: "filter",
                    hook: "forward",
                    priority: FILTER,
                    rules: Vec::new(),
                },
                Chain {
                    name: "postrtg",
                    comment: Some("chain to manage traffic masquerading by flannel"),
                    kind: "nat",
                    hook: "postrouting",
                    priority: SRCNAT,
                    rules: Vec::new(),
                },
            ],
        }
    }

    /// Whether the table holds rules of other networks.
    pub(super) fn is_shared(&self, listed: &Value, others: &[Ipv4Net]) -> bool {
        let found = Found(listed);
        self.chains
            .iter()
            .flat_map(|chain| found.rules(chain.name))
            .any(|rule| is_others(rule, others))
    }

    /// What leads from what is printed to what should be; `None` when everything is in place.
    pub(super) fn repair(&self, listed: Option<&Value>, others: &[Ipv4Net]) -> Option<String> {
        let empty = Value::Null;
        let found = Found(listed.unwrap_or(&empty));
        let mut lines = Vec::new();
        for chain in &self.chains {
            chain.repair(&self.name, &found, others, &mut lines);
        }
        if lines.is_empty() {
            return None;
        }
        // Where the table is there this changes nothing.
        let comment = comment(self.comment);
        lines.insert(0, format!("add table ip {} {{ {comment} }}", self.name));
        lines.push(String::new());
        Some(lines.join("\n"))
    }
}

impl Chain {
    fn repair(&self, table: &str, found: &Found<'_>, others: &[Ipv4Net], lines: &mut Vec<String>) {
        let at = format!("ip {table} {}", self.name);
        let there = found.chain(self.name);
        let sound = there.is_some_and(|chain| self.is(chain));
        if there.is_some() && !sound {
            lines.push(format!("flush chain {at}"));
            lines.push(format!("delete chain {at}"));
        }
        if !sound {
            let (kind, hook, priority) = (self.kind, self.hook, self.priority.1);
            let comment = comment(self.comment);
            lines.push(format!(
                "add chain {at} {{ type {kind} hook {hook} priority {priority}; policy accept; {comment} }}"
            ));
        }
        let rules: Vec<&Value> = found.rules(self.name).filter(|_| sound).collect();
        let (theirs, mine): (Vec<&Value>, Vec<&Value>) =
            rules.iter().partition(|rule| is_others(rule, others));
        let said: Vec<Value> = mine.iter().map(|rule| expressions(rule)).collect();
        let wanted: Vec<Value> = self.rules.iter().map(Rule::json).collect();
        // What all networks begin with stays, and stays first, for as long as one of them is here.
        let shared = Rule(vec![MarkIs, Return]).json();
        let begins = rules.first().map(|rule| expressions(rule)) == Some(shared.clone());
        let only_shared = said.iter().all(|rule| *rule == shared) && said.len() <= 1;
        let in_place = if wanted.is_empty() && !theirs.is_empty() {
            only_shared
        } else {
            said == wanted && (begins || wanted.first() != Some(&shared))
        };
        if in_place {
            return;
        }
        let handle = |rule: &Value| rule.get("handle").and_then(Value::as_u64);
        let handles = mine.iter().filter_map(|rule| handle(rule));
        lines.extend(handles.map(|handle| format!("delete rule {at} handle {handle}")));
        let of_mark = |rule: &&Rule| rule.json() == shared;
        lines.extend(
            self.rules
                .iter()
                .filter(of_mark)
                .map(|rule| format!("insert rule {at} {}", rule.text())),
        );
        if wanted.is_empty() && !theirs.is_empty() && said.contains(&shared) {
            let rule = Rule(vec![MarkIs, Return]);
            lines.push(format!("insert rule {at} {}", rule.text()));
        }
        lines.extend(
            self.rules
                .iter()
                .filter(|rule| !of_mark(rule))
                .map(|rule| format!("add rule {at} {}", rule.text())),
        );
    }

    /// Whether packets enter a chain as they should enter this one.
    fn is(&self, listed: &Value) -> bool {
        let said = |field: &str| listed.get(field).and_then(Value::as_str);
        said("type") == Some(self.kind)
            && said("hook") == Some(self.hook)
            && said("policy") == Some("accept")
            && listed.get("prio").and_then(Value::as_i64) == Some(self.priority.0)
    }
}

fn comment(comment: Option<&str>) -> String {
    comment.map_or_else(String::new, |text| format!("comment \"{text}\";"))
}

/// What `nft -j list table` prints.
struct Found<'a>(&'a Value);

impl<'a> Found<'a> {
    fn objects(&self, kind: &'static str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let objects = self.0.get("nftables").and_then(Value::as_array);
        let objects = objects.into_iter().flatten();
        objects.filter_map(move |object| object.get(kind))
    }

    fn chain(&self, name: &str) -> Option<&'a Value> {
        self.objects("chain")
            .find(|chain| chain.get("name").is_some_and(|found| found == name))
    }

    fn rules(&self, chain: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
        let chain = chain.to_owned();
        self.objects("rule")
            .filter(move |rule| rule.get("chain").is_some_and(|found| *found == chain))
    }
}

/// The statements of a rule; what some releases print as a list of one is that one.
fn expressions(rule: &Value) -> Value {
    let mut said = rule.get("expr").cloned().unwrap_or(Value::Null);
    for statement in said.as_array_mut().into_iter().flatten() {
        let flags = statement.pointer_mut("/masquerade/flags");
        if let Some(Value::Array(flags)) = flags
            && let [flag] = flags.as_slice()
        {
            *statement = json!({ "masquerade": { "flags": flag } });
        }
    }
    said
}

/// Whether a rule is another agent's, by the network that it names.
fn is_others(rule: &Value, others: &[Ipv4Net]) -> bool {
    let statements = rule.get("expr").and_then(Value::as_array);
    statements.into_iter().flatten().any(|statement| {
        let prefix = statement.pointer("/match/right/prefix");
        prefix.is_some_and(|prefix| {
            others
                .iter()
                .map(Ipv4Net::trunc)
                .any(|net| *prefix == json!({ "addr": net.network(), "len": net.prefix_len() }))
        })
    })
}

#[cfg(test)]
mod tests;
