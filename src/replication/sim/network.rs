//! Connections as TCP makes them: in order and whole within one, in any order between them; bytes arrive in pieces; one that
//! breaks loses what is under way, and each side learns of it when it likes.

use std::collections::VecDeque;

use crate::replication::message::Decoder;

/// A sequence of numbers from a seed (xorshift64*).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// Below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        (self.next() >> 33) % n
    }

    pub fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    pub fn id(&mut self) -> u128 {
        (u128::from(self.next()) << 64 | u128::from(self.next())).max(1)
    }
}

#[derive(Debug)]
pub enum Packet {
    Open,
    Bytes(Vec<u8>),
    Close,
}

/// One direction.
#[derive(Debug, Default)]
pub struct Pipe {
    packets: VecDeque<(u64, Packet)>,
    ready_ms: u64,
    pub decoder: Decoder,
}

impl Pipe {
    /// Arrives `delay_ms` later, and not before what was sent earlier.
    pub fn send(&mut self, now_ms: u64, delay_ms: u64, packet: Packet) {
        self.ready_ms = self.ready_ms.max(now_ms + delay_ms);
        self.packets.push_back((self.ready_ms, packet));
    }

    /// When the next packet arrives.
    pub fn next_ms(&self) -> Option<u64> {
        self.packets.front().map(|p| p.0)
    }

    pub fn receive(&mut self, now_ms: u64) -> Option<Packet> {
        self.next_ms().filter(|&at| at <= now_ms)?;
        self.packets.pop_front().map(|p| p.1)
    }

    fn lose(&mut self) {
        self.packets.clear();
        self.decoder = Decoder::default();
    }
}

/// Between the replica of one node and the primary of another.
#[derive(Debug)]
pub struct Connection {
    pub id: u64,
    pub replica: usize,
    pub primary: usize,
    /// The start of the replica's node that opened it.
    pub incarnation: u64,
    pub to_primary: Pipe,
    pub to_replica: Pipe,
    /// What the primary has sent and the socket has not taken: cost and bytes.
    pub outbox: VecDeque<(u64, Packet)>,
    pub replica_open: bool,
    pub primary_open: bool,
    /// Percent of the chances to take something that it uses.
    pub pace: u64,
}

impl Connection {
    pub fn new(id: u64, replica: usize, primary: usize, incarnation: u64, pace: u64) -> Connection {
        Connection {
            id,
            replica,
            primary,
            incarnation,
            to_primary: Pipe::default(),
            to_replica: Pipe::default(),
            outbox: VecDeque::new(),
            replica_open: true,
            primary_open: false,
            pace,
        }
    }

    /// Breaks. Each side learns of it after its delay.
    pub fn cut(&mut self, now_ms: u64, delays_ms: (u64, u64)) {
        self.to_primary.lose();
        self.to_replica.lose();
        self.outbox.clear();
        self.to_primary.send(now_ms, delays_ms.0, Packet::Close);
        self.to_replica.send(now_ms, delays_ms.1, Packet::Close);
    }

    pub fn is_over(&self) -> bool {
        !self.replica_open && !self.primary_open && self.outbox.is_empty()
    }
}
