//! Connections of the simulator: in order, slow, and they break.

use std::collections::VecDeque;

use crate::replication::wire::Decoder;
use crate::streams::NodeId;

/// xorshift64*; the seed decides everything.
#[derive(Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0xD1B5_4A32_D192_ED03)
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

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> Option<T> {
        if of.is_empty() { None } else { Some(of[self.below(of.len() as u64) as usize]) }
    }
}

#[derive(Debug)]
pub enum Packet {
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

    pub fn receive(&mut self, now_ms: u64) -> Option<Packet> {
        self.packets.front().filter(|packet| packet.0 <= now_ms)?;
        self.packets.pop_front().map(|packet| packet.1)
    }
}

/// Between the follower of one node and the leader of another.
#[derive(Debug)]
pub struct Connection {
    pub id: u64,
    pub follower: NodeId,
    pub leader: NodeId,
    /// The processes at its ends.
    pub boots: (u64, u64),
    pub to_leader: Pipe,
    pub to_follower: Pipe,
    /// What the leader has sent and the socket has not taken: cost and packet.
    pub outbox: VecDeque<(u64, Packet)>,
    pub follower_open: bool,
    pub leader_open: bool,
}

impl Connection {
    /// Breaks: what is under way is lost, and each side learns of it after its delay.
    pub fn cut(&mut self, now_ms: u64, delays_ms: (u64, u64)) {
        self.outbox.clear();
        (self.to_leader, self.to_follower) = (Pipe::default(), Pipe::default());
        self.to_leader.send(now_ms, delays_ms.0, Packet::Close);
        self.to_follower.send(now_ms, delays_ms.1, Packet::Close);
    }
}
