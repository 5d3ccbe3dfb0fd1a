//! A node of the simulator: the shell around both machines, with a log, a disk and data.

use std::rc::Rc;

use super::ledger::{KEYS_PER_PARTITION, PARTITIONS, Record, State, records};
use super::network::{Connection, Packet};
use super::{Mistake, World};
use crate::replication::history::Chain;
use crate::replication::message::{Control, Frame, Hello, PROTOCOL_VERSION, ToPrimary, ToReplica, Wants, Wire};
use crate::replication::primary::{self, Extent, Primary};
use crate::replication::replica::{self, Holdings, Replica};

/// A copy that a node makes for others.
#[derive(Debug)]
pub struct CopyOut {
    pub run: u64,
    pub begun: bool,
    /// The next partition to cover.
    pub partition: usize,
    /// The log up to here is in the copy.
    pub sent: u64,
}

#[derive(Debug)]
pub struct Node {
    pub alive: bool,
    pub incarnation: u64,
    /// It does nothing before this time, as a process that is held up.
    pub stalled_until_ms: u64,
    // On disk: the log from `base` to `durable`, the data at `base`, and these.
    pub chain: Chain,
    pub complete: bool,
    pub base: u64,
    pub base_state: State,
    pub durable: u64,
    // In memory.
    pub log: Vec<Frame>,
    /// Received, and not in the log yet: only by mistake.
    pub late: Vec<Frame>,
    pub state: State,
    pub applied: u64,
    pub apply_upto: u64,
    pub leading: bool,
    pub follows: Option<usize>,
    pub replica: Replica,
    pub primary: Primary,
    pub up: Option<u64>,
    pub reads: Vec<(u64, u64, u64)>,
    pub copy_out: Option<CopyOut>,
    pub covered: [bool; PARTITIONS],
    /// A copy that is whole and not durable yet.
    pub copy_in: Option<u64>,
    pub pausing: bool,
}

impl Node {
    pub fn end(&self) -> u64 {
        self.log.last().map_or(self.base, Frame::last)
    }

    pub fn is_stalled(&self, now_ms: u64) -> bool {
        now_ms < self.stalled_until_ms
    }

    fn extent(&self) -> Extent {
        let commit = self.replica.commit().min(self.applied);
        Extent { oldest: self.base + 1, end: self.applied, commit, durable: self.durable.min(self.applied) }
    }

    /// Whether the record is in its log.
    pub fn holds(&self, history: u128, index: u64) -> bool {
        index <= self.end() && self.chain.at(index) == Some(history)
    }
}

impl World {
    pub fn do_replica(&mut self, n: usize, actions: Vec<replica::Action>) -> Result<(), String> {
        for action in actions {
            self.do_replica_action(n, action)?;
        }
        Ok(())
    }

