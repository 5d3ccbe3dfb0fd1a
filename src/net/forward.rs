//! What travels between cores.
//!
//! The requests of one connection for one other core are gathered, per turn, in one [`Batch`]. The same box comes back
//! with the replies and is used again: in the steady state forwarding allocates nothing. A batch is executed exactly
//! once, by whoever takes it from the ring; if its client is gone when it returns, it is simply dropped.

#![allow(clippy::vec_box, reason = "boxed batches travel between cores; the box itself is what is used again")]

use std::collections::VecDeque;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use crate::blocking::{Offer, Waiter};
use crate::borrow::{Lent, Loan, Place, Returned, Ticket, Verdict};
use crate::cluster::View;
use crate::command::{Answer, Ask, CommandId, Merge, Owned, merge, table};
use crate::log::durability::{About, Durability, Progress, Standing};
use crate::log::feed::{Chunk, Seq};
use crate::pubsub::{Bucket, Told};
use crate::resp::{Output, Version};
use crate::route::{CoreId, Key, PartitionSet};
use crate::shard::Kind;

use super::window::RequestKey;

/// A message from one core to another.
pub enum Message {
    /// Requests to execute.
    Requests(Box<Batch>),
    /// A batch that comes back with its replies.
    Replies(Box<Batch>),
    /// A question for this core; `ask` and `part` come back with the answer.
    Question {
        ask: u32,
        part: u16,
        question: Box<Ask>,
    },
    Answer {
        ask: u32,
        part: u16,
        answer: Box<Answer>,
    },
    /// An accepted socket that this core shall serve.
    Socket {
        socket: OwnedFd,
        unix: bool,
    },
    /// A transaction of the sender needs keys of this core; `transaction` comes back with the answer.
    Borrow {
        transaction: u32,
        loan: Box<Loan>,
    },
    Lent {
        transaction: u32,
        lent: Box<Lent>,
    },
    /// Entries that come back. Unless `keep`, the loan is over. `seq`: what the sender's feed has said by then comes before
    /// what the receiver says of these keys later.
    Return {
        ticket: Ticket,
        entries: Vec<Returned>,
        keep: bool,
        seq: Seq,
    },
    /// A client of the sender waits for elements of these keys.
    Join {
        waiter: Waiter,
        kind: Kind,
        db: u8,
        keys: Vec<Vec<u8>>,
    },
    /// There may be an element for a client of the receiver.
    Offer(Box<Offer>),
    /// The client has found nothing, and goes on to wait.
    Decline {
        waiter: Waiter,
        db: u8,
        key: Vec<u8>,
    },
    /// The client waits no longer.
    Leave(Waiter),
    /// A client of the sender watches these keys no longer.
    Forget(Vec<Place>),
    /// The sender has fed more than the control core takes, or no longer.
    FeedFull(bool),
    /// The sender has no monitors any more.
    Unwatch(CoreId),
    /// Executed commands, as MONITOR prints them.
    Monitor(Box<Vec<u8>>),
    /// What was published for subscribers of this core, by nobody who waits for their number.
    Published(Box<Vec<Arc<Told>>>),
    /// The sender has no more subscriptions in these buckets.
    Unlisten(Box<Vec<Bucket>>),
    /// What the sender has changed, for the control core.
    Feed(Box<Chunk>),
    /// How far the log is with what the receiver has fed it; from the control core.
    Progress(Progress),
    /// Record what is changed from now on, or no longer, and say so in the feed; from the control core.
    Record(bool),
    /// Put so many further pieces of this run into the feed; no pieces: the run is over. A run may be about some partitions only,
    /// as far as the node leads them. From the control core.
    Cover {
        run: u64,
        pieces: u32,
        only: Option<Arc<PartitionSet>>,
    },
    /// What the node may do from now on; from the control core.
    Standing(Arc<Standing>),
    /// What the node knows of its cluster from now on; from the control core.
    View(Arc<View>),
    /// Drop the copies of these partitions; from the control core.
    Drop(Arc<PartitionSet>),
    /// A connection that is a replica's from now on, for the control core.
    Replica {
        socket: OwnedFd,
        addr: String,
    },
}

/// One forwarded request.
pub struct Forwarded {
    pub row: CommandId,
    pub db: u8,
    pub version: Version,
    pub no_touch: bool,
    /// Counts in the command statistics; of a split request only the first part does.
    pub counted: bool,
    pub argc: u32,
    pub key: Option<RequestKey>,
}

/// What makes a batch a transaction: its requests run together, or not at all.
pub struct Atomic {
    /// Its place among the transactions of the core that it comes from.
    pub transaction: u32,
    pub loan: Loan,
    pub verdict: Verdict,
    /// If its keys are held for a transaction that is larger: what it has changed, as statements.
    pub statements: Vec<u8>,
    /// Where the feed of the core that ran it stands afterwards.
    pub seq: Seq,
}

impl Atomic {
    pub fn new(transaction: u32, loan: Loan) -> Atomic {
        Atomic { transaction, loan, verdict: Verdict::Granted, statements: Vec::new(), seq: 0 }
    }
}

