//! The owner's side: who may have which keys, and who waits for them.
//!
//! Whoever wants keys makes one *claim* on all of them at once and stands in a queue for each. A claim is granted when it
//! stands first in all of its queues, and is gone when it is released. A borrower's claim is released when its entries
//! have come back; a request that only had to wait runs as soon as its claim is granted, and releases it at once. A claim
//! on the whole core is granted when every earlier one is gone, and holds up every later one: so a stream of small
//! claims cannot starve it.
//!
//! Why there is no deadlock inside a core: a claim waits for older claims only. Why there is none between cores:
//! [`super::coordinator`].
//!
//! The number of claims is bounded by the number of clients: a connection that waits for a grant makes no other claim on
//! the same core ([`crate::net`]).
//!
//! Pure: no time, no messages, no entries. Owned by one core.
//!
//! Invariant: a claim's ticket stands exactly once in the queue of each of its keys; queues are in the order of tickets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The name of a claim: they ascend in the order of claims.
pub type Ticket = u64;

/// What a claim is for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wants<K> {
    Keys(Vec<K>),
    /// Every key of this core, those that do not exist included.
    Whole,
}

/// Claims of one core. See the module.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lending<K> {
    next: Ticket,
    claims: BTreeMap<Ticket, Wants<K>>,
    queues: BTreeMap<K, Queue>,
    /// The claims on the whole core, ascending.
    wholes: VecDeque<Ticket>,
    #[cfg(test)]
    pub fault: Option<Fault>,
}

/// Who wants one key, in the order of the claims. Nearly always nobody but the first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Queue {
    first: Ticket,
    rest: VecDeque<Ticket>,
}

/// Mistakes that the exploration must find.
#[cfg(test)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// A claim is granted when it stands first for one of its keys.
    FirstOfOneKey,
    /// A claim on the whole core does not wait for the keys that are lent.
    WholeAtOnce,
    /// New claims on keys that are free pass a waiting claim on the whole core.
    PassingWhole,
    /// Of the keys that a claim on the whole core is narrowed to only the first is kept.
    NarrowToOneKey,
}

impl<K> Default for Lending<K> {
    fn default() -> Self {
        Lending {
            next: 0,
            claims: BTreeMap::new(),
            queues: BTreeMap::new(),
            wholes: VecDeque::new(),
            #[cfg(test)]
            fault: None,
        }
    }
}

