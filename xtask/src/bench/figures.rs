//! From samples to medians, spread and ratios.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weft_bench::slice::Sample;

use super::measures::{Figure, MEASURES, Measure};

/// All samples of a run, by lane and measure, in the order of the rounds.
#[derive(Debug, Default)]
pub(super) struct Figures(BTreeMap<(&'static str, &'static str), Vec<Sample>>);

/// The middle of several figures, and how far they reach.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        Some(Self {
            median: median(&values)?,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

/// Of sorted values.
fn median(values: &[f64]) -> Option<f64> {
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get(middle.checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

impl Figures {
    pub(super) fn add(&mut self, lane: &'static str, measure: &Measure, sample: Sample) {
        let samples = self.0.entry((lane, measure.name)).or_default();
        samples.push(sample);
    }

    fn samples(&self, lane: &str, measure: &Measure) -> &[Sample] {
        let found = self.0.iter();
        let mut found = found.filter(|((of, name), _)| *of == lane && *name == measure.name);
        found.next().map_or(&[], |(_, samples)| samples.as_slice())
    }

    fn each(&self, lane: &str, measure: &Measure, figure: Figure) -> Vec<f64> {
        let of = |sample: &Sample| match figure {
            Figure::Rate => measure.rate(sample),
            Figure::Cpu => measure.cpu(sample),
        };
        self.samples(lane, measure).iter().map(of).collect()
    }

    pub(super) fn spread(&self, lane: &str, measure: &Measure, figure: Figure) -> Option<Spread> {
        Spread::of(self.each(lane, measure, figure))
    }

    /// The median of the rounds' own ratios: a machine that drifts has drifted for both.
    pub(super) fn ratio(
        &self,
        lane: &str,
        against: &str,
        measure: &Measure,
        figure: Figure,
    ) -> Option<f64> {
        let ours = self.each(lane, measure, figure);
        let theirs = self.each(against, measure, figure);
        let ratios = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs);
        let ratios: Vec<f64> = ratios.filter(|ratio| ratio.is_finite()).collect();
        Spread::of(ratios).map(|spread| spread.median)
    }

    /// Everything, for machines.
    pub(super) fn json(&self, lanes: &[&'static str]) -> Value {
        let mut by_lane = Map::new();
        for lane in lanes {
            let mut of = Map::new();
            for measure in MEASURES {
                if let Some(value) = self.one(lane, measure) {
                    of.insert(measure.name.to_owned(), value);
                }
            }
            by_lane.insert((*lane).to_owned(), Value::Object(of));
        }
        let mut ratios = Map::new();
        for lane in lanes {
            for against in lanes {
                if lane != against && lane.starts_with("weft") {
                    let pair = self.ratios(lane, against);
                    ratios.insert(format!("{lane}/{against}"), pair);
                }
            }
        }
        json!({ "lanes": by_lane, "ratios": ratios })
    }

    fn one(&self, lane: &str, measure: &Measure) -> Option<Value> {
        let rate = self.spread(lane, measure, Figure::Rate)?;
        let cpu = self.spread(lane, measure, Figure::Cpu)?;
        let samples = self.samples(lane, measure);
        let tail = |of: fn(&Sample) -> f64| {
            let values = samples.iter().map(of).collect();
            Spread::of(values).map(|spread| spread.median)
        };
        Some(json!({
            "unit": measure.unit(),
            "median": rate.median,
            "least": rate.least,
            "most": rate.most,
            "cpu": cpu.median,
            "cpu_unit": measure.cpu_unit(),
            "p50_us": tail(|sample| sample.p50),
            "p99_us": tail(|sample| sample.p99),
        }))
    }

    fn ratios(&self, lane: &str, against: &str) -> Value {
        let mut of = Map::new();
        for measure in MEASURES {
            if let Some(ratio) = self.ratio(lane, against, measure, Figure::Rate) {
                of.insert(measure.name.to_owned(), json!(ratio));
            }
            if let Some(ratio) = self.ratio(lane, against, measure, Figure::Cpu) {
                of.insert(format!("{}_cpu", measure.name), json!(ratio));
            }
        }
        Value::Object(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures() -> (Figures, &'static Measure) {
        let measure = MEASURES.first().expect("there are some");
        let mut figures = Figures::default();
        // The machine halves its speed, for both.
        for (ours, theirs) in [(2000, 1000), (1000, 500), (1500, 1000)] {
            for (lane, count) in [("weft", ours), ("flannel", theirs)] {
                let sample = Sample {
                    count,
                    nanos: 1_000_000_000,
                    busy: 1.0,
                    ..Sample::default()
                };
                figures.add(lane, measure, sample);
            }
        }
        (figures, measure)
    }

    #[test]
    fn ratios_are_those_of_the_rounds() {
        let (figures, measure) = figures();
        let ratio = |figure| figures.ratio("weft", "flannel", measure, figure);
        assert_eq!(ratio(Figure::Rate), Some(2.0));
        assert_eq!(ratio(Figure::Cpu), Some(0.5));
        let spread = figures.spread("weft", measure, Figure::Rate);
        let want = Spread {
            median: 1.5,
            least: 1.0,
            most: 2.0,
        };
        assert_eq!(spread, Some(want));
        assert_eq!(figures.ratio("weft", "bare", measure, Figure::Rate), None);
    }

    #[test]
    fn json_has_lanes_and_ratios() {
        let (figures, measure) = figures();
        let json = figures.json(&["flannel", "weft"]);
        let ratio = format!("/ratios/weft~1flannel/{}", measure.name);
        assert_eq!(json.pointer(&ratio), Some(&json!(2.0)));
        let median = format!("/lanes/weft/{}/median", measure.name);
        assert_eq!(json.pointer(&median), Some(&json!(1.5)));
    }

    #[test]
    fn an_even_number_has_its_middle_between_two() {
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), Some(3.0));
        assert_eq!(median(&[]), None);
    }
}
