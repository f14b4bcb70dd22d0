//! The figures for a person.

use super::{
    figures::Figures,
    measures::{Figure, MEASURES, TARGETS},
};

/// Rates of every lane, with the spread, and what ours is of flannel's and of bare.
pub(super) fn rates(figures: &Figures, lanes: &[&'static str]) -> String {
    let mut lines = vec![heading(lanes)];
    for measure in MEASURES {
        let mut line = format!("{:<15}{:<13}", measure.name, measure.unit());
        for lane in lanes {
            let cell =
                figures
                    .spread(lane, measure, Figure::Rate)
                    .map_or_else(String::new, |rate| {
                        let wide = (rate.most - rate.least) / rate.median * 100.0;
                        format!("{:.2} ±{:.0}%", rate.median, wide / 2.0)
                    });
            line.push_str(&format!("{cell:>15}"));
        }
        for against in ["flannel", "bare"] {
            let ratio = figures.ratio("weft", against, measure, Figure::Rate);
            let cell = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            line.push_str(&format!("{cell:>14}"));
        }
        lines.push(line);
    }
    lines.join("\n")
}

/// CPU time of both hosts, the same way.
pub(super) fn cpu(figures: &Figures, lanes: &[&'static str]) -> String {
    let mut lines = vec![heading(lanes)];
    for measure in MEASURES {
        let mut line = format!("{:<15}{:<13}", measure.name, measure.cpu_unit());
        for lane in lanes {
            let cell = figures
                .spread(lane, measure, Figure::Cpu)
                .map_or_else(String::new, |cpu| format!("{:.2}", cpu.median));
            line.push_str(&format!("{cell:>15}"));
        }
        for against in ["flannel", "bare"] {
            let ratio = figures.ratio("weft", against, measure, Figure::Cpu);
            let cell = ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            line.push_str(&format!("{cell:>14}"));
        }
        lines.push(line);
    }
    lines.join("\n")
}

fn heading(lanes: &[&'static str]) -> String {
    let mut line = format!("{:<28}", "");
    for lane in lanes {
        line.push_str(&format!("{lane:>15}"));
    }
    line.push_str("  weft/flannel     weft/bare");
    line
}

/// Each target with its figure; and whether all hold.
pub(super) fn targets(figures: &Figures) -> (String, bool) {
    let mut all = true;
    let lines = TARGETS.iter().map(|target| {
        let measure = MEASURES
            .iter()
            .find(|measure| measure.name == target.measure);
        let ratio = measure
            .and_then(|measure| figures.ratio(target.lane, target.against, measure, target.figure));
        let holds = ratio.is_some_and(|ratio| target.holds(ratio));
        all &= holds;
        let (what, bound) = match target.figure {
            Figure::Rate => ("", "at least"),
            Figure::Cpu => (" CPU", "at most"),
        };
        let found = ratio.map_or_else(|| "not measured".to_owned(), |ratio| format!("{ratio:.3}"));
        format!(
            "{:<5} {:<10}{what:<4} {:>8}/{:<8} {found}, {bound} {}",
            if holds { "pass" } else { "FAIL" },
            target.measure,
            target.lane,
            target.against,
            target.bound,
        )
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    (text, all)
}
