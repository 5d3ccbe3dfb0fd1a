//! What one way to place does with a cluster of one size.
//!
//! Pure, owned by no core. Loads are relative to a node's share ([`Shares`]), which is the mean if all weigh the same.
//! Movement is relative to the least that must move: for a join what the newcomer has to hold at least, for a leave what the
//! leaver held.

use super::super::Member;
use super::super::placement::Placement;
use super::super::quota::Shares;
use super::super::ring::Ring;
use super::super::roster::{PlaceError, Roster, Rule};
use super::schemes::Scheme;

/// Joins that are tried, each of another node to the same cluster, and leaves, if there are so many nodes.
pub const TRIALS: usize = 8;

/// The result.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    pub scheme: Scheme,
    pub nodes: usize,
    /// Copies of the fullest and of the emptiest node, relative to their shares.
    pub load_max: f64,
    pub load_min: f64,
    /// Partitions that are led by the node that leads most, relative to its share.
    pub leads_max: f64,
    /// Copies moved over the least that must, on a join and on a leave; none where nothing has to move.
    pub join: Option<f64>,
    pub leave: Option<f64>,
    /// Part of all copies that are where the preference list has them.
    pub preferred: f64,
}

/// Measures `scheme` with `count` nodes; `member` makes the n-th one. Ids ascend.
pub fn measure(
    scheme: Scheme,
    count: usize,
    rule: Rule,
    member: impl Fn(usize) -> Member,
) -> Result<Figures, PlaceError> {
    let members: Vec<Member> = (0..count).map(&member).collect();
    let roster = Roster::new(&members, rule)?;
    let base = scheme.place(&members, rule, None)?;
    let load = Load::of(&roster, &base);
    let (mut joined, mut left) = (Ratio::default(), Ratio::default());
    for trial in 0..TRIALS {
        // Another newcomer each time: of the same weight and rack, at other places on the ring.
        let newcomer = Member { id: (count + trial) as u64 + 1, ..member(count) };
        let more: Vec<Member> = members.iter().copied().chain([newcomer]).collect();
        let least = Shares::of(&Roster::new(&more, rule)?).floor(count);
        joined.add(&base, &scheme.place(&more, rule, Some(&base))?, least);
    }
    // With as few nodes as copies, what a leaver held is nowhere held again.
    let leaves = if count > roster.copies { TRIALS.min(count) } else { 0 };
    for trial in 0..leaves {
        let leaver = trial * count / leaves;
        let mut fewer = members.clone();
        fewer.remove(leaver);
        left.add(&base, &scheme.place(&fewer, rule, Some(&base))?, load.held[leaver]);
    }
    Ok(Figures {
        scheme,
        nodes: count,
        load_max: load.relative.iter().copied().fold(0.0, f64::max),
        load_min: load.relative.iter().copied().fold(f64::INFINITY, f64::min),
        leads_max: load.leads.iter().copied().fold(0.0, f64::max),
        join: joined.value(),
        leave: left.value(),
        preferred: preferred(&roster, &base),
    })
}

/// What was moved over what had to be.
#[derive(Default)]
struct Ratio {
    moved: usize,
    least: usize,
}

impl Ratio {
    fn add(&mut self, before: &Placement, after: &Placement, least: usize) {
        self.moved += after.moved_from(before);
        self.least += least;
    }

    fn value(&self) -> Option<f64> {
        (self.least > 0).then(|| self.moved as f64 / self.least as f64)
    }
}

/// How full each node is.
struct Load {
    held: Vec<usize>,
    /// `held` over the node's share, and what it leads over its share of that.
    relative: Vec<f64>,
    leads: Vec<f64>,
}

impl Load {
    fn of(roster: &Roster, placement: &Placement) -> Load {
        let shares = Shares::of(roster);
        let (mut held, mut led) = (vec![0; roster.nodes()], vec![0; roster.nodes()]);
        for copies in &placement.partitions {
            let index = |node| roster.index_of(node).expect("copies are on members") as usize;
            copies.nodes().for_each(|node| held[index(node)] += 1);
            led[index(copies.primary)] += 1;
        }
        let over = |counts: &[usize], parts: f64| -> Vec<f64> {
            counts.iter().enumerate().map(|(node, &count)| count as f64 * parts / shares.share(node)).collect()
        };
        Load { relative: over(&held, 1.0), leads: over(&led, roster.copies as f64), held }
    }
}

fn preferred(roster: &Roster, placement: &Placement) -> f64 {
    let ring = Ring::new(roster.ids.iter().copied().zip(roster.weights.iter().copied()));
    let at_home = |(partition, copies): (usize, &super::super::Copies)| {
        let list = ring.preference(partition, roster.copies, &roster.rack_of);
        list.iter().filter(|&&node| copies.nodes().any(|holder| holder == roster.ids[node])).count()
    };
    let at_home: usize = placement.partitions.iter().enumerate().map(at_home).sum();
    at_home as f64 / (roster.copies * roster.partitions) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: Rule = Rule { partitions: 256, copies: 3 };

    fn figures(scheme: Scheme, count: usize) -> Figures {
        let member = |number| Member { id: number as u64 + 1, weight: 1, rack: None, alive: true };
        measure(scheme, count, RULE, member).unwrap()
    }

    #[test]
    fn sticky_is_even_and_moves_little() {
        let sticky = figures(Scheme::Sticky, 20);
        // 768 copies on 20 nodes: 38.4 each, so 38 or 39.
        assert_eq!((sticky.load_max * 38.4).round(), 39.0);
        assert_eq!((sticky.load_min * 38.4).round(), 38.0);
        assert!(sticky.join.unwrap() < 1.1 && sticky.leave.unwrap() < 1.1, "{sticky:?}");
        assert!(sticky.preferred > 0.7, "{sticky:?}");
    }

    #[test]
    fn the_plain_ring_is_uneven_and_modulo_moves_nearly_everything() {
        let (plain, modulo) = (figures(Scheme::Plain, 20), figures(Scheme::Modulo, 20));
        assert!(plain.load_max > 1.2 && plain.load_min < 0.8 && plain.leave == Some(1.0), "{plain:?}");
        assert_eq!(plain.preferred, 1.0);
        assert!(modulo.join.unwrap() > 10.0 && modulo.leave.unwrap() > 10.0, "{modulo:?}");
    }

    #[test]
    fn where_all_nodes_hold_everything_a_leave_moves_nothing() {
        let sticky = figures(Scheme::Sticky, 3);
        assert_eq!((sticky.load_max, sticky.join, sticky.leave), (1.0, Some(1.0), None));
    }
}
