//! The result as text: one placement node by node, or the comparison as a table.
//!
//! Pure, owned by no core.

use std::fmt::Write;

use super::super::Member;
use super::super::placement::place;
use super::super::quota::Shares;
use super::super::roster::{PlaceError, Roster, Rule};
use super::measure::{Figures, TRIALS};
use super::schemes::{BOUND, Scheme};

/// Characters of the longest bar.
const BAR_LEN_MAX: f64 = 40.0;

/// The load of each node in the placement of `rule` on `members`.
pub fn placement(members: &[Member], rule: Rule) -> Result<String, PlaceError> {
    let placement = place(members, rule, None)?;
    let roster = Roster::new(members, rule)?;
    let shares = Shares::of(&roster);
    let (mut held, mut leads) = (vec![0usize; members.len()], vec![0usize; members.len()]);
    for copies in &placement.partitions {
        // Ids are 1, 2, 3, ...
        copies.nodes().for_each(|node| held[node as usize - 1] += 1);
        leads[copies.primary as usize - 1] += 1;
    }
    let most = held.iter().copied().max().unwrap_or(1);
    let mut text = format!(
        "{} nodes, {} partitions, {} copies of each\n node  rack  weight    share  copies  primary of\n",
        members.len(),
        rule.partitions,
        roster.copies
    );
    for (node, member) in members.iter().enumerate() {
        let bar = "#".repeat((held[node] as f64 / most as f64 * BAR_LEN_MAX).round() as usize);
        let rack = member.rack.map_or("-".into(), |rack| (rack + 1).to_string());
        let (share, held, leads) = (shares.share(node), held[node], leads[node]);
        let _ =
            writeln!(text, "{:>5} {rack:>5} {:>7} {share:>8.1} {held:>7} {leads:>11}  {bar}", member.id, member.weight);
    }
    Ok(text)
}

/// What stands above the lines of the comparison.
pub fn head(rule: Rule) -> String {
    format!(
        "{} partitions, {} copies of each. Load is copies over the node's share by weight; moved is copies moved over the\n\
         least that must, over {TRIALS} joins and as many leaves; preferred: copies that are where the ring would have them.\n\
         The bounded ring lets a node hold {:.0} % more than its share.\n\n\
         nodes  placement     load: max    min  primaries: max  moved: join   leave  preferred\n",
        rule.partitions,
        rule.copies,
        BOUND * 100.0
    )
}

/// One line of the comparison; the last of a size is followed by an empty one.
pub fn line(figures: &Figures) -> String {
    let ratio = |value: Option<f64>| value.map_or("-".into(), |value| format!("{value:.2}"));
    format!(
        "{:>5}  {:<12} {:>10.2} {:>6.2} {:>15.2} {:>12} {:>7} {:>8.0} %\n{}",
        figures.nodes,
        figures.scheme.name(),
        figures.load_max,
        figures.load_min,
        figures.leads_max,
        ratio(figures.join),
        ratio(figures.leave),
        figures.preferred * 100.0,
        if figures.scheme == Scheme::Sticky { "\n" } else { "" }
    )
}
