//! Publish/subscribe of a node beside a naive twin: random steps on several cores, messages between cores delivered in the
//! order of each pair but at random moments.
//!
//! The twin is a list of subscriptions; a message goes to whoever stands in it. Compared are the receivers of each message
//! and their order, the numbers that PUBLISH returns, and that no core is asked that has nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::*;
use crate::command::glob;
use crate::resp::read::{Value, parse_value};
use crate::resp::{Output, Version};

const CORES: u16 = 3;
const PLACES: u32 = 4;
const NAMES: &[&str] = &["a", "b", "ab", "abc", "", "x"];
const PATTERNS: &[&str] = &["*", "a*", "?", "[ab]", "a*c", "zzz"];

/// What travels from one core to another.
#[derive(Clone, Debug)]
enum Letter {
    Listen(Vec<Bucket>, usize),
    /// The acknowledgement.
    Listening(usize),
    Unlisten(Vec<Bucket>),
    Message(Kind, String, u64),
}

/// A SUBSCRIBE that waits until all others have heard of it.
struct Pending {
    core: usize,
    place: Place,
    kind: Kind,
    names: Vec<String>,
    untold: Vec<Bucket>,
    awaited: usize,
}

struct Node {
    cores: Vec<PubSub>,
    /// By sender and receiver.
    rings: BTreeMap<(usize, usize), VecDeque<Letter>>,
    pending: Vec<Option<Pending>>,
    /// The twin: core, place, kind, name.
    twin: BTreeSet<(usize, Place, Kind, String)>,
    /// What each connection has received.
    received: BTreeMap<(usize, Place), Vec<Vec<String>>>,
    random: u64,
}

impl Node {
    fn new(seed: u64) -> Node {
        let hasher = Hasher::new(256, [1, 2, 3, 4]);
        Node {
            cores: (0..CORES).map(|me| PubSub::new(me, CORES, hasher.clone())).collect(),
            rings: BTreeMap::new(),
            pending: Vec::new(),
            twin: BTreeSet::new(),
            received: BTreeMap::new(),
            random: seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1,
        }
    }

    fn below(&mut self, end: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        ((self.random >> 11) % end as u64) as usize
    }

    fn others(core: usize) -> impl Iterator<Item = usize> {
        (0..CORES as usize).filter(move |&other| other != core)
    }

    fn send(&mut self, from: usize, to: usize, letter: Letter) {
        self.rings.entry((from, to)).or_default().push_back(letter);
    }

    fn is_waiting(&self, core: usize, place: Place) -> bool {
        self.pending.iter().flatten().any(|p| p.core == core && p.place == place)
    }

    fn subscribe(&mut self, core: usize, place: Place, kind: Kind, names: Vec<String>) {
        let bytes: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
        let untold = self.cores[core].reserve(kind, &bytes);
        let awaited = if untold.is_empty() { 0 } else { CORES as usize - 1 };
        let id = self.pending.len();
        self.pending.push(Some(Pending { core, place, kind, names, untold: untold.clone(), awaited }));
        if untold.is_empty() {
            return self.confirm(id);
        }
        Node::others(core).for_each(|to| self.send(core, to, Letter::Listen(untold.clone(), id)));
    }

    fn confirm(&mut self, id: usize) {
        let Pending { core, place, kind, names, untold, .. } = self.pending[id].take().unwrap();
        self.cores[core].told(&untold);
        for name in names {
            self.cores[core].subscribe(place, kind, name.as_bytes());
            self.twin.insert((core, place, kind, name));
        }
    }

    fn unsubscribe(&mut self, core: usize, place: Place, kind: Kind, name: &str) {
        self.cores[core].unsubscribe(place, kind, name.as_bytes());
        self.twin.remove(&(core, place, kind, name.to_string()));
    }

    fn leave(&mut self, core: usize, place: Place) {
        self.cores[core].leave(place);
        self.twin.retain(|(c, p, ..)| (*c, *p) != (core, place));
    }

    /// What the twin's connections of a core would receive, and in how many ways.
    fn expected(&self, core: usize, kind: Kind, channel: &str, payload: u64) -> BTreeMap<Place, Vec<Vec<String>>> {
        let mut all: BTreeMap<Place, Vec<Vec<String>>> = BTreeMap::new();
        let (word, by_pattern) = match kind {
            Kind::Shard => ("smessage", false),
            _ => ("message", true),
        };
        // Kinds are ordered: channels before patterns.
        for (c, place, of, name) in &self.twin {
            let texts: Vec<String> = match of {
                _ if *c != core => continue,
                of if *of == kind && name == channel => vec![word.into(), channel.into()],
                Kind::Pattern if by_pattern && glob::matches(name.as_bytes(), channel.as_bytes()) => {
                    vec!["pmessage".into(), name.clone(), channel.into()]
                }
                _ => continue,
            };
            all.entry(*place).or_default().push([texts, vec![payload.to_string()]].concat());
        }
        all
    }

