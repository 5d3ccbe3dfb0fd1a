//! Is what happened to one number linearisable?
//!
//! It is if its operations can be put in one order in which each gets the reply that it did get, and in which one that was
//! answered before another was sent stands before it. An operation of which nobody knows whether it was executed stands
//! anywhere after the moment it was sent, or nowhere.
//!
//! The search is that of Wing and Gong with Lowe's table of prefixes, as in `tests/serialisability/check.rs`, made for long
//! histories of few clients. The answered operations of a client follow one another, so a prefix is how many of each
//! client's are in it, and which of the unknown ones. Two things keep these few. One that writes a number which nobody
//! ever saw may as well not have been executed, so it is left out where nothing is added to numbers. And those that do the
//! same are taken in the order in which they were sent, as any of them can stand for an earlier one.

use std::collections::{BTreeMap, HashSet};

/// What a client asks for. Numbers that are set are set once in a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Action {
    Get,
    Set(i64),
    /// SET with GET.
    Swap(i64),
    Incr,
}

/// What a client was told: the number that is or was there.
pub type Reply = Option<i64>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    pub client: usize,
    pub action: Action,
    /// Before it was sent, ns.
    pub invoked: u64,
    /// When it was answered, ns, and what was said; None if nobody knows whether it was executed.
    pub response: Option<(u64, Reply)>,
}

/// Prefixes that are looked at, at the most.
const STEPS_MAX: usize = 3_000_000;
/// Operations whose outcome is unknown and matters, at the most.
const UNKNOWN_MAX: usize = 128;

/// Why there is no order.
#[derive(Debug)]
pub struct Violation {
    /// The search was given up: that says nothing of the history.
    pub undecided: bool,
    /// The longest prefix that was found, which operations, in order.
    pub prefix: Vec<usize>,
    /// What could come next in time, and the reply that it would have had to get.
    pub refused: Vec<(usize, Reply)>,
}

/// The number after an action, and the reply to it.
fn apply(number: Reply, action: Action) -> (Reply, Reply) {
    match action {
        Action::Get => (number, number),
        Action::Set(new) => (Some(new), None),
        Action::Swap(new) => (Some(new), number),
        Action::Incr => {
            let next = Some(number.unwrap_or(0) + 1);
            (next, next)
        }
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Prefix {
    /// How many of each client's answered operations are in it.
    done: Vec<u32>,
    /// Which of the unknown ones.
    unknown: u128,
    number: Reply,
}

/// A history, by client.
struct History<'a> {
    operations: &'a [Operation],
    /// The answered operations of each client, in order.
    clients: Vec<Vec<usize>>,
    /// Those whose outcome is unknown and matters, in the order in which they were sent; and for each of them the one before
    /// it that does the same.
    unknown: Vec<(usize, Option<usize>)>,
}

impl History<'_> {
    fn new(operations: &[Operation]) -> Option<History<'_>> {
        let mut clients: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        let mut unknown = Vec::new();
        let adds = operations.iter().any(|operation| operation.action == Action::Incr);
        let seen: HashSet<i64> = operations.iter().filter_map(|operation| operation.response?.1).collect();
        for (at, operation) in operations.iter().enumerate() {
            match (operation.response, operation.action) {
                (Some(_), _) => clients.entry(operation.client).or_default().push(at),
                (None, Action::Get) => {}
                (None, Action::Set(number) | Action::Swap(number)) if !adds && !seen.contains(&number) => {}
                (None, _) => unknown.push(at),
            }
        }
        if unknown.len() > UNKNOWN_MAX {
            return None;
        }
        let mut clients: Vec<Vec<usize>> = clients.into_values().collect();
        clients.iter_mut().for_each(|client| client.sort_by_key(|&at| operations[at].invoked));
        unknown.sort_by_key(|&at| operations[at].invoked);
        let same = |nth: usize, at: usize| {
            unknown[..nth].iter().rposition(|&before| operations[before].action == operations[at].action)
        };
        let unknown = unknown.iter().enumerate().map(|(nth, &at)| (at, same(nth, at))).collect();
        Some(History { operations, clients, unknown })
    }

    /// What may come next, those that were answered first first, with the prefixes that they lead to.
    fn next(&self, prefix: &Prefix) -> Vec<(usize, Prefix)> {
        let missing = self.clients.iter().enumerate().filter_map(|(client, operations)| {
            let at = *operations.get(prefix.done[client] as usize)?;
            Some((client, at, self.operations[at].response?.0))
        });
        let mut missing: Vec<(usize, usize, u64)> = missing.collect();
        missing.sort_by_key(|&(_, _, answered)| answered);
        // The next one of a client is answered before its later ones.
        let first = missing.first().map_or(u64::MAX, |&(_, _, answered)| answered);
        let may = |at: usize| self.operations[at].invoked <= first;
        let answered = missing.into_iter().filter(|&(_, at, _)| may(at)).map(|(client, at, _)| {
            let mut next = prefix.clone();
            next.done[client] += 1;
            (at, next)
        });
        let has = |nth: usize| prefix.unknown >> nth & 1 == 1;
        let unknown = self
            .unknown
            .iter()
            .enumerate()
            .filter(|&(nth, &(at, before))| !has(nth) && may(at) && before.is_none_or(has));
        let unknown =
            unknown.map(|(nth, &(at, _))| (at, Prefix { unknown: prefix.unknown | 1 << nth, ..prefix.clone() }));
        answered.chain(unknown).collect()
    }

    fn is_whole(&self, prefix: &Prefix) -> bool {
        prefix.done.iter().zip(&self.clients).all(|(&done, operations)| done as usize == operations.len())
    }
}

