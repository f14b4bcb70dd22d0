//! Runs a case on both pairs, up to a marker that takes the slowest way there and back.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use weft_tests::{
    capture::Seen,
    craft::{Frame, Ip, word},
    dump::PeerEntry,
    wait,
    world::Kind,
};

use crate::{
    allowed::Allowed,
    build::{Hooks, Rules},
    case::{Case, From, Wire},
    cases,
    compare::{self, Shown},
    counts::{self, Counts},
    pair::Pair,
    place::{flow, link},
};

/// The marker's first bytes; its number follows.
const COOKIE: &[u8] = b"marks the end of";
/// Its options have the kernel carry it, both ways: the record of its route is answered by one.
const RECORD_ROUTE: [u8; 8] = [7, 7, 4, 0, 0, 0, 0, 1];
/// What its way there and back moves.
const MARKER: &str = "A out ip_options; A bridge port_passed; A by no_flow; B in udp_checksum; \
    B over ip_options; B to no_flow; B out ip_options; B bridge port_passed; B by no_flow; \
    A in udp_checksum; A over ip_options; A to no_flow";
/// The same without tunnels.
const DIRECT_MARKER: &str = "A out ip_options; A bridge port_passed; B in ip_options; B to no_flow; \
    B out ip_options; B bridge port_passed; A in ip_options; A to no_flow";
/// For every program to hang where it should.
const SETTLED: Duration = Duration::from_secs(20);

pub struct Runner {
    hooks: Hooks,
    kernel: Pair,
    /// The kernel's without rules, where the others follow connections.
    bare: Option<Pair>,
    ours: Pair,
    wire: Wire,
    marker: Counts,
    number: u16,
    allowed: Allowed,
    failures: Vec<String>,
}

impl Runner {
    pub fn start(rules: Rules, hooks: Hooks) -> Result<Self> {
        let mut runner = Self {
            hooks,
            kernel: Pair::start(Kind::Kernel, rules, hooks)?,
            bare: match rules {
                Rules::None => None,
                Rules::Stateful => Some(Pair::start(Kind::Kernel, Rules::None, hooks)?),
            },
            ours: Pair::start(Kind::Weft, rules, hooks)?,
            wire: Wire::Whole,
            marker: counts::parse(match hooks {
                Hooks::Ports | Hooks::Bridges => MARKER,
                Hooks::Direct => DIRECT_MARKER,
            })?,
            number: 0,
            allowed: Allowed::default(),
            failures: Vec::new(),
        };
        runner.settle()?;
        Ok(runner)
    }

    /// Until a marker alone moves exactly what it should.
    fn settle(&mut self) -> Result<()> {
        if self.hooks == Hooks::Bridges {
            return self.settle_bridges();
        }
        let nothing = Case::new("nothing", From::A, Vec::new(), "");
        let settled = wait::until_true("the marker takes its way", SETTLED, || {
            let moved = self.pass(&nothing)?.1;
            Ok(match self.hooks {
                Hooks::Direct => counts::without_tunnels(&moved) == self.marker,
                Hooks::Ports | Hooks::Bridges => moved == self.marker,
            })
        });
        settled.with_context(|| self.ours.to_string())
    }

    /// The same where only what is taken is counted.
    fn settle_bridges(&mut self) -> Result<()> {
        let usual = cases::usual();
        let wanted = counts::at_bridges(&counts::parse(&usual.counts)?);
        let settled = wait::until_true("the bridges' programs take packets", SETTLED, || {
            Ok(counts::at_bridges(&self.pass(&usual)?.1) == wanted)
        });
        settled.with_context(|| self.ours.to_string())
    }

    /// Changes settings of the first host's kernel on all pairs; ours must follow in time.
    pub fn set(&mut self, settings: &[(&str, &str)], case: &Case) -> Result<()> {
        for pair in self.pairs() {
            for (key, value) in settings {
                pair.host(0).ns.sysctl(key, value)?;
            }
        }
        self.until_equal(case)
    }

    /// Until a case fares on ours as in the kernel, after a change that ours may follow in its time.
    pub fn until_equal(&mut self, case: &Case) -> Result<()> {
        let what = format!("{} fares as in the kernel", case.name);
        let equal = wait::until_true(&what, SETTLED, || {
            let (shown, _) = self.pass(case)?;
            let wrong = compare::observed(&shown, &mut self.allowed, case);
            ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
            Ok(true)
        });
        equal.with_context(|| self.ours.to_string())
    }

