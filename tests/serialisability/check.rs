//! Is a history strictly serialisable?
//!
//! It is if its requests can be put in one order in which each gets, from the sequential [`State`], the reply that it did
//! get, and in which a request that was answered before another was sent stands before it. A request without a reply
//! (its client was gone) stands anywhere after the moment it was sent, or nowhere.
//!
//! The search is the one of Wing and Gong ("Testing and Verifying Concurrent Objects", JPDC 1993): depth first over the
//! prefixes of such orders. What may come next is each request that was sent before the first answer among those that are
//! still missing. With Lowe's addition ("Testing for linearizability", Concurrency and Computation 29, 2017), the one that
//! makes it practical: two prefixes with the same requests and the same state have the same future, so a pair (set of
//! requests, state) is entered once. As each request here is a whole transaction on all keys, linearisability of this
//! one object is strict serialisability.
//!
//! Deciding it is NP-complete (Gibbons and Korach 1997); with few clients and values that are written once, few orders
//! are possible, and [`STEPS_MAX`] is never reached.

use std::collections::{HashMap, HashSet};

use keyloom::resp::read::Value;

use crate::model::{ClientId, Key, Request, State};

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct Operation {
    pub client: ClientId,
    pub request: Request,
    /// Before it was sent, ns.
    pub invoked: u64,
    /// When it was answered, ns, and how; None if nobody knows whether it ran.
    pub response: Option<(u64, Value)>,
    /// Earlier requests of the same pipeline that must stand before it.
    pub after: Vec<usize>,
}

/// Operations of one history, at the most.
pub const OPERATIONS_MAX: usize = 256;
/// Prefixes that are looked at, at the most.
const STEPS_MAX: usize = 1_000_000;

type Done = [u64; OPERATIONS_MAX / 64];

fn has(done: &Done, at: usize) -> bool {
    done[at / 64] >> (at % 64) & 1 == 1
}

fn with(mut done: Done, at: usize) -> Done {
    done[at / 64] |= 1 << (at % 64);
    done
}

/// Why there is no order.
#[derive(Debug)]
pub struct Violation {
    /// The search was given up after [`STEPS_MAX`] prefixes.
    pub undecided: bool,
    /// The longest prefix that was found: which operations, in order.
    pub prefix: Vec<usize>,
    /// What could come next in time, with the reply that it would have had to get.
    pub refused: Vec<(usize, Value)>,
}

/// A node on the path of the search.
struct Prefix {
    done: Done,
    /// In the table of states.
    state: usize,
    /// What may come next, and how many of these were tried.
    next: Vec<Next>,
    tried: usize,
}

/// An operation, and at which key it was served, if its client waited ([`Request::served`]).
type Next = (usize, Option<Key>);

/// Every state once.
#[derive(Default)]
struct States {
    numbers: HashMap<State, usize>,
    all: Vec<State>,
}

impl States {
    fn number(&mut self, state: State) -> usize {
        *self.numbers.entry(state).or_insert_with_key(|state| {
            self.all.push(state.clone());
            self.all.len() - 1
        })
    }
}

/// What may come next, those that were answered first first.
fn candidates(history: &[Operation], done: &Done, names: &[String]) -> Vec<Next> {
    let missing = || history.iter().enumerate().filter(|(at, _)| !has(done, *at));
    let answered = |operation: &Operation| operation.response.as_ref().map_or(u64::MAX, |(at, _)| *at);
    let first = missing().map(|(_, operation)| answered(operation)).min().unwrap_or(u64::MAX);
    let may = |(_, operation): &(usize, &Operation)| {
        operation.invoked <= first && operation.after.iter().all(|&before| has(done, before))
    };
    let mut next: Vec<usize> = missing().filter(may).map(|(at, _)| at).collect();
    next.sort_by_key(|&at| answered(&history[at]));
    let choices = |at: usize| {
        let Operation { request, response, .. } = &history[at];
        let served = request.served(response.as_ref().map(|(_, reply)| reply), names);
        served.into_iter().map(move |key| (at, key))
    };
    next.into_iter().flat_map(choices).collect()
}