/// The order in which the operations ran, if there is one.
pub fn check(operations: &[Operation]) -> Result<Vec<usize>, Violation> {
    let undecided = |prefix| Violation { undecided: true, prefix, refused: Vec::new() };
    let history = History::new(operations).ok_or_else(|| undecided(Vec::new()))?;
    let empty = Prefix { done: vec![0; history.clients.len()], unknown: 0, number: None };
    let mut seen = HashSet::from([empty.clone()]);
    // What is still to be tried after each operation of the order, the best last.
    let begin = |prefix: &Prefix| history.next(prefix).into_iter().rev().collect::<Vec<_>>();
    if history.is_whole(&empty) {
        return Ok(Vec::new());
    }
    let mut path = vec![(empty.clone(), begin(&empty))];
    let mut order: Vec<usize> = Vec::new();
    let mut best = (order.clone(), empty);
    while let Some((prefix, untried)) = path.last_mut() {
        let Some((at, mut next)) = untried.pop() else {
            path.pop();
            order.pop();
            continue;
        };
        let (number, reply) = apply(prefix.number, operations[at].action);
        if operations[at].response.is_some_and(|(_, told)| told != reply) {
            continue;
        }
        next.number = number;
        if !seen.insert(next.clone()) {
            continue;
        }
        if seen.len() > STEPS_MAX {
            return Err(undecided(best.0));
        }
        order.push(at);
        if order.len() > best.0.len() {
            best = (order.clone(), next.clone());
        }
        if history.is_whole(&next) {
            return Ok(order);
        }
        let untried = begin(&next);
        path.push((next, untried));
    }
    let refused = history.next(&best.1).into_iter();
    let refused = refused.map(|(at, _)| (at, apply(best.1.number, operations[at].action).1)).collect();
    Err(Violation { undecided: false, prefix: best.0, refused })
}

