//! The stream of one leader: its connection, what it is asked, what it is told.

use std::collections::VecDeque;

use super::pace::Pieces;
use super::receive::Received;
use super::*;
use crate::streams::message::{Held, Open, Want};

/// Marks that are kept; more of them are one.
const MARKS_MAX: usize = 1024;

/// Attempts to connect are at the most this many times further apart than the first ones.
const BACKOFF_MAX: u64 = 8;

/// That more is applied, and nothing else, is said only so often: nobody waits for it, and what comes next takes it along.
const APPLIED_ALONE_MS: u64 = 50;

/// A connection that is made in advance ([`Follower::expect`]) is kept for so long.
pub const EXPECT_MS: u64 = 2_000;

/// A connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Link {
    /// Is to be made at this time.
    #[default]
    Down,
    Later {
        at_ms: u64,
    },
    Connecting,
    Up,
}

/// A copy that is received.
#[derive(Clone, Debug)]
pub(super) struct Run {
    pub id: u64,
    pub partitions: Rc<[PartitionId]>,
    /// That have come so far.
    pub bytes: u64,
    /// Of which the leader has not been told that they are through.
    pub pieces: Pieces,
}

/// Up to which index of the stream everything is handed out with which ticket.
#[derive(Clone, Debug, Default)]
pub(super) struct Marks(VecDeque<(Index, Ticket)>);

impl Marks {
    pub fn push(&mut self, index: Index, ticket: Ticket) {
        let full = self.0.len() >= MARKS_MAX;
        match self.0.back_mut() {
            // More is said with a later ticket only.
            Some(back) if full || back.1 == ticket => *back = (index, ticket),
            _ => self.0.push_back((index, ticket)),
        }
    }

    /// The index that is reached with this ticket. The mark of it stays, in case that more comes to it.
    fn reached(&mut self, ticket: Ticket) -> Option<Index> {
        let mut reached = None;
        while let Some(&(index, needs)) = self.0.front().filter(|(_, needs)| *needs <= ticket) {
            let _ = needs;
            reached = Some(index);
            if self.0.len() == 1 {
                break;
            }
            self.0.pop_front();
        }
        reached
    }
}

/// An acknowledgement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Told {
    round: u64,
    received: Index,
    applied: Index,
    durable: Index,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Stream {
    pub link: Link,
    /// What both ends of the connection speak.
    pub version: u16,
    pub attempt: u64,
    pub failures: u64,
    /// What is wanted is not what was asked for last.
    pub changed: bool,
    /// Until then the connection is kept, though nothing is followed there.
    pub expected_until_ms: Option<u64>,
    /// As the leader says: the round, 0 before the first; up to where the stream is received, and committed.
    pub round: u64,
    pub position: Index,
    pub commit: Index,
    /// Received and not committed, by their indices.
    pub queue: VecDeque<Received>,
    pub held_bytes: u64,
    /// The last ticket of what came with this stream, or was there before the round.
    pub last_ticket: Ticket,
    pub applied_marks: Marks,
    pub durable_marks: Marks,
    pub applied: Index,
    pub durable: Index,
    /// What was acknowledged, and when.
    pub told: Option<Told>,
    pub told_ms: u64,
    pub run: Option<Run>,
    pub heard_ms: u64,
    pub heartbeat_sent_ms: u64,
    pub wall_ms: u64,
}

impl Follower {
    /// The connection that [`Action::Connect`] asked for is there. Both ends speak this version of the protocol.
    pub fn connected(&mut self, now_ms: u64, leader: NodeId, version: u16, out: &mut Vec<Action>) {
        let Some(stream) = self.streams.get_mut(&leader).filter(|stream| stream.link == Link::Connecting) else {
            return;
        };
        self.attempts += 1;
        (stream.link, stream.attempt, stream.changed) = (Link::Up, self.attempts, true);
        stream.version = version;
        (stream.heard_ms, stream.heartbeat_sent_ms) = (now_ms, now_ms);
        self.turn_end(now_ms, out);
    }

    /// Something that this node leads may soon be led by another one: it is connected by then, as requests wait for its word.
    pub fn expect(&mut self, now_ms: u64, leader: NodeId, out: &mut Vec<Action>) {
        self.streams.entry(leader).or_default().expected_until_ms = Some(now_ms + EXPECT_MS);
        self.turn_end(now_ms, out);
    }