/// The order in which the operations of a history ran, if there is one.
pub fn check(history: &[Operation], names: &[String]) -> Result<Vec<usize>, Violation> {
    assert!(history.len() <= OPERATIONS_MAX);
    let all: Done = (0..history.len()).filter(|&at| history[at].response.is_some()).fold(Default::default(), with);
    let finished = |done: &Done| done.iter().zip(&all).all(|(done, all)| done & all == *all);
    let mut states = States::default();
    let empty = Done::default();
    let start = states.number(State::default());
    let mut seen = HashSet::from([(empty, start)]);
    let mut path = vec![Prefix { done: empty, state: start, next: candidates(history, &empty, names), tried: 0 }];
    let mut order: Vec<Next> = Vec::new();
    let mut best: Vec<Next> = Vec::new();
    while let Some(prefix) = path.last_mut() {
        if finished(&prefix.done) {
            return Ok(order.into_iter().map(|(at, _)| at).collect());
        }
        let Some(&(at, served)) = prefix.next.get(prefix.tried) else {
            path.pop();
            order.pop();
            continue;
        };
        prefix.tried += 1;
        let Operation { client, request, response, .. } = &history[at];
        let mut state = states.all[prefix.state].clone();
        let reply = state.execute(*client, request, served, names);
        if response.as_ref().is_some_and(|(_, seen)| *seen != reply) {
            continue;
        }
        let (done, state) = (with(prefix.done, at), states.number(state));
        if !seen.insert((done, state)) {
            continue;
        }
        if seen.len() >= STEPS_MAX {
            return Err(violation(history, names, best, true));
        }
        order.push((at, served));
        if order.len() > best.len() {
            best = order.clone();
        }
        path.push(Prefix { done, state, next: candidates(history, &done, names), tried: 0 });
    }
    Err(violation(history, names, best, false))
}