    fn do_replica_action(&mut self, n: usize, action: replica::Action) -> Result<(), String> {
        let node = &mut self.nodes[n];
        match action {
            replica::Action::Connect => self.open(n),
            replica::Action::Disconnect => self.hang_up(n),
            replica::Action::Send(message) => self.send_to_primary(n, &message),
            replica::Action::SaveChain(chain) => {
                node.chain = chain;
                if node.complete {
                    self.relay(n)?;
                }
            }
            replica::Action::Append(frame) => {
                self.ledger.knows(&frame)?;
                if self.mistake == Mistake::AckBeforeAppend {
                    self.nodes[n].late.push(frame);
                } else {
                    self.append(n, frame)?;
                }
            }
            replica::Action::Apply { upto } => node.apply_upto = upto,
            replica::Action::SetAside { from, to } => {
                if from <= node.base || to != node.end() || from > to {
                    // What is behind the base was trimmed with a snapshot and cannot be set aside any more; it is not lost
                    // silently.
                    self.seen.trimmed_tails += 1;
                }
                self.seen.set_aside += 1;
            }
            replica::Action::Truncate { to } => {
                node.log.retain(|f| f.last() <= to);
                node.durable = node.durable.min(to);
                if node.applied > to || node.end() != to {
                    return Err(format!("node {n} takes back what it has applied"));
                }
                node.apply_upto = node.apply_upto.min(to);
            }
            replica::Action::BeginCopy { .. } => {
                self.seen.copies += 1;
                node.complete = self.mistake == Mistake::ForgetIncomplete;
                (node.log, node.late, node.state, node.base_state) =
                    (Vec::new(), Vec::new(), State::default(), State::default());
                (node.base, node.applied, node.apply_upto, node.durable) = (0, 0, 0, 0);
                (node.covered, node.copy_in) = ([false; PARTITIONS], None);
                self.on_primary(n, |p, now, out| p.suspend(now, out))?;
            }
            replica::Action::CopyPiece(bytes) => copy_piece(node, &bytes),
            replica::Action::FinishCopy { run, end, chain } => {
                if node.covered != [true; PARTITIONS] {
                    return Err(format!("node {n}: a copy that is not whole"));
                }
                (node.chain, node.base, node.applied, node.apply_upto) = (chain, end, end, end);
                node.copy_in = Some(run);
            }
            replica::Action::TakeOver => self.promote(n)?,
        }
        Ok(())
    }

    pub fn append(&mut self, n: usize, frame: Frame) -> Result<(), String> {
        let node = &mut self.nodes[n];
        if frame.first != node.end() + 1 {
            return Err(format!("node {n}: a gap in its log"));
        }
        node.log.push(frame.clone());
        if self.mistake == Mistake::RelayUncommitted && node.complete {
            self.on_primary(n, |p, now, out| p.appended(now, &frame, out))?;
        }
        Ok(())
    }

    pub fn do_primary(&mut self, n: usize, actions: Vec<primary::Action>) -> Result<(), String> {
        for action in actions {
            self.do_primary_action(n, action)?;
        }
        Ok(())
    }

