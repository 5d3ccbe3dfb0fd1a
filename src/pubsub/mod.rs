//! Publish/subscribe on one core: who listens to what, which other cores have listeners, and the messages under way.
//!
//! A subscription lives on the core of its connection ([`registry`]). A message is published by the core of the
//! publisher: to its own subscribers at once, and to every other core that may have some ([`interest`]), in the order in
//! which the publisher sent them. Nothing in here knows a socket: what is to be written is left in the [`Outbox`], and
//! the network layer takes it from there.
//!
//! Owned by one core. Invariant: every subscription of the registry is counted in the bucket of its name.

mod interest;
#[cfg(test)]
mod model;
mod outbox;
mod registry;

pub use interest::{BUCKETS, Bucket, Interest};
pub use outbox::{FRAMES_BYTES_MAX, Outbox};
pub use registry::{Counts, MATCH_STEPS_MAX, Name, Place, Registry, SUBSCRIPTION_BYTES};

use std::sync::Arc;

use crate::route::{CoreId, Hasher};

/// What a subscription names. The three do not know of each other: a name can be one of each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Channel,
    /// A glob pattern of channels.
    Pattern,
    /// A channel that belongs to the slot of its name (SSUBSCRIBE).
    Shard,
}

impl Kind {
    pub const ALL: [Kind; 3] = [Kind::Channel, Kind::Pattern, Kind::Shard];
}

/// A message on its way to another core that nobody waits for.
#[derive(Debug, PartialEq, Eq)]
pub struct Told {
    pub kind: Kind,
    pub channel: Vec<u8>,
    pub payload: Vec<u8>,
}

/// Names and hashes of names, for a count over all cores: a name that several cores have counts once.
#[derive(Clone, Debug, Default)]
pub struct Distinct {
    /// Names that only the core has that tells of them.
    alone: u64,
    /// Hashes of names that others may have, too.
    shared: Vec<u64>,
}

impl Distinct {
    pub fn merge(&mut self, other: &Distinct) {
        self.alone += other.alone;
        self.shared.extend_from_slice(&other.shared);
    }

    /// How many different names there are.
    pub fn count(&self) -> u64 {
        let mut shared = self.shared.clone();
        shared.sort_unstable();
        shared.dedup();
        self.alone + shared.len() as u64
    }
}

/// Numbers for INFO; merged ones stand for the node.
#[derive(Clone, Debug, Default)]
pub struct Numbers {
    pub clients: u64,
    /// By kind.
    pub names: [Distinct; 3],
}

impl Numbers {
    pub fn merge(&mut self, other: &Numbers) {
        self.clients += other.clients;
        self.names.iter_mut().zip(&other.names).for_each(|(mine, theirs)| mine.merge(theirs));
    }

    pub fn of(&self, kind: Kind) -> u64 {
        self.names[kind as usize].count()
    }
}

/// Publish/subscribe of one core; see the module.
///
/// Subscribing has two steps, because a confirmation promises that every later message arrives: [`PubSub::reserve`] says
/// which buckets the other cores have to hear of first, and when they have, [`PubSub::subscribe`] does it. In between the
/// names are counted as if they were subscribed, so that nobody tells the others the contrary.
#[derive(Debug)]
pub struct PubSub {
    registry: Registry,
    interest: Interest,
    pub outbox: Outbox,
}

impl PubSub {
    /// Of core `me` among `cores`. `hasher` is the same on all of them.
    pub fn new(me: CoreId, cores: u16, hasher: Hasher) -> Self {
        PubSub { registry: Registry::default(), interest: Interest::new(me, cores, hasher), outbox: Outbox::default() }
    }

    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    pub fn interest(&self) -> &Interest {
        &self.interest
    }

