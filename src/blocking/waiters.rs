//! The waiters at one owner, and to whom the next element is offered. A pure state machine: it knows keys, not values.
//!
//! Each key has a queue in the order of arrival. A *signal* says that there may be an element. [`Waiters::offer`] then picks
//! the first waiter who wants what is there; until that waiter has answered ([`Waiters::decline`] or [`Waiters::leave`]),
//! nobody else is picked for the key, and a signal that comes meanwhile is remembered.
//!
//! Invariant: a queue is not empty; a waiter is in the queues of exactly its `keys`; `offered` names a waiter of the queue.
//!
//! Owned by one core.

use std::collections::{HashMap, VecDeque};

use crate::route::CoreId;
use crate::shard::Kind;

/// A client that waits, by its place on its core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter {
    pub home: CoreId,
    pub connection: u32,
    /// Generation of the connection's place.
    pub generation: u32,
    /// How many times this connection has waited before: an answer to an earlier wait means nothing to a later one.
    pub wait: u32,
}

/// What a waiter is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub waiter: Waiter,
    pub db: u8,
    pub key: Vec<u8>,
}

/// A key in a database.
type Place = (u8, Vec<u8>);

struct Queue {
    waiting: VecDeque<(Waiter, Kind)>,
    offered: Option<Waiter>,
    /// Which offer that is, of all that were made.
    offer: u64,
    /// There was a signal since the last offer.
    signalled: bool,
}

/// See the module.
#[derive(Default)]
pub struct Waiters {
    queues: HashMap<Place, Queue, ahash::RandomState>,
    keys: HashMap<Waiter, Vec<Place>, ahash::RandomState>,
    /// Keys with a signal for which nobody has an offer, in the order of the signals; some may be over.
    ready: VecDeque<Place>,
    /// Offers that were made.
    offers: u64,
}

