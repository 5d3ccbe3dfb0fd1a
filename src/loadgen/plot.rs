//! The percentile plot: latency over percentiles, whose axis is logarithmic in the distance to 100 %.
//!
//! Each step to the right is one more nine, a tenth of the requests: the tail, which an average hides, gets most of the
//! picture.

use std::path::Path;

use hdrhistogram::Histogram;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;

/// Size of the picture, pixels.
const SIZE: (u32, u32) = (960, 540);
/// Told apart by people who do not tell red from green, and on paper.
const COLOURS: [RGBColor; 3] = [RGBColor(213, 94, 0), RGBColor(0, 90, 181), RGBColor(90, 20, 110)];
const COMPARISON: RGBColor = RGBColor(120, 120, 120);
/// Points per halving of the distance to 100 %.
const TICKS_PER_HALF_DISTANCE: u32 = 16;
/// Steps of the axis per nine: more than pixels.
const AXIS_STEPS: i32 = 10_000;
/// Most nines shown.
const NINES_MAX: f64 = 9.0;

/// One line of the plot.
pub struct Series<'a> {
    pub name: String,
    /// Of microseconds.
    pub histogram: &'a Histogram<u64>,
    /// Drawn thin: there for comparison.
    pub secondary: bool,
}

/// Draws `series` into an SVG file. Lines without values are left out.
pub fn write(path: &Path, title: &str, series: &[Series<'_>]) -> Result<(), String> {
    let shown: Vec<&Series<'_>> = series.iter().filter(|line| !line.histogram.is_empty()).collect();
    let nines = shown.iter().map(|line| nines_of(line.histogram)).fold(1.0, f64::max).ceil();
    let top_ms = shown.iter().map(|line| line.histogram.max()).max().unwrap_or(1) as f64 / 1000.0 * 1.05;
    draw(path, title, &shown, nines, top_ms).map_err(|error| error.to_string())
}

/// How many nines the number of values can tell apart.
fn nines_of(histogram: &Histogram<u64>) -> f64 {
    (histogram.len() as f64).log10().clamp(0.0, NINES_MAX)
}

/// (nines, milliseconds) along the distribution; ends at the largest value.
fn points(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    let end = nines_of(histogram);
    let mut points: Vec<(f64, f64)> = histogram
        .iter_quantiles(TICKS_PER_HALF_DISTANCE)
        .map(|step| (-(1.0 - step.quantile_iterated_to()).log10(), step.value_iterated_to() as f64 / 1000.0))
        .take_while(|point| point.0 < end)
        .collect();
    points.push((end, histogram.max() as f64 / 1000.0));
    points
}

/// `0 %`, `90 %`, `99.9 %`
fn percent(nines: f64) -> String {
    let digits = (nines.round() as usize).saturating_sub(2);
    format!("{:.digits$} %", 100.0 * (1.0 - 10f64.powf(-nines)))
}

fn draw(
    path: &Path,
    title: &str,
    series: &[&Series<'_>],
    nines: f64,
    top_ms: f64,
) -> Result<(), Box<dyn std::error::Error>> {
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE)?;
    let marks = (0..=nines as i32).map(|nines| nines * AXIS_STEPS).collect();
    let axis = (0..nines as i32 * AXIS_STEPS).with_key_points(marks);
    let mut chart = ChartBuilder::on(&root)
        .caption(title, ("sans-serif", 18))
        .margin(16)
        .margin_right(44)
        .x_label_area_size(44)
        .y_label_area_size(70)
        .build_cartesian_2d(axis, 0.0..top_ms)?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.15))
        .x_desc("percentile")
        .y_desc("latency, ms")
        .x_label_formatter(&|steps| percent(f64::from(*steps) / f64::from(AXIS_STEPS)))
        .label_style(("sans-serif", 13))
        .draw()?;
    for (index, line) in series.iter().enumerate() {
        let points = points(line.histogram).into_iter();
        let points = points.map(|(nines, ms)| ((nines * f64::from(AXIS_STEPS)).round() as i32, ms));
        let style =
            if line.secondary { COMPARISON.stroke_width(1) } else { COLOURS[index % COLOURS.len()].stroke_width(2) };
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(line.name.as_str())
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.3))
        .label_font(("sans-serif", 14))
        .draw()?;
    root.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::stats::histogram;

    #[test]
    fn points_rise_and_end_at_the_maximum() {
        let mut source = histogram();
        for us in 1..=10_000 {
            source.record(us).unwrap();
        }
        let points = points(&source);
        assert!(points.windows(2).all(|pair| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1));
        assert_eq!(points.last().map(|point| point.0), Some(4.0));
        let p99 = points.iter().find(|point| point.0 >= 2.0).unwrap();
        assert!((9.85..9.95).contains(&p99.1), "{p99:?}");
    }

    #[test]
    fn axis_names_are_nines() {
        let names: Vec<String> = (0..=5).map(|nines| percent(f64::from(nines))).collect();
        assert_eq!(names, ["0 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"]);
    }
}
