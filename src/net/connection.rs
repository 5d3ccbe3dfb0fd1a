//! One client connection: what it has sent, what it is owed, and why it may have to wait.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use super::forward::Forwarding;
use super::held::Held;
use super::limits;
use super::ring::Ring;
use super::wait::Blocked;
use crate::command::Session;
use crate::command::transaction::Queued;
use crate::log::durability::{About, Durability, LaneMap};
use crate::log::feed::Seq;
use crate::resp::{Output, Parser};

/// Reasons why a connection's requests are not executed now, as a bit set. Its bytes are buffered meanwhile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hold(u16);

impl Hold {
    /// A request that must run alone is in the window.
    pub const BARRIER: Hold = Hold(1);
    /// Answers from other cores are awaited.
    pub const ASK: Hold = Hold(1 << 1);
    /// CLIENT PAUSE, or the log is behind ([`super::backpressure`]).
    pub const PAUSE: Hold = Hold(1 << 2);
    /// The client does not read its replies fast enough.
    pub const OUTPUT: Hold = Hold(1 << 3);
    /// Other cores owe too many replies.
    pub const OWED: Hold = Hold(1 << 4);
    /// The connection is to be closed: nothing it sends matters any more.
    pub const CLOSE: Hold = Hold(1 << 5);
    /// A transaction has been started and has not ended.
    pub const TRANSACTION: Hold = Hold(1 << 6);
    /// The next request, which is stashed, runs when nothing is owed.
    pub const DRAIN: Hold = Hold(1 << 7);
    /// Its command waits for an element.
    pub const BLOCKED: Hold = Hold(1 << 8);
    /// Something of the connection is under way that will still look for it.
    pub const UNDER_WAY: Hold = Hold(Hold::BARRIER.0 | Hold::ASK.0 | Hold::TRANSACTION.0);

    pub fn any(self) -> bool {
        self.0 != 0
    }

    /// Whether this reason, or one of these, is set.
    pub fn has(self, reason: Hold) -> bool {
        self.0 & reason.0 != 0
    }

    pub fn set(&mut self, reason: Hold) {
        self.0 |= reason.0;
    }

    /// Ends a reason; true if it was the last one.
    pub fn clear(&mut self, reason: Hold) -> bool {
        let had = self.has(reason);
        self.0 &= !reason.0;
        had && self.0 == 0
    }
}

/// One client connection. It lives in a fixed place until the kernel has completed every operation on it.
pub struct Connection {
    pub socket: OwnedFd,
    /// Tells this connection from earlier ones in the same place.
    pub generation: u32,
    pub session: Session,
    pub parser: Parser,
    /// Bytes that could not be executed where they arrived: the start of an unfinished request, or whole requests while
    /// `hold` is set.
    pub inbuf: Vec<u8>,
    /// Bytes of `inbuf` that are parsed: requests in the window point at them. Removed when the window has run.
    pub consumed: usize,
    /// Requests in the window point into `inbuf`: it must not change.
    pub pinned: bool,
    pub hold: Hold,
    /// Replies in order, not yet handed to the kernel.
    pub out: Output,
    /// What has to be reached, and in which sense, before `out` and the replies of this core behind it may leave; and what
    /// is set aside before them: see [`super::held`].
    pub needs: Seq,
    pub needs_for: Durability,
    pub needs_about: About,
    pub held: VecDeque<Held>,
    /// In a cluster: `out` tells of keys, and whether the node may serve them has not been looked at since.
    pub unchecked: bool,
    /// Replies the kernel is sending, and how many of their bytes are sent.
    sending: Output,
    sent: usize,
    send_in_flight: bool,
    gather: Option<Box<Gather>>,
    pub receiving: bool,
    pub receive_cancelled: bool,
    /// Since the kernel has told of something received, it was made sure that nothing more is there to be told.
    pub looked: bool,
    pub forwarding: Option<Box<Forwarding>>,
    /// Requests since MULTI.
    pub queue: Vec<Queued>,
    /// The transaction that is under way: its place among those of this core.
    pub transaction: Option<u32>,
    /// What it waits for, if it does.
    pub blocked: Option<Box<Blocked>>,
    /// Listed for the end of the turn.
    pub dirty: bool,
    /// Listed among the connections whose buffered requests may run.
    pub ready: bool,
    /// The client has shut down its side: close when what it has sent is executed.
    pub eof: bool,
    /// A request that [`Hold::PAUSE`] holds back, or [`Hold::DRAIN`].
    pub stash: Option<Vec<Vec<u8>>>,
    /// The window holds the last request of this connection that will be answered.
    pub close_after_window: bool,
    /// Close when everything that is owed has been sent.
    pub close_when_sent: bool,
    /// Shut down; waits for the kernel's last completions.
    pub dead: bool,
    /// It is dead here because the control core goes on with it.
    pub handed_over: bool,
    /// Since when (steady ms) the output has been over the soft limit.
    pub over_soft_since_ms: Option<i64>,
}