impl Waiters {
    /// Nobody waits. What every command that adds an element asks first.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty()
    }

    /// Number of waiters.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Adds a waiter for `keys` of type `kind` at the end of their queues, and signals them: an element may have come since
    /// the waiter looked.
    pub fn join(&mut self, waiter: Waiter, kind: Kind, db: u8, keys: &[Vec<u8>]) {
        let mut places = Vec::with_capacity(keys.len());
        for key in keys {
            let place = (db, key.clone());
            // A key that is named twice is one.
            if places.contains(&place) {
                continue;
            }
            let queue = self.queues.entry(place.clone()).or_insert_with(|| Queue {
                waiting: VecDeque::new(),
                offered: None,
                offer: 0,
                signalled: false,
            });
            queue.waiting.push_back((waiter, kind));
            places.push(place);
        }
        for (db, key) in &places {
            self.signal(*db, key);
        }
        self.keys.insert(waiter, places);
    }

    /// There may be an element at a key.
    pub fn signal(&mut self, db: u8, key: &[u8]) {
        if self.queues.is_empty() {
            return;
        }
        let place = (db, key.to_vec());
        let Some(queue) = self.queues.get_mut(&place) else { return };
        if !std::mem::replace(&mut queue.signalled, true) && queue.offered.is_none() {
            self.ready.push_back(place);
        }
    }

    /// Whether [`Waiters::offer`] has something to look at.
    #[inline]
    pub fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The next offer to make. `kind_at` tells what is at a key; a waiter who wants something else is passed over.
    pub fn offer(&mut self, mut kind_at: impl FnMut(u8, &[u8]) -> Option<Kind>) -> Option<Offer> {
        while let Some(place) = self.ready.pop_front() {
            let Some(queue) = self.queues.get_mut(&place) else { continue };
            if queue.offered.is_some() || !std::mem::take(&mut queue.signalled) {
                continue;
            }
            let Some(kind) = kind_at(place.0, &place.1) else { continue };
            let first = queue.waiting.iter().find(|(_, wanted)| *wanted == kind);
            if let Some(&(waiter, _)) = first {
                self.offers += 1;
                (queue.offered, queue.offer) = (Some(waiter), self.offers);
                return Some(Offer { waiter, db: place.0, key: place.1 });
            }
        }
        None
    }

    /// A waiter has found nothing and keeps its place.
    pub fn decline(&mut self, waiter: Waiter, db: u8, key: &[u8]) {
        let place = (db, key.to_vec());
        if let Some(queue) = self.queues.get_mut(&place)
            && queue.offered == Some(waiter)
        {
            queue.offered = None;
            if queue.signalled {
                self.ready.push_back(place);
            }
        }
    }

    /// A waiter has what it wanted, or wants no more. Keys that were offered to it are offered to the next, before any other
    /// key: all who wait for one are served before the next one's turn, as in Redis. Returns those for which nobody waits now.
    pub fn leave(&mut self, waiter: Waiter) -> Vec<Place> {
        let mut deserted = Vec::new();
        let mut passed_on = Vec::new();
        for place in self.keys.remove(&waiter).unwrap_or_default() {
            let Some(queue) = self.queues.get_mut(&place) else { continue };
            queue.waiting.retain(|(other, _)| *other != waiter);
            if queue.waiting.is_empty() {
                self.queues.remove(&place);
                deserted.push(place);
            } else if queue.offered == Some(waiter) {
                queue.offered = None;
                queue.signalled = true;
                passed_on.push((queue.offer, place));
            }
        }
        // In the order in which they were offered.
        passed_on.sort_unstable_by_key(|(offer, _)| std::cmp::Reverse(*offer));
        passed_on.into_iter().for_each(|(_, place)| self.ready.push_front(place));
        deserted
    }

    #[cfg(test)]
    fn validate(&self) {
        for (place, queue) in &self.queues {
            assert!(!queue.waiting.is_empty());
            assert!(queue.waiting.iter().all(|(waiter, _)| self.keys[waiter].contains(place)));
            assert!(queue.offered.is_none_or(|offered| queue.waiting.iter().any(|(waiter, _)| *waiter == offered)));
            let awaits_offer = queue.signalled && queue.offered.is_none();
            assert!(!awaits_offer || self.ready.contains(place), "a signal is forgotten");
        }
        let places: usize = self.keys.values().map(Vec::len).sum();
        assert_eq!(places, self.queues.values().map(|queue| queue.waiting.len()).sum::<usize>());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn waiter(connection: u32) -> Waiter {
        Waiter { home: 0, connection, generation: 0, wait: 0 }
    }

    fn key(name: u8) -> Vec<u8> {
        vec![name]
    }

    /// What one model run knows: elements per key, and what each client got.
    #[derive(Default)]
    struct World {
        waiters: Waiters,
        elements: [usize; 3],
        /// Waiting clients in the order of arrival, with their keys.
        waiting: Vec<(u32, Vec<u8>)>,
        /// Offers that are on the way to their waiters.
        offers: VecDeque<Offer>,
        served: usize,
        pushed: usize,
    }

    impl World {
        fn offer_all(&mut self) {
            let elements = self.elements;
            while let Some(offer) = self.waiters.offer(|_, key| (elements[key[0] as usize] > 0).then_some(Kind::List)) {
                self.offers.push_back(offer);
            }
        }

        /// A waiter gets its offer: it tries, and answers.
        fn deliver(&mut self) {
            let Some(offer) = self.offers.pop_front() else { return };
            let id = offer.waiter.connection;
            let Some(at) = self.waiting.iter().position(|(other, _)| *other == id) else { return };
            let found = self.waiting[at].1.iter().copied().find(|&key| self.elements[key as usize] > 0);
            match found {
                Some(key) => {
                    self.elements[key as usize] -= 1;
                    self.served += 1;
                    self.waiting.remove(at);
                    self.waiters.leave(offer.waiter);
                }
                None => self.waiters.decline(offer.waiter, 0, &offer.key),
            }
        }
    }

    proptest! {
        /// Whatever happens in whatever order: when all offers are answered, no element lies where somebody waits for it.
        #[test]
        fn nobody_waits_beside_an_element(steps in prop::collection::vec((0..6u8, 0..3u8, 0..3u8), 1..80)) {
            let mut world = World::default();
            for (id, (step, a, b)) in steps.into_iter().enumerate() {
                match step {
                    0 | 1 => {
                        let id = id as u32;
                        world.waiters.join(waiter(id), Kind::List, 0, &[key(a), key(b)]);
                        world.waiting.push((id, vec![a, b]));
                    }
                    2 => {
                        world.elements[a as usize] += 1;
                        world.pushed += 1;
                        world.waiters.signal(0, &key(a));
                    }
                    // Somebody who does not wait takes it.
                    3 => {
                        let taken = world.elements[a as usize].min(1);
                        world.elements[a as usize] -= taken;
                        world.served += taken;
                    }
                    // A client gives up.
                    4 if !world.waiting.is_empty() => {
                        let at = (a as usize * 3 + b as usize) % world.waiting.len();
                        let (id, _) = world.waiting.remove(at);
                        world.waiters.leave(waiter(id));
                    }
                    _ => world.deliver(),
                }
                world.offer_all();
                world.waiters.validate();
            }
            while !world.offers.is_empty() {
                world.deliver();
                world.offer_all();
                world.waiters.validate();
            }
            let elements: usize = world.elements.iter().sum();
            prop_assert_eq!(world.pushed, world.served + elements);
            for (_, keys) in &world.waiting {
                prop_assert!(keys.iter().all(|&key| world.elements[key as usize] == 0));
            }
            prop_assert_eq!(world.waiters.len(), world.waiting.len());
            for (id, _) in &world.waiting {
                world.waiters.leave(waiter(*id));
            }
            prop_assert!(world.waiters.is_empty());
        }
    }

    #[test]
    fn who_came_first_is_asked_first_and_alone() {
        let mut waiters = Waiters::default();
        let is_list = |_: u8, _: &[u8]| Some(Kind::List);
        (1..4).for_each(|id| waiters.join(waiter(id), Kind::List, 0, &[key(0)]));
        assert_eq!(waiters.offer(|_, _| None), None);
        waiters.signal(0, &key(0));
        assert_eq!(waiters.offer(is_list).unwrap().waiter, waiter(1));
        waiters.signal(0, &key(0));
        assert_eq!(waiters.offer(is_list), None, "one offer at a time");
        waiters.decline(waiter(1), 0, &key(0));
        assert_eq!(waiters.offer(is_list).unwrap().waiter, waiter(1), "it has kept its place");
        waiters.leave(waiter(1));
        assert_eq!(waiters.offer(is_list).unwrap().waiter, waiter(2));
        waiters.decline(waiter(2), 0, &key(0));
        assert_eq!(waiters.offer(is_list), None, "without a new signal there is nothing new");
    }

    #[test]
    fn all_who_wait_for_a_key_are_served_before_the_next_key() {
        let mut waiters = Waiters::default();
        // In whatever order they name the keys.
        let named = |id: u32| if id == 2 { [key(0), key(1)] } else { [key(1), key(0)] };
        (1..4).for_each(|id| waiters.join(waiter(id), Kind::List, 0, &named(id)));
        assert_eq!(waiters.offer(|_, _| None), None);
        (0..2).for_each(|id| waiters.signal(0, &key(id)));
        for id in 1..4 {
            let offer = waiters.offer(|_, _| Some(Kind::List)).unwrap();
            assert_eq!((offer.waiter, offer.key), (waiter(id), key(0)));
            // The first of them is offered the other key as well, before it has answered.
            if id == 1 {
                assert_eq!(waiters.offer(|_, _| Some(Kind::List)).unwrap().key, key(1));
            }
            waiters.leave(waiter(id));
        }
    }

    #[test]
    fn a_waiter_is_not_woken_by_another_type() {
        let mut waiters = Waiters::default();
        waiters.join(waiter(1), Kind::SortedSet, 3, &[key(0)]);
        waiters.join(waiter(2), Kind::List, 3, &[key(0)]);
        let offer = waiters.offer(|_, _| Some(Kind::List)).unwrap();
        assert_eq!(offer, Offer { waiter: waiter(2), db: 3, key: key(0) });
        waiters.leave(waiter(2));
        assert_eq!(waiters.offer(|_, _| Some(Kind::List)), None);
        waiters.signal(3, &key(0));
        assert_eq!(waiters.offer(|_, _| Some(Kind::SortedSet)).unwrap().waiter, waiter(1));
    }
}