    /// Delivers on one core.
    fn deliver(&mut self, core: usize, kind: Kind, channel: &str, payload: u64) -> u64 {
        let expected = self.expected(core, kind, channel, payload);
        let pubsub = &mut self.cores[core];
        let count = pubsub.publish(kind, channel.as_bytes(), payload.to_string().as_bytes(), None);
        let mut got: BTreeMap<Place, Vec<Vec<String>>> = BTreeMap::new();
        for (place, frame) in pubsub.outbox.receivers() {
            for (version, mark) in [(Version::V2, b'*'), (Version::V3, b'>')] {
                let mut out = Output::new();
                pubsub.outbox.write(frame, version, &mut out);
                let bytes = out.to_vec();
                assert_eq!(bytes[0], mark);
                let (value, len) = parse_value(&bytes).unwrap().unwrap();
                assert_eq!(len, bytes.len());
                let (Value::Array(parts) | Value::Push(parts)) = value else { panic!("{value:?}") };
                let text = |part: &Value| match part {
                    Value::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
                    other => panic!("{other:?}"),
                };
                if version == Version::V2 {
                    got.entry(place).or_default().push(parts.iter().map(text).collect());
                }
            }
        }
        pubsub.outbox.clear();
        assert_eq!(got, expected);
        assert_eq!(count as usize, expected.values().map(Vec::len).sum::<usize>());
        for (place, messages) in got {
            self.received.entry((core, place)).or_default().extend(messages);
        }
        count
    }

    fn publish(&mut self, core: usize, kind: Kind, channel: &str, payload: u64) {
        self.deliver(core, kind, channel, payload);
        let to: Vec<CoreId> = self.cores[core].interest().cores_of(kind, channel.as_bytes()).collect();
        // Every core with a confirmed subscriber is asked.
        for other in Node::others(core) {
            if !self.expected(other, kind, channel, payload).is_empty() {
                assert!(to.contains(&(other as CoreId)), "{core} does not know of {other} for {channel}");
            }
        }
        to.into_iter()
            .for_each(|other| self.send(core, other as usize, Letter::Message(kind, channel.into(), payload)));
    }

    /// The end of a core's turn.
    fn end_turn(&mut self, core: usize) {
        let buckets = self.cores[core].withdraw();
        if !buckets.is_empty() {
            Node::others(core).for_each(|to| self.send(core, to, Letter::Unlisten(buckets.clone())));
        }
    }

    /// Lets one letter arrive; false if there is none.
    fn receive(&mut self, pick: usize) -> bool {
        let full: Vec<(usize, usize)> =
            self.rings.iter().filter(|(_, ring)| !ring.is_empty()).map(|(k, _)| *k).collect();
        let Some(&(from, to)) = full.get(pick % full.len().max(1)) else { return false };
        match self.rings.get_mut(&(from, to)).unwrap().pop_front().unwrap() {
            Letter::Listen(buckets, id) => {
                self.cores[to].note(from as CoreId, &buckets, true);
                self.send(to, from, Letter::Listening(id));
            }
            Letter::Listening(id) => {
                let pending = self.pending[id].as_mut().unwrap();
                pending.awaited -= 1;
                if pending.awaited == 0 {
                    self.confirm(id);
                }
            }
            Letter::Unlisten(buckets) => self.cores[to].note(from as CoreId, &buckets, false),
            Letter::Message(kind, channel, payload) => {
                self.deliver(to, kind, &channel, payload);
            }
        }
        true
    }

    fn step(&mut self, number: u64) {
        let core = self.below(CORES as usize);
        let place = self.below(PLACES as usize) as Place;
        let kind = Kind::ALL[self.below(3)];
        let name = |node: &mut Node, kind| match kind {
            Kind::Pattern => PATTERNS[node.below(PATTERNS.len())].to_string(),
            _ => NAMES[node.below(NAMES.len())].to_string(),
        };
        match self.below(16) {
            // A connection runs nothing while it waits.
            n if n < 10 && self.is_waiting(core, place) => {}
            0..3 => {
                let names = (0..1 + self.below(3)).map(|_| name(self, kind)).collect();
                self.subscribe(core, place, kind, names);
            }
            3..6 => {
                let name = name(self, kind);
                self.unsubscribe(core, place, kind, &name);
            }
            6 => self.leave(core, place),
            7..10 => {
                let kind = if kind == Kind::Pattern { Kind::Channel } else { kind };
                let channel = name(self, kind);
                // The payload tells its publisher.
                self.publish(core, kind, &channel, number * CORES as u64 + core as u64);
            }
            10 => self.end_turn(core),
            _ => {
                let pick = self.below(64);
                self.receive(pick);
            }
        }
    }