/// The requests of one connection for one core, then their replies.
#[derive(Default)]
pub struct Batch {
    /// The connection, and the generation of its place: a vanished client's replies must not reach its successor.
    pub connection: u32,
    pub generation: u32,
    /// Id of the client, for the slow log.
    pub client: u64,
    pub requests: Vec<Forwarded>,
    /// Length of each argument of all requests; [`Batch::OWNED`] says that it is the next of `owned`.
    lens: Vec<u32>,
    data: Vec<u8>,
    owned: Vec<Arc<Vec<u8>>>,
    pub out: Output,
    /// Where each reply ends in `out`.
    pub ends: Vec<u32>,
    /// Clock reading when the batch was sent; for the hop latency.
    pub sent_at: u64,
    pub transaction: Option<Box<Atomic>>,
    /// What a reply means to the connection, and what has to be reached for that.
    pub durability: Durability,
    pub needs: Seq,
    /// Of which partitions it tells.
    pub about: About,
    /// What it tells of is not safe, and will not be: its connection must not hear of it.
    pub lost: bool,
    /// Its requests are statements of a log that is followed. In a cluster `needs` says, when it comes back, what this core's
    /// feed had said by then.
    pub applies: bool,
}

/// How far the requests of a batch have been read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    pub request: usize,
    len: usize,
    data: usize,
    owned: usize,
}

impl Batch {
    const OWNED: u32 = u32::MAX;
    /// Batches that grew larger than this are not kept.
    const KEEP_BYTES_MAX: usize = 64 * 1024;

    /// Appends a request.
    pub fn push(&mut self, request: Forwarded, args: &[&[u8]], owned: &Owned) {
        debug_assert_eq!(request.argc as usize, args.len());
        self.requests.push(request);
        for (index, arg) in args.iter().enumerate() {
            if let Some(value) = owned.get(index) {
                self.lens.push(Self::OWNED);
                self.owned.push(value);
            } else {
                self.lens.push(arg.len() as u32);
                self.data.extend_from_slice(arg);
            }
        }
    }

    /// The request at the cursor, which moves on; its arguments are appended to `args`.
    #[inline]
    pub fn read<'a>(&'a self, at: &mut Cursor, args: &mut Vec<&'a [u8]>) -> Option<(&'a Forwarded, Owned)> {
        let request = self.requests.get(at.request)?;
        let lens = &self.lens[at.len..at.len + request.argc as usize];
        let mut owned = Owned::default();
        for (index, &len) in lens.iter().enumerate() {
            if len == Self::OWNED {
                let value = &self.owned[at.owned];
                at.owned += 1;
                owned.push(index, Arc::clone(value));
                args.push(value);
            } else {
                args.push(&self.data[at.data..at.data + len as usize]);
                at.data += len as usize;
            }
        }
        at.request += 1;
        at.len += lens.len();
        Some((request, owned))
    }

    /// Appends the arguments of all requests to `args` and visits each request with the range of its own.
    pub fn walk<'a>(&'a self, args: &mut Vec<&'a [u8]>, mut visit: impl FnMut(&'a Forwarded, Range<usize>, Owned)) {
        let mut at = Cursor::default();
        let mut start = args.len();
        while let Some((request, owned)) = self.read(&mut at, args) {
            visit(request, start..args.len(), owned);
            start = args.len();
        }
    }

    /// Where the requests begin that have no reply yet.
    pub fn first_unanswered(&self) -> Cursor {
        let mut at = Cursor::default();
        let mut args = Vec::new();
        while at.request < self.ends.len() && self.read(&mut at, &mut args).is_some() {
            args.clear();
        }
        at
    }

    /// The partition of all its keys; None if they are in several, or nobody knows.
    pub fn partition(&self) -> Option<u16> {
        let of = |request: &Forwarded| {
            let one = table().row(request.row).command.keys.is_one();
            request.key.filter(|_| one).map(|key| key.partition)
        };
        let first = of(self.requests.first()?);
        first.filter(|_| self.requests.iter().all(|request| of(request) == first))
    }

    /// Whether its replies must not be told yet.
    pub fn waits(&self, progress: &Progress) -> bool {
        !progress.covers(self.durability, self.needs, self.about)
    }

    /// Whether it tells of keys of these partitions.
    pub fn concerns(&self, partitions: &PartitionSet) -> bool {
        self.requests.iter().any(|request| request.key.is_none_or(|key| partitions.has(key.partition)))
    }

    /// Makes the box fit for another use; false if it has grown too large to keep.
    pub fn reset(&mut self) -> bool {
        let keep = self.data.capacity() + self.out.capacity() <= Self::KEEP_BYTES_MAX;
        self.requests.clear();
        self.lens.clear();
        self.data.clear();
        self.owned.clear();
        self.out.clear(Self::KEEP_BYTES_MAX);
        self.ends.clear();
        self.transaction = None;
        (self.durability, self.needs, self.about) = (Durability::Memory, 0, About::Nothing);
        (self.lost, self.applies) = (false, false);
        keep
    }
}