impl<K: Ord + Clone> Lending<K> {
    /// Nothing is lent and nobody waits.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.claims.is_empty()
    }

    /// Whether a claim on the whole core is granted.
    pub fn is_whole_out(&self) -> bool {
        self.wholes.front().is_some_and(|&ticket| self.is_granted(ticket))
    }

    /// Whether a claim that was made now would have to wait.
    pub fn would_wait(&self, wants: &Wants<K>) -> bool {
        match wants {
            Wants::Whole => !self.claims.is_empty(),
            Wants::Keys(keys) => !self.wholes.is_empty() || keys.iter().any(|key| self.queues.contains_key(key)),
        }
    }

    /// Makes a claim; says whether it is granted at once. A key may be named several times.
    pub fn claim(&mut self, mut wants: Wants<K>) -> (Ticket, bool) {
        let ticket = self.next;
        self.next += 1;
        match &mut wants {
            Wants::Whole => self.wholes.push_back(ticket),
            Wants::Keys(keys) => {
                keys.sort();
                keys.dedup();
                for key in keys {
                    self.queues
                        .entry(key.clone())
                        .and_modify(|queue| queue.rest.push_back(ticket))
                        .or_insert(Queue { first: ticket, rest: VecDeque::new() });
                }
            }
        }
        self.claims.insert(ticket, wants);
        (ticket, self.is_granted(ticket))
    }

    /// Ends a granted claim; the claims that are granted now join `granted`, the oldest first.
    pub fn release(&mut self, ticket: Ticket, granted: &mut impl Extend<Ticket>) {
        debug_assert!(self.is_granted(ticket), "only what is granted is released");
        let Some(wants) = self.claims.remove(&ticket) else { return };
        let mut candidates = BTreeSet::new();
        match wants {
            Wants::Keys(keys) => {
                for key in keys {
                    let Some(queue) = self.queues.get_mut(&key) else { continue };
                    if queue.first != ticket {
                        // Only what is granted by mistake does not stand first.
                        queue.rest.retain(|&other| other != ticket);
                        continue;
                    }
                    match queue.rest.pop_front() {
                        Some(next) => {
                            queue.first = next;
                            candidates.insert(next);
                        }
                        None => drop(self.queues.remove(&key)),
                    }
                }
                candidates.extend(self.wholes.front());
            }
            Wants::Whole => {
                self.wholes.retain(|&other| other != ticket);
                // None of these could be granted before; all later ones wait for the next whole claim.
                let end = self.wholes.front().map_or(Ticket::MAX, |&next| next);
                candidates.extend(self.claims.range(..=end).map(|(&other, _)| other));
            }
        }
        granted.extend(candidates.into_iter().filter(|&candidate| self.is_granted(candidate)));
        if self.claims.is_empty() {
            self.next = 0;
        }
    }

    /// Makes of a granted claim on the whole core one on some of its keys, at least one, which is granted as well; claims
    /// that are granted now join `granted`, the oldest first.
    pub fn narrow(&mut self, ticket: Ticket, mut keys: Vec<K>, granted: &mut impl Extend<Ticket>) {
        debug_assert!(self.wholes.front() == Some(&ticket) && self.is_granted(ticket) && !keys.is_empty());
        keys.sort();
        keys.dedup();
        #[cfg(test)]
        if self.fault == Some(Fault::NarrowToOneKey) {
            keys.truncate(1);
        }
        for key in &keys {
            // All other claims are younger.
            let behind = self.queues.get_mut(key).map(|queue| {
                let second = std::mem::replace(&mut queue.first, ticket);
                queue.rest.push_front(second);
            });
            if behind.is_none() {
                self.queues.insert(key.clone(), Queue { first: ticket, rest: VecDeque::new() });
            }
        }
        self.claims.insert(ticket, Wants::Keys(keys));
        self.wholes.pop_front();
        let end = self.wholes.front().map_or(Ticket::MAX, |&next| next);
        let candidates: Vec<Ticket> = self.claims.range(ticket + 1..=end).map(|(&other, _)| other).collect();
        granted.extend(candidates.into_iter().filter(|&candidate| self.is_granted(candidate)));
    }

    /// Whether a claim stands first wherever it has to.
    pub fn is_granted(&self, ticket: Ticket) -> bool {
        let first = |key: &K| self.queues.get(key).is_some_and(|queue| queue.first == ticket);
        match self.claims.get(&ticket) {
            None => false,
            #[cfg(test)]
            Some(Wants::Whole) if self.fault == Some(Fault::WholeAtOnce) => self.wholes.front() == Some(&ticket),
            Some(Wants::Whole) => self.claims.first_key_value().is_some_and(|(&oldest, _)| oldest == ticket),
            #[cfg(test)]
            Some(Wants::Keys(keys)) if self.fault == Some(Fault::FirstOfOneKey) => keys.iter().any(first),
            #[cfg(test)]
            Some(Wants::Keys(keys)) if self.fault == Some(Fault::PassingWhole) => keys.iter().all(first),
            Some(Wants::Keys(keys)) => {
                self.wholes.front().is_none_or(|&whole| ticket < whole) && keys.iter().all(first)
            }
        }
    }

    /// Checks the invariants.
    #[cfg(test)]
    pub fn validate(&self) {
        let mut places = 0;
        for (key, queue) in &self.queues {
            let tickets: Vec<Ticket> = [queue.first].into_iter().chain(queue.rest.iter().copied()).collect();
            assert!(tickets.is_sorted());
            for ticket in &tickets {
                assert!(matches!(&self.claims[ticket], Wants::Keys(keys) if keys.contains(key)));
            }
            places += tickets.len();
        }
        let wanted = |wants: &Wants<K>| if let Wants::Keys(keys) = wants { keys.len() } else { 0 };
        assert_eq!(places, self.claims.values().map(wanted).sum::<usize>());
        let wholes: Vec<_> = self.claims.iter().filter(|(_, wants)| **wants == Wants::Whole).map(|(&t, _)| t).collect();
        assert!(self.wholes.iter().copied().eq(wholes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(keys: &str) -> Wants<char> {
        Wants::Keys(keys.chars().collect())
    }

    #[test]
    fn a_claim_waits_for_all_of_its_keys() {
        let mut lending = Lending::default();
        let mut granted = Vec::new();
        let (a, now) = lending.claim(keys("a"));
        assert!(now);
        let (b, now) = lending.claim(keys("b"));
        assert!(now);
        let (ab, now) = lending.claim(keys("abba"));
        assert!(!now);
        // Later ones stand behind it, also for a key that nobody has.
        let (bc, now) = lending.claim(keys("bc"));
        assert!(!now);
        assert!(lending.would_wait(&keys("c")) && !lending.would_wait(&keys("d")) && lending.would_wait(&Wants::Whole));
        lending.validate();
        lending.release(a, &mut granted);
        assert!(granted.is_empty());
        lending.release(b, &mut granted);
        assert_eq!(granted, [ab]);
        lending.release(ab, &mut granted);
        assert_eq!(granted, [ab, bc]);
        lending.release(bc, &mut granted);
        assert!(lending.is_idle());
    }

    #[test]
    fn a_whole_claim_waits_for_what_is_older_and_holds_up_what_is_younger() {
        let mut lending = Lending::default();
        let mut granted = Vec::new();
        let (a, _) = lending.claim(keys("a"));
        let (whole, now) = lending.claim(Wants::Whole);
        assert!(!now && lending.would_wait(&keys("z")) && !lending.is_whole_out());
        let younger: Vec<Ticket> = ["x", "y", "xy", ""].map(|text| lending.claim(keys(text)).0).into();
        let (second, _) = lending.claim(Wants::Whole);
        let (last, now) = lending.claim(keys(""));
        assert!(!now);
        lending.release(a, &mut granted);
        assert_eq!(granted, [whole]);
        assert!(lending.is_whole_out());
        granted.clear();
        lending.release(whole, &mut granted);
        assert_eq!(granted, [younger[0], younger[1], younger[3]]);
        lending.validate();
        for at in 0..4 {
            let ticket = granted[at];
            lending.release(ticket, &mut granted);
        }
        assert_eq!(granted[3..], [younger[2], second]);
        lending.release(second, &mut granted);
        assert_eq!(granted[5..], [last]);
    }

    #[test]
    fn a_whole_claim_can_be_narrowed_to_some_keys() {
        let mut lending = Lending::default();
        let mut granted = Vec::new();
        let (whole, now) = lending.claim(Wants::Whole);
        assert!(now);
        let younger: Vec<Ticket> = ["a", "b", "ac", "c", "d"].map(|text| lending.claim(keys(text)).0).into();
        let (second, _) = lending.claim(Wants::Whole);
        let (last, _) = lending.claim(keys("e"));
        lending.narrow(whole, vec!['a', 'z', 'c', 'a'], &mut granted);
        lending.validate();
        // Whoever wants other keys goes on, up to the next claim on the whole core.
        assert_eq!(granted, [younger[1], younger[4]]);
        assert!(lending.is_granted(whole) && !lending.is_whole_out());
        assert!(lending.would_wait(&keys("z")));
        granted.clear();
        lending.release(younger[4], &mut granted);
        lending.release(younger[1], &mut granted);
        assert!(granted.is_empty());
        lending.release(whole, &mut granted);
        lending.validate();
        assert_eq!(granted, [younger[0]]);
        for (released, then) in
            [(younger[0], &[younger[2]][..]), (younger[2], &[younger[3]]), (younger[3], &[second]), (second, &[last])]
        {
            granted.clear();
            lending.release(released, &mut granted);
            assert_eq!(granted, then);
        }
        lending.release(last, &mut granted);
        assert!(lending.is_idle());
    }
}
