//! One core's own io_uring for client sockets.
//!
//! The ring is separate from glommio's: it is set up with `SINGLE_ISSUER | DEFER_TASKRUN | TASKRUN_FLAG`, so that socket
//! completions never interrupt the core but are collected when the pump asks for them. Received bytes land in buffers
//! that the kernel picks from a ring of provided buffers; the pump hands each back at the end of its turn.
//!
//! Only the owning core's thread touches a [`Ring`].

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU16, Ordering, fence};

use io_uring::types::{BufRingEntry, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Submission queue entries; a fuller queue is submitted in between.
const SUBMISSIONS: u32 = 512;
/// Completion queue entries. More completions than that wait inside the kernel.
const COMPLETIONS: u32 = 4096;
/// Number of receive buffers per core: more than one turn uses, few enough to stay in the cache.
pub const RECEIVE_BUFFERS: u16 = 128;
/// Bytes of one receive buffer.
pub const RECEIVE_BUFFER_BYTES: usize = 16 * 1024;
/// The one buffer group.
const BUFFER_GROUP: u16 = 0;

/// What an operation in the ring is about; travels in `user_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Op {
    /// Multishot accept on listener `index`.
    Accept = 1,
    /// Multishot receive of connection `index`.
    Receive,
    /// Send of connection `index`.
    Send,
    /// Another thread rang this core's bell.
    Bell,
    /// What lingers has lingered long enough.
    Linger,
    /// The periodic tick.
    Tick,
    /// An operation was cancelled; the result does not matter.
    Cancel,
}

impl Op {
    fn from_u8(op: u8) -> Op {
        match op {
            1 => Op::Accept,
            2 => Op::Receive,
            3 => Op::Send,
            4 => Op::Bell,
            5 => Op::Linger,
            6 => Op::Tick,
            _ => Op::Cancel,
        }
    }

    fn data(self, index: u32) -> u64 {
        (self as u64) << 56 | index as u64
    }
}

/// One completion, decoded.
#[derive(Clone, Copy, Debug)]
pub struct Completion {
    pub op: Op,
    pub index: u32,
    /// Bytes or a descriptor; a negative errno on failure.
    pub result: i32,
    /// The receive buffer that holds the bytes.
    pub buffer: Option<u16>,
    /// A multishot operation goes on.
    pub more: bool,
}

/// The ring and its receive buffers.
pub struct Ring {
    uring: IoUring,
    buffers: Buffers,
    /// Written by other threads to wake the core out of [`Ring::enter`].
    bell: OwnedFd,
    /// Where the kernel puts what it read from `bell`; boxed, because the kernel keeps the address.
    bell_count: Box<u64>,
    tick: Box<Timespec>,
    linger: Box<Timespec>,
    /// Signalled by the kernel at each completion while it is enabled: wakes the core out of glommio's park.
    deep_bell: OwnedFd,
}