    /// Counts `names` as subscribed; what other cores must know before [`PubSub::subscribe`] is called.
    pub fn reserve(&mut self, kind: Kind, names: &[&[u8]]) -> Vec<Bucket> {
        let mut untold = Vec::new();
        for name in names {
            let bucket = self.interest.bucket(kind, name);
            if !self.interest.count(bucket) {
                untold.push(bucket);
            }
        }
        untold.sort_unstable();
        untold.dedup();
        untold
    }

    /// The other cores know of `buckets`, which [`PubSub::reserve`] had returned.
    pub fn told(&mut self, buckets: &[Bucket]) {
        self.interest.told(buckets);
    }

    /// Subscribes a connection to a name that was reserved; its subscriptions from then on.
    pub fn subscribe(&mut self, place: Place, kind: Kind, name: &[u8]) -> Counts {
        if !self.registry.subscribe(place, kind, name) {
            // It was counted already when it was subscribed the first time.
            self.interest.uncount(self.interest.bucket(kind, name));
        }
        self.registry.counts(place)
    }

    /// Ends a subscription; the subscriptions of the connection from then on.
    pub fn unsubscribe(&mut self, place: Place, kind: Kind, name: &[u8]) -> Counts {
        if self.registry.unsubscribe(place, kind, name) {
            self.interest.uncount(self.interest.bucket(kind, name));
        }
        self.registry.counts(place)
    }

    /// Ends all subscriptions of a connection.
    pub fn leave(&mut self, place: Place) {
        for kind in Kind::ALL {
            for name in self.registry.names_of(place, kind) {
                self.unsubscribe(place, kind, name.bytes());
            }
        }
    }

    /// Buckets in which this core has no subscriptions any more though the others think so. They have to be told, before
    /// they hear anything else about them.
    pub fn withdraw(&mut self) -> Vec<Bucket> {
        self.interest.withdraw()
    }

    /// Another core has (`on`) or has no more subscriptions in `buckets`.
    pub fn note(&mut self, core: CoreId, buckets: &[Bucket], on: bool) {
        self.interest.note(core, buckets, on);
    }

    /// Whether a message could reach anybody on this node.
    pub fn anyone_listens(&self) -> bool {
        !self.registry.is_empty() || self.interest.anyone_else()
    }

    /// Leaves a message in the outbox for every subscriber on this core, and returns how many receive it. `kind` is not
    /// [`Kind::Pattern`]. `shared` is the payload where it lies, if it lies in a vector of its own.
    pub fn publish(&mut self, kind: Kind, channel: &[u8], payload: &[u8], shared: Option<&Arc<Vec<u8>>>) -> u64 {
        if self.registry.is_empty() {
            return 0;
        }
        let mut message = self.outbox.message(kind, channel, payload, shared);
        self.registry.visit(kind, channel, |pattern, places| message.add(pattern, places));
        message.receivers()
    }

    /// Numbers of this core. Takes time for every name that has subscribers, if other cores have some, too.
    pub fn numbers(&self) -> Numbers {
        let mut numbers = Numbers { clients: self.registry.clients() as u64, ..Numbers::default() };
        for kind in Kind::ALL {
            let distinct = &mut numbers.names[kind as usize];
            if !self.interest.anyone_else() {
                distinct.alone = self.registry.names(kind).count() as u64;
                continue;
            }
            for name in self.registry.names(kind) {
                let bucket = self.interest.bucket(kind, name);
                match self.interest.has_others(bucket) {
                    true => distinct.shared.push(self.interest.hash(kind, name)),
                    false => distinct.alone += 1,
                }
            }
        }
        numbers
    }

    /// Panics if an invariant does not hold, or (for tests, where nothing is reserved) a bucket's count is not the number
    /// of subscriptions in it.
    pub fn validate(&self) {
        self.registry.validate();
        let all = Kind::ALL.into_iter().flat_map(|kind| {
            let per_name = self.registry.subscriptions(kind);
            per_name.map(move |(name, subscribers)| (kind, name, subscribers))
        });
        self.interest.validate(all.map(|(kind, name, n)| (self.interest.bucket(kind, name), n)));
    }
}