    /// The connection is gone, or did not come about.
    pub fn disconnected(&mut self, now_ms: u64, leader: NodeId, out: &mut Vec<Action>) {
        let reconnect_ms = self.settings.reconnect_ms;
        let Some(stream) = self.streams.get_mut(&leader) else { return };
        stream.failures += 1;
        let at_ms = now_ms + reconnect_ms * (1 << (stream.failures - 1).min(BACKOFF_MAX.ilog2() as u64));
        (stream.link, stream.round, stream.changed, stream.told) = (Link::Later { at_ms }, 0, true, None);
        let followed = self.followed(leader);
        self.withdraw(&followed, out);
        for id in followed {
            self.data[id as usize].phase = Phase::Asked { open: 0 };
            self.give_place_back(id);
        }
    }

    /// The partitions that are followed of a leader.
    pub(super) fn followed(&self, leader: NodeId) -> Vec<PartitionId> {
        let follows = |data: &Data| data.role == Role::Follow(leader) && !data.led;
        (0..).zip(&self.data).filter(|(_, data)| follows(data)).map(|(id, _)| id).collect()
    }

    /// Gives the connection up; another one follows.
    pub(super) fn reset(&mut self, now_ms: u64, leader: NodeId, out: &mut Vec<Action>) {
        out.push(Action::Disconnect { leader });
        self.disconnected(now_ms, leader, out);
    }

    /// Asks for what is wanted now.
    fn open(&mut self, leader: NodeId, out: &mut Vec<Action>) {
        self.opens += 1;
        let number = self.opens;
        let mut wants = Vec::new();
        let limited = self.room.is_limited();
        for (partition, data) in (0..).zip(&mut self.data) {
            if data.role != Role::Follow(leader) || data.led {
                continue;
            }
            let keep = !matches!(data.phase, Phase::Asked { open: 0 });
            if !keep && data.complete_at.is_some() {
                // What it has, it can say when that is applied.
                continue;
            }
            if !keep && data.place == Place::Lacking && limited {
                // It is asked for when there is memory for it.
                continue;
            }
            if !keep {
                data.phase = Phase::Asked { open: number };
            }
            if data.place == Place::Lacking {
                data.place = Place::Coming;
            }
            // Of what was empty when the node joined, a leader may still have the log from its beginning. As a copy it can be
            // given up; as a stream it would fill the memory.
            let tail = data.tail.filter(|_| data.complete && !(limited && data.place == Place::Coming));
            wants.push(Want { partition, epoch: data.epoch, tail, keep });
        }
        let Settings { node, incarnation, boot, .. } = self.settings;
        let Some(stream) = self.streams.get_mut(&leader) else { return };
        stream.changed = false;
        let Stream { version, attempt, .. } = *stream;
        let open = Open { version, node, incarnation, boot, attempt, number, wants };
        out.push(Action::Send { leader, message: ToLeader::Open(open) });
        if self.leaving {
            out.push(Action::Send { leader, message: ToLeader::Leave });
        }
    }

    /// The node is about to end: leaders are told that it wants to be in no in-sync set. It acknowledges until it is in none.
    pub fn leave(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.set_leaving(now_ms, true, out);
    }

    /// The node does not end after all.
    pub fn stay(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        self.set_leaving(now_ms, false, out);
    }

    fn set_leaving(&mut self, now_ms: u64, leaving: bool, out: &mut Vec<Action>) {
        self.leaving = leaving;
        self.streams.values_mut().for_each(|stream| stream.changed = true);
        self.turn_end(now_ms, out);
    }

    /// A leader hears that copies are complete, or what a suffix was sent of.
    pub(super) fn say_has(&mut self, leader: NodeId, run: u64, partitions: &[PartitionId], out: &mut Vec<Action>) {
        if self.streams.get(&leader).is_none_or(|stream| stream.link != Link::Up) {
            return;
        }
        let held = |&partition: &PartitionId| {
            let data = &self.data[partition as usize];
            Some(Held { partition, epoch: data.epoch, tail: data.tail? })
        };
        let held = partitions.iter().filter_map(held).collect();
        out.push(Action::Send { leader, message: ToLeader::Has { run, held } });
    }

