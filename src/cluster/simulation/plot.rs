//! The picture of a comparison: how even the load is, and how much moves, over the number of nodes.
//!
//! Sizes of clusters are categories, side by side in the order given; movement has a logarithmic axis, for modulo moves a
//! hundred times as much as must. Solid lines are the fullest node and joins, dashed ones the emptiest node and leaves.

use std::path::Path;

use plotters::coord::combinators::BindKeyPoints;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::{RangedCoordf64, RangedCoordi32};
use plotters::prelude::*;

use super::super::roster::Rule;
use super::measure::Figures;
use super::schemes::{self, Scheme};

/// Size of the picture, pixels.
const SIZE: (u32, u32) = (960, 900);
/// Steps of the axis between two sizes.
const STEP: i32 = 10;
const DASH_PX: i32 = 7;

type Failure = Box<dyn std::error::Error>;

/// Told apart by people who do not tell red from green, and on paper.
fn colour(scheme: Scheme) -> RGBColor {
    match scheme {
        Scheme::Modulo => RGBColor(120, 120, 120),
        Scheme::Plain => RGBColor(213, 94, 0),
        Scheme::Bounded => RGBColor(90, 20, 110),
        Scheme::Sticky => RGBColor(0, 90, 181),
    }
}

/// One of the two charts.
struct Chart {
    title: &'static str,
    y_name: &'static str,
    solid: fn(&Figures) -> Option<f64>,
    dashed: fn(&Figures) -> Option<f64>,
    legend: SeriesLabelPosition,
}

/// Draws `all` figures for clusters of `counts` nodes into an SVG file.
pub fn write(path: &Path, rule: Rule, counts: &[usize], all: &[Figures]) -> Result<(), String> {
    draw(path, rule, counts, all).map_err(|error| error.to_string())
}

fn draw(path: &Path, rule: Rule, counts: &[usize], all: &[Figures]) -> Result<(), Failure> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let title = format!("Placement of {} partitions with {} copies each", rule.partitions, rule.copies);
    let (upper, lower) = root.titled(&title, ("sans-serif", 20))?.split_vertically(SIZE.1 as i32 / 2 - 14);
    let load = Chart {
        title: "Balance: the fullest node (solid) and the emptiest (dashed)",
        y_name: "copies over share",
        solid: |figures| Some(figures.load_max),
        dashed: |figures| Some(figures.load_min),
        legend: SeriesLabelPosition::UpperLeft,
    };
    let top = all.iter().map(|figures| figures.load_max).fold(1.0, f64::max);
    chart(&upper, &load, RangedCoordf64::from(0.0..top * 1.1), counts, all)?;
    let moved = Chart {
        title: "Movement: when a node joins (solid) and when one leaves (dashed)",
        y_name: "copies moved over the least that must",
        solid: |figures| figures.join,
        dashed: |figures| figures.leave,
        legend: SeriesLabelPosition::UpperLeft,
    };
    let ratios = || all.iter().flat_map(|figures| [figures.join, figures.leave]).flatten();
    let (low, high) = (ratios().fold(1.0, f64::min), ratios().fold(2.0, f64::max));
    let y: LogCoord<f64> = (low * 0.8..high * 1.5).log_scale().into();
    chart(&lower, &moved, y, counts, all)?;
    root.present()?;
    Ok(())
}

fn chart<Y>(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    about: &Chart,
    y: Y,
    counts: &[usize],
    all: &[Figures],
) -> Result<(), Failure>
where
    Y: Ranged<ValueType = f64> + ValueFormatter<f64>,
{
    let last = (counts.len() as i32 - 1) * STEP;
    let marks = (0..counts.len() as i32).map(|at| at * STEP).collect();
    let x = RangedCoordi32::from(-STEP / 2..last + STEP / 2).with_key_points(marks);
    let mut chart = ChartBuilder::on(area)
        .caption(about.title, ("sans-serif", 16))
        .margin(10)
        .margin_right(24)
        .x_label_area_size(42)
        .y_label_area_size(64)
        .build_cartesian_2d(x, y)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.15))
        .x_desc("nodes")
        .y_desc(about.y_name)
        .x_label_formatter(&|at| counts.get((at / STEP) as usize).map_or(String::new(), usize::to_string))
        .y_label_formatter(&|value| format!("{value}"))
        .label_style(("sans-serif", 13))
        .draw()?;
    for scheme in schemes::ALL {
        let colour = colour(scheme);
        let points = |value: fn(&Figures) -> Option<f64>| -> Vec<(i32, f64)> {
            let of_scheme = all.iter().filter(|figures| figures.scheme == scheme).zip(0..);
            of_scheme.filter_map(|(figures, at)| Some((at * STEP, value(figures)?))).collect()
        };
        let solid = points(about.solid);
        let dots = solid.iter().map(|&point| Circle::new(point, 3, colour.filled())).collect::<Vec<_>>();
        chart
            .draw_series(LineSeries::new(solid, colour.stroke_width(2)))?
            .label(scheme.name())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], colour.stroke_width(2)));
        chart.draw_series(dots)?;
        let dashed = points(about.dashed);
        chart.draw_series(DashedLineSeries::new(dashed, DASH_PX, DASH_PX, colour.stroke_width(2)))?;
    }
    chart
        .configure_series_labels()
        .position(about.legend.clone())
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    Ok(())
}