    /// Nothing is under way any more: everybody knows what is so.
    fn settle(&mut self) {
        while self.receive(0) {}
        (0..CORES as usize).for_each(|core| self.end_turn(core));
        while self.receive(0) {}
        for core in 0..CORES as usize {
            self.cores[core].validate();
            for kind in Kind::ALL {
                let of_core = |(c, _, k, _): &&(usize, Place, Kind, String)| *c == core && *k == kind;
                let count = self.twin.iter().filter(of_core).count();
                assert_eq!(self.cores[core].registry().subscriptions(kind).map(|(_, n)| n).sum::<usize>(), count);
            }
            let empty = !self.twin.iter().any(|(c, ..)| *c == core);
            assert_eq!(self.cores[core].registry().is_empty(), empty);
            for other in Node::others(core) {
                for name in NAMES.iter().filter(|_| empty) {
                    let mut cores = self.cores[other].interest().cores_of(Kind::Channel, name.as_bytes());
                    assert!(!cores.any(|to| to as usize == core), "{other} still asks {core}");
                }
            }
        }
        for kind in Kind::ALL {
            let names: BTreeSet<_> = self.twin.iter().filter(|t| t.2 == kind).map(|t| &t.3).collect();
            let mut numbers = Numbers::default();
            self.cores.iter().for_each(|core| numbers.merge(&core.numbers()));
            assert_eq!(numbers.of(kind), names.len() as u64, "{kind:?}");
        }
    }
}

#[test]
fn a_node_agrees_with_its_twin() {
    for seed in 0..400 {
        let mut node = Node::new(seed);
        for number in 0..300 {
            node.step(number);
            if node.below(60) == 0 {
                node.settle();
            }
        }
        node.settle();
        for messages in node.received.values() {
            let payloads: Vec<u64> = messages.iter().map(|parts| parts.last().unwrap().parse().unwrap()).collect();
            for publisher in 0..CORES as u64 {
                let sent = payloads.iter().filter(|&&payload| payload % CORES as u64 == publisher);
                assert!(sent.is_sorted(), "seed {seed}: {payloads:?}");
            }
        }
        (0..CORES as usize).for_each(|core| (0..PLACES).for_each(|place| node.leave(core, place)));
        node.settle();
        assert!(node.cores.iter().all(|core| !core.anyone_listens()), "seed {seed}");
    }
}

#[test]
fn large_payloads_are_shared_by_all_receivers() {
    let mut pubsub = PubSub::new(0, 1, Hasher::new(256, [1, 2, 3, 4]));
    for place in 0..3 {
        pubsub.reserve(Kind::Channel, &[b"c"]);
        pubsub.subscribe(place, Kind::Channel, b"c");
    }
    pubsub.reserve(Kind::Pattern, &[b"*"]);
    pubsub.subscribe(1, Kind::Pattern, b"*");
    let payload = Arc::new(vec![b'x'; 100_000]);
    assert_eq!(pubsub.publish(Kind::Channel, b"c", &payload, Some(&payload)), 4);
    let mut outs: Vec<Output> = (0..4).map(|_| Output::new()).collect();
    let receivers: Vec<(Place, u32)> = pubsub.outbox.receivers().collect();
    assert_eq!(receivers, [(0, 0), (1, 0), (2, 0), (1, 1)]);
    for ((_, frame), out) in receivers.into_iter().zip(&mut outs) {
        pubsub.outbox.write(frame, Version::V3, out);
        assert!(Arc::ptr_eq(&out.splices()[0].1, &payload));
        assert!(out.buf().len() < 100 && out.len() > payload.len());
    }
    pubsub.outbox.clear();
    assert!(pubsub.outbox.is_empty());
    drop(outs);
    assert_eq!(Arc::strong_count(&payload), 1);
}

#[test]
fn subscriptions_are_charged_to_their_connections() {
    let mut pubsub = PubSub::new(0, 1, Hasher::new(256, [1, 2, 3, 4]));
    for i in 0..10_000u32 {
        let name = i.to_string();
        pubsub.reserve(Kind::Channel, &[name.as_bytes()]);
        pubsub.subscribe(7, Kind::Channel, name.as_bytes());
        pubsub.subscribe(7, Kind::Channel, name.as_bytes());
    }
    let charged = pubsub.registry().memory_of(7);
    assert!(charged > 10_000 * SUBSCRIPTION_BYTES && charged < 10_000 * (SUBSCRIPTION_BYTES + 5), "{charged}");
    assert_eq!(pubsub.registry().memory(), charged);
    pubsub.validate();
    pubsub.leave(7);
    assert_eq!((pubsub.registry().memory_of(7), pubsub.registry().memory()), (0, 0));
    assert!(pubsub.registry().is_empty());
    pubsub.validate();
}

#[test]
fn a_hostile_pattern_costs_a_bounded_time() {
    let mut pubsub = PubSub::new(0, 1, Hasher::new(256, [1, 2, 3, 4]));
    let name = vec![b'a'; 2_000_000];
    let hostile = [b"*?".as_slice(), &name[..1_000_000], b"b*"].concat();
    // Others are served all the same.
    for pattern in [hostile.as_slice(), b"*?a*", b"a*", b"z*"] {
        pubsub.reserve(Kind::Pattern, &[pattern]);
        pubsub.subscribe(0, Kind::Pattern, pattern);
    }
    // To try it everywhere would take hours.
    assert_eq!(pubsub.publish(Kind::Channel, &name, b"", None), 2);
    assert_eq!(pubsub.publish(Kind::Channel, b"z", b"", None), 1);
}
