//! What is measured, and what the figures must be.

use weft_bench::slice::{Cores, Load, Sample};

/// What the wire between the hosts carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// Whatever the sender gives it, aggregates and unfinished checksums included: the cost of a
    /// packet, whatever its size.
    Whole,
    /// Packets of the MTU, with finished checksums, as a cable does: segmentation and aggregation
    /// really happen.
    Mtu,
}

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    pub(super) name: &'static str,
    pub(super) load: Load,
    pub(super) cores: Cores,
    pub(super) wire: Wire,
    /// Also with 10,000 peers in the maps.
    pub(super) many: bool,
}

const fn of(name: &'static str, load: Load, cores: Cores) -> Measure {
    Measure {
        name,
        load,
        cores,
        wire: Wire::Whole,
        many: false,
    }
}

const fn bulk(streams: u16, reverse: bool) -> Load {
    Load::Bulk { streams, reverse }
}

const ONE: Cores = Cores::Same(0);
const TWO: Cores = Cores::Apart(0, 1);

/// In the order in which they run: the wire changes once.
pub(super) const MEASURES: &[Measure] = &[
    Measure {
        many: true,
        ..of("tcp_rr", Load::TcpRr { pairs: 1 }, ONE)
    },
    Measure {
        many: true,
        ..of("udp_rr", Load::UdpRr { pairs: 1 }, ONE)
    },
    of("tcp_rr_across", Load::TcpRr { pairs: 1 }, TWO),
    of("udp_rr_across", Load::UdpRr { pairs: 1 }, TWO),
    of("udp_rr_16", Load::UdpRr { pairs: 16 }, Cores::Spread(2)),
    of("udp_rr_64", Load::UdpRr { pairs: 64 }, Cores::Spread(2)),
    of("crr", Load::Crr, ONE),
    of("udp_pps", Load::Packets { size: 64 }, TWO),
    of("bulk", bulk(1, false), TWO),
    of("bulk_back", bulk(1, true), TWO),
    of("bulk_8", bulk(8, false), Cores::Any),
    Measure {
        wire: Wire::Mtu,
        ..of("bulk_mtu", bulk(1, false), TWO)
    },
    Measure {
        wire: Wire::Mtu,
        ..of("bulk_mtu_back", bulk(1, true), TWO)
    },
    Measure {
        wire: Wire::Mtu,
        ..of("bulk_mtu_8", bulk(8, false), Cores::Any)
    },
];

impl Measure {
    /// The rate in the unit that people use.
    pub(super) fn rate(&self, sample: &Sample) -> f64 {
        match self.load {
            Load::Bulk { .. } => sample.rate() * 8.0 / 1e9,
            Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr | Load::Packets { .. } => {
                sample.rate() / 1e3
            }
        }
    }

    pub(super) const fn unit(&self) -> &'static str {
        match self.load {
            Load::Bulk { .. } => "Gbit/s",
            Load::Packets { .. } => "k packets/s",
            Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr => "k/s",
        }
    }

    /// CPU time of both hosts for one transaction or packet in microseconds, or for one gigabyte in
    /// seconds.
    #[expect(clippy::cast_precision_loss, reason = "figures of a measurement")]
    pub(super) fn cpu(&self, sample: &Sample) -> f64 {
        if sample.count == 0 {
            return 0.0;
        }
        let each = sample.busy / sample.count as f64;
        match self.load {
            Load::Bulk { .. } => each * 1e9,
            Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr | Load::Packets { .. } => {
                each * 1e6
            }
        }
    }

    pub(super) const fn cpu_unit(&self) -> &'static str {
        match self.load {
            Load::Bulk { .. } => "s/GB",
            Load::TcpRr { .. } | Load::UdpRr { .. } | Load::Crr | Load::Packets { .. } => "us",
        }
    }
}

/// Which figure of two lanes is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Figure {
    Rate,
    Cpu,
}

/// A floor, or for CPU time a ceiling.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) lane: &'static str,
    pub(super) against: &'static str,
    pub(super) measure: &'static str,
    pub(super) figure: Figure,
    pub(super) bound: f64,
}

const fn rate(against: &'static str, measure: &'static str, bound: f64) -> Target {
    Target {
        lane: "weft",
        against,
        measure,
        figure: Figure::Rate,
        bound,
    }
}

/// What the project has set itself.
pub(super) const TARGETS: &[Target] = &[
    rate("flannel", "tcp_rr", 1.75),
    rate("flannel", "udp_rr", 1.6),
    rate("flannel", "udp_rr_16", 1.3),
    rate("flannel", "crr", 1.3),
    rate("flannel", "udp_pps", 2.0),
    rate("flannel", "bulk", 1.15),
    rate("flannel", "bulk_mtu", 1.05),
    Target {
        figure: Figure::Cpu,
        ..rate("flannel", "bulk_mtu", 0.9)
    },
    rate("bare", "tcp_rr", 0.85),
    rate("bare", "udp_rr", 0.85),
    Target {
        lane: "weft_10k",
        ..rate("weft", "tcp_rr", 0.97)
    },
    Target {
        lane: "weft_10k",
        ..rate("weft", "udp_rr", 0.97)
    },
];

impl Target {
    pub(super) fn holds(&self, ratio: f64) -> bool {
        match self.figure {
            Figure::Rate => ratio >= self.bound,
            Figure::Cpu => ratio <= self.bound,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_targets_name_measures() {
        for (index, measure) in MEASURES.iter().enumerate() {
            let before = MEASURES.get(..index).unwrap_or_default();
            assert!(before.iter().all(|other| other.name != measure.name));
        }
        for target in TARGETS {
            assert!(
                MEASURES
                    .iter()
                    .any(|measure| measure.name == target.measure)
            );
        }
    }

    #[test]
    fn time_is_a_ceiling() {
        let of = |figure| Target {
            figure,
            ..rate("flannel", "bulk_mtu", 1.0)
        };
        assert!(of(Figure::Rate).holds(1.1) && !of(Figure::Rate).holds(0.9));
        assert!(of(Figure::Cpu).holds(0.9) && !of(Figure::Cpu).holds(1.1));
    }
}
