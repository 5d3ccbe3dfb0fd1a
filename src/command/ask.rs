//! Questions between cores.
//!
//! Commands about the whole node (INFO, CLIENT LIST, CONFIG SET), and WATCH, cannot be answered by one core alone. Their function returns [`Flow::Ask`]: a question for each core concerned and a
//! closure that turns the answers into the reply. Until it has run, the connection executes nothing else. This is the
//! slow path; single-key commands never come here.

use crate::borrow::Place;
use crate::pubsub::{Bucket, Kind};
use crate::resp::{Error, Reply};
use crate::route::CoreId;
use crate::shard::digest::Digest;
use crate::shard::{DbSize, SteadyMs, Version};
use crate::state::Configured;
use crate::stats::{Event, LatencyEvents, Snapshot};

use super::log::{LogAnswer, LogAsk};
use super::session::{ClientFilter, ClientInfo, Home};
use super::slowlog::SlowlogEntry;

/// What happens after a session command.
pub enum Flow {
    /// The reply is written.
    Done,
    /// The reply is written; close the connection once it is sent.
    Close,
    /// What is written are messages, not a reply: CLIENT REPLY does not silence them.
    Pushed,
    /// Ask other cores (and possibly this one), then finish.
    Ask(Vec<(CoreId, Ask)>, Finish),
    /// From now on the connection receives every executed command.
    Monitor,
    /// The reply is written; the connection no longer receives executed commands (RESET in a monitor).
    Unmonitor,
    /// Run what was queued since MULTI; no reply yet.
    Exec,
    /// The control core goes on with this connection, which is a replica's; no reply.
    HandOver,
    /// The reply is written; what was queued is dropped, and nothing is watched any more.
    Unqueue,
}

/// Turns the answers, in the order of the questions, into the reply.
pub type Finish = Box<dyn FnOnce(&mut Home, Vec<Answer>, &mut Reply) -> Result<Flow, Error>>;

/// A question to one core.
#[derive(Clone, Debug)]
pub enum Ask {
    /// All numbers of this core.
    Snapshot,
    /// The clients of this core that match.
    Clients(ClientFilter),
    /// Disconnect the clients that match, except the one with this id.
    Kill {
        filter: ClientFilter,
        except: Option<u64>,
    },
    /// End the wait of the client with this id, as if its time were over, or with an error.
    Unblock {
        id: u64,
        error: bool,
    },
    /// The newest slow commands, at most so many.
    Slowlog(usize),
    /// How many slow commands are kept.
    SlowlogLen,
    SlowlogReset,
    /// CONFIG RESETSTAT.
    ResetStats,
    /// Expire keys without being asked for them, or only when they are looked at.
    ActiveExpiry(bool),
    /// What the latency monitor has noted.
    LatencyEvents,
    /// Forget what it has noted of these events; the answer is what that was.
    TakeLatencyEvents(Vec<Event>),
    /// Use this configuration from now on, unless a newer one is in use.
    Configure(Configured),
    /// Hold back commands until this moment; only writes if `writes_only`. `None` ends the pause.
    Pause(Option<Pause>),
    /// A monitor was opened or closed: executed commands are (not) reported to this core.
    Monitor {
        core: CoreId,
        on: bool,
    },
    /// This core has subscriptions in these buckets from now on.
    Listen {
        core: CoreId,
        buckets: Vec<Bucket>,
    },
    /// Deliver a message to your subscribers and say how many they are.
    Publish {
        kind: Kind,
        channel: Vec<u8>,
        payload: Vec<u8>,
    },
    /// The names of this kind that have subscribers, or those that match.
    Subscriptions {
        kind: Kind,
        pattern: Option<Vec<u8>>,
    },
    /// How many subscribers each of these has.
    Subscribers {
        kind: Kind,
        names: Vec<Vec<u8>>,
    },
    /// Sizes of all databases.
    DbSizes,
    /// How many keys a slot of this core has.
    SlotCount(u16),
    /// Names of keys of a slot of this core, at most so many.
    SlotKeys {
        slot: u16,
        count: usize,
    },
    /// Digests of all databases.
    Digests,
    /// Where the feed of this core stands; what it has is sent.
    FeedSeq,
    /// To the control core.
    Log(LogAsk),
    /// A client starts to watch these keys; answered when none of them is lent.
    Watch(Vec<Place>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pause {
    pub until_ms: SteadyMs,
    pub writes_only: bool,
}

/// What a core answers.
#[derive(Debug)]
pub enum Answer {
    Done,
    Count(u64),
    Counts(Vec<u64>),
    Names(Vec<Vec<u8>>),
    Snapshot(Box<Snapshot>),
    Clients(Vec<ClientInfo>),
    Slowlog(Vec<SlowlogEntry>),
    LatencyEvents(Box<LatencyEvents>),
    /// Of each database.
    Digests(Vec<Digest>),
    DbSizes(Vec<DbSize>),
    /// Of each watched key.
    Versions(Vec<Version>),
    /// Of the control core.
    Log(LogAnswer),
}