/// The operations around the end of the longest prefix, in the order in which they were sent.
pub fn shown(operations: &[Operation], violation: &Violation) -> String {
    const AROUND: usize = 40;
    let mut order: Vec<usize> = (0..operations.len()).collect();
    order.sort_by_key(|&at| operations[at].invoked);
    let refused = violation.refused.iter().map(|&(at, _)| at);
    let around = refused.filter_map(|at| order.iter().position(|&other| other == at)).min().unwrap_or(0);
    let mut text = format!("{} of {} are in order\n", violation.prefix.len(), operations.len());
    for &at in order.iter().take(around + AROUND).skip(around.saturating_sub(AROUND)) {
        let Operation { client, action, invoked, response } = operations[at];
        let place = violation.prefix.iter().position(|&other| other == at);
        let place = place.map_or("-".to_string(), |place| place.to_string());
        let would = violation.refused.iter().find(|(other, _)| *other == at).map(|(_, reply)| reply);
        let would = would.map_or(String::new(), |reply| format!("   would have got {reply:?}"));
        let end = response.map_or("never".into(), |(end, _)| end.to_string());
        let reply = response.map(|(_, reply)| reply);
        text += &format!("[{place:>5}] {invoked:>12} {end:>12} client {client}: {action:?} -> {reply:?}{would}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{Random, seed};

    fn done(client: usize, times: [u64; 2], action: Action, reply: Reply) -> Operation {
        Operation { client, action, invoked: times[0], response: Some((times[1], reply)) }
    }

    fn set(client: usize, times: [u64; 2], number: i64) -> Operation {
        done(client, times, Action::Set(number), None)
    }

    /// 0 is nothing.
    fn get(client: usize, times: [u64; 2], number: i64) -> Operation {
        done(client, times, Action::Get, Some(number).filter(|&number| number != 0))
    }

    fn unknown(client: usize, invoked: u64, action: Action) -> Operation {
        Operation { client, action, invoked, response: None }
    }

    #[track_caller]
    fn good(history: &[Operation]) {
        check(history).expect("an order");
    }

    #[track_caller]
    fn bad(history: &[Operation]) {
        let violation = check(history).expect_err("no order");
        assert!(!violation.undecided && !shown(history, &violation).is_empty());
    }

    #[test]
    fn what_overlaps_may_have_run_in_any_order() {
        good(&[]);
        good(&[set(1, [0, 10], 1), get(2, [5, 6], 0), get(2, [7, 8], 1)]);
        good(&[set(1, [0, 10], 1), set(2, [0, 10], 2), get(3, [11, 12], 1)]);
        good(&[set(1, [0, 10], 1), set(2, [0, 10], 2), get(3, [11, 12], 2)]);
    }

    #[test]
    fn a_stale_read_is_rejected() {
        bad(&[set(1, [0, 10], 1), get(2, [11, 12], 0)]);
        bad(&[set(1, [0, 1], 1), set(1, [2, 3], 2), get(2, [4, 5], 1)]);
        bad(&[set(1, [0, 20], 1), get(2, [1, 2], 1), get(3, [3, 4], 0)]);
        // What nobody has written.
        bad(&[set(1, [0, 10], 1), get(2, [11, 12], 3)]);
    }

    #[test]
    fn a_lost_write_is_rejected() {
        let swap =
            |client, times, new, old: i64| done(client, times, Action::Swap(new), Some(old).filter(|&old| old != 0));
        good(&[set(1, [0, 1], 1), swap(2, [2, 9], 2, 1), swap(3, [2, 9], 3, 2)]);
        bad(&[set(1, [0, 1], 1), swap(2, [2, 9], 2, 1), swap(3, [2, 9], 3, 1)]);
        let incr = |client, times, n| done(client, times, Action::Incr, Some(n));
        good(&[incr(1, [0, 9], 2), incr(2, [0, 9], 1), get(3, [10, 11], 2)]);
        bad(&[incr(1, [0, 9], 1), incr(2, [0, 9], 1)]);
        bad(&[incr(1, [0, 1], 1), incr(2, [2, 3], 2), get(3, [4, 5], 1)]);
        // Executed twice.
        bad(&[incr(1, [0, 1], 1), get(3, [4, 5], 2)]);
    }

    #[test]
    fn what_was_not_answered_may_have_run_or_not() {
        let ghost = unknown(1, 5, Action::Set(1));
        good(&[ghost, get(2, [6, 7], 0), get(2, [100, 101], 1)]);
        good(&[ghost, get(2, [6, 7], 0)]);
        bad(&[ghost, get(2, [3, 4], 1)]);
        bad(&[ghost, get(2, [6, 7], 1), get(2, [8, 9], 0)]);
        let more = unknown(1, 5, Action::Incr);
        good(&[more, more, get(2, [6, 7], 1), get(2, [8, 9], 2)]);
        bad(&[more, more, get(2, [6, 7], 1), get(2, [8, 9], 3)]);
    }

    #[test]
    fn long_histories_with_many_unknown_are_no_difficulty() {
        let mut history = Vec::new();
        for n in 0..2000 {
            // Each client's takes as long as nine of others.
            history.push(done(
                n as usize % 6,
                [10 * n, 10 * n + 55],
                Action::Incr,
                Some(n as i64 + 1 + (n as i64 / 100)),
            ));
            if n % 100 == 99 {
                history.push(unknown(n as usize % 6, 10 * n, Action::Incr));
            }
        }
        good(&history);
        history.push(get(7, [30_000, 30_001], 2020));
        good(&history);
        history.push(get(7, [30_002, 30_003], 2021));
        bad(&history);
    }

    /// Whether any order of any choice of the operations will do: all are tried.
    fn naive(history: &[Operation], order: &mut Vec<usize>) -> bool {
        let mut number = None;
        for (nth, &at) in order.iter().enumerate() {
            let reply;
            (number, reply) = apply(number, history[at].action);
            let early = order[nth + 1..]
                .iter()
                .any(|&later| history[later].response.is_some_and(|(answered, _)| answered < history[at].invoked));
            if early || history[at].response.is_some_and(|(_, told)| told != reply) {
                return false;
            }
        }
        let missing: Vec<usize> = (0..history.len()).filter(|at| !order.contains(at)).collect();
        if missing.iter().all(|&at| history[at].response.is_none()) {
            return true;
        }
        missing.into_iter().any(|at| {
            order.push(at);
            let found = naive(history, order);
            order.pop();
            found
        })
    }

    #[test]
    fn it_agrees_with_trying_everything() {
        let mut random = Random::new(seed());
        let mut verdicts = [0; 2];
        for round in 0..3000 {
            let (mut number, mut now) = (None, 100);
            let mut ready = [0u64; 3];
            let mut history: Vec<Operation> = Vec::new();
            for n in 0..6 {
                let client = random.below(3);
                let action = match random.below(4) {
                    0 => Action::Get,
                    1 => Action::Set(100 * (n + 1)),
                    2 => Action::Swap(100 * (n + 1)),
                    _ => Action::Incr,
                };
                let reply;
                (number, reply) = apply(number, action);
                now += 10;
                // It ran at `now`, and was under way before and after.
                let invoked = (now - random.below(25) as u64).max(ready[client]);
                now = now.max(invoked);
                let answered = now + random.below(25) as u64;
                ready[client] = answered + 1;
                history.push(done(client, [invoked, answered], action, reply));
            }
            let at = random.below(history.len());
            match random.below(4) {
                0 => history[at].response = None,
                1 | 2 => {
                    let other = history[random.below(history.len())].response;
                    if let (Some(response), Some((_, reply))) = (&mut history[at].response, other) {
                        response.1 = reply;
                    }
                }
                _ => {}
            }
            let found = check(&history).is_ok();
            assert_eq!(found, naive(&history, &mut Vec::new()), "round {round}: {history:#?}");
            verdicts[found as usize] += 1;
        }
        assert!(verdicts.iter().all(|&count| count > 300), "{verdicts:?}");
    }
}
