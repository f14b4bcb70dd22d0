//! Reads what `iptables-save` prints. Pure; counters do not matter.

use std::{net::Ipv4Addr, ops::RangeInclusive};

use ipnet::Ipv4Net;

use super::chains::{Action, Base, Chain, Condition, Hook, Layer, Rule, Table};

/// kube-proxy's chains. What they drop is for service addresses without a backend, for loopback
/// addresses from outside, or marked by kube-proxy itself: never for a container as such.
const KUBE_PROXY: &[&str] = &[
    "KUBE-EXTERNAL-SERVICES",
    "KUBE-FIREWALL",
    "KUBE-FORWARD",
    "KUBE-NODEPORTS",
    "KUBE-PROXY-FIREWALL",
    "KUBE-SERVICES",
];

/// Targets that let the packet go on to the next rule and leave its way as it is.
const GO_ON: &[&str] = &[
    "AUDIT",
    "CHECKSUM",
    "CLASSIFY",
    "CONNMARK",
    "CONNSECMARK",
    "CT",
    "LOG",
    "MARK",
    "NFLOG",
    "NOTRACK",
    "RATEEST",
    "SECMARK",
    "SET",
    "TCPMSS",
    "TRACE",
    "ULOG",
];

/// Options of matches with one value that say nothing about which packets match.
const SILENT: &[&str] = &["--comment", "--reject-with"];

/// The tables in what `iptables-save` printed. `program` is how a person calls it.
#[must_use]
pub fn tables(program: &str, saved: &str) -> Vec<Table> {
    let mut tables = Vec::new();
    let mut open: Option<(String, Table)> = None;
    for line in saved.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix('*') {
            let table = Table {
                name: format!("{program} -t {name}"),
                ..Table::default()
            };
            if let Some((_, unfinished)) = open.replace((name.to_owned(), table)) {
                tables.push(unfinished);
            }
        } else if line == "COMMIT" {
            tables.extend(open.take().map(|(_, table)| table));
        } else if let Some((name, table)) = &mut open {
            read_line(name, table, line);
        }
    }
    // Cut off: what there is still counts.
    tables.extend(open.map(|(_, table)| table));
    tables
}

/// The names of chains that packets enter, with their table, as `iptables-save` printed them.
pub fn base_chains(saved: &str) -> impl Iterator<Item = (&str, &str)> {
    let mut table = "";
    saved.lines().filter_map(move |line| {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        }
        let (chain, rest) = line.strip_prefix(':')?.split_once(' ')?;
        (!rest.starts_with('-')).then_some((table, chain))
    })
}

fn read_line(table_name: &str, table: &mut Table, line: &str) {
    if let Some(declared) = line.strip_prefix(':') {
        let mut words = declared.split(' ');
        let (Some(name), Some(policy)) = (words.next(), words.next()) else {
            return;
        };
        let chain = table.chains.entry(name.to_owned()).or_default();
        chain.base = base(table_name, name, policy);
    } else if let Some((name, rest)) = line
        .strip_prefix("-A ")
        .map(|rest| rest.split_once(' ').unwrap_or((rest, "")))
    {
        let text = format!("{} {line}", table.name);
        let mut rule = rule(rest, text);
        if KUBE_PROXY.contains(&name) && rule.then == Action::Stop {
            rule.then = Action::Continue;
        }
        let chain: &mut Chain = table.chains.entry(name.to_owned()).or_default();
        chain.rules.push(rule);
    }
}

/// The kernel's own chains. Those of `nat` do not filter: iptables refuses a DROP there.
fn base(table: &str, chain: &str, policy: &str) -> Option<Base> {
    if policy == "-" || table == "nat" {
        return None;
    }
    let hook = match chain {
        "PREROUTING" => Hook::Prerouting,
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        "OUTPUT" => Hook::Output,
        "POSTROUTING" => Hook::Postrouting,
        _ => return None,
    };
    Some(Base {
        hook,
        layer: Layer::Ip,
        drops: policy != "ACCEPT",
    })
}