/// Memory of a gathering send; the kernel keeps its address.
struct Gather {
    header: libc::msghdr,
    pieces: [libc::iovec; limits::SEND_PIECES],
}

impl Connection {
    pub fn new(socket: OwnedFd, generation: u32, session: Session) -> Self {
        Connection {
            socket,
            generation,
            session,
            parser: Parser::default(),
            inbuf: Vec::new(),
            consumed: 0,
            pinned: false,
            hold: Hold::default(),
            out: Output::new(),
            needs: 0,
            needs_for: Durability::Memory,
            needs_about: About::Nothing,
            unchecked: false,
            held: VecDeque::new(),
            sending: Output::new(),
            sent: 0,
            send_in_flight: false,
            gather: None,
            receiving: false,
            receive_cancelled: false,
            looked: false,
            forwarding: None,
            queue: Vec::new(),
            transaction: None,
            blocked: None,
            dirty: false,
            ready: false,
            eof: false,
            stash: None,
            close_after_window: false,
            close_when_sent: false,
            dead: false,
            handed_over: false,
            over_soft_since_ms: None,
        }
    }

    /// The next reply tells of what is only safe when this is reached: of keys of this partition, or of several.
    pub fn wait_for(&mut self, needs: Seq, durability: Durability, partition: Option<u16>, lanes: Option<&LaneMap>) {
        if needs > 0 {
            (self.needs, self.needs_for) = (self.needs.max(needs), self.needs_for.max(durability));
            self.needs_about = self.needs_about.and(partition, lanes);
        }
    }

    pub fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Whether replies are owed that other cores or answers still have to bring.
    #[inline]
    pub fn owes(&self) -> bool {
        self.forwarding.as_ref().is_some_and(|f| !f.order.is_empty())
    }

    /// Whether this turn gathers requests of this connection for other cores.
    pub fn has_open_batches(&self) -> bool {
        self.forwarding.as_ref().is_some_and(|f| f.open.iter().any(Option::is_some))
    }

    /// Reply bytes that wait here or in the kernel's hands.
    pub fn output_bytes(&self) -> usize {
        let held = self.forwarding.as_ref().map_or(0, |f| f.held.len());
        let aside: usize = self.held.iter().map(|held| held.out.len()).sum();
        self.out.len() + aside + self.sending.len() - self.sent + held
    }

    /// Number of values that are sent from where they lie.
    pub fn splices(&self) -> usize {
        self.out.splices().len() + self.sending.splices().len()
    }

    /// Bytes of memory of this connection, without what it shares with the keyspace.
    pub fn memory(&self) -> usize {
        let forwarding = self.forwarding.as_ref().map_or(0, |f| f.held.capacity());
        let buffers = self.inbuf.capacity() + self.out.capacity() + self.sending.capacity();
        let queued = self.session.multi.map_or(0, |multi| multi.bytes);
        size_of::<Connection>() + self.parser.memory() + buffers + forwarding + queued
    }

    /// True when the kernel holds nothing of this connection any more.
    pub fn quiescent(&self) -> bool {
        !self.receiving && !self.send_in_flight
    }

    pub fn sending(&self) -> bool {
        self.send_in_flight
    }

    /// Hands the replies to the kernel, unless a send is under way. Empty outputs come from and go to `pool`.
    pub fn flush(&mut self, index: u32, ring: &mut Ring, pool: &mut Vec<Output>) {
        if self.send_in_flight || self.dead {
            return;
        }
        if self.sent == self.sending.len() {
            let next = match self.held.front() {
                // It is looked at when the turn ends.
                None if self.needs > 0 || self.unchecked => return,
                None => std::mem::take(&mut self.out),
                Some(held) if held.durability == Durability::Memory => {
                    self.held.pop_front().map(|held| held.out).unwrap_or_default()
                }
                Some(_) => return,
            };
            if next.is_empty() {
                self.out = next;
                return;
            }
            self.sent = 0;
            give_back(pool, std::mem::replace(&mut self.sending, next));
        }
        self.send_in_flight = true;
        if self.sending.splices().is_empty() {
            let bytes = &self.sending.buf()[self.sent..];
            let len = bytes.len().min(limits::SEND_BYTES);
            // SAFETY: `sending` is not touched while `send_in_flight` is set, and the connection is not dropped before
            // the completion has cleared it (see `quiescent`).
            unsafe { ring.send(index, self.socket.as_raw_fd(), bytes.as_ptr(), len) }
        } else {
            self.send_gathered(index, ring);
        }
    }

