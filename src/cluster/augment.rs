//! Chains of moves: how the last copies find a place where no single move helps.
//!
//! Pure, owned by no core. A copy that finds no node under quota may still be placed if another copy makes way for it, which
//! in turn needs a place, and so on until a node under quota is met. The shortest such chain is an augmenting path of a
//! flow from partitions through racks to nodes (Ford and Fulkerson 1956; shortest paths: Edmonds and Karp 1972). As a
//! placement that meets all quotas exists ([`super::quota`]), there is always such a path, so each call places one copy, and
//! the result is exact whatever the simple steps left.
//!
//! Copies that are new in this plan can change their place for nothing, those that were there before have to be sent. So the
//! search goes first over new copies as far as it gets, then over one old copy, and so on: the chain it finds moves as few
//! old copies as possible.
//!
//! A chain may pass a partition twice, and each of its moves is checked against what racks hold now. That is enough: were a
//! second move between racks made impossible by the first, its goal would have been in reach of the first one, and met then.

use super::board::Board;

/// What has a copy too many, or one too few, at the beginning.
#[derive(Clone, Copy, Debug)]
enum Start {
    /// A copy of the partition is missing.
    Partition(u16),
    /// The node is over quota.
    Node(u16),
}

/// How a chain came to a node: it gets the copy of a partition, from another node unless the copy was missing.
#[derive(Clone, Copy, Debug)]
struct Move {
    partition: u16,
    giver: Option<u16>,
}

/// Places all copies that are missing.
pub fn complete(board: &mut Board<'_>) {
    for partition in 0..board.copies.len() {
        while board.copies[partition].len() < board.roster.copies {
            augment(board, Start::Partition(partition as u16));
        }
    }
}

/// Relieves all nodes that are over quota.
pub fn relieve(board: &mut Board<'_>) {
    for node in board.nodes() {
        while board.is_over(node) {
            augment(board, Start::Node(node));
        }
    }
}

fn augment(board: &mut Board<'_>, start: Start) {
    let mut search = Search { board, moves: vec![None; board.roster.nodes()], unmet: board.nodes().collect() };
    let mut taker = search.run(start).expect("quotas were chosen so that a placement meets them");
    let moves = search.moves;
    while let Some(Move { partition, giver }) = moves[taker as usize] {
        if let Some(giver) = giver {
            board.remove(partition as usize, giver);
        }
        board.add(partition as usize, taker);
        let Some(giver) = giver else { break };
        taker = giver;
    }
}

/// The search for one chain.
struct Search<'a> {
    board: &'a Board<'a>,
    /// The move to each node that was met, but to one that is the start.
    moves: Vec<Option<Move>>,
    /// Soon few, which makes the search short.
    unmet: Vec<u16>,
}

impl Search<'_> {
    /// The node under quota at which the best chain ends.
    fn run(&mut self, start: Start) -> Option<u16> {
        let mut level = Vec::new();
        match start {
            Start::Node(node) => {
                self.unmet.retain(|&other| other != node);
                level.push(node);
            }
            Start::Partition(partition) => {
                let (roster, held) = (self.board.roster, &self.board.copies[partition as usize]);
                let fits = |node: u16| roster.fits(held, node);
                if let Some(end) = self.meet(Move { partition, giver: None }, fits, &mut level) {
                    return Some(end);
                }
            }
        }
        while !level.is_empty() {
            // All that new copies lead to is on the same level.
            let mut at = 0;
            while at < level.len() {
                if let Some(end) = self.leave(level[at], true, &mut level) {
                    return Some(end);
                }
                at += 1;
            }
            let mut next = Vec::new();
            for giver in level {
                if let Some(end) = self.leave(giver, false, &mut next) {
                    return Some(end);
                }
            }
            level = next;
        }
        None
    }

    /// Goes on from `giver` to all that can take one of its new copies, or of its old ones.
    fn leave(&mut self, giver: u16, new: bool, met: &mut Vec<u16>) -> Option<u16> {
        let board = self.board;
        let roster = board.roster;
        let held = board.held[giver as usize].iter().copied().filter(|&p| board.had(p as usize, giver) != new);
        // Followers first: a chain that moves no primary is better than another of its length.
        let leads = |&partition: &u16| board.primary[partition as usize] == Some(giver);
        for partition in held.clone().filter(|p| !leads(p)).chain(held.filter(leads)) {
            let copies = &board.copies[partition as usize];
            let fits = |node: u16| roster.may_pass(copies, giver, node);
            let end = self.meet(Move { partition, giver: Some(giver) }, fits, met);
            if end.is_some() {
                return end;
            }
        }
        None
    }

    /// Meets all nodes that fit by `step`; one that is under quota ends the search.
    fn meet(&mut self, step: Move, fits: impl Fn(u16) -> bool, met: &mut Vec<u16>) -> Option<u16> {
        for node in self.unmet.extract_if(.., |node| fits(*node)) {
            self.moves[node as usize] = Some(step);
            if self.board.is_under(node) {
                return Some(node);
            }
            met.push(node);
        }
        None
    }
}