    fn do_primary_action(&mut self, n: usize, action: primary::Action) -> Result<(), String> {
        let node = &mut self.nodes[n];
        match action {
            primary::Action::Send { to, message } => {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == to && c.primary_open) {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    connection.outbox.push_back((message.cost(), Packet::Bytes(bytes)));
                }
            }
            primary::Action::Drop { peer, reason } => {
                *self.seen.drops.entry(format!("{reason:?}")).or_default() += 1;
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == peer && c.primary_open) {
                    connection.outbox.push_back((0, Packet::Close));
                    connection.primary_open = false;
                }
            }
            primary::Action::Read { peer, from, bytes_max } => node.reads.push((peer, from, bytes_max)),
            primary::Action::StartCopy { run } => {
                node.copy_out = Some(CopyOut { run, begun: false, partition: 0, sent: 0 })
            }
            primary::Action::CancelCopy { run } => {
                if node.copy_out.as_ref().is_some_and(|c| c.run == run) {
                    node.copy_out = None;
                }
            }
            primary::Action::PauseWrites => node.pausing = true,
            primary::Action::ResumeWrites => {
                node.pausing = false;
                self.seen.resumed += 1;
            }
            primary::Action::Inquire { node: target, .. } => self.inquire(n, target)?,
            primary::Action::StepDown { node: target, .. } => {
                self.seen.stepped_down += 1;
                self.follow(n, target as usize - 1)?;
            }
        }
        Ok(())
    }

    /// Calls the node's primary and does what comes out.
    pub fn on_primary(
        &mut self,
        n: usize,
        call: impl FnOnce(&mut Primary, u64, &mut Vec<primary::Action>),
    ) -> Result<(), String> {
        let mut out = Vec::new();
        call(&mut self.nodes[n].primary, self.now_ms, &mut out);
        self.do_primary(n, out)
    }

    /// Calls the node's replica and does what comes out.
    pub fn on_replica(
        &mut self,
        n: usize,
        call: impl FnOnce(&mut Replica, u64, &mut Vec<replica::Action>),
    ) -> Result<(), String> {
        let mut out = Vec::new();
        call(&mut self.nodes[n].replica, self.now_ms, &mut out);
        self.do_replica(n, out)
    }

    pub fn relay(&mut self, n: usize) -> Result<(), String> {
        let (chain, mut extent) = (self.nodes[n].chain.clone(), self.nodes[n].extent());
        if self.mistake == Mistake::RelayUncommitted {
            extent.end = self.nodes[n].end();
        }
        self.nodes[n].copy_out = None;
        self.nodes[n].reads.clear();
        self.on_primary(n, |p, now, out| p.relay(now, chain, extent, out))
    }

    /// REPLICAOF: whatever the node was, it follows `target` now.
    pub fn follow(&mut self, n: usize, target: usize) -> Result<(), String> {
        let node = &mut self.nodes[n];
        node.follows = Some(target);
        node.pausing = false;
        if node.leading {
            node.leading = false;
            let has = self.holdings(n);
            self.nodes[n].replica = Replica::new(self.replica_settings(n), has, self.now_ms << 16);
            self.nodes[n].replica.fault = self.replica_fault();
        }
        if self.nodes[n].complete {
            self.relay(n)?;
        }
        self.on_replica(n, |r, now, out| r.follow(now, out))
    }

    pub fn holdings(&self, n: usize) -> Holdings {
        let node = &self.nodes[n];
        let (received, complete) = (node.end(), node.complete);
        Holdings { chain: node.chain.clone(), received, applied: node.applied, durable: node.durable, complete }
    }

    /// REPLICAOF NO ONE, or the end of a failover.
    pub fn promote(&mut self, n: usize) -> Result<(), String> {
        if !self.nodes[n].complete {
            return Ok(());
        }
        let id = self.random.id();
        let mut out = Vec::new();
        let Ok(chain) = self.nodes[n].replica.promote(id, &mut out) else { return Ok(()) };
        self.ledger.history(id);
        self.nodes[n].late.clear();
        self.do_replica(n, out)?;
        self.apply(n, usize::MAX, true)?;
        self.nodes[n].follows = None;
        self.lead(n, chain)?;
        self.crowned(n)
    }

    pub fn lead(&mut self, n: usize, chain: Chain) -> Result<(), String> {
        let node = &mut self.nodes[n];
        node.leading = true;
        node.pausing = false;
        node.copy_out = None;
        node.reads.clear();
        node.chain = chain.clone();
        let extent = node.extent();
        self.on_primary(n, |p, now, out| p.lead(now, chain, extent, out))
    }

    /// Applies up to `frames` frames of what the replica has asked for.
    pub fn apply(&mut self, n: usize, frames: usize, promoting: bool) -> Result<(), String> {
        for _ in 0..frames {
            let node = &mut self.nodes[n];
            let (applied, upto) = (node.applied, node.apply_upto);
            let Some(frame) = node.log.iter().find(|f| f.first > applied && f.last() <= upto).cloned() else { break };
            let name = node.chain.at(frame.last()).map(|history| (history, frame.last()));
            if !promoting && !name.is_some_and(|name| self.committed.contains(&name)) {
                return Err(format!("node {n} applies what is not committed"));
            }
            node.state.apply_all(&frame);
            node.applied = frame.last();
            node.replica.applied(frame.last());
            if self.mistake != Mistake::RelayUncommitted {
                self.on_primary(n, |p, now, out| p.appended(now, &frame, out))?;
            }
        }
        Ok(())
    }

    /// The disk has caught up; also with a copy.
    pub fn sync(&mut self, n: usize) -> Result<(), String> {
        for frame in std::mem::take(&mut self.nodes[n].late) {
            self.append(n, frame)?;
        }
        let node = &mut self.nodes[n];
        if let Some(run) = node.copy_in.take() {
            (node.base_state, node.complete, node.durable) = (node.state.clone(), true, node.base);
            self.relay(n)?;
            self.on_replica(n, |r, _, out| r.copy_durable(run, out))?;
        }
        let node = &mut self.nodes[n];
        if !node.complete {
            return Ok(());
        }
        let durable = node.end();
        node.durable = durable;
        if node.leading {
            self.on_primary(n, |p, now, _| p.durable(now, durable))
        } else {
            self.on_replica(n, |r, _, out| r.durable(durable, out))
        }
    }

    /// A snapshot takes the place of a part of the log.
    pub fn trim(&mut self, n: usize) {
        let node = &mut self.nodes[n];
        if !node.complete || node.copy_in.is_some() || node.copy_out.is_some() {
            return;
        }
        let keep = self.random.below(4) as usize;
        while node.log.len() > keep && node.log[0].last() <= node.applied.min(node.durable) {
            let frame = node.log.remove(0);
            node.base = frame.last();
            node.base_state.apply_all(&frame);
        }
        node.primary.oldest(node.base + 1);
    }

    /// What was not on disk is lost.
    pub fn restart(&mut self, n: usize) -> Result<(), String> {
        self.cut_all(n);
        let (settings, primary_settings) = (self.replica_settings(n), self.primary_settings(n));
        let node = &mut self.nodes[n];
        node.incarnation += 1;
        node.alive = true;
        node.log.retain(|f| f.last() <= node.durable);
        (node.late, node.reads, node.copy_out, node.copy_in) = (Vec::new(), Vec::new(), None, None);
        (node.pausing, node.leading, node.up) = (false, false, None);
        node.state = node.base_state.clone();
        if !node.complete {
            (node.log, node.base) = (Vec::new(), 0);
        }
        for frame in &node.log {
            node.state.apply_all(frame);
        }
        (node.applied, node.apply_upto) = (node.end(), node.end());
        node.durable = node.end();
        node.primary = Primary::new(primary_settings);
        node.primary.fault = self.mistake.of_primary();
        let has = self.holdings(n);
        self.nodes[n].replica = Replica::new(settings, has, self.now_ms << 16);
        self.nodes[n].replica.fault = self.replica_fault();
        if self.nodes[n].complete { self.relay(n) } else { Ok(()) }
    }

    /// One step of the log for whom it was asked, of a copy, or of a pause.
    pub fn serve(&mut self, n: usize) -> Result<(), String> {
        if self.nodes[n].pausing {
            self.nodes[n].pausing = false;
            self.on_primary(n, |p, now, out| p.writes_paused(now, out))?;
        }
        if !self.nodes[n].reads.is_empty() {
            let (peer, from, bytes_max) = self.nodes[n].reads.remove(0);
            let mut bytes = 0;
            let wanted = self.nodes[n].log.iter().skip_while(|f| f.last() < from).take_while(|f| {
                let fits = bytes == 0 || bytes + f.cost() <= bytes_max;
                bytes += f.cost();
                fits
            });
            let frames: Vec<_> = wanted.cloned().collect();
            self.on_primary(n, |p, now, out| p.read(now, peer, &frames, out))?;
        }
        self.copy_step(n)
    }

    fn copy_step(&mut self, n: usize) -> Result<(), String> {
        let node = &mut self.nodes[n];
        let Some(copy) = &mut node.copy_out else { return Ok(()) };
        let run = copy.run;
        if !copy.begun {
            (copy.begun, copy.sent) = (true, node.applied);
            let start = node.applied;
            return self.on_primary(n, |p, now, out| p.copy_started(now, run, start, out));
        }
        let Some(room) = node.primary.copy_room(run) else { return Ok(()) };
        if room < 200 {
            return Ok(());
        }
        let (sent, applied) = (copy.sent, node.applied);
        let logged: Vec<_> = node.log.iter().filter(|f| f.first > sent && f.last() <= applied).cloned().collect();
        let mut pieces: Vec<Rc<[u8]>> = logged.iter().map(|f| [&[0][..], &f.bytes[..]].concat().into()).collect();
        copy.sent = applied;
        let done = copy.partition == PARTITIONS;
        if !done {
            let mut piece = vec![1, copy.partition as u8];
            node.state.0[copy.partition].iter().for_each(|v| piece.extend_from_slice(&v.to_le_bytes()));
            pieces.push(piece.into());
            copy.partition += 1;
        }
        for piece in pieces {
            self.on_primary(n, |p, now, out| p.copy_piece(now, run, &piece, out))?;
        }
        if done {
            self.nodes[n].copy_out = None;
            self.on_primary(n, |p, now, out| p.copy_ended(now, run, applied, out))?;
        }
        Ok(())
    }

    /// Asks another node whether it leads; the answer comes at once or not at all.
    fn inquire(&mut self, n: usize, target: u128) -> Result<(), String> {
        let t = target as usize - 1;
        if !self.nodes[t].alive || self.nodes[t].is_stalled(self.now_ms) || self.random.chance(30) {
            return Ok(());
        }
        self.seen.inquiries += 1;
        let hello = Hello {
            version: PROTOCOL_VERSION,
            node: n as u128 + 1,
            port: 1,
            attempt: 0,
            wants: Wants::Standing,
            chain: self.nodes[n].chain.histories().to_vec(),
            received: self.nodes[n].end(),
        };
        self.last_connection += 1;
        let (peer, mut out) = (self.last_connection, Vec::new());
        self.nodes[t].primary.message(self.now_ms, peer, ToPrimary::Hello(hello), &mut out);
        for action in out {
            if let primary::Action::Send {
                message: ToReplica::Control(Control::Standing { node, leading, chain }),
                ..
            } = action
            {
                let chain = Chain::checked(chain).map_err(|e| e.to_string())?;
                self.on_primary(n, |p, now, out| p.standing(now, node, leading, &chain, out))?;
            }
        }
        Ok(())
    }

    fn open(&mut self, n: usize) {
        let Some(target) = self.nodes[n].follows else { return };
        self.last_connection += 1;
        let pace = if self.random.chance(10) { 4 } else { 60 };
        let mut connection = Connection::new(self.last_connection, n, target, self.nodes[n].incarnation, pace);
        let delay = self.delay_ms();
        if self.nodes[target].alive {
            connection.primary_open = true;
            connection.to_replica.send(self.now_ms, delay, Packet::Open);
        } else {
            connection.to_replica.send(self.now_ms, delay, Packet::Close);
        }
        self.nodes[n].up = Some(connection.id);
        self.connections.push(connection);
    }

    fn hang_up(&mut self, n: usize) {
        let (now, delay) = (self.now_ms, self.delay_ms());
        let Some(id) = self.nodes[n].up.take() else { return };
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
            connection.replica_open = false;
            connection.to_primary.send(now, delay, Packet::Close);
        }
    }

    fn send_to_primary(&mut self, n: usize, message: &ToPrimary) {
        let (now, delay) = (self.now_ms, self.delay_ms());
        let Some(id) = self.nodes[n].up else { return };
        if let Some(connection) = self.connections.iter_mut().find(|c| c.id == id) {
            let mut bytes = Vec::new();
            message.encode(&mut bytes);
            connection.to_primary.send(now, delay, Packet::Bytes(bytes));
        }
    }
}

fn copy_piece(node: &mut Node, bytes: &[u8]) {
    if bytes[0] == 1 {
        let partition = bytes[1] as usize;
        for key in 0..KEYS_PER_PARTITION {
            let at = 2 + 8 * key;
            node.state.0[partition][key] = u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap());
        }
        node.covered[partition] = true;
    } else {
        let frame = Frame { history: 1, first: 1, count: 1, bytes: bytes[1..].into() };
        let covered = node.covered;
        let applicable: Vec<Record> = records(&frame).filter(|r| covered[r.partition()]).collect();
        applicable.into_iter().for_each(|r| node.state.apply(r));
    }
}