    /// `ip` on one host of all pairs.
    pub fn ip(&mut self, host: usize, words: &str) -> Result<()> {
        let mut all = self.pairs();
        all.try_for_each(|pair| pair.host(host).ip(words).map(drop))
    }

    /// Waits until our first host's programs know this of their peer.
    pub fn until_peer(&self, what: &str, is: impl Fn(&PeerEntry) -> bool) -> Result<()> {
        let known = wait::until_true(what, SETTLED, || {
            Ok(self.ours.host(0).peers()?.iter().all(&is))
        });
        known.with_context(|| self.ours.to_string())
    }

    /// Keeps what differs for the end; fails when the case could not be run.
    pub fn run(&mut self, case: &Case) -> Result<()> {
        self.try_run(case)
            .with_context(|| format!("case {:?}\n{}", case.name, self.ours))
    }

    fn try_run(&mut self, case: &Case) -> Result<()> {
        if self.wire != case.wire {
            for pair in self.pairs() {
                pair.set_wire(case.wire)?;
            }
            self.wire = case.wire;
        }
        let (shown, moved) = self.pass(case)?;
        let mut wrong = compare::observed(&shown, &mut self.allowed, case);
        let expected = counts::parse(&case.counts)?;
        // What the kernel carries it also records when it follows connections: how that moves the
        // counters is not this suite's business; nor is what bridges trim before their program sees it.
        let stated =
            counts::is_fast(&expected) || (self.bare.is_none() && self.hooks == Hooks::Ports);
        let (found, expected) = match self.hooks {
            Hooks::Ports => (counts::without(moved, &self.marker)?, expected),
            Hooks::Bridges => (counts::at_bridges(&moved), counts::at_bridges(&expected)),
            Hooks::Direct => (
                counts::without(counts::without_tunnels(&moved), &self.marker)?,
                counts::without_tunnels(&expected),
            ),
        };
        if stated && found != expected {
            wrong.push(format!(
                "  counted  {}\n  expected {}",
                counts::text(&found),
                counts::text(&expected)
            ));
        }
        if !wrong.is_empty() {
            self.failures
                .push(format!("{}:\n{}", case.name, wrong.join("\n")));
        }
        Ok(())
    }

    fn pairs(&mut self) -> impl Iterator<Item = &mut Pair> {
        let kernels = [&mut self.kernel].into_iter().chain(&mut self.bare);
        kernels.chain([&mut self.ours])
    }

    /// Sends the case's frames and a marker through all pairs.
    fn pass(&mut self, case: &Case) -> Result<(Shown, Counts)> {
        self.number += 1;
        let number = self.number;
        let before = self.ours.counters()?;
        let marker = [link(0).ip(&marker(number))];
        for pair in self.pairs() {
            pair.send(case.from, &case.frames)?;
            pair.send(From::A, &marker)?;
        }
        let is_marker = |seen: &Seen| is_marker(&seen.frame, number);
        let observe = |pair: &Pair| pair.observe(&is_marker, case.late);
        let shown = Shown {
            kernel: observe(&self.kernel).context("on the kernel's pair")?,
            bare: self.bare.as_ref().map(observe).transpose()?,
            ours: observe(&self.ours).context("on our pair")?,
        };
        let moved = counts::moved(&before, &self.ours.counters()?);
        Ok((shown, moved))
    }

    /// Fails with all that differed, and with what was allowed and did not.
    pub fn finish(mut self) -> Result<()> {
        // Without tunnels few of the differences can be met.
        if self.hooks != Hooks::Direct {
            self.failures
                .extend(self.allowed.unused(self.bare.is_some()));
        }
        let count = self.failures.len();
        ensure!(count == 0, "{count} failed\n{}", self.failures.join("\n"));
        Ok(())
    }
}

fn marker(number: u16) -> Ip {
    let mut payload = COOKIE.to_vec();
    payload.extend(number.to_be_bytes());
    flow()
        .echo(number, &payload)
        .but(|ip| ip.options = RECORD_ROUTE.to_vec())
}

fn is_marker(frame: &Frame, number: u16) -> bool {
    if frame.bytes.len() > 300 {
        return false;
    }
    let at = frame.bytes.windows(COOKIE.len()).position(|w| w == COOKIE);
    at.and_then(|at| word(&frame.bytes, at + COOKIE.len())) == Some(number)
}
