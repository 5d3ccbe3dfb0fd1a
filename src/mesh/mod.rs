//! The mesh: a bounded ring for every ordered pair of executors, and a doorbell state for each.
//!
//! Owner: an [`Endpoint`] belongs to one executor and is moved to its thread once. It is the only way in which the
//! threads of the data path speak with each other.
//!
//! Rules that keep two cores which flood each other from waiting for each other:
//! - [`Endpoint::send`] never blocks. What does not fit into the ring waits in that destination's outbox, in order.
//! - The sender reads [`Endpoint::is_congested`] and stops *producing* (reading from clients); it goes on receiving and
//!   [`flush`](Endpoint::flush)ing every turn. Replies are always sent, so an outbox exceeds its soft bound by no more
//!   than the replies to what was received in one turn.
//! - A turn ends with [`Endpoint::for_each_dirty`], which rings each destination at most once.
//!
//! Shutdown, in this order: stop producing; receive until the awaited replies are there; [`close`](Endpoint::close) and
//! ring the dirty ones; receive until [`all_finished`](Endpoint::all_finished); drop. With all cores doing so nothing is
//! lost. A core that drops its endpoint earlier loses what lies in its rings; senders get later messages back.
//!
//! Invariant: a destination's ring gets nothing new while its outbox holds something, so the order of sends is kept.

mod parker;
mod ring;

pub use parker::{Park, Parker, Wake};
pub use ring::{CAPACITY_MAX, Consumer, Producer, PushError, ring};

use crate::sync::{Arc, arc_slice, order};
use std::collections::VecDeque;

/// Most executors in one mesh. The number of rings grows with its square.
pub const EXECUTORS_MAX: usize = 257;

/// Usual capacity of a ring in messages. A message is a batch for one connection and turn.
pub const RING_CAPACITY: usize = 256;

/// Messages waiting in all outboxes of an executor from which on it must stop producing requests.
pub const OUTBOX_SOFT_MAX: usize = 1024;

/// Messages taken from one peer before the next one has its turn.
pub const RECEIVE_BURST: usize = 32;

/// The destination has closed; the message comes back.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("the destination core has closed")]
pub struct Closed<T>(pub T);

/// One executor's side of its connection with one other.
struct Peer<T> {
    producer: Producer<T>,
    consumer: Consumer<T>,
    /// What did not fit into the ring, oldest first.
    outbox: VecDeque<T>,
    /// Something was pushed or closed since the peer was last notified.
    dirty: bool,
    /// The peer has closed and everything it sent was received.
    finished: bool,
}

/// What one executor holds of the mesh. Executors are numbered from 0: data cores first, the control core last.
pub struct Endpoint<T> {
    me: usize,
    /// By executor; `None` at `me`.
    peers: Box<[Option<Peer<T>>]>,
    parkers: Arc<[Parker]>,
    /// The peer being received from, and how many messages its burst has left.
    cursor: usize,
    burst_left: usize,
    /// Invariant: the sum of the lengths of all outboxes.
    outbox_len: usize,
}

/// Connects `executors` executors, all with all, by rings of `capacity` messages (a power of two). A number beyond
/// [`EXECUTORS_MAX`] or [`CAPACITY_MAX`] is a programmer's error and panics.
pub fn build<T>(executors: usize, capacity: usize) -> Vec<Endpoint<T>> {
    assert!((1..=EXECUTORS_MAX).contains(&executors), "{executors} executors");
    let parkers = arc_slice((0..executors).map(|_| Parker::default()).collect());
    let mut peers: Vec<Vec<Option<Peer<T>>>> = (0..executors).map(|_| (0..executors).map(|_| None).collect()).collect();
    for (low, high) in (0..executors).flat_map(|low| (low + 1..executors).map(move |high| (low, high))) {
        let (to_high, from_low) = ring(capacity);
        let (to_low, from_high) = ring(capacity);
        peers[low][high] = Some(Peer::new(to_high, from_high));
        peers[high][low] = Some(Peer::new(to_low, from_low));
    }
    let endpoint = |(me, peers): (usize, Vec<_>)| Endpoint {
        me,
        peers: peers.into_boxed_slice(),
        parkers: Arc::clone(&parkers),
        cursor: 0,
        burst_left: RECEIVE_BURST,
        outbox_len: 0,
    };
    peers.into_iter().enumerate().map(endpoint).collect()
}

