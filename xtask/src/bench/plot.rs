//! The picture: what each lane reaches of `flannel.1`, measurement by measurement.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::{
    figures::Figures,
    lanes::{KINDS, Kind},
    measures::{Figure, MEASURES},
};

const SIZE: (u32, u32) = (1200, 560);

const fn colour(kind: Kind) -> RGBColor {
    match kind {
        Kind::Bare => RGBColor(150, 150, 150),
        Kind::HostGw => RGBColor(200, 180, 120),
        Kind::Flannel => RGBColor(120, 150, 200),
        Kind::WeftBridge => RGBColor(150, 200, 150),
        Kind::Weft => RGBColor(40, 140, 70),
        Kind::WeftMany => RGBColor(20, 80, 40),
        Kind::WeftBefore => RGBColor(190, 120, 190),
    }
}

/// Draws to an SVG file. `caption` names machine, kernel and date.
pub(super) fn draw(to: &Path, figures: &Figures, caption: &str) -> Result<()> {
    picture(to, figures, caption).map_err(|error| anyhow!("draw {}: {error}", to.display()))
}

fn picture(to: &Path, figures: &Figures, caption: &str) -> Result<(), Box<dyn std::error::Error>> {
    let rows: Vec<_> = MEASURES
        .iter()
        .filter(|measure| figures.spread("flannel", measure, Figure::Rate).is_some())
        .collect();
    let ratio = |kind: Kind, index: usize| {
        let measure = rows.get(index)?;
        match kind {
            Kind::Flannel => Some(1.0),
            other => figures.ratio(other.name(), "flannel", measure, Figure::Rate),
        }
    };
    let highest = KINDS
        .iter()
        .flat_map(|kind| (0..rows.len()).filter_map(|index| ratio(*kind, index)))
        .fold(1.0, f64::max);
    let area = SVGBackend::new(to, SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let width = f64::from(u32::try_from(rows.len())?);
    let mut chart = ChartBuilder::on(&area)
        .caption("times flannel.1, more is better", ("sans-serif", 22))
        .margin(12)
        .x_label_area_size(70)
        .y_label_area_size(50)
        .build_cartesian_2d(0.0..width, 0.0..highest * 1.05)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .x_labels(0)
        .x_desc(caption)
        .y_label_formatter(&|value| format!("{value:.1}"))
        .draw()?;
    let bar = 0.8 / f64::from(u32::try_from(KINDS.len())?);
    for (place, kind) in KINDS.iter().enumerate() {
        let offset = 0.1 + bar * f64::from(u32::try_from(place)?);
        let mut bars = Vec::new();
        for index in 0..rows.len() {
            if let Some(value) = ratio(*kind, index) {
                let left = f64::from(u32::try_from(index)?) + offset;
                let corners = [(left, 0.0), (left + bar, value)];
                bars.push(Rectangle::new(corners, colour(*kind).filled()));
            }
        }
        chart
            .draw_series(bars)?
            .label(kind.name())
            .legend(move |(x, y)| {
                Rectangle::new([(x, y - 5), (x + 10, y + 5)], colour(*kind).filled())
            });
    }
    for (index, measure) in rows.iter().enumerate() {
        let middle = f64::from(u32::try_from(index)?) + 0.1;
        let style = ("sans-serif", 13).into_font();
        let label = Text::new(measure.name, (middle, -highest * 0.02), style);
        chart.plotting_area().draw(&label)?;
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperRight)
        .background_style(WHITE.mix(0.8))
        .border_style(BLACK)
        .draw()?;
    area.present()?;
    Ok(())
}