impl Ring {
    pub fn new() -> io::Result<Ring> {
        let uring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)?;
        let buffers = Buffers::new();
        // SAFETY: the buffer ring lies in `buffers`, which lives as long as `uring` and is dropped after it (fields
        // drop in order of declaration).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(buffers.ring as u64, RECEIVE_BUFFERS, BUFFER_GROUP, 0)?;
        }
        let deep_bell = eventfd()?;
        uring.submitter().register_eventfd(deep_bell.as_raw_fd())?;
        let mut ring = Ring {
            uring,
            buffers,
            bell: eventfd()?,
            bell_count: Box::new(0),
            tick: Box::new(Timespec::new()),
            linger: Box::new(Timespec::new()),
            deep_bell,
        };
        ring.notify_deep(false);
        ring.arm_bell();
        Ok(ring)
    }

    /// Descriptor that wakes the core when it blocks in [`Ring::enter`].
    pub fn bell(&self) -> RawFd {
        self.bell.as_raw_fd()
    }

    /// Descriptor that wakes the core when it waits in glommio.
    pub fn deep_bell(&self) -> RawFd {
        self.deep_bell.as_raw_fd()
    }

    /// Whether completions signal the deep bell.
    pub fn notify_deep(&mut self, on: bool) {
        let completions = self.uring.completion();
        if on {
            completions.enable_eventfd();
            // The caller looks for completions next. Without the fence the kernel could still see the signal disabled
            // while that look misses what it has just added.
            fence(Ordering::SeqCst);
        } else {
            completions.disable_eventfd();
        }
    }

    /// Waits for the bell; again after each ring.
    pub fn arm_bell(&mut self) {
        let target: *mut u64 = &mut *self.bell_count;
        let entry = opcode::Read::new(Fd(self.bell.as_raw_fd()), target.cast(), 8).build();
        // SAFETY: `bell` and the boxed counter live as long as the ring.
        unsafe { self.push(entry.user_data(Op::Bell.data(0))) }
    }

    /// Completes with [`Op::Tick`] once, `after_ms` from now.
    pub fn arm_tick(&mut self, after_ms: u32) {
        *self.tick = Timespec::new().sec(after_ms as u64 / 1000).nsec(after_ms % 1000 * 1_000_000);
        let target: *const Timespec = &*self.tick;
        // SAFETY: the boxed timespec lives as long as the ring.
        unsafe { self.push(opcode::Timeout::new(target).build().user_data(Op::Tick.data(0))) }
    }

    /// Completes with [`Op::Linger`] once, `after_ms` from now; none is armed. One timer for many turns costs far less than
    /// waits that are timed, as each of these programs the clock anew.
    pub fn arm_linger(&mut self, after_ms: u32) {
        *self.linger = Timespec::new().sec(after_ms as u64 / 1000).nsec(after_ms % 1000 * 1_000_000);
        let target: *const Timespec = &*self.linger;
        // SAFETY: the boxed timespec lives as long as the ring.
        unsafe { self.push(opcode::Timeout::new(target).build().user_data(Op::Linger.data(0))) }
    }

    /// Accepts on `listener` until it fails or is cancelled.
    pub fn arm_accept(&mut self, index: u32, listener: RawFd) {
        let entry = opcode::AcceptMulti::new(Fd(listener)).flags(libc::SOCK_CLOEXEC).build();
        // SAFETY: the operation refers to no memory.
        unsafe { self.push(entry.user_data(Op::Accept.data(index))) }
    }

    /// Receives from `socket` until it fails, ends, is cancelled or the buffers run out.
    pub fn arm_receive(&mut self, index: u32, socket: RawFd) {
        let entry = opcode::RecvMulti::new(Fd(socket), BUFFER_GROUP).build();
        // SAFETY: the bytes land in the provided buffers, which live as long as the ring.
        unsafe { self.push(entry.user_data(Op::Receive.data(index))) }
    }

    /// Cancels the multishot receive of connection `index`; its last completion says so.
    pub fn cancel_receive(&mut self, index: u32) {
        let entry = opcode::AsyncCancel::new(Op::Receive.data(index)).build();
        // SAFETY: the operation refers to no memory.
        unsafe { self.push(entry.user_data(Op::Cancel.data(index))) }
    }

    /// Cancels the accept of listener `index`.
    pub fn cancel_accept(&mut self, index: u32) {
        let entry = opcode::AsyncCancel::new(Op::Accept.data(index)).build();
        // SAFETY: the operation refers to no memory.
        unsafe { self.push(entry.user_data(Op::Cancel.data(index))) }
    }

    /// Sends the bytes at `data`.
    ///
    /// # Safety
    ///
    /// The bytes must stay where they are, unchanged, until the operation's completion has been seen.
    pub unsafe fn send(&mut self, index: u32, socket: RawFd, data: *const u8, len: usize) {
        let entry = opcode::Send::new(Fd(socket), data, len as u32).flags(libc::MSG_NOSIGNAL).build();
        // SAFETY: passed on to the caller.
        unsafe { self.push(entry.user_data(Op::Send.data(index))) }
    }

    /// Sends the bytes that `header` gathers.
    ///
    /// # Safety
    ///
    /// The header, its vector and the bytes must stay where they are, unchanged, until the operation's completion has
    /// been seen.
    pub unsafe fn send_vectored(&mut self, index: u32, socket: RawFd, header: *const libc::msghdr) {
        let entry = opcode::SendMsg::new(Fd(socket), header).flags(libc::MSG_NOSIGNAL as u32).build();
        // SAFETY: passed on to the caller.
        unsafe { self.push(entry.user_data(Op::Send.data(index))) }
    }

    /// Hands what is queued to the kernel and collects completions; if `wait`, blocks until there is one.
    pub fn enter(&mut self, wait: bool) -> io::Result<()> {
        if !wait {
            let mut submission = self.uring.submission();
            submission.sync();
            if submission.is_empty() && !submission.taskrun() && !submission.cq_overflow() {
                return Ok(());
            }
        }
        match self.uring.submit_and_wait(wait as usize) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                // A signal, or more completions than the queue holds: collecting them makes room.
                Some(libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// As [`Ring::enter`], blocking for at most `wait_us`.
    pub fn enter_for(&mut self, wait_us: u32) -> io::Result<()> {
        let wait = Timespec::new().nsec(wait_us * 1000);
        let args = SubmitArgs::new().timespec(&wait);
        match self.uring.submitter().submit_with_args(1, &args) {
            Ok(_) => Ok(()),
            Err(error) => match error.raw_os_error() {
                Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
                _ => Err(error),
            },
        }
    }

    /// Whether completions wait to be reaped.
    pub fn has_completions(&mut self) -> bool {
        !self.uring.completion().is_empty()
    }

    /// Moves the completions that have arrived to `out`, at most `max`.
    pub fn reap(&mut self, out: &mut Vec<Completion>, max: usize) {
        out.extend(self.uring.completion().take(max).map(|entry| {
            let data = entry.user_data();
            Completion {
                op: Op::from_u8((data >> 56) as u8),
                index: data as u32,
                result: entry.result(),
                buffer: cqueue::buffer_select(entry.flags()),
                more: cqueue::more(entry.flags()),
            }
        }));
    }

    /// The first `len` bytes of a receive buffer that a completion named and that has not been recycled yet.
    ///
    /// # Safety
    ///
    /// The caller must not use the slice after it has recycled `buffer`.
    #[inline]
    pub unsafe fn received(&self, buffer: u16, len: usize) -> &'static [u8] {
        assert!(buffer < RECEIVE_BUFFERS && len <= RECEIVE_BUFFER_BYTES);
        // SAFETY: the buffer is in bounds, the kernel does not write to it until it is recycled, and the caller keeps
        // the slice no longer than that.
        unsafe { std::slice::from_raw_parts(self.buffers.memory.add(buffer as usize * RECEIVE_BUFFER_BYTES), len) }
    }

    /// Gives receive buffers back to the kernel.
    pub fn recycle(&mut self, buffers: &mut Vec<u16>) {
        if !buffers.is_empty() {
            self.buffers.provide(buffers.iter().copied());
            buffers.clear();
        }
    }

    /// Queues an operation; submits first when the queue is full.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay valid until its completion has been seen.
    unsafe fn push(&mut self, entry: squeue::Entry) {
        loop {
            // SAFETY: passed on to the caller.
            if unsafe { self.uring.submission().push(&entry) }.is_ok() {
                return;
            }
            // The kernel takes the whole queue, whatever happens to the operations in it.
            if let Err(error) = self.uring.submit() {
                assert!(
                    matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)),
                    "the kernel refuses the submission queue: {error}"
                );
            }
        }
    }
}

