//! One statement of an nftables rule: a condition, a verdict, or something without either.

use std::ops::RangeInclusive;

use ipnet::Ipv4Net;
use serde_json::Value;

use crate::policy::{
    chains::{Action, Condition},
    iptables::{net, protocol},
};

/// Statements that neither choose packets nor end their way.
const NOTHING: &[&str] = &[
    "comment",
    "counter",
    "ct helper",
    "ct timeout",
    "ct expectation",
    "flow",
    "last",
    "log",
    "mangle",
    "map",
    "notrack",
    "set",
];
/// Statements that may end a rule early, or change addresses: what follows may not be reached.
const UNCLEAR: &[&str] = &[
    "ct count",
    "dnat",
    "limit",
    "masquerade",
    "quota",
    "redirect",
    "snat",
    "socket",
];

/// What a statement is.
pub(super) enum Outcome {
    /// Neither condition nor verdict.
    Nothing,
    /// What follows holds only under this condition.
    If(Condition),
    /// A verdict.
    Then(Action),
    /// A verdict for each key of a map.
    Cases(Vec<(Condition, Action)>),
}

/// Looks up the elements of a verdict map.
pub(super) type NamedMap<'a> = &'a dyn Fn(&str) -> Option<&'a [Value]>;

/// Reads a statement. What is not known may do anything.
pub(super) fn statement(words: &Value, named: NamedMap<'_>) -> Outcome {
    if let Some(verdict) = verdict(words) {
        return Outcome::Then(verdict);
    }
    let Some((word, body)) = words.as_object().and_then(|map| map.iter().next()) else {
        return Outcome::Then(Action::Stop);
    };
    match word.as_str() {
        "match" => Outcome::If(condition(body)),
        "vmap" => cases(body, named).map_or(Outcome::Then(Action::Stop), Outcome::Cases),
        // iptables-nft's extensions: a match narrows, a target may do anything.
        "xt" if body.get("type").is_some_and(|kind| kind == "match") => {
            Outcome::If(Condition::Unclear)
        }
        word if NOTHING.contains(&word) => Outcome::Nothing,
        word if UNCLEAR.contains(&word) => Outcome::If(Condition::Unclear),
        _ => Outcome::Then(Action::Stop),
    }
}

fn verdict(words: &Value) -> Option<Action> {
    let (word, body) = words.as_object()?.iter().next()?;
    let chain = || Some(body.get("target")?.as_str()?.to_owned());
    match word.as_str() {
        "accept" => Some(Action::Accept),
        "continue" => Some(Action::Continue),
        "return" => Some(Action::Return),
        "drop" | "reject" | "queue" => Some(Action::Stop),
        "jump" => Some(chain().map_or(Action::Stop, Action::Jump)),
        "goto" => Some(chain().map_or(Action::Stop, Action::Goto)),
        _ => None,
    }
}

/// The verdicts of a map; `None` when it cannot be looked into.
fn cases(body: &Value, named: NamedMap<'_>) -> Option<Vec<(Condition, Action)>> {
    let key = body.get("key")?;
    let data = body.get("data")?;
    let elements = match data.as_str() {
        Some(name) => named(name.trim_start_matches('@'))?,
        None => data.get("set")?.as_array()?.as_slice(),
    };
    let case = |element: &Value| {
        let value = element.get(0)?;
        // An element may carry a comment, a counter or a time.
        let value = value.pointer("/elem/val").unwrap_or(value);
        Some((compare(key, "==", value), verdict(element.get(1)?)?))
    };
    elements.iter().map(case).collect()
}

fn condition(body: &Value) -> Condition {
    let (Some(left), Some(right)) = (body.get("left"), body.get("right")) else {
        return Condition::Unclear;
    };
    let op = body.get("op").and_then(Value::as_str).unwrap_or_default();
    compare(left, op, right)
}

fn compare(left: &Value, op: &str, right: &Value) -> Condition {
    let turned = match op {
        "==" | "in" => false,
        "!=" => true,
        _ => return Condition::Unclear,
    };
    let of = |pointer: &str| left.pointer(pointer).and_then(Value::as_str);
    let understood = match (of("/payload/protocol"), of("/payload/field")) {
        (Some("ip"), Some("saddr")) => nets(right).map(|nets| Condition::Source(turned, nets)),
        (Some("ip"), Some("daddr")) => nets(right).map(|nets| Condition::Destination(turned, nets)),
        (Some("ip"), Some("protocol")) => {
            protocols(right).map(|list| Condition::Protocol(turned, list))
        }
        // Fields of other protocols are not there, so that the rule ends.
        (Some("ip6" | "icmpv6" | "arp"), _) => Some(Condition::NotIpv4),
        (Some("udp" | "th"), Some("dport")) => {
            ports(right).map(|list| Condition::DestinationPort(turned, list))
        }
        (Some("tcp"), _) => Some(Condition::Protocol(false, vec![6])),
        (Some("icmp"), _) => Some(Condition::Protocol(false, vec![1])),
        (Some(_), _) => None,
        (None, _) => match (of("/meta/key"), of("/ct/key")) {
            (Some("iifname" | "iif"), _) => {
                names(right).map(|names| Condition::Input(turned, names))
            }
            (Some("oifname" | "oif"), _) => {
                names(right).map(|names| Condition::Output(turned, names))
            }
            (Some("l4proto"), _) => protocols(right).map(|list| Condition::Protocol(turned, list)),
            (Some("nfproto"), _) => match (right.as_str(), turned) {
                (Some("ipv6"), false) | (Some("ipv4"), true) => Some(Condition::NotIpv4),
                _ => None,
            },
            (_, Some("state")) if right == "invalid" && !turned => Some(Condition::Invalid),
            _ => None,
        },
    };
    understood.unwrap_or(Condition::Unclear)
}

/// The members of an anonymous set, or the one value.
fn members(value: &Value) -> Vec<&Value> {
    match value.get("set") {
        Some(Value::Array(members)) => members.iter().collect(),
        Some(member) => vec![member],
        None => vec![value],
    }
}

/// All members, read the same way; `None` when one cannot be.
fn each<T>(value: &Value, read: impl Fn(&Value) -> Option<T>) -> Option<Vec<T>> {
    members(value)
        .into_iter()
        .map(|member| read(member.pointer("/elem/val").unwrap_or(member)))
        .collect()
}

fn nets(value: &Value) -> Option<Vec<Ipv4Net>> {
    each(value, |member| match member.get("prefix") {
        Some(prefix) => {
            let length = u8::try_from(prefix.get("len")?.as_u64()?).ok()?;
            let address = prefix.get("addr")?.as_str()?.parse().ok()?;
            Ipv4Net::new(address, length).ok().map(|net| net.trunc())
        }
        // Names of sets and ranges are not.
        None => net(member.as_str()?),
    })
}

fn names(value: &Value) -> Option<Vec<String>> {
    each(value, |member| {
        let name = member.as_str()?;
        (!name.starts_with('@')).then(|| name.to_owned())
    })
}

fn protocols(value: &Value) -> Option<Vec<u8>> {
    each(value, |member| match member.as_u64() {
        Some(number) => u8::try_from(number).ok(),
        None => protocol(member.as_str()?),
    })
}

fn ports(value: &Value) -> Option<Vec<RangeInclusive<u16>>> {
    let number = |value: &Value| u16::try_from(value.as_u64()?).ok();
    each(value, |member| match member.get("range") {
        Some(range) => Some(number(range.get(0)?)?..=number(range.get(1)?)?),
        None => {
            let port = number(member)?;
            Some(port..=port)
        }
    })
}
