//! Which iptables rules there should be, and what to feed `iptables-restore` so that they are.
//! Pure: it reads what `iptables-save` prints and writes what `iptables-restore` takes.

use ipnet::Ipv4Net;

/// Comment of our own rules, by which they are found again.
pub(super) const OWN_COMMENT: &str = "weft: containers keep their address";
/// kube-proxy's mark on what it will masquerade by itself.
const KUBE_MARK: &str = "0x4000/0x4000";
const MASQ_COMMENT: &str = "flanneld masq";
const FORWARD_COMMENT: &str = "flanneld forward";

/// What the rules depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallConfig {
    /// The whole overlay range.
    pub network: Ipv4Net,
    /// This node's slice.
    pub subnet: Ipv4Net,
    /// VXLAN network identifier, which names the overlay's device.
    pub vni: u32,
    /// The interface by which other nodes are reached without a tunnel, where they may be.
    pub direct: Option<String>,
    /// Rewrite the source of what leaves the overlay (`--ip-masq`).
    pub masquerade: bool,
    /// Choose the new source port at random.
    pub random_fully: bool,
    /// Accept forwarded packets from and to the overlay (`--iptables-forward-rules`).
    pub forward: bool,
}

impl FirewallConfig {
    /// Interfaces by which packets for other nodes' containers leave.
    pub(super) fn ways(&self) -> impl Iterator<Item = String> {
        let device = format!("flannel.{}", self.vni);
        [device].into_iter().chain(self.direct.clone())
    }
}

/// A table of ours: a chain of ours, reached by a jump, and rules in front of it. Agents of other
/// networks on this host have their rules in the same chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Table name.
    pub(super) table: &'static str,
    /// The kernel's chain that leads to ours.
    parent: &'static str,
    /// First rules of the parent.
    first: Vec<String>,
    /// Our chain; its rules in order, none when it should not be there.
    chain: &'static str,
    rules: Vec<String>,
    /// Comment on the jump and on all rules of the chain.
    comment: &'static str,
    /// Networks whose rules are not ours.
    others: Vec<Ipv4Net>,
}

impl Wanted {
    /// What a configuration asks for.
    pub(super) fn all(config: &FirewallConfig) -> [Self; 2] {
        let FirewallConfig {
            network,
            subnet,
            masquerade,
            random_fully,
            forward,
            ..
        } = config;
        let (network, subnet) = (network.trunc(), subnet.trunc());
        let mut wanted = Self::none();
        let [nat, filter] = &mut wanted;
        // Only what others rewrite for no reason: a container that reaches itself through a service,
        // and what kube-proxy marks, must be masqueraded.
        let own = commented(OWN_COMMENT);
        let unmarked = format!("-m mark ! --mark {KUBE_MARK} {own} -j RETURN");
        let ways = config.ways();
        let first = ways.map(|way| format!("-s {subnet} -d {network} -o {way} {unmarked}"));
        nat.first = first.collect();
        if *masquerade {
            nat.rules = masquerade_rules(network, subnet, *random_fully);
        }
        if *forward {
            let comment = commented(FORWARD_COMMENT);
            filter.rules = vec![
                format!("-s {network} {comment} -j ACCEPT"),
                format!("-d {network} {comment} -j ACCEPT"),
            ];
        }
        wanted
    }

    /// Nothing of ours.
    pub(super) fn none() -> [Self; 2] {
        [
            Self {
                table: "nat",
                parent: "POSTROUTING",
                first: Vec::new(),
                chain: "FLANNEL-POSTRTG",
                rules: Vec::new(),
                comment: MASQ_COMMENT,
                others: Vec::new(),
            },
            Self {
                table: "filter",
                parent: "FORWARD",
                first: Vec::new(),
                chain: "FLANNEL-FWD",
                rules: Vec::new(),
                comment: FORWARD_COMMENT,
                others: Vec::new(),
            },
        ]
    }

    /// The same where these networks of the host are other agents'.
    pub(super) fn beside(mut self, others: &[Ipv4Net]) -> Self {
        self.others = others.iter().map(Ipv4Net::trunc).collect();
        self
    }

    /// What `iptables-restore --noflush` needs to be fed, given what `iptables-save` printed of
    /// this table; `None` when everything is in place.
    pub(super) fn repair(&self, saved: &str) -> Option<String> {
        let found = Found::read(saved, self);
        let chain = self.chain(&found);
        let mut lines = Vec::new();

        // Only the exact wanted rules stay, once; the first ones only where they belong.
        let jump = (!chain.is_empty()).then(|| self.jump());
        let mut jump_stays = false;
        let first_stays = self.first_is_in_place(&found);
        for rule in &found.parent {
            let is_first = self.first.iter().any(|first| first == rule);
            let is_jump = Some(*rule) == jump.as_deref();
            if is_first && first_stays {
                continue;
            } else if is_jump && !jump_stays {
                jump_stays = true;
            } else if self.is_ours(rule) {
                lines.push(format!("-D {} {rule}", self.parent));
            }
        }
        let first = self.first.iter().filter(|_| !first_stays);
        let numbered = (1..).zip(first);
        lines.extend(numbered.map(|(place, first)| format!("-I {} {place} {first}", self.parent)));

        let rewrite = found.has_chain == chain.is_empty() || !self.chain_is_in_place(&found);
        if rewrite && chain.is_empty() {
            lines.push(format!("-F {}", self.chain));
            lines.push(format!("-X {}", self.chain));
        } else if rewrite {
            // Naming a chain makes it, or empties it.
            lines.insert(0, format!(":{} - [0:0]", self.chain));
            lines.extend(chain.iter().map(|rule| format!("-A {} {rule}", self.chain)));
        }
        if let Some(jump) = jump.filter(|_| !jump_stays) {
            lines.push(format!("-A {} {jump}", self.parent));
        }
        if lines.is_empty() {
            return None;
        }
        Some(format!("*{}\n{}\nCOMMIT\n", self.table, lines.join("\n")))
    }