/// Whether a receive on this socket would have something to tell.
///
/// A multishot receive can miss the end of a connection: if it comes while the kernel takes in the last bytes, one wake-up
/// may stand for both, and there is no other. Kernels before 7.0 miss the end of Unix sockets so
/// (<https://github.com/axboe/liburing/issues/1549>); with that repaired, Linux 6.18 still missed one reset of a TCP
/// connection in some thousands. Whoever has heard nothing for a while has to look once.
pub fn has_input(socket: RawFd) -> bool {
    let mut poll = libc::pollfd { fd: socket, events: libc::POLLIN | libc::POLLRDHUP, revents: 0 };
    // SAFETY: one entry, which outlives the call; it does not block.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// A blocking eventfd: a non-blocking one would make the ring's read of it spin on EAGAIN.
fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: a plain system call; the descriptor it returns is owned by nobody else.
    unsafe {
        let fd = libc::eventfd(0, libc::EFD_CLOEXEC);
        if fd < 0 { Err(io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// The receive buffers and the ring through which the kernel is told about them.
struct Buffers {
    /// Page-aligned array of [`RECEIVE_BUFFERS`] entries, shared with the kernel.
    ring: *mut BufRingEntry,
    memory: *mut u8,
    /// Entries ever provided; the kernel sees it modulo 2^16.
    tail: u16,
}

impl Buffers {
    const RING: Layout = match Layout::from_size_align(RECEIVE_BUFFERS as usize * size_of::<BufRingEntry>(), 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("the ring's size and alignment are constants"),
    };
    const MEMORY: Layout = match Layout::from_size_align(RECEIVE_BUFFERS as usize * RECEIVE_BUFFER_BYTES, 4096) {
        Ok(layout) => layout,
        Err(_) => panic!("the buffers' size and alignment are constants"),
    };

    fn new() -> Buffers {
        const { assert!(RECEIVE_BUFFERS.is_power_of_two()) }
        // SAFETY: both layouts have a size above zero.
        let (ring, memory) = unsafe { (alloc_zeroed(Self::RING).cast::<BufRingEntry>(), alloc_zeroed(Self::MEMORY)) };
        if ring.is_null() || memory.is_null() {
            handle_alloc_error(Self::MEMORY);
        }
        let mut buffers = Buffers { ring, memory, tail: 0 };
        buffers.provide(0..RECEIVE_BUFFERS);
        buffers
    }

    fn provide(&mut self, ids: impl Iterator<Item = u16>) {
        for id in ids {
            let at = (self.tail & (RECEIVE_BUFFERS - 1)) as usize;
            // SAFETY: `at` is in bounds of the ring, and the kernel does not read an entry before the tail passes it.
            // `id` is in bounds, because it came from the kernel or from `new`.
            unsafe {
                let entry = &mut *self.ring.add(at);
                entry.set_addr(self.memory.add(id as usize * RECEIVE_BUFFER_BYTES) as u64);
                entry.set_len(RECEIVE_BUFFER_BYTES as u32);
                entry.set_bid(id);
            }
            self.tail = self.tail.wrapping_add(1);
        }
        // SAFETY: the tail field lies inside the first entry, aligned; the kernel only reads it. The release store
        // publishes the entries written above.
        unsafe { (*BufRingEntry::tail(self.ring).cast::<AtomicU16>()).store(self.tail, Ordering::Release) }
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: allocated with these layouts in `new`; the io_uring that knew them is gone (see `Ring::new`).
        unsafe {
            dealloc(self.ring.cast(), Self::RING);
            dealloc(self.memory, Self::MEMORY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    fn wait_for(ring: &mut Ring, op: Op) -> Completion {
        let mut seen = Vec::new();
        for _ in 0..1000 {
            ring.enter(true).unwrap();
            ring.reap(&mut seen, 64);
            if let Some(found) = seen.iter().find(|c| c.op == op) {
                return *found;
            }
        }
        panic!("no completion of {op:?} in {seen:?}");
    }

    #[test]
    fn receives_sends_and_recycles() {
        let mut ring = Ring::new().unwrap();
        let (mut far, near) = UnixStream::pair().unwrap();
        ring.arm_receive(7, near.as_raw_fd());
        // More rounds than there are buffers: recycling must work.
        for round in 0..RECEIVE_BUFFERS as usize * 2 {
            far.write_all(&[round as u8; 100]).unwrap();
            let got = wait_for(&mut ring, Op::Receive);
            assert_eq!((got.index, got.result, got.more), (7, 100, true));
            let buffer = got.buffer.unwrap();
            // SAFETY: used before the buffer is recycled.
            assert_eq!(unsafe { ring.received(buffer, 100) }, [round as u8; 100]);
            ring.recycle(&mut vec![buffer]);
        }
        let text = b"hello";
        // SAFETY: the text is static.
        unsafe { ring.send(7, near.as_raw_fd(), text.as_ptr(), text.len()) };
        assert_eq!(wait_for(&mut ring, Op::Send).result, 5);
        let mut back = [0; 5];
        far.read_exact(&mut back).unwrap();
        assert_eq!(&back, text);
        drop(far);
        let end = wait_for(&mut ring, Op::Receive);
        assert_eq!((end.result, end.more), (0, false));
    }

    #[test]
    fn the_bell_and_the_tick_end_a_wait() {
        let mut ring = Ring::new().unwrap();
        let one = 1u64.to_ne_bytes();
        for _ in 0..3 {
            // SAFETY: eight readable bytes and an open eventfd.
            assert_eq!(unsafe { libc::write(ring.bell(), one.as_ptr().cast(), 8) }, 8);
            assert_eq!(wait_for(&mut ring, Op::Bell).result, 8);
            ring.arm_bell();
        }
        ring.arm_tick(5);
        assert_eq!(wait_for(&mut ring, Op::Tick).result, -libc::ETIME);
    }
}