impl<T> Peer<T> {
    fn new(producer: Producer<T>, consumer: Consumer<T>) -> Peer<T> {
        Peer { producer, consumer, outbox: VecDeque::new(), dirty: false, finished: false }
    }

    /// Moves what fits from the outbox into the ring; gives back what can never be sent. Returns how many left it.
    fn flush(&mut self, mut give_back: impl FnMut(T)) -> usize {
        let before = self.outbox.len();
        while let Some(message) = self.outbox.pop_front() {
            match self.producer.try_push(message) {
                Ok(()) => self.dirty = true,
                Err(PushError::Closed(message)) => give_back(message),
                Err(PushError::Full(message)) => {
                    self.outbox.push_front(message);
                    break;
                }
            }
        }
        before - self.outbox.len()
    }
}

impl<T> Endpoint<T> {
    /// The number of this executor.
    pub fn me(&self) -> usize {
        self.me
    }

    /// How many executors the mesh has, this one included.
    pub fn executors(&self) -> usize {
        self.peers.len()
    }

    /// Everyone's parking state, for plain threads that wake a core too.
    pub fn parkers(&self) -> &Arc<[Parker]> {
        &self.parkers
    }

    fn peer(&self, other: usize) -> &Peer<T> {
        self.peers[other].as_ref().expect("an executor has no ring to itself")
    }

    /// Sends to another executor, in the order of calls; never blocks. The destination is rung by the next
    /// [`for_each_dirty`](Endpoint::for_each_dirty). Sending to itself is a programmer's error and panics.
    #[inline]
    pub fn send(&mut self, to: usize, message: T) -> Result<(), Closed<T>> {
        let peer = self.peers[to].as_mut().expect("an executor has no ring to itself");
        if !peer.outbox.is_empty() && !peer.producer.is_closed() {
            peer.outbox.push_back(message);
            self.outbox_len += 1;
            return Ok(());
        }
        match peer.producer.try_push(message) {
            Ok(()) => peer.dirty = true,
            Err(PushError::Closed(message)) => return Err(Closed(message)),
            Err(PushError::Full(message)) => {
                peer.outbox.push_back(message);
                self.outbox_len += 1;
            }
        }
        Ok(())
    }

    /// Retries what waits in the outboxes. Messages to a destination that has closed are handed to `give_back` with its
    /// number. Costs one comparison when nothing waits.
    #[inline]
    pub fn flush(&mut self, mut give_back: impl FnMut(usize, T)) {
        if self.outbox_len == 0 {
            return;
        }
        for (to, peer) in self.peers.iter_mut().enumerate() {
            if let Some(peer) = peer {
                self.outbox_len -= peer.flush(|message| give_back(to, message));
            }
        }
    }

    /// Takes the next message and its sender. Peers take turns, [`RECEIVE_BURST`] messages each.
    #[inline]
    pub fn pop(&mut self) -> Option<(usize, T)> {
        // One visit more than there are executors: the first may be at the end of its burst and be the only one.
        for _ in 0..=self.peers.len() {
            if self.burst_left > 0
                && let Some(peer) = &mut self.peers[self.cursor]
                && let Some(message) = peer.next()
            {
                self.burst_left -= 1;
                return Some((self.cursor, message));
            }
            self.cursor = if self.cursor + 1 == self.peers.len() { 0 } else { self.cursor + 1 };
            self.burst_left = RECEIVE_BURST;
        }
        None
    }

    /// Hands at most `max` messages with their senders to `handle`, and returns how many.
    #[inline]
    pub fn receive(&mut self, max: usize, mut handle: impl FnMut(usize, T)) -> usize {
        for received in 0..max {
            match self.pop() {
                Some((from, message)) => handle(from, message),
                None => return received,
            }
        }
        max
    }

    /// Whether [`pop`](Endpoint::pop) has something to find: a message, or the end of a peer's stream.
    #[inline]
    pub fn has_incoming(&self) -> bool {
        self.peers.iter().flatten().any(Peer::has_incoming)
    }