    /// The whole chain as it should be: what all networks begin with, what others have, ours.
    fn chain<'a>(&'a self, found: &Found<'a>) -> Vec<&'a str> {
        let others: Vec<&str> = found.others(self).collect();
        let own = self.rules.iter().map(String::as_str);
        let (shared, own): (Vec<&str>, Vec<&str>) = own.partition(|rule| is_shared(rule));
        let shared = match shared.as_slice() {
            [] if !others.is_empty() => {
                let there = found.chain.iter().copied();
                there.filter(|rule| is_shared(rule)).take(1).collect()
            }
            _ => shared,
        };
        [shared, others, own].concat()
    }

    /// Ours are there in order, and nothing that is nobody's. Where others' stand is no matter.
    fn chain_is_in_place(&self, found: &Found<'_>) -> bool {
        let wanted = self.chain(found);
        let mine = |rules: &[&str]| -> Vec<String> {
            let mine = rules.iter().filter(|rule| !self.is_others(rule));
            mine.map(|rule| (*rule).to_owned()).collect()
        };
        let opening = wanted.iter().take_while(|rule| is_shared(rule)).count();
        mine(&found.chain) == mine(&wanted) && found.chain.get(..opening) == wanted.get(..opening)
    }

    /// At the front, and nowhere else: a deletion takes the first of equal rules, so that of two
    /// the wrong one would stay. Agents of other networks want the front, too.
    fn first_is_in_place(&self, found: &Found<'_>) -> bool {
        let own = commented(OWN_COMMENT);
        let others = |rule: &&&str| rule.contains(&own) && self.is_others(rule);
        let mine = found.parent.iter().filter(|rule| !others(rule));
        let once = |first: &String| found.parent.iter().filter(|rule| *rule == first).count() == 1;
        let mut front = mine.take(self.first.len());
        self.first
            .iter()
            .all(|first| front.next().is_some_and(|rule| rule == first))
            && self.first.iter().all(once)
    }

    /// Whether a rule is another agent's, by the network that it names.
    fn is_others(&self, rule: &str) -> bool {
        self.others.iter().any(|network| {
            let network = network.to_string();
            rule.split(' ').any(|word| word == network)
        })
    }

    fn jump(&self) -> String {
        format!("{} -j {}", commented(self.comment), self.chain)
    }

    /// Whether a rule of the parent is one that we, or a flannel before us, put there. Older
    /// flannels kept all of their rules in the parent.
    fn is_ours(&self, rule: &str) -> bool {
        let by_form = rule.contains(&commented(self.comment))
            || (self.table == "nat" && rule.contains(&commented(OWN_COMMENT)))
            || rule.ends_with(&format!("-j {}", self.chain));
        by_form && !self.is_others(rule)
    }
}

/// What a table holds that concerns us.
struct Found<'saved> {
    parent: Vec<&'saved str>,
    chain: Vec<&'saved str>,
    has_chain: bool,
}

impl<'saved> Found<'saved> {
    fn others(&self, wanted: &Wanted) -> impl Iterator<Item = &'saved str> {
        let there = self.chain.iter().copied();
        there.filter(|rule| wanted.is_others(rule))
    }

    fn read(saved: &'saved str, wanted: &Wanted) -> Self {
        let mut found = Self {
            parent: Vec::new(),
            chain: Vec::new(),
            has_chain: false,
        };
        let mut here = false;
        for line in saved.lines().map(str::trim) {
            if let Some(table) = line.strip_prefix('*') {
                here = table == wanted.table;
            } else if !here {
                continue;
            } else if let Some(chain) = line.strip_prefix(':') {
                found.has_chain |= chain.split(' ').next() == Some(wanted.chain);
            } else if let Some((chain, rule)) = line
                .strip_prefix("-A ")
                .and_then(|rest| rest.split_once(' '))
            {
                if chain == wanted.parent {
                    found.parent.push(rule);
                } else if chain == wanted.chain {
                    found.chain.push(rule);
                }
            }
        }
        found
    }
}

/// Names no network, and is the same for all of them.
fn is_shared(rule: &str) -> bool {
    rule.starts_with("-m mark --mark ")
}

/// flannel's rules, in flannel's order.
fn masquerade_rules(network: Ipv4Net, subnet: Ipv4Net, random_fully: bool) -> Vec<String> {
    let comment = commented(MASQ_COMMENT);
    let masquerade = match random_fully {
        true => "MASQUERADE --random-fully",
        false => "MASQUERADE",
    };
    vec![
        format!("-m mark --mark {KUBE_MARK} {comment} -j RETURN"),
        format!("-s {subnet} -d {network} {comment} -j RETURN"),
        format!("-s {network} -d {subnet} {comment} -j RETURN"),
        format!("! -s {network} -d {subnet} {comment} -j RETURN"),
        format!("-s {network} ! -d 224.0.0.0/4 {comment} -j {masquerade}"),
        format!("! -s {network} -d {network} {comment} -j {masquerade}"),
    ]
}

fn commented(comment: &str) -> String {
    format!("-m comment --comment \"{comment}\"")
}

#[cfg(test)]
mod tests;
