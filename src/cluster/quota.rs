//! How many copies each node gets.
//!
//! Pure, owned by no core. A node's *share* is its part by weight of all copies, as a fraction; its *quota* is that share,
//! rounded up or down. No node holds more than one copy of a partition and no rack more than it may ([`Rack`]), so a
//! share may be cut there, and the others take the rest by weight. That is the filling of connected vessels: there is a level
//! at which every vessel holds `level * weight` or is full, and the level is found by bisection.
//!
//! Whatever shares say, copies can be placed so: the fractions themselves (each node has the same part of each partition)
//! meet all limits, and since nodes nest in racks, and copies of a rack in partitions, fractions can be rounded to whole
//! copies without breaking a limit (two laminar families make a totally unimodular matrix). [`super::augment`] does it.

use super::roster::{Rack, Roster};

/// Shares are rational with a denominator of at most the sum of weights, 16,384: fractions closer to a whole number than
/// this are errors of floating point (which are below 1e-8).
const WHOLE_WITHIN: f64 = 1e-6;
/// Halvings after which a level can not become more exact.
const BISECTIONS: usize = 100;

const _: () = assert!(WHOLE_WITHIN * (super::WEIGHTS_SUM_MAX as f64) < 0.1);

/// What each node is to hold.
#[derive(Clone, Debug)]
pub struct Shares {
    /// Of each node.
    nodes: Vec<f64>,
    /// Of each rack, the sum of its nodes.
    racks: Vec<f64>,
}

fn floor(share: f64) -> usize {
    (share + WHOLE_WITHIN).floor() as usize
}

fn ceil(share: f64) -> usize {
    (share - WHOLE_WITHIN).ceil() as usize
}

/// The level, at most `level_max`, at which `filled`, which ascends, reaches `total`.
fn level(total: f64, level_max: f64, filled: impl Fn(f64) -> f64) -> f64 {
    let (mut low, mut high) = (0.0, level_max);
    for _ in 0..BISECTIONS {
        let middle = (low + high) / 2.0;
        if filled(middle) < total { low = middle } else { high = middle }
    }
    high
}

impl Shares {
    /// The shares of all nodes.
    pub fn of(roster: &Roster) -> Self {
        let full = roster.partitions as f64;
        let node_holds = |node: usize, level: f64| full.min(level * f64::from(roster.weights[node]));
        let nodes_hold = |rack: usize, level: f64| -> f64 {
            roster.racks[rack].nodes.iter().map(|&node| node_holds(node as usize, level)).sum()
        };
        let rack_holds = |rack: usize, level: f64| {
            let Rack { least, most, .. } = &roster.racks[rack];
            nodes_hold(rack, level).clamp(full * *least as f64, full * *most as f64)
        };
        let all = 0..roster.racks.len();
        // At this level every node is full: no weight is below 1.
        let common = level(full * roster.copies as f64, full, |at| all.clone().map(|rack| rack_holds(rack, at)).sum());
        let racks: Vec<f64> = all.map(|rack| rack_holds(rack, common)).collect();
        let levels: Vec<f64> =
            racks.iter().enumerate().map(|(rack, &total)| level(total, full, |at| nodes_hold(rack, at))).collect();
        let share = |(node, &rack): (usize, &u16)| node_holds(node, levels[rack as usize]);
        Shares { nodes: roster.rack_of.iter().enumerate().map(share).collect(), racks }
    }

    /// The share of a node.
    pub fn share(&self, node: usize) -> f64 {
        self.nodes[node]
    }

    /// The least quota of a node.
    pub fn floor(&self, node: usize) -> usize {
        floor(self.nodes[node])
    }

    /// The largest quota of a node.
    pub fn ceil(&self, node: usize) -> usize {
        ceil(self.nodes[node])
    }