    fn send_gathered(&mut self, index: u32, ring: &mut Ring) {
        let gather = self.gather.get_or_insert_with(|| {
            // SAFETY: all-zero is a valid msghdr and a valid iovec.
            Box::new(unsafe { std::mem::zeroed() })
        });
        let count = fill_pieces(&self.sending, self.sent, &mut gather.pieces);
        gather.header.msg_iov = gather.pieces.as_mut_ptr();
        gather.header.msg_iovlen = count as _;
        // SAFETY: as in `flush`; the header and its pieces are boxed and not touched while the send is in flight.
        unsafe { ring.send_vectored(index, self.socket.as_raw_fd(), &gather.header) }
    }

    /// The kernel has sent `result` bytes, or failed. False: the connection is broken.
    pub fn sent(&mut self, result: i32, pool: &mut Vec<Output>) -> bool {
        self.send_in_flight = false;
        if result < 0 {
            return matches!(-result, libc::EINTR | libc::EAGAIN);
        }
        self.sent += result as usize;
        if self.sent == self.sending.len() {
            self.sent = 0;
            give_back(pool, std::mem::take(&mut self.sending));
        }
        true
    }
}

/// Keeps an output for reuse.
fn give_back(pool: &mut Vec<Output>, mut output: Output) {
    if output.capacity() > 0 && pool.len() < limits::POOL_BUFFERS {
        output.clear(limits::POOL_BUFFER_BYTES);
        if output.capacity() > 0 {
            pool.push(output);
        }
    }
}

/// Points `pieces` at the bytes of `output` from offset `skip` on; returns how many are used. Together they hold at most
/// [`limits::SEND_BYTES`].
fn fill_pieces(output: &Output, skip: usize, pieces: &mut [libc::iovec; limits::SEND_PIECES]) -> usize {
    let (mut skip, mut count, mut total, mut at) = (skip, 0, 0, 0);
    let mut add = |bytes: &[u8]| {
        let from = skip.min(bytes.len());
        skip -= from;
        let len = (bytes.len() - from).min(limits::SEND_BYTES - total);
        if len > 0 && count < pieces.len() {
            pieces[count] = libc::iovec { iov_base: bytes[from..].as_ptr() as *mut _, iov_len: len };
            count += 1;
            total += len;
        }
        count < pieces.len() && total < limits::SEND_BYTES
    };
    for (offset, value) in output.splices() {
        if !add(&output.buf()[at..*offset]) || !add(value) {
            return count;
        }
        at = *offset;
    }
    add(&output.buf()[at..]);
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn pieces_cover_the_output_from_any_offset() {
        let mut output = Output::new();
        output.push(b"head");
        output.splice(Arc::new(b"spliced".to_vec()));
        output.push(b"mid");
        output.splice(Arc::new(b"again".to_vec()));
        output.push(b"tail");
        let all = output.to_vec();
        for skip in 0..all.len() {
            // SAFETY: all-zero is a valid iovec.
            let mut pieces = unsafe { std::mem::zeroed() };
            let count = fill_pieces(&output, skip, &mut pieces);
            let mut got = Vec::new();
            for piece in &pieces[..count] {
                // SAFETY: the pieces point into `output`, which is alive and unchanged.
                got.extend_from_slice(unsafe {
                    std::slice::from_raw_parts(piece.iov_base.cast::<u8>(), piece.iov_len)
                });
            }
            assert_eq!(got, &all[skip..]);
        }
    }

    #[test]
    fn a_hold_ends_with_its_last_reason() {
        let mut hold = Hold::default();
        hold.set(Hold::ASK);
        hold.set(Hold::OUTPUT);
        assert!(!hold.clear(Hold::ASK));
        assert!(!hold.clear(Hold::ASK));
        assert!(hold.clear(Hold::OUTPUT));
        assert!(!hold.any());
    }
}
