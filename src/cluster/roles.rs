//! Who leads: primaries are dealt out evenly without moving a copy.
//!
//! Pure, owned by no core. A node leads a share of the partitions that it holds: with `copies` copies of each partition,
//! `held / copies` of them, rounded up or down. That is always possible (give each holder the same part of the role, and
//! round: the matrix of a bipartite graph is totally unimodular) and follows the weights, because what is held does.
//!
//! Roles stay where they are unless the bounds say otherwise. A partition whose primary is gone is led by a node that has its
//! data already, if one is left. Then roles are passed along shortest chains (node A gives one to B, B one to C) from nodes
//! that lead too much, and to nodes that lead too little.

use std::collections::VecDeque;

use super::board::Board;

/// Gives each partition a primary, evenly.
pub fn even(board: &mut Board<'_>) {
    let copies = board.roster.copies;
    let least: Vec<usize> = board.held.iter().map(|held| held.len() / copies).collect();
    let most: Vec<usize> = board.held.iter().map(|held| held.len().div_ceil(copies)).collect();
    let mut leads = vec![0; board.roster.nodes()];
    for primary in board.primary.iter().flatten() {
        leads[*primary as usize] += 1;
    }
    for partition in 0..board.copies.len() {
        if board.primary[partition].is_none() {
            let rank = |&node: &u16| {
                let full = leads[node as usize] >= most[node as usize];
                (!board.had(partition, node), full, board.distance(partition, node), node)
            };
            let heir = board.copies[partition].iter().copied().min_by_key(rank).expect("each partition has a copy");
            board.primary[partition] = Some(heir);
            leads[heir as usize] += 1;
        }
    }
    while pass(board, &mut leads, |node, leads| leads > most[node], |node, leads| leads < most[node]) {}
    while pass(board, &mut leads, |node, leads| leads > least[node], |node, leads| leads < least[node]) {}
    let within = |(node, leads): (usize, &usize)| (least[node]..=most[node]).contains(leads);
    assert!(leads.iter().enumerate().all(within), "roles can always be even");
}

/// Passes one role from a node that `gives` to one that `takes`, by the shortest chain; false if there is none.
fn pass(
    board: &mut Board<'_>,
    leads: &mut [usize],
    gives: impl Fn(usize, usize) -> bool,
    takes: impl Fn(usize, usize) -> bool,
) -> bool {
    let givers = board.nodes().filter(|&node| gives(node as usize, leads[node as usize]));
    let mut queue: VecDeque<u16> = givers.collect();
    if queue.is_empty() || !leads.iter().enumerate().any(|(node, &leads)| takes(node, leads)) {
        return false;
    }
    // Who passes a role to each node, and of which partition.
    let mut from: Vec<Option<(u16, u16)>> = vec![None; leads.len()];
    let mut met = vec![false; leads.len()];
    queue.iter().for_each(|&node| met[node as usize] = true);
    while let Some(giver) = queue.pop_front() {
        let led = board.held[giver as usize].iter().filter(|&&p| board.primary[p as usize] == Some(giver));
        for (partition, &taker) in led.flat_map(|&p| board.copies[p as usize].iter().map(move |node| (p, node))) {
            if std::mem::replace(&mut met[taker as usize], true) {
                continue;
            }
            from[taker as usize] = Some((giver, partition));
            if takes(taker as usize, leads[taker as usize]) {
                leads[taker as usize] += 1;
                leads[hand_on(board, &from, taker) as usize] -= 1;
                return true;
            }
            queue.push_back(taker);
        }
    }
    false
}

/// Passes roles along the chain that ends at `taker`; the node at its beginning.
fn hand_on(board: &mut Board<'_>, from: &[Option<(u16, u16)>], taker: u16) -> u16 {
    let mut node = taker;
    while let Some((giver, partition)) = from[node as usize] {
        board.primary[partition as usize] = Some(node);
        node = giver;
    }
    node
}
