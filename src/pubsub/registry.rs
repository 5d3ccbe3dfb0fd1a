//! Who is subscribed to what, on one core.
//!
//! Two views of the same subscriptions: by name, for messages, and by connection, for UNSUBSCRIBE without arguments and
//! for connections that end. Names are shared between the two.
//!
//! Subscribers of one name get a message in ascending order of their places, matching patterns are served in the order of
//! their bytes: so what is delivered depends on nothing but the subscriptions.
//!
//! There is no limit on subscriptions, as in Redis; each is charged to its connection with the bytes of its name and
//! [`SUBSCRIPTION_BYTES`].
//!
//! Owned by one core.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use super::Kind;
use crate::command::glob;

/// Where the connection of a subscriber stands on its core.
pub type Place = u32;

/// What a subscription costs beside its name, bytes: its part of both views, rounded up.
pub const SUBSCRIPTION_BYTES: usize = 160;

/// Steps that it may take to match one pattern that cannot be searched for in linear time with one channel: some ms. What
/// would need more does not match. Without this, a pattern and a channel of a few megabytes would hold up every core for
/// minutes; a bound on all patterns of a message together would let one client's patterns silence those of others.
pub const MATCH_STEPS_MAX: u64 = 1 << 20;

/// Below so many channels a map keeps its room.
const KEEP_CHANNELS: usize = 64;

/// A name that several owners share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<Vec<u8>>);

impl Name {
    fn new(bytes: &[u8]) -> Name {
        Name(Arc::new(bytes.to_vec()))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn shared(&self) -> &Arc<Vec<u8>> {
        &self.0
    }
}

/// A vector is equal, ordered and hashed as its bytes are.
impl Borrow<[u8]> for Name {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// How many subscriptions of each kind a connection has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub channels: u32,
    pub patterns: u32,
    pub shards: u32,
}

impl Counts {
    #[inline]
    pub fn any(self) -> bool {
        self.channels | self.patterns | self.shards != 0
    }

    /// The number that a confirmation tells: shard channels are counted apart.
    pub fn told(self, kind: Kind) -> u32 {
        match kind {
            Kind::Channel | Kind::Pattern => self.channels + self.patterns,
            Kind::Shard => self.shards,
        }
    }
}

type Channels = HashMap<Name, BTreeSet<Place>, ahash::RandomState>;

/// The subscriptions of one core. Invariant: a name stands with a place exactly if the place's connection has the name;
/// no name is without a subscriber, no connection without a name.
#[derive(Debug, Default)]
pub struct Registry {
    channels: Channels,
    shards: Channels,
    patterns: BTreeMap<Name, BTreeSet<Place>>,
    connections: HashMap<Place, Connection, ahash::RandomState>,
}

#[derive(Debug, Default)]
struct Connection {
    /// By kind.
    names: [BTreeSet<Name>; 3],
    /// What the subscriptions are charged.
    bytes: usize,
}

impl Registry {
    pub fn is_empty(&self) -> bool {
        self.connections.is_empty()
    }

    /// Connections with subscriptions.
    pub fn clients(&self) -> usize {
        self.connections.len()
    }

    /// Adds a subscription; false if it was there.
    pub fn subscribe(&mut self, place: Place, kind: Kind, name: &[u8]) -> bool {
        let known = match kind {
            Kind::Channel => self.channels.get_key_value(name),
            Kind::Pattern => self.patterns.get_key_value(name),
            Kind::Shard => self.shards.get_key_value(name),
        };
        let name = known.map_or_else(|| Name::new(name), |(name, _)| name.clone());
        let connection = self.connections.entry(place).or_default();
        if !connection.names[kind as usize].insert(name.clone()) {
            return false;
        }
        connection.bytes += charge(name.bytes());
        let places = match kind {
            Kind::Channel => self.channels.entry(name).or_default(),
            Kind::Pattern => self.patterns.entry(name).or_default(),
            Kind::Shard => self.shards.entry(name).or_default(),
        };
        places.insert(place);
        true
    }

    /// Removes a subscription; false if there is none.
    pub fn unsubscribe(&mut self, place: Place, kind: Kind, name: &[u8]) -> bool {
        let Some(connection) = self.connections.get_mut(&place) else { return false };
        if !connection.names[kind as usize].remove(name) {
            return false;
        }
        connection.bytes -= charge(name);
        if connection.names.iter().all(BTreeSet::is_empty) {
            self.connections.remove(&place);
        }
        match kind {
            Kind::Channel => remove_from(&mut self.channels, place, name),
            Kind::Shard => remove_from(&mut self.shards, place, name),
            Kind::Pattern => {
                if let Some(places) = self.patterns.get_mut(name) {
                    places.remove(&place);
                    if places.is_empty() {
                        self.patterns.remove(name);
                    }
                }
            }
        }
        true
    }