    /// Which bell to ring after sends to one destination. Ending a turn, prefer
    /// [`for_each_dirty`](Endpoint::for_each_dirty).
    #[inline]
    pub fn notify(&mut self, to: usize) -> Wake {
        if let Some(peer) = &mut self.peers[to] {
            peer.dirty = false;
        }
        self.parkers[to].notify()
    }

    /// Ends a turn's sends: tells for each destination that got something, and sleeps, which bell to ring. One fence
    /// for all of them, none if nothing was sent.
    #[inline]
    pub fn for_each_dirty(&mut self, mut ring_bell: impl FnMut(usize, Wake)) {
        let mut fenced = false;
        for (to, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer.as_mut().filter(|peer| peer.dirty) else { continue };
            peer.dirty = false;
            if !fenced {
                order::handshake_fence();
                fenced = true;
            }
            match self.parkers[to].take() {
                Wake::None => {}
                wake => ring_bell(to, wake),
            }
        }
    }

    /// Announces a block of this executor, and looks once more. On `true` the caller may block (after looking into its
    /// other sources of work) and must then call [`woke`](Endpoint::woke); on `false` there is work, and it runs on.
    ///
    /// A peer does not ring when it makes room in its ring, so with a filled outbox a deep park is refused, and a
    /// shallow one must end by itself after a millisecond.
    #[inline]
    pub fn prepare_park(&self, park: Park) -> bool {
        if park == Park::Deep && self.outbox_len > 0 {
            return false;
        }
        let parker = &self.parkers[self.me];
        parker.prepare(park);
        if self.has_incoming() {
            parker.cancel();
            return false;
        }
        true
    }

    /// Ends a park that [`prepare_park`](Endpoint::prepare_park) allowed, whether it blocked or not.
    #[inline]
    pub fn woke(&self) {
        self.parkers[self.me].woke();
    }

    /// Whether so much waits in the outboxes ([`OUTBOX_SOFT_MAX`] messages) that no new requests may be produced.
    #[inline]
    pub fn is_congested(&self) -> bool {
        self.outbox_len >= OUTBOX_SOFT_MAX
    }

    /// Messages waiting in all outboxes.
    pub fn outbox_len(&self) -> usize {
        self.outbox_len
    }

    /// Messages on the way to one other executor: in the ring and in the outbox.
    pub fn depth_to(&self, to: usize) -> usize {
        let peer = self.peer(to);
        peer.producer.len() + peer.outbox.len()
    }

    /// Messages of one other executor that wait to be received.
    pub fn depth_from(&self, from: usize) -> usize {
        self.peer(from).consumer.len()
    }

    /// Ends this executor's sending: peers receive what is in the rings and then find it finished. Outboxes are handed
    /// to `give_back`, and so is every later message; flush before. All peers become dirty. Receiving goes on.
    pub fn close(&mut self, mut give_back: impl FnMut(usize, T)) {
        for (to, peer) in self.peers.iter_mut().enumerate() {
            let Some(peer) = peer else { continue };
            peer.producer.close();
            peer.dirty = true;
            self.outbox_len -= peer.flush(|message| give_back(to, message));
        }
    }

    /// Whether this peer has closed and all it sent was received: a request that it has not answered never will be.
    pub fn is_finished(&self, peer: usize) -> bool {
        self.peer(peer).finished
    }

    /// Whether all peers have closed and nothing more can come.
    pub fn all_finished(&self) -> bool {
        self.peers.iter().flatten().all(|peer| peer.finished)
    }
}

impl<T> Peer<T> {
    #[inline]
    fn next(&mut self) -> Option<T> {
        let message = self.consumer.pop();
        if message.is_some() || self.finished || !self.consumer.is_closed() {
            return message;
        }
        // The end was seen after the empty pop, so one more look: what was pushed before the end is visible now.
        let last = self.consumer.pop();
        self.finished = last.is_none();
        last
    }

    #[inline]
    fn has_incoming(&self) -> bool {
        !self.consumer.is_empty() || (!self.finished && self.consumer.is_closed())
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
