//! Statements of nftables rules, in the two forms in which they are fed and printed.

use ipnet::Ipv4Net;
use serde_json::{Value, json};

/// kube-proxy's mark on what it will masquerade by itself.
const KUBE_MARK: u32 = 0x4000;
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rule(pub(super) Vec<Word>);

/// A statement.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Word {
    Source(Is, Ipv4Net),
    Destination(Is, Ipv4Net),
    /// The mark is exactly kube-proxy's.
    MarkIs,
    /// The mark lacks kube-proxy's bit.
    MarkLacks,
    Input(String),
    Output(String),
    Count,
    Accept,
    Drop,
    Return,
    Masquerade {
        random: bool,
    },
    /// To the address that it has: it counts as translated, and no later chain is asked.
    Keep,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Is {
    In,
    NotIn,
}

use Is::{In, NotIn};
use Word::{
    Accept, Count, Destination, Drop, Input, Keep, MarkIs, MarkLacks, Masquerade, Output, Return,
    Source,
};

impl Rule {
    pub(super) fn text(&self) -> String {
        let words: Vec<String> = self.0.iter().map(Word::text).collect();
        words.join(" ")
    }

    pub(super) fn json(&self) -> Value {
        self.0.iter().map(Word::json).collect()
    }
}

impl Word {
    fn text(&self) -> String {
        match self {
            Source(In, net) => format!("ip saddr {net}"),
            Source(NotIn, net) => format!("ip saddr != {net}"),
            Destination(In, net) => format!("ip daddr {net}"),
            Destination(NotIn, net) => format!("ip daddr != {net}"),
            MarkIs => format!("meta mark {KUBE_MARK:#x}"),
            MarkLacks => format!("meta mark & {KUBE_MARK:#x} == 0"),
            Input(name) => format!("iifname \"{name}\""),
            Output(name) => format!("oifname \"{name}\""),
            Count => "counter".to_owned(),
            Accept => "accept".to_owned(),
            Drop => "drop".to_owned(),
            Return => "return".to_owned(),
            Masquerade { random: true } => "masquerade fully-random".to_owned(),
            Masquerade { random: false } => "masquerade".to_owned(),
            Keep => "snat to ip saddr".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let matched = |op: &str, left: Value, right: Value| json!({ "match": { "op": op, "left": left, "right": right } });
        let address = |field: &str, is: &Is, net: &Ipv4Net| {
            let left = json!({ "payload": { "protocol": "ip", "field": field } });
            let right = json!({ "prefix": { "addr": net.network(), "len": net.prefix_len() } });
            matched(if *is == In { "==" } else { "!=" }, left, right)
        };
        let mark = || json!({ "meta": { "key": "mark" } });
        match self {
            Source(is, net) => address("saddr", is, net),
            Destination(is, net) => address("daddr", is, net),
            MarkIs => matched("==", mark(), json!(KUBE_MARK)),
            MarkLacks => matched("==", json!({ "&": [mark(), KUBE_MARK] }), json!(0)),
            Input(name) => matched("==", json!({ "meta": { "key": "iifname" } }), json!(name)),
            Output(name) => matched("==", json!({ "meta": { "key": "oifname" } }), json!(name)),
            Count => json!({ "counter": null }),
            Accept => json!({ "accept": null }),
            Drop => json!({ "drop": null }),
            Return => json!({ "return": null }),
            Masquerade { random: true } => json!({ "masquerade": { "flags": "fully-random" } }),
            Masquerade { random: false } => json!({ "masquerade": null }),
            Keep => {
                json!({ "snat": { "addr": { "payload": { "protocol": "ip", "field": "saddr" } } } })
            }
        }
    }
}