    pub fn counts(&self, place: Place) -> Counts {
        let Some(connection) = self.connections.get(&place) else { return Counts::default() };
        let count = |kind: Kind| connection.names[kind as usize].len() as u32;
        Counts { channels: count(Kind::Channel), patterns: count(Kind::Pattern), shards: count(Kind::Shard) }
    }

    /// What a connection is subscribed to, in order.
    pub fn names_of(&self, place: Place, kind: Kind) -> Vec<Name> {
        let connection = self.connections.get(&place);
        connection.map(|c| c.names[kind as usize].iter().cloned().collect()).unwrap_or_default()
    }

    /// Bytes that the subscriptions of a connection are charged.
    pub fn memory_of(&self, place: Place) -> usize {
        self.connections.get(&place).map_or(0, |connection| connection.bytes)
    }

    /// Bytes that all subscriptions are charged.
    pub fn memory(&self) -> usize {
        self.connections.values().map(|connection| connection.bytes).sum()
    }

    /// All names of a kind that have subscribers.
    pub fn names(&self, kind: Kind) -> impl Iterator<Item = &[u8]> {
        self.subscriptions(kind).map(|(name, _)| name)
    }

    /// All names of a kind, each with the number of its subscribers.
    pub fn subscriptions(&self, kind: Kind) -> impl Iterator<Item = (&[u8], usize)> {
        let (map, tree) = match kind {
            Kind::Channel => (Some(&self.channels), None),
            Kind::Shard => (Some(&self.shards), None),
            Kind::Pattern => (None, Some(&self.patterns)),
        };
        let hashed = map.into_iter().flatten();
        let sorted = tree.into_iter().flatten();
        hashed.chain(sorted).map(|(name, places)| (name.bytes(), places.len()))
    }

    /// How many connections are subscribed to a name.
    pub fn subscribers(&self, kind: Kind, name: &[u8]) -> usize {
        let places = match kind {
            Kind::Channel => self.channels.get(name),
            Kind::Pattern => self.patterns.get(name),
            Kind::Shard => self.shards.get(name),
        };
        places.map_or(0, BTreeSet::len)
    }

    /// Visits whoever receives a message to a channel: first the subscribers of the channel itself, then those of each
    /// pattern that matches. Shard channels have no patterns.
    pub fn visit(&self, kind: Kind, channel: &[u8], mut visit: impl FnMut(Option<&Name>, &BTreeSet<Place>)) {
        let exact = match kind {
            Kind::Shard => return self.shards.get(channel).into_iter().for_each(|places| visit(None, places)),
            Kind::Channel | Kind::Pattern => self.channels.get(channel),
        };
        exact.into_iter().for_each(|places| visit(None, places));
        for (pattern, places) in &self.patterns {
            if glob::matches_within(pattern.bytes(), channel, &mut { MATCH_STEPS_MAX }) {
                visit(Some(pattern), places);
            }
        }
    }

    /// Panics if an invariant does not hold.
    pub fn validate(&self) {
        let mut subscriptions = 0;
        for kind in Kind::ALL {
            for (name, subscribers) in self.subscriptions(kind) {
                assert!(subscribers > 0, "{kind:?} {name:?} has no subscriber");
                subscriptions += subscribers;
            }
        }
        let mut of_connections = 0;
        for (place, connection) in &self.connections {
            let names = || {
                Kind::ALL.into_iter().flat_map(|kind| connection.names[kind as usize].iter().map(move |n| (kind, n)))
            };
            assert!(names().count() > 0, "place {place} has no subscription");
            assert_eq!(connection.bytes, names().map(|(_, name)| charge(name.bytes())).sum::<usize>());
            for (kind, name) in names() {
                let places = match kind {
                    Kind::Channel => self.channels.get(name),
                    Kind::Pattern => self.patterns.get(name),
                    Kind::Shard => self.shards.get(name),
                };
                assert!(places.is_some_and(|places| places.contains(place)), "{kind:?} {name:?} does not know {place}");
            }
            of_connections += names().count();
        }
        assert_eq!(subscriptions, of_connections);
    }
}

fn charge(name: &[u8]) -> usize {
    name.len() + SUBSCRIPTION_BYTES
}

fn remove_from(channels: &mut Channels, place: Place, name: &[u8]) {
    let Some(places) = channels.get_mut(name) else { return };
    places.remove(&place);
    if places.is_empty() {
        channels.remove(name);
        // A map does not shrink by itself.
        if channels.capacity() > KEEP_CHANNELS && channels.len() < channels.capacity() / 4 {
            channels.shrink_to((2 * channels.len()).max(KEEP_CHANNELS));
        }
    }
}
