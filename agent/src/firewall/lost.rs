//! Rules that drop what bears an address of a subnet that was ours, on hosts where no program does.
//! In `mangle`: a verdict of ours there is the last word, others seldom have one, and what a packet
//! leaves for is decided. Pure: reads what `iptables-save` prints, writes what `iptables-restore` takes.

use std::collections::BTreeSet;

use ipnet::Ipv4Net;

/// Comment of these rules: the reason under which the programs count the same drop.
pub(super) const COMMENT: &str = "weft: drop_subnet_lost";
pub(super) const TABLE: &str = "mangle";
/// Every way through the host, and to and from the host itself.
const PARENTS: [&str; 3] = ["FORWARD", "INPUT", "OUTPUT"];

/// What is to be dropped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// VXLAN network identifier, which names the overlay's device and the rules.
    pub vni: u32,
    /// The whole overlay range.
    pub network: Ipv4Net,
    /// The interface by which other nodes reach us without a tunnel, where they may.
    pub direct: Option<String>,
    /// Subnets that were ours; none when there should be no rules.
    pub subnets: BTreeSet<Ipv4Net>,
}

/// What a rule looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Match {
    pub(super) source: Option<Ipv4Net>,
    pub(super) destination: Option<Ipv4Net>,
    pub(super) input: Option<String>,
    pub(super) output: Option<String>,
    /// Dropped, or left alone.
    pub(super) drops: bool,
}

impl Lost {
    /// No rules of the network of that VNI.
    #[must_use]
    pub fn none(vni: u32) -> Self {
        Self {
            vni,
            network: Ipv4Net::default(),
            direct: None,
            subnets: BTreeSet::new(),
        }
    }

    /// The rules, in order.
    pub(super) fn matches(&self) -> Vec<Match> {
        let device = format!("flannel.{}", self.vni);
        let mut all = Vec::new();
        // What comes in for the old addresses. The wire has packets of others, too.
        for lost in &self.subnets {
            all.push(Match {
                destination: Some(*lost),
                input: Some(device.clone()),
                drops: true,
                ..Match::default()
            });
            all.extend(self.direct.iter().map(|wire| Match {
                source: Some(self.network.trunc()),
                destination: Some(*lost),
                input: Some(wire.clone()),
                output: None,
                drops: true,
            }));
        }
        // What else comes from there is for addresses that are ours now, by whoever has the old ones.
        let ways = [device.clone()].into_iter().chain(self.direct.clone());
        all.extend(ways.map(|way| Match {
            input: Some(way),
            ..Match::default()
        }));
        // Among themselves the containers speak on, and with their host.
        all.extend(self.subnets.iter().map(|lost| Match {
            source: Some(*lost),
            destination: Some(*lost),
            ..Match::default()
        }));
        for lost in &self.subnets {
            all.push(Match {
                source: Some(*lost),
                destination: Some(self.network.trunc()),
                drops: true,
                ..Match::default()
            });
            all.push(Match {
                source: Some(*lost),
                output: Some(device.clone()),
                drops: true,
                ..Match::default()
            });
        }
        if self.subnets.is_empty() {
            all.clear();
        }
        all
    }

    fn chain(&self) -> String {
        format!("WEFT-LOST-{}", self.vni)
    }

    /// What `iptables-restore --noflush` needs to be fed, given what `iptables-save` printed of the
    /// table; `None` when everything is in place.
    pub(super) fn repair(&self, saved: &str) -> Option<String> {
        let chain = self.chain();
        let wanted: Vec<String> = self.matches().iter().map(Match::text).collect();
        let jump = format!("-m comment --comment \"{COMMENT}\" -j {chain}");
        let mut lines = Vec::new();
        for parent in PARENTS {
            let rules = rules(saved, parent);
            let ours = rules.iter().filter(|rule| leads_to(rule, &chain));
            let ours: Vec<&&str> = ours.collect();
            let others_lost = |rule: &&&str| rule.contains(COMMENT) && !leads_to(rule, &chain);
            let first = rules.iter().find(|rule| !others_lost(rule));
            let in_place = ours.len() == 1 && first == Some(&jump.as_str());
            if in_place && !wanted.is_empty() {
                continue;
            }
            lines.extend(ours.iter().map(|rule| format!("-D {parent} {rule}")));
            if !wanted.is_empty() {
                lines.push(format!("-I {parent} 1 {jump}"));
            }
        }
        let there = saved.lines().any(|line| {
            let name = line.trim().strip_prefix(':');
            name.and_then(|rest| rest.split(' ').next()) == Some(&chain)
        });
        if wanted.is_empty() {
            if there {
                lines.push(format!("-F {chain}"));
                lines.push(format!("-X {chain}"));
            }
        } else if !there || rules(saved, &chain) != wanted {
            // Naming a chain makes it, or empties it.
            lines.insert(0, format!(":{chain} - [0:0]"));
            lines.extend(wanted.iter().map(|rule| format!("-A {chain} {rule}")));
        }
        if lines.is_empty() {
            return None;
        }
        Some(format!("*{TABLE}\n{}\nCOMMIT\n", lines.join("\n")))
    }
}

impl Match {
    /// As `iptables-save` prints it.
    fn text(&self) -> String {
        let net = |option: &str, net: &Option<Ipv4Net>| net.map(|net| format!("{option} {net}"));
        let device = |option: &str, name: &Option<String>| {
            name.as_ref().map(|name| format!("{option} {name}"))
        };
        let words = [
            net("-s", &self.source),
            net("-d", &self.destination),
            device("-i", &self.input),
            device("-o", &self.output),
            Some(format!("-m comment --comment \"{COMMENT}\"")),
            Some(format!("-j {}", if self.drops { "DROP" } else { "RETURN" })),
        ];
        words.into_iter().flatten().collect::<Vec<_>>().join(" ")
    }
}

/// The rules of a chain, in order.
fn rules<'saved>(saved: &'saved str, chain: &str) -> Vec<&'saved str> {
    let lines = saved.lines().map(str::trim);
    let rules = lines.filter_map(|line| line.strip_prefix("-A ")?.split_once(' '));
    let of_chain = rules.filter(|(name, _)| *name == chain);
    of_chain.map(|(_, rule)| rule).collect()
}

fn leads_to(rule: &str, chain: &str) -> bool {
    let words: Vec<&str> = rule.split(' ').collect();
    words.windows(2).any(|pair| pair == ["-j", chain])
}

#[cfg(test)]
mod tests;
