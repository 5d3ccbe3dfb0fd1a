//! The results: a table, and a picture with one panel per trace.

use std::error::Error;
use std::fmt::Write;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::combinators::BindKeyPoints;
use plotters::prelude::*;

use crate::servers::NO_EVICTION;
use crate::{Outcome, Run};

/// Width of the picture, and what a panel is high beyond its rows, pixels.
const WIDTH: u32 = 1080;
const PANEL_FRAME_HEIGHT: u32 = 60;
const ROW_HEIGHT: u32 = 18;
const COLUMNS: usize = 3;
const TITLE_HEIGHT: u32 = 56;
/// Told apart by people who do not tell red from green, and on paper by their size.
const MARKS: [(RGBColor, i32); 3] = [(RGBColor(213, 94, 0), 6), (RGBColor(0, 90, 181), 5), (RGBColor(90, 20, 110), 3)];

/// The values of `field` in the order of the runs, without repetition.
fn distinct(runs: &[Run], field: fn(&Run) -> &'static str) -> Vec<&'static str> {
    let mut values = Vec::new();
    for value in runs.iter().map(field) {
        if !values.contains(&value) {
            values.push(value);
        }
    }
    values
}

fn find<'a>(runs: &'a [Run], server: &str, policy: &str, trace: &str) -> Option<&'a Outcome> {
    let run = runs.iter().find(|run| run.server == server && run.policy == policy && run.trace == trace)?;
    run.outcome.as_ref().ok()
}

/// A row for each policy of each server: policies together, a column for each trace.
pub fn markdown(runs: &[Run], traces: &[&str]) -> String {
    let mut text = String::from("| policy | server |");
    // Writing to a string does not fail.
    for trace in traces {
        let _ = write!(text, " {trace} |");
    }
    text += " keys held |\n| --- | --- |";
    text += &" ---: |".repeat(traces.len() + 1);
    text.push('\n');
    for policy in distinct(runs, |run| run.policy) {
        for server in distinct(runs, |run| run.server) {
            let outcomes: Vec<_> = traces.iter().map(|trace| find(runs, server, policy, trace)).collect();
            let Some(held) = outcomes.iter().flatten().map(|outcome| outcome.keys_held).max() else { continue };
            let _ = write!(text, "| {policy} | {server} |");
            for outcome in outcomes {
                let _ = match outcome {
                    Some(outcome) => write!(text, " {:.2} |", outcome.hit_ratio * 100.0),
                    None => write!(text, " - |"),
                };
            }
            let _ = writeln!(text, " {held} |");
        }
    }
    text
}

/// Draws dots over hit ratios: a panel for each trace, a row for each policy, a colour for each server. Without
/// [`NO_EVICTION`], which is so far off that it would hide how the others differ.
pub fn draw(path: &Path, runs: &[Run], traces: &[&str]) -> Result<(), Box<dyn Error>> {
    let (mut policies, servers) = (distinct(runs, |run| run.policy), distinct(runs, |run| run.server));
    policies.retain(|policy| *policy != NO_EVICTION);
    let panel_height = PANEL_FRAME_HEIGHT + ROW_HEIGHT * policies.len() as u32;
    let rows = traces.len().div_ceil(COLUMNS).max(1);
    let root = SVGBackend::new(path, (WIDTH, TITLE_HEIGHT + panel_height * rows as u32)).into_drawing_area();
    root.fill(&WHITE)?;
    let (head, body) = root.split_vertically(TITLE_HEIGHT);
    head.draw_text("Hit ratio, %", &("sans-serif", 20).into_font().into(), (16, 14))?;
    for (index, server) in servers.iter().enumerate() {
        let (x, (colour, size)) = (180 + 130 * index as i32, MARKS[index % MARKS.len()]);
        head.draw(&Circle::new((x, 25), size, colour.filled()))?;
        head.draw_text(server, &("sans-serif", 16).into_font().into(), (x + 12, 16))?;
    }
    for (panel, trace) in body.split_evenly((rows, COLUMNS)).iter().zip(traces) {
        let dots = |server: &str| -> Vec<(f64, i32)> {
            let rows = policies.iter().enumerate();
            rows.filter_map(|(row, policy)| Some((find(runs, server, policy, trace)?.hit_ratio * 100.0, row as i32)))
                .collect()
        };
        let dots: Vec<_> = servers.iter().map(|server| dots(server)).collect();
        draw_panel(panel, trace, &policies, &dots)?;
    }
    root.present()?;
    Ok(())
}

fn draw_panel(
    area: &DrawingArea<SVGBackend, Shift>,
    trace: &str,
    policies: &[&str],
    dots: &[Vec<(f64, i32)>],
) -> Result<(), Box<dyn Error>> {
    let ratios = || dots.iter().flatten().map(|dot| dot.0);
    let (low, high) = (ratios().fold(100.0, f64::min), ratios().fold(0.0, f64::max));
    let margin = ((high - low) * 0.05).max(0.5);
    // The first policy is on top.
    let rows = policies.len() as i32;
    let mut chart = ChartBuilder::on(area)
        .caption(trace, ("sans-serif", 16))
        .margin(8)
        .margin_right(16)
        .x_label_area_size(24)
        .y_label_area_size(110)
        .build_cartesian_2d(low - margin..high + margin, (-1..rows).with_key_points((0..rows).collect()))?;
    chart
        .configure_mesh()
        .light_line_style(WHITE)
        .bold_line_style(BLACK.mix(0.12))
        .x_labels(6)
        .y_label_formatter(&|y| policies.get((rows - 1 - y) as usize).copied().unwrap_or_default().to_string())
        .label_style(("sans-serif", 12))
        .draw()?;
    for (dots, (colour, size)) in dots.iter().zip(MARKS.into_iter().cycle()) {
        let circle = |&(ratio, row): &(f64, i32)| Circle::new((ratio, rows - 1 - row), size, colour.filled());
        chart.draw_series(dots.iter().map(circle))?;
    }
    Ok(())
}