    /// Whole quotas for nodes that hold `held` copies now. Nodes that hold more than their floor are rounded up first, which
    /// leaves the least to move; then those with the largest fraction. Racks are rounded, too: each gets the floor or the
    /// ceiling of its share.
    pub fn quotas(&self, roster: &Roster, held: &[usize]) -> Vec<usize> {
        let mut quotas: Vec<usize> = (0..roster.nodes()).map(|node| self.floor(node)).collect();
        let mut by_rack = vec![0; self.racks.len()];
        for (&rack, &quota) in roster.rack_of.iter().zip(&quotas) {
            by_rack[rack as usize] += quota;
        }
        let mut left = roster.partitions * roster.copies - quotas.iter().sum::<usize>();
        let mut order: Vec<usize> = (0..roster.nodes()).filter(|&node| self.ceil(node) > self.floor(node)).collect();
        let fraction = |node: usize| self.nodes[node].fract();
        order.sort_by(|&a, &b| {
            let moves = |node: usize| held[node] <= self.floor(node);
            moves(a).cmp(&moves(b)).then(fraction(b).total_cmp(&fraction(a))).then(a.cmp(&b))
        });
        // First what every rack must have, then what it may have.
        for bound in [floor, ceil] {
            for &node in &order {
                let rack = roster.rack_of[node] as usize;
                if left > 0 && quotas[node] == self.floor(node) && by_rack[rack] < bound(self.racks[rack]) {
                    quotas[node] += 1;
                    by_rack[rack] += 1;
                    left -= 1;
                }
            }
        }
        assert_eq!(left, 0, "shares add up to all copies, so their ceilings have room for them");
        quotas
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Member, Rule};
    use super::*;

    fn roster(partitions: usize, copies: usize, nodes: &[(u32, Option<u32>)]) -> Roster {
        let member = |(&(weight, rack), id)| Member { id, weight, rack, alive: true };
        let members: Vec<Member> = nodes.iter().zip(1..).map(member).collect();
        Roster::new(&members, Rule { partitions, copies }).unwrap()
    }

    fn quotas(roster: &Roster) -> Vec<usize> {
        Shares::of(roster).quotas(roster, &vec![0; roster.nodes()])
    }

    #[test]
    fn by_weight() {
        assert_eq!(quotas(&roster(1024, 3, &[(1, None); 10])), [308, 308, 307, 307, 307, 307, 307, 307, 307, 307]);
        assert_eq!(quotas(&roster(1024, 1, &[(1, None), (3, None)])), [256, 768]);
    }

    #[test]
    fn a_node_holds_each_partition_once_and_others_take_the_rest() {
        // By weight the first would have 2,304 of 3,072 copies.
        assert_eq!(quotas(&roster(1024, 3, &[(9, None), (1, None), (1, None), (1, None)])), [1024, 683, 683, 682]);
        assert_eq!(quotas(&roster(1024, 3, &[(9, None), (1, None), (2, None)])), [1024; 3]);
    }

    #[test]
    fn racks_come_before_weights() {
        // A copy of each partition in each rack: the small rack's node holds all of them.
        let nodes = [(1, Some(1)), (1, Some(2)), (1, Some(2)), (1, Some(2)), (1, Some(2))];
        assert_eq!(quotas(&roster(64, 2, &nodes)), [64, 16, 16, 16, 16]);
        // Two racks, three copies: at least one in each.
        assert_eq!(quotas(&roster(64, 3, &nodes)), [64, 32, 32, 32, 32]);
        // A heavy rack may hold one copy of each at most.
        let nodes = [(9, Some(1)), (9, Some(1)), (1, Some(2)), (1, Some(3)), (2, Some(4))];
        assert_eq!(quotas(&roster(64, 2, &nodes)), [32, 32, 16, 16, 32]);
    }

    #[test]
    fn those_who_have_more_keep_it() {
        let roster = roster(16, 1, &[(1, None), (1, None), (1, None)]);
        assert_eq!(Shares::of(&roster).quotas(&roster, &[5, 5, 6]), [5, 5, 6]);
        assert_eq!(Shares::of(&roster).quotas(&roster, &[0, 9, 0]), [5, 6, 5]);
    }
}