fn violation(history: &[Operation], names: &[String], prefix: Vec<Next>, undecided: bool) -> Violation {
    let (mut state, mut done) = (State::default(), Done::default());
    for &(at, served) in &prefix {
        state.execute(history[at].client, &history[at].request, served, names);
        done = with(done, at);
    }
    let reply = |(at, served): Next| {
        let Operation { client, request, .. } = &history[at];
        (at, state.clone().execute(*client, request, served, names))
    };
    let refused = candidates(history, &done, names).into_iter().map(reply).collect();
    Violation { undecided, prefix: prefix.into_iter().map(|(at, _)| at).collect(), refused }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{Random, seed};
    use crate::model::Command::{self, *};

    fn names() -> Vec<String> {
        ["a", "b", "c"].map(str::to_string).into()
    }

    /// Answered with `reply`.
    fn done(client: ClientId, times: [u64; 2], request: Request, reply: Value) -> Operation {
        Operation { client, request, invoked: times[0], response: Some((times[1], reply)), after: Vec::new() }
    }

    fn pending(client: ClientId, invoked: u64, command: Command) -> Operation {
        Operation { client, request: Request::One(command), invoked, response: None, after: Vec::new() }
    }

    fn set(client: ClientId, times: [u64; 2], key: usize, n: i64) -> Operation {
        done(client, times, Request::One(Set(key, n)), Value::Simple(b"OK".to_vec()))
    }

    fn get(client: ClientId, times: [u64; 2], key: usize, n: i64) -> Operation {
        done(client, times, Request::One(Get(key)), bulk(n))
    }

    fn mget(client: ClientId, times: [u64; 2], values: [i64; 2]) -> Operation {
        done(client, times, Request::One(Mget(vec![0, 1])), Value::Array(values.map(bulk).into()))
    }

    fn mset(client: ClientId, times: [u64; 2], n: i64) -> Operation {
        done(client, times, Request::One(Mset(vec![(0, n), (1, n)])), Value::Simple(b"OK".to_vec()))
    }

    /// 0 is nothing.
    fn bulk(n: i64) -> Value {
        if n == 0 { Value::Null } else { Value::Bulk(n.to_string().into_bytes()) }
    }

    fn good(history: &[Operation]) {
        let order = check(history, &names()).expect("an order");
        let place = |at: usize| order.iter().position(|&other| other == at);
        for (at, operation) in history.iter().enumerate() {
            let Some((answered, _)) = operation.response else { continue };
            for (other, later) in history.iter().enumerate().filter(|(_, later)| answered < later.invoked) {
                assert!(place(other).is_none_or(|place_of| place(at).unwrap() < place_of), "{at} {later:?}");
            }
        }
    }

    #[track_caller]
    fn bad(history: &[Operation]) {
        check(history, &names()).expect_err("no order");
    }

    #[test]
    fn what_overlaps_may_have_run_in_any_order() {
        good(&[]);
        good(&[set(1, [0, 10], 0, 1), get(2, [5, 6], 0, 0), get(2, [7, 8], 0, 1)]);
        good(&[set(1, [0, 10], 0, 1), set(2, [0, 10], 0, 2), get(3, [11, 12], 0, 1)]);
        good(&[set(1, [0, 10], 0, 1), set(2, [0, 10], 0, 2), get(3, [11, 12], 0, 2)]);
        // The same moment is no order.
        good(&[set(1, [0, 10], 0, 1), get(2, [10, 12], 0, 0)]);
        good(&[mset(1, [0, 10], 1), mget(2, [1, 2], [0, 0]), mget(2, [3, 4], [1, 1])]);
    }

    #[test]
    fn a_stale_read_after_a_response_is_rejected() {
        bad(&[set(1, [0, 10], 0, 1), get(2, [11, 12], 0, 0)]);
        bad(&[set(1, [0, 1], 0, 1), set(1, [2, 3], 0, 2), get(2, [4, 5], 0, 1)]);
        // Each key alone is in order; the two reads have opposite opinions of which write was first.
        let writes = [set(1, [0, 100], 0, 1), set(2, [0, 100], 1, 1)];
        let first = [get(3, [1, 2], 0, 1), get(3, [3, 4], 1, 0)];
        let second = [get(4, [1, 2], 1, 1), get(4, [3, 4], 0, 0)];
        good(&[&writes[..], &first].concat());
        bad(&[&writes[..], &first, &second].concat());
    }

    #[test]
    fn a_torn_read_is_rejected() {
        bad(&[mset(1, [0, 10], 1), mget(2, [1, 2], [1, 0])]);
        bad(&[mset(1, [0, 10], 1), mset(2, [0, 10], 2), mget(3, [1, 20], [1, 2])]);
        // Half of a transfer.
        let transfer = Request::Exec(vec![IncrBy(0, -5), IncrBy(1, 5)]);
        let transfer = done(2, [2, 9], transfer, Value::Array(vec![Value::Int(5), Value::Int(15)]));
        good(&[mset(1, [0, 1], 10), transfer.clone(), mget(3, [3, 4], [10, 10]), mget(3, [5, 6], [5, 15])]);
        bad(&[mset(1, [0, 1], 10), transfer, mget(3, [3, 4], [5, 10])]);
    }

    #[test]
    fn a_lost_update_is_rejected() {
        let add = |client, times, n| done(client, times, Request::One(IncrBy(0, 1)), Value::Int(n));
        good(&[add(1, [0, 10], 2), add(2, [0, 10], 1)]);
        bad(&[add(1, [0, 10], 1), add(2, [0, 10], 1)]);
        bad(&[add(1, [0, 10], 2), add(2, [0, 10], 1), get(3, [20, 21], 0, 1)]);
        // An element that two have taken.
        let push = done(1, [0, 1], Request::One(RPush(0, 7)), Value::Int(1));
        let take = |client, reply| done(client, [2, 9], Request::One(LMove(0, 1)), reply);
        good(&[push.clone(), take(2, bulk(7)), take(3, Value::Null)]);
        bad(&[push, take(2, bulk(7)), take(3, bulk(7))]);
    }

    #[test]
    fn what_was_not_answered_may_have_run_or_not() {
        let ghost = pending(1, 5, Set(0, 1));
        good(&[ghost.clone(), get(2, [6, 7], 0, 0), get(2, [100, 101], 0, 1)]);
        good(&[ghost.clone(), get(2, [6, 7], 0, 0)]);
        // But not before it was sent, and not taken back.
        bad(&[ghost.clone(), get(2, [3, 4], 0, 1)]);
        bad(&[ghost.clone(), get(2, [6, 7], 0, 1), get(2, [8, 9], 0, 0)]);
        // One that follows it in its pipeline has not run without it.
        let second = Operation { after: vec![0], ..pending(1, 5, Set(1, 2)) };
        good(&[ghost.clone(), second.clone(), get(2, [6, 7], 1, 2), get(2, [8, 9], 0, 1)]);
        bad(&[ghost, second, get(2, [6, 7], 1, 2), get(2, [8, 9], 0, 0)]);
    }

    #[test]
    fn an_exec_without_a_reply_ends_the_watching_though_it_only_reads() {
        let watch = done(1, [0, 1], Request::Watch(vec![2]), Value::Simple(b"OK".to_vec()));
        let touch = set(1, [2, 3], 2, 1);
        let unanswered = |request, after| Operation { request, after, ..pending(1, 5, Set(0, 1)) };
        let reads = unanswered(Request::Exec(vec![Get(0)]), vec![]);
        assert!(reads.request.counts() && watch.request.counts() && !Request::One(Get(0)).counts());
        let writes = |after| unanswered(Request::Exec(vec![Set(0, 7)]), after);
        let seen = get(2, [6, 7], 0, 7);
        good(&[watch.clone(), touch.clone(), reads, writes(vec![2]), seen.clone()]);
        bad(&[watch, touch, writes(vec![]), seen]);
    }

    #[test]
    fn a_transaction_runs_exactly_if_what_it_watches_has_not_changed() {
        let watch = done(1, [0, 1], Request::Watch(vec![0]), Value::Simple(b"OK".to_vec()));
        let exec = |reply| done(1, [10, 20], Request::Exec(vec![IncrBy(1, 1)]), reply);
        let ran = || Value::Array(vec![Value::Int(1)]);
        good(&[watch.clone(), exec(ran())]);
        bad(&[watch.clone(), exec(Value::NullArray)]);
        good(&[watch.clone(), set(2, [2, 3], 0, 1), exec(Value::NullArray)]);
        bad(&[watch.clone(), set(2, [2, 3], 0, 1), exec(ran())]);
        good(&[watch.clone(), set(2, [2, 15], 0, 1), exec(ran())]);
        good(&[watch.clone(), set(2, [2, 3], 1, 1), exec(Value::Array(vec![Value::Int(2)]))]);
        // Watching ends with EXEC.
        let again = done(1, [30, 31], Request::Exec(vec![]), Value::Array(vec![]));
        good(&[watch, set(2, [2, 3], 0, 1), exec(Value::NullArray), again]);
    }

    #[test]
    fn a_client_that_waits_is_served_at_any_of_its_keys() {
        let element = |name: &str, n: i64| Value::Array(vec![Value::Bulk(name.into()), bulk(n)]);
        let push = done(1, [2, 3], Request::Exec(vec![RPush(1, 5), RPush(0, 6)]), Value::Array(vec![Value::Int(1); 2]));
        let wait = |reply| done(2, [0, 9], Request::One(BLPop(vec![0, 1])), reply);
        good(&[push.clone(), wait(element("a", 6))]);
        good(&[push.clone(), wait(element("b", 5))]);
        good(&[push.clone(), wait(Value::NullArray)]);
        bad(&[push.clone(), wait(element("b", 6))]);
        let try_it = |reply| done(2, [4, 9], Request::Exec(vec![BLPop(vec![0, 1])]), Value::Array(vec![reply]));
        good(&[push.clone(), try_it(element("a", 6))]);
        bad(&[push.clone(), try_it(element("b", 5))]);
        // It may be gone with either.
        let gone = pending(2, 0, BLPop(vec![0, 1]));
        let left = |key, n| done(3, [5, 6], Request::One(LMove(key, 2)), if n == 0 { Value::Null } else { bulk(n) });
        good(&[push.clone(), gone.clone(), left(1, 0)]);
        good(&[push.clone(), gone.clone(), left(0, 0)]);
        bad(&[push, gone, left(0, 0), left(1, 0)]);
    }

    /// Without the table of prefixes this takes 2^40 steps.
    #[test]
    fn many_requests_of_which_nobody_knows_are_no_difficulty() {
        let mut history: Vec<Operation> = (0..40).map(|n| pending(n, 0, Set(0, 1))).collect();
        history.extend((0..50).map(|n| get(100, [2 * n + 1, 2 * n + 2], 0, 1)));
        good(&history[..60]);
        history.truncate(18);
        history.push(get(100, [1, 2], 0, 3));
        bad(&history);
    }

    /// Whether any order of any choice of the operations will do: all are tried.
    fn naive(history: &[Operation], order: &mut Vec<usize>) -> bool {
        let mut state = State::default();
        for (nth, &at) in order.iter().enumerate() {
            let operation = &history[at];
            let reply = state.execute(operation.client, &operation.request, None, &names());
            let late = |&later: &usize| history[later].response.as_ref().is_some_and(|(t, _)| *t < operation.invoked);
            let seen = operation.response.as_ref().is_none_or(|(_, seen)| *seen == reply);
            if !seen || order[nth + 1..].iter().any(late) {
                return false;
            }
        }
        let missing = |at: &usize| !order.contains(at);
        if (0..history.len()).filter(missing).all(|at| {
            let last =
                |&before: &usize| history[at].response.as_ref().is_some_and(|(t, _)| *t < history[before].invoked);
            history[at].response.is_none() && !order.iter().any(last)
        }) {
            return true;
        }
        let rest: Vec<usize> = (0..history.len()).filter(missing).collect();
        rest.into_iter().any(|at| {
            order.push(at);
            let found = naive(history, order);
            order.pop();
            found
        })
    }

    #[test]
    fn it_judges_as_the_search_through_all_orders_does() {
        let mut random = Random::new(seed());
        let mut verdicts = [0; 2];
        for round in 0..3000 {
            let mut state = State::default();
            let mut now: u64 = 100;
            let mut history: Vec<Operation> = (0..3 + random.below(3))
                .map(|client| {
                    let (key, n) = (random.below(2), 1 + random.below(3) as i64);
                    let command = match random.below(5) {
                        0 => Set(key, n),
                        1 => IncrBy(key, n),
                        2 => Mset(vec![(0, n), (1, n)]),
                        3 => Mget(vec![0, 1]),
                        _ => Rename(key, 1 - key),
                    };
                    let request = Request::One(command);
                    let reply = state.execute(client as ClientId, &request, None, &names());
                    now += 10;
                    // It ran at `now`, and was under way before and after.
                    let times = [now - random.below(25) as u64, now + random.below(25) as u64];
                    done(client as ClientId, times, request, reply)
                })
                .collect();
            if random.one_in(3) {
                let at = random.below(history.len());
                history[at].response = None;
            }
            if random.one_in(2) {
                // Replies of two operations are exchanged, or one comes too early.
                let (a, b) = (random.below(history.len()), random.below(history.len()));
                if random.one_in(2) {
                    let reply = history[a].response.clone().map(|(_, reply)| reply);
                    if let (Some(reply), Some(response)) = (reply, &mut history[b].response) {
                        response.1 = reply;
                    }
                } else {
                    let invoked = history[a].invoked;
                    if let Some((t, _)) = &mut history[a].response {
                        *t = t.saturating_sub(20).max(invoked);
                    }
                }
            }
            let found = check(&history, &names()).is_ok();
            assert_eq!(found, naive(&history, &mut Vec::new()), "round {round}: {history:#?}");
            verdicts[found as usize] += 1;
        }
        assert!(verdicts.iter().all(|&count| count > 200), "{verdicts:?}");
    }
}