    /// Time passes: heartbeats, timeouts, connections that are due. Whatever else is said, heartbeats go on: the leader's detector
    /// counts these only.
    pub fn tick(&mut self, now_ms: u64, wall_ms: u64, out: &mut Vec<Action>) {
        let Settings { heartbeat_ms, repl_timeout_ms, .. } = self.settings;
        let mut silent = Vec::new();
        for (&leader, stream) in &mut self.streams {
            match stream.link {
                Link::Up if now_ms.saturating_sub(stream.heard_ms) > repl_timeout_ms => silent.push(leader),
                Link::Up if now_ms.saturating_sub(stream.heartbeat_sent_ms) >= heartbeat_ms => {
                    stream.heartbeat_sent_ms = now_ms;
                    out.push(Action::Send { leader, message: ToLeader::Heartbeat { wall_ms } });
                }
                _ => {}
            }
        }
        silent.into_iter().for_each(|leader| self.reset(now_ms, leader, out));
        self.tick_pace(now_ms);
        self.repeat_reached(now_ms);
        self.turn_end(now_ms, out);
    }

    /// Everything of this turn of the shell is said: acknowledge what it has brought, ask for what is wanted.
    pub fn turn_end(&mut self, now_ms: u64, out: &mut Vec<Action>) {
        let leaders: Vec<NodeId> = self.streams.keys().copied().collect();
        for leader in leaders {
            let Some(stream) = self.streams.get_mut(&leader) else { continue };
            let lapsed = stream.expected_until_ms.take_if(|until_ms| now_ms >= *until_ms).is_some();
            let may_go = (stream.changed || lapsed) && stream.expected_until_ms.is_none();
            let Some(stream) = self.streams.get(&leader) else { continue };
            match stream.link {
                _ if may_go && self.followed(leader).is_empty() => {
                    if stream.link != Link::Down {
                        out.push(Action::Disconnect { leader });
                    }
                    self.streams.remove(&leader);
                    continue;
                }
                Link::Up if stream.changed => self.open(leader, out),
                Link::Down => self.connect(leader, out),
                Link::Later { at_ms } if now_ms >= at_ms => self.connect(leader, out),
                _ => {}
            }
            self.acknowledge(now_ms, leader, out);
        }
        self.take_pieces(now_ms, out);
        self.say_reached(out);
    }

    fn connect(&mut self, leader: NodeId, out: &mut Vec<Action>) {
        if let Some(stream) = self.streams.get_mut(&leader) {
            stream.link = Link::Connecting;
            out.push(Action::Connect { leader });
        }
    }

    fn acknowledge(&mut self, now_ms: u64, leader: NodeId, out: &mut Vec<Action>) {
        let (applied, durable) = (self.applied, self.durable.min(self.applied));
        let Some(stream) = self.streams.get_mut(&leader) else { return };
        if stream.link != Link::Up || stream.round == 0 {
            return;
        }
        stream.applied = stream.applied_marks.reached(applied).unwrap_or(stream.applied);
        stream.durable = stream.durable_marks.reached(durable).unwrap_or(stream.durable).min(stream.applied);
        #[cfg(test)]
        if self.fault == Some(Fault::DurableOnReceipt) {
            (stream.applied, stream.durable) = (stream.position, stream.position);
        }
        let Stream { round, position, applied, durable, .. } = *stream;
        let now = Told { round, received: position, applied, durable };
        let news = stream.told.is_none_or(|told| now != Told { applied, ..told });
        let late = stream.told != Some(now) && now_ms >= stream.told_ms + APPLIED_ALONE_MS;
        if news || late {
            (stream.told, stream.told_ms) = (Some(now), now_ms);
            out.push(Action::Send { leader, message: ToLeader::Ack { round, received: position, applied, durable } });
        }
    }

    /// For INFO and the metrics.
    pub fn upstreams(&self, now_ms: u64) -> Vec<Upstream> {
        let upstream = |(&leader, stream): (&NodeId, &Stream)| {
            let followed = self.followed(leader);
            let takes = |id: &&PartitionId| self.data[**id as usize].takes_after().is_some();
            let following = followed.iter().filter(takes).count();
            Upstream {
                leader,
                connected: stream.link == Link::Up,
                following,
                waiting: followed.len() - following,
                received: stream.position,
                commit: stream.commit,
                held_bytes: stream.held_bytes,
                silent_ms: now_ms.saturating_sub(stream.heard_ms),
                wall_ms: stream.wall_ms,
            }
        };
        self.streams.iter().map(upstream).collect()
    }
}