impl Forwarded {
    /// The first key; `args` are the request's.
    pub fn first_key<'a>(&self, args: &[&'a [u8]]) -> Option<Key<'a>> {
        self.key.map(|key| Key { bytes: args[key.at as usize], hash: key.hash, partition: key.partition })
    }
}

/// A reply that a connection owes its client.
pub enum Slot {
    /// Written here already; ends at this mark of [`Forwarding::held`].
    Local { end: u32 },
    /// The next reply of this core. `silent`: the client has asked for no reply.
    Core { core: CoreId, silent: bool },
    /// One part from each core.
    Split(Box<Split>),
}

/// A command that every core executes, each on all of its keys.
pub struct Split {
    pub merge: Merge,
    pub version: Version,
    pub silent: bool,
    /// The cores concerned, ascending.
    pub parts: Vec<CoreId>,
    /// This core's own part, if it has run already: its index and its reply.
    pub local: Option<(usize, Output)>,
    /// For [`Merge::Draw`].
    pub random: u64,
}

/// What a connection needs once it has sent requests to other cores.
#[derive(Default)]
pub struct Forwarding {
    /// Replies owed, in request order. Invariant: while it is not empty, nothing is written to the connection's output
    /// except by taking from its front, and by messages that need not wait ([`super::publish::Turn`]).
    pub order: VecDeque<Slot>,
    /// Bytes of the requests that were sent since `order` was last empty.
    pub bytes: usize,
    /// Replies executed here that wait for earlier ones from elsewhere.
    pub held: Output,
    /// Mark up to which `held` has been passed on.
    pub held_from: u32,
    /// Per core: batches that came back, and how many replies of the first have been used.
    pub arrived: Vec<(VecDeque<Box<Batch>>, usize)>,
    /// Per core: the batch that this turn fills.
    pub open: Vec<Option<Box<Batch>>>,
}

impl Forwarding {
    pub fn new(cores: usize) -> Self {
        let mut new = Forwarding::default();
        new.arrived.resize_with(cores, Default::default);
        new.open.resize_with(cores, || None);
        new
    }

    /// Whether something that was written here waits for earlier replies.
    pub fn holds(&self) -> bool {
        self.held_from < self.held.mark()
    }

    fn has_reply(&self, core: CoreId) -> bool {
        !self.arrived[core as usize].0.is_empty()
    }

    /// The next reply of `core`, given to `take` as a range of an output; the batch goes to `done` after its last one.
    fn take_reply<R>(
        &mut self,
        core: CoreId,
        done: &mut Vec<Box<Batch>>,
        take: impl FnOnce(&Output, u32, u32) -> R,
    ) -> R {
        let (batches, used) = &mut self.arrived[core as usize];
        let batch = batches.front().expect("the caller has checked");
        let start = if *used == 0 { 0 } else { batch.ends[*used - 1] };
        let result = take(&batch.out, start, batch.ends[*used]);
        *used += 1;
        if *used == batch.ends.len() {
            *used = 0;
            done.extend(batches.pop_front());
        }
        result
    }

    /// Moves every reply whose turn has come to `out`. Batches that are used up go to `done`.
    pub fn merge_into(&mut self, out: &mut Output, done: &mut Vec<Box<Batch>>) {
        while let Some(slot) = self.order.front() {
            match slot {
                Slot::Local { end } => {
                    let end = *end;
                    out.copy_range(&self.held, self.held_from, end);
                    self.held_from = end;
                }
                Slot::Core { core, silent } => {
                    let (core, silent) = (*core, *silent);
                    if !self.has_reply(core) {
                        return;
                    }
                    self.take_reply(core, done, |from, start, end| {
                        if !silent {
                            out.copy_range(from, start, end);
                        }
                    });
                }
                Slot::Split(split) => {
                    let local = split.local.as_ref().map(|(part, _)| *part);
                    let waits = |(part, &core): (usize, &CoreId)| Some(part) != local && !self.has_reply(core);
                    if split.parts.iter().enumerate().any(waits) {
                        return;
                    }
                    let Some(Slot::Split(split)) = self.order.pop_front() else { unreachable!("it is the front") };
                    let parts = self.collect_parts(&split, done);
                    if !split.silent {
                        merge::merge(split.merge, &parts, &[], split.version, split.random, out);
                    }
                    continue;
                }
            }
            self.order.pop_front();
        }
        self.held.clear(crate::net::limits::POOL_BUFFER_BYTES);
        self.held_from = 0;
    }

    fn collect_parts(&mut self, split: &Split, done: &mut Vec<Box<Batch>>) -> Vec<Vec<u8>> {
        let part_of = |(part, &core): (usize, &CoreId)| match &split.local {
            Some((local, reply)) if *local == part => reply.to_vec(),
            _ => self.take_reply(core, done, |from, start, end| {
                let mut one = Output::new();
                one.copy_range(from, start, end);
                one.to_vec()
            }),
        };
        split.parts.iter().enumerate().map(part_of).collect()
    }
}