fn rule(text: &str, whole: String) -> Rule {
    let words = words(text);
    let mut when = Vec::new();
    let mut then = Action::Continue;
    let mut rest = words.iter().map(String::as_str).peekable();
    let mut turned = false;
    while let Some(word) = rest.next() {
        if word == "!" {
            turned = true;
            continue;
        }
        let mut value = || rest.next().unwrap_or_default();
        match word {
            "-j" => then = target(value()),
            "-g" => then = Action::Goto(value().to_owned()),
            // The match is named by its options.
            "-m" | "--match" => _ = value(),
            "-f" => when.push(Condition::Unclear),
            _ if SILENT.contains(&word) => _ = value(),
            // Options of a target say how, not which.
            _ if word.starts_with('-') && then == Action::Continue && when_reads(word) => {
                when.push(condition(word, turned, value()));
            }
            _ if word.starts_with('-') => when.push(Condition::Unclear),
            // A further value of something unclear.
            _ => {}
        }
        turned = false;
    }
    Rule {
        when,
        then,
        text: whole,
    }
}

fn when_reads(word: &str) -> bool {
    matches!(
        word,
        "-s" | "-d" | "-i" | "-o" | "-p" | "--dport" | "--dports" | "--ctstate" | "--state"
    )
}

fn target(name: &str) -> Action {
    match name {
        "ACCEPT" => Action::Accept,
        "RETURN" => Action::Return,
        "DROP" | "REJECT" | "QUEUE" | "NFQUEUE" => Action::Stop,
        _ if GO_ON.contains(&name) => Action::Continue,
        // A chain; if there is none of that name, it is a target that is not known here.
        _ => Action::Jump(name.to_owned()),
    }
}

fn condition(option: &str, turned: bool, value: &str) -> Condition {
    let understood = match option {
        "-s" => nets(value).map(|nets| Condition::Source(turned, nets)),
        "-d" => nets(value).map(|nets| Condition::Destination(turned, nets)),
        "-i" => Some(Condition::Input(turned, vec![value.to_owned()])),
        "-o" => Some(Condition::Output(turned, vec![value.to_owned()])),
        "-p" => protocol(value).map(|number| Condition::Protocol(turned, vec![number])),
        "--dport" | "--dports" => ports(value).map(|p| Condition::DestinationPort(turned, p)),
        "--ctstate" | "--state" if value == "INVALID" && !turned => Some(Condition::Invalid),
        _ => None,
    };
    understood.unwrap_or(Condition::Unclear)
}

fn nets(value: &str) -> Option<Vec<Ipv4Net>> {
    value.split(',').map(net).collect()
}

/// `10.1.0.0/16`, `10.1.2.3`, or with a mask in full.
#[must_use]
pub fn net(text: &str) -> Option<Ipv4Net> {
    if let Ok(address) = text.parse::<Ipv4Addr>() {
        return Some(Ipv4Net::from(address));
    }
    if let Ok(net) = text.parse::<Ipv4Net>() {
        return Some(net.trunc());
    }
    let (address, mask) = text.split_once('/')?;
    Ipv4Net::with_netmask(address.parse().ok()?, mask.parse().ok()?).ok()
}

/// An IP protocol by name or number.
#[must_use]
pub fn protocol(text: &str) -> Option<u8> {
    match text {
        "icmp" => Some(1),
        "tcp" => Some(6),
        "udp" => Some(17),
        "esp" => Some(50),
        "ah" => Some(51),
        "sctp" => Some(132),
        "udplite" => Some(136),
        number => number.parse().ok().filter(|number| *number != 0),
    }
}

fn ports(value: &str) -> Option<Vec<RangeInclusive<u16>>> {
    let range = |text: &str| {
        let (from, to) = text.split_once(':').unwrap_or((text, text));
        Some(from.parse().ok()?..=to.parse().ok()?)
    };
    value.split(',').map(range).collect()
}

/// The words of a line: quoted ones may hold spaces, and a backslash takes what follows as it is.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut any = false;
    let mut quoted = false;
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '"' => {
                quoted = !quoted;
                any = true;
            }
            '\\' => word.extend(letters.next()),
            ' ' if !quoted => {
                if any || !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                any = false;
            }
            other => word.push(other),
        }
    }
    if any || !word.is_empty() {
        words.push(word);
    }
    words
}

#[cfg(test)]
#[path = "iptables_tests.rs"]
mod tests;
