//! A node of the simulator: the shell around both machines, with a log, data, and a disk.
//!
//! Longer than other files: what both machines ask of a shell stands beside each other, as they share the log.

use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;

use super::handover::Handing;
use super::network::{Connection, Packet, Pipe};
use super::raft::Proposal;
use super::{Mistake, PARTITIONS, World};
use crate::raft::command::Command;
use crate::raft::state::State;
use crate::replication::wire::Wire;
use crate::shard::statement::{encode, encode_unit, next_statement, next_unit};
use crate::streams::ahead::Ahead;
use crate::streams::follower::{self, Follower, Holding, Ticket};
use crate::streams::leader::{self, Leader};
use crate::streams::{Epoch, Frame, Index, NodeId, PartitionId, Tail, partition_of};

/// The numbers that were appended to each partition.
pub type Lists = Vec<Vec<u64>>;

#[derive(Clone, Debug)]
pub struct OwnFrame {
    pub first: Index,
    pub last: Index,
    pub units: Rc<[u8]>,
}

impl OwnFrame {
    fn frame(&self) -> Frame<'_> {
        Frame { first: self.first, last: self.last, wall_ms: 0, units: &self.units }
    }
}

/// A copy that a node makes.
#[derive(Debug)]
pub struct CopyOut {
    pub run: u64,
    pub partitions: Rc<[PartitionId]>,
    pub begun: bool,
    pub next: usize,
}

/// A reply that is held.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    pub partition: PartitionId,
    pub epoch: Epoch,
    pub number: u64,
    pub index: Index,
    /// The reply tells of this partition only.
    pub alone: bool,
    pub acked: bool,
}

/// What runs while a process runs.
#[derive(Debug)]
pub struct Process {
    pub leader: Leader,
    pub follower: Follower,
    pub log: Vec<OwnFrame>,
    pub end: Index,
    pub data: Lists,
    pub tasks: VecDeque<follower::Action>,
    pub executed: Ticket,
    pub covered: BTreeMap<(NodeId, u64), Vec<PartitionId>>,
    pub open: BTreeMap<PartitionId, Epoch>,
    pub deposed: Vec<PartitionId>,
    /// Of these, those that were closed before: nothing comes late.
    pub sealed: Vec<PartitionId>,
    pub handing: Handing,
    pub ahead: Ahead,
    pub copy_out: Option<CopyOut>,
    pub reads: Vec<(u64, Index)>,
    pub held: Vec<Held>,
}

#[derive(Debug)]
pub struct Node {
    pub id: NodeId,
    pub alive: bool,
    pub boot: u64,
    pub stalled_until_ms: u64,
    /// Memory that it may use.
    pub limit_bytes: Option<u64>,
    /// Raft's state as this node knows it, and how much of the log that is.
    pub state: State,
    pub known: usize,
    pub asked_ms: u64,
    /// Once it is registered.
    pub process: Option<Box<Process>>,
    // On disk.
    pub disk: Lists,
    pub disk_complete: Vec<bool>,
    pub disk_end: Index,
    pub fresh: bool,
}

/// Numbers and partitions of the units of a frame, by statement.
pub fn numbers(mut units: &[u8]) -> Vec<(u8, Option<PartitionId>, u64)> {
    let mut all = Vec::new();
    while let Some(mut unit) = next_unit(&mut units).unwrap() {
        while let Some(statement) = next_statement(&mut unit).unwrap() {
            let number = u64::from_le_bytes(statement.args[1].try_into().unwrap());
            all.push((statement.db, statement.slot.map(|slot| partition_of(slot, PARTITIONS)), number));
        }
    }
    all
}

pub fn put(out: &mut Vec<u8>, db: u8, partition: Option<PartitionId>, number: u64) {
    let slot = partition.map(|p| p * (16384 / PARTITIONS as u16) + (number % 7) as u16);
    encode(out, db, slot, &[b"APPEND", &number.to_le_bytes()]);
}

impl World {
    /// A process whose registration raft's state shows begins to work.
    pub fn begin(&mut self, n: NodeId) {
        let (settings, mistake) = (self.leader_settings(n), self.mistake);
        let node = self.node(n);
        let incarnation = node.state.node(n).expect("it is registered").incarnation;
        let mut leader = Leader::new(settings, node.disk_end);
        let mut follower = Follower::new(follower::Settings {
            node: n,
            incarnation,
            boot: u128::from(node.boot),
            heartbeat_ms: 30,
            repl_timeout_ms: 300,
            reconnect_ms: 10,
        });
        // Copies go slowly to some nodes.
        follower.set_copy_rate(n.is_multiple_of(2).then_some(100_000));
        if let Mistake::Leader(fault) = mistake {
            leader.fault = Some(fault);
        }
        if mistake == Mistake::Leader(leader::Fault::CountIncompleteCopies) {
            follower.fault = Some(follower::Fault::CountIncompleteCopies);
        }
        if let Mistake::Follower(fault) = mistake {
            follower.fault = Some(fault);
        }
        for p in 0..PARTITIONS {
            let holding = match node.disk_complete[p] {
                true if node.fresh => Holding::Empty,
                true => Holding::Complete,
                false => Holding::Incomplete,
            };
            follower.hold(p as PartitionId, holding);
        }
        node.fresh = false;
        follower.set_limit(node.limit_bytes);
        node.process = Some(Box::new(Process {
            leader,
            follower,
            log: Vec::new(),
            end: node.disk_end,
            data: node.disk.clone(),
            tasks: VecDeque::new(),
            executed: 0,
            covered: BTreeMap::new(),
            open: BTreeMap::new(),
            deposed: Vec::new(),
            sealed: Vec::new(),
            handing: Handing::default(),
            ahead: Ahead::default(),
            copy_out: None,
            reads: Vec::new(),
            held: Vec::new(),
        }));
        self.tell_roles(n);
    }

    pub fn tell_roles(&mut self, n: NodeId) {
        let state = self.state_of(n);
        self.on_leader(n, |leader, now, out| leader.roles(now, &state, out));
        self.on_follower(n, |follower, _, out| follower.roles(&state, out));
    }

    pub fn on_leader(&mut self, n: NodeId, call: impl FnOnce(&mut Leader, u64, &mut Vec<leader::Action>)) {
        let now_ms = self.now_ms;
        let Some(process) = &mut self.node(n).process else { return };
        let mut out = Vec::new();
        call(&mut process.leader, now_ms, &mut out);
        out.into_iter().for_each(|action| self.do_leader(n, action));
    }

    pub fn on_follower(&mut self, n: NodeId, call: impl FnOnce(&mut Follower, u64, &mut Vec<follower::Action>)) {
        let now_ms = self.now_ms;
        let Some(process) = &mut self.node(n).process else { return };
        let mut out = Vec::new();
        call(&mut process.follower, now_ms, &mut out);
        out.into_iter().for_each(|action| self.do_follower(n, action));
    }

    fn do_leader(&mut self, n: NodeId, action: leader::Action) {
        self.say(|| format!("{n} leader: {action:?}"));
        let now_ms = self.now_ms;
        match action {
            leader::Action::Send { to, message } => {
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == to && c.leader_open) {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    connection.outbox.push_back((message.cost(), Packet::Bytes(bytes)));
                }
            }
            leader::Action::Drop { peer, reason } => {
                *self.seen.drops.entry(format!("{reason:?}")).or_default() += 1;
                if let Some(connection) = self.connections.iter_mut().find(|c| c.id == peer && c.leader_open) {
                    connection.outbox.push_back((0, Packet::Close));
                    connection.leader_open = false;
                }
            }
            leader::Action::Read { peer, from, .. } => self.process(n).reads.push((peer, from)),
            leader::Action::StartCopy { run, partitions, .. } => {
                self.process(n).copy_out = Some(CopyOut { run, partitions, begun: false, next: 0 });
            }
            leader::Action::CancelCopy { run } => {
                let process = self.process(n);
                if process.copy_out.as_ref().is_some_and(|copy| copy.run == run) {
                    process.copy_out = None;
                }
                self.seen.copies_cancelled += 1;
            }
            leader::Action::Propose(changes) => {
                let boot = self.node(n).boot;
                for change in changes {
                    if let Some(around) = &self.around {
                        around.propose(n, change);
                        continue;
                    }
                    let at_ms = now_ms + self.delay_ms();
                    let command = Command::SetInSync { changes: vec![change.clone()] };
                    if self.quiet || !self.random.chance(10) {
                        let change = Some(change);
                        self.raft.proposals.push(Proposal { at_ms, from: n, boot, command, change });
                    }
                }
            }
            leader::Action::Gates => {}
            leader::Action::HandOver { moves, to } => self.propose_handover(n, moves, to),
            leader::Action::Name { moves, to } => self.propose_in_passing(n, Command::Name { moves, to }),
            leader::Action::Released(releases) => self.note_ended(n, releases),
            leader::Action::Keep { namings } => self.propose_in_passing(n, Command::Keep { namings }),
            leader::Action::Deposed { partition, epoch, handed_over } => {
                let process = self.process(n);
                if handed_over {
                    assert!(!process.executes(partition), "data cores know that it is closed");
                    process.sealed.push(partition);
                }
                assert_eq!(process.open.remove(&partition), Some(epoch), "what is deposed was led");
                process.deposed.push(partition);
                self.seen.deposed += 1;
            }
        }
    }

    fn do_follower(&mut self, n: NodeId, action: follower::Action) {
        self.say(|| format!("{n} follower: {action:?}"));
        match action {
            follower::Action::Connect { leader } => self.connect(n, leader),
            follower::Action::Disconnect { leader } => self.hang_up(n, leader),
            follower::Action::Send { leader, message } => {
                let (now_ms, delay_ms) = (self.now_ms, self.delay_ms());
                let mut connections = self.connections.iter_mut();
                if let Some(c) = connections.find(|c| c.follower == n && c.leader == leader && c.follower_open) {
                    let mut bytes = Vec::new();
                    message.encode(&mut bytes);
                    c.to_leader.send(now_ms, delay_ms, Packet::Bytes(bytes));
                }
            }
            follower::Action::Lead { partition, epoch, base, suffix } => {
                // One that hears late leads what others have gone on with, and shows it to nobody.
                if self.is_entitled(n, partition, epoch) {
                    self.judge_leader(n, partition);
                    self.judge_handed(n, partition, epoch);
                    self.is_led(partition);
                }
                let process = self.process(n);
                let cut = process.end;
                process.open.insert(partition, epoch);
                self.seen.led += 1;
                self.seen.suffixes += u64::from(suffix.is_some());
                self.on_leader(n, |leader, now, out| leader.lead(now, partition, epoch, base, cut, suffix, out));
            }
            follower::Action::Reach { of, reached, lacking } => self.propose_reached(n, of, reached, lacking),
            follower::Action::Released { leader, releases } => self.goes_over(n, leader, &releases),
            follower::Action::NotReady { .. } => self.seen.not_ready += 1,
            follower::Action::CopyAborted { leader, run } => {
                self.process(n).covered.remove(&(leader, run));
            }
            task => {
                self.judge_drop(n, &task);
                let process = self.process(n);
                let before = process.tasks.back().and_then(follower::Action::ticket).unwrap_or(process.executed);
                assert_eq!(task.ticket(), Some(before + 1), "tickets are in order");
                process.tasks.push_back(task);
            }
        }
    }

    /// Executes the next thing that has a ticket.
    pub fn execute(&mut self, n: NodeId) {
        let Some(task) = self.process(n).tasks.pop_front() else { return };
        let ticket = task.ticket().unwrap();
        match task {
            follower::Action::Apply { units, partitions, .. } => {
                let all = numbers(&units);
                for &(_, p, number) in &all {
                    partitions
                        .iter()
                        .filter(|q| p.is_none_or(|p| p == **q))
                        .for_each(|p| self.judge_applied(*p, number));
                }
                self.apply(n, &all, &partitions, |_| true);
            }
            follower::Action::DropPartitions { copy, partitions, .. } => {
                for &p in partitions.iter() {
                    self.node(n).disk_complete[p as usize] = false;
                    self.process(n).data[p as usize].clear();
                }
                if let Some(copy) = copy {
                    self.process(n).covered.insert(copy, Vec::new());
                    self.seen.copies += 1;
                }
            }
            follower::Action::BeginEmpty { partitions, .. } => {
                partitions.iter().for_each(|p| self.process(n).data[*p as usize].clear());
                // What is dropped is on disk before it counts.
                self.sync(n);
                partitions.iter().for_each(|p| self.node(n).disk_complete[*p as usize] = true);
            }
            follower::Action::CopyPiece { leader, run, bytes, .. } => {
                let process = self.process(n);
                if let Some(covered) = process.covered.get_mut(&(leader, run)) {
                    let p = bytes[0] as PartitionId;
                    covered.push(p);
                    let list = bytes[1..].chunks(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap()));
                    process.data[p as usize] = list.collect();
                }
            }
            follower::Action::CopyUnits { leader, run, units, .. } => {
                let all = numbers(&units);
                if let Some(covered) = self.process(n).covered.get(&(leader, run)).cloned() {
                    self.apply(n, &all, &covered, |p| covered.contains(&p));
                }
            }
            follower::Action::CopyDone { leader, run, partitions, .. } => {
                let covered = self.process(n).covered.remove(&(leader, run)).expect("a copy that was begun");
                if self.mistake == Mistake::None {
                    assert!(partitions.iter().all(|p| covered.contains(p)), "a copy is whole");
                }
                self.sync(n);
                for &p in partitions.iter() {
                    self.node(n).disk_complete[p as usize] = true;
                }
            }
            other => unreachable!("{other:?} has no ticket"),
        }
        self.process(n).executed = ticket;
        self.on_follower(n, |follower, _, out| follower.applied(ticket, out));
    }

    /// Applies as a follower; it is in the own log, too, as of the other database.
    fn apply(
        &mut self,
        n: NodeId,
        all: &[(u8, Option<PartitionId>, u64)],
        partitions: &[PartitionId],
        counts: impl Fn(PartitionId) -> bool,
    ) {
        let mut units = Vec::new();
        for &(db, partition, number) in all {
            assert_eq!(db, 0, "followers get what leaders lead");
            let concerned = partition.map_or(partitions.to_vec(), |p| vec![p]);
            for p in concerned.into_iter().filter(|p| counts(*p)) {
                let honest = self.mistake == Mistake::None;
                let list = &mut self.process(n).data[p as usize];
                if honest {
                    assert!(!list.contains(&number), "node {n} applies {number} of {p} twice");
                }
                list.push(number);
                encode_unit(&mut units, |out| put(out, 1, Some(p), number));
            }
        }
        self.append(n, units);
    }

    /// The own log grows.
    pub fn append(&mut self, n: NodeId, units: Vec<u8>) {
        let mut count = 0;
        let mut rest = &units[..];
        while next_unit(&mut rest).unwrap().is_some() {
            count += 1;
        }
        if count == 0 {
            return;
        }
        let process = self.process(n);
        let (first, last) = (process.end + 1, process.end + count);
        process.end = last;
        let frame = OwnFrame { first, last, units: units.into() };
        process.log.push(frame.clone());
        self.on_leader(n, |leader, now, out| leader.appended(now, &frame.frame(), out));
    }

    /// The disk catches up.
    pub fn sync(&mut self, n: NodeId) {
        let node = self.node(n);
        let Some(process) = &node.process else { return };
        (node.disk, node.disk_end) = (process.data.clone(), process.end);
        let (end, executed) = (process.end, process.executed);
        self.on_leader(n, |leader, _, _| leader.durable(end));
        self.on_follower(n, |follower, _, _| follower.durable(executed));
    }

    /// Clients write to what is led here.
    pub fn write(&mut self, n: NodeId) {
        let unentitled = self.random.chance(20);
        let open: Vec<(PartitionId, Epoch)> = self.process(n).open.iter().map(|(p, e)| (*p, *e)).collect();
        // What is deposed may still have been executed, and come late into the log.
        let process = self.process(n);
        let late: Vec<PartitionId> = process.deposed.iter().copied().filter(|p| !process.sealed.contains(p)).collect();
        let late = if unentitled && self.random.chance(30) { self.random.pick(&late) } else { None };
        let entitled = |&(p, e): &(PartitionId, Epoch)| unentitled || self.may_answer(n, p, e);
        let mut allowed: Vec<(PartitionId, Epoch)> = open.into_iter().filter(entitled).collect();
        let process = self.process(n);
        allowed.retain(|(p, _)| process.executes(*p));
        let mut units = Vec::new();
        let mut written = Vec::new();
        if let Some(p) = late {
            let number = self.number();
            self.process(n).data[p as usize].push(number);
            encode_unit(&mut units, |out| put(out, 0, Some(p), number));
        } else {
            for _ in 0..1 + self.random.below(3) {
                let Some((p, epoch)) = self.random.pick(&allowed) else { break };
                let number = self.number();
                let mut targets = vec![(p, epoch)];
                if self.random.chance(self.spanning) {
                    targets.extend(self.random.pick(&allowed).filter(|(q, _)| *q != p));
                }
                let everywhere = self.random.chance(2) && self.process(n).deposed.is_empty();
                let everywhere = everywhere && allowed.len() == self.process(n).open.len();
                if everywhere {
                    targets.clone_from(&allowed);
                    self.spans.push((number, targets.iter().map(|(p, _)| *p).collect()));
                    encode_unit(&mut units, |out| put(out, 0, None, number));
                } else {
                    if targets.len() > 1 {
                        self.spans.push((number, targets.iter().map(|(p, _)| *p).collect()));
                    }
                    encode_unit(&mut units, |out| targets.iter().for_each(|(p, _)| put(out, 0, Some(*p), number)));
                }
                for &(p, _) in &targets {
                    self.process(n).data[p as usize].push(number);
                }
                written.push((targets, number));
            }
        }
        self.append(n, units);
        let index = self.process(n).end;
        for (targets, number) in written {
            let alone = targets.len() == 1;
            for (partition, epoch) in targets {
                self.process(n).held.push(Held { partition, epoch, number, index, alone, acked: false });
                self.written.insert((partition, number), (n, epoch, index));
            }
        }
    }

    /// A client reads the last number: it must not be taken back when the reply leaves.
    pub fn read_last(&mut self, n: NodeId) {
        let process = self.process(n);
        let open = process.open.iter().filter(|(p, _)| process.executes(**p));
        let open: Vec<(PartitionId, Epoch)> = open.map(|(p, e)| (*p, *e)).collect();
        let Some((partition, epoch)) = self.random.pick(&open) else { return };
        let process = self.process(n);
        if let Some(&number) = process.data[partition as usize].last() {
            let index = process.end;
            process.held.push(Held { partition, epoch, number, index, alone: true, acked: false });
        }
    }

    /// The backlog is read for those who are behind.
    pub fn answer_reads(&mut self, n: NodeId) {
        for (peer, from) in std::mem::take(&mut self.process(n).reads) {
            let take = 1 + self.random.below(5) as usize;
            let log = &self.process(n).log;
            let at = log.iter().position(|frame| frame.first == from);
            let frames: Vec<OwnFrame> = at.map_or(Vec::new(), |at| log[at..].iter().take(take).cloned().collect());
            self.seen.reads += 1;
            self.on_leader(n, |leader, now, out| {
                let frames: Vec<Frame> = frames.iter().map(OwnFrame::frame).collect();
                leader.read(now, peer, &frames, out);
            });
        }
    }

    /// A copy goes on.
    pub fn advance_copy(&mut self, n: NodeId) {
        let process = self.process(n);
        let end = process.end;
        let Some(copy) = &mut process.copy_out else { return };
        let run = copy.run;
        if !copy.begun {
            copy.begun = true;
            return self.on_leader(n, |leader, now, out| leader.copy_started(now, run, end, out));
        }
        if copy.next == copy.partitions.len() {
            process.copy_out = None;
            return self.on_leader(n, |leader, now, out| leader.copy_ended(now, run, end, out));
        }
        if process.leader.copy_room(run).is_none_or(|room| room == 0) {
            return;
        }
        let p = copy.partitions[copy.next];
        copy.next += 1;
        let mut bytes = vec![p as u8];
        process.data[p as usize].iter().for_each(|number| bytes.extend_from_slice(&number.to_le_bytes()));
        let bytes: Rc<[u8]> = bytes.into();
        if self.random.chance(3) {
            self.process(n).copy_out = None;
            return self.on_leader(n, |leader, now, out| leader.copy_failed(now, run, out));
        }
        self.on_leader(n, |leader, now, out| leader.copy_piece(now, run, &bytes, out));
    }

    /// What was deposed is in the log, and its clients know.
    pub fn release(&mut self, n: NodeId) {
        self.process(n).sealed.clear();
        for p in std::mem::take(&mut self.process(n).deposed) {
            self.process(n).held.retain(|held| held.partition != p);
            let tail = self.process(n).leader.release(p).expect("it was led");
            self.on_follower(n, |follower, _, out| follower.returned(p, tail, out));
        }
    }

    pub fn trim(&mut self, n: NodeId) {
        let keep = self.random.below(30) as usize;
        let process = self.process(n);
        let cut = process.log.len().saturating_sub(keep);
        process.log.drain(..cut);
        let oldest = process.log.first().map_or(process.end + 1, |frame| frame.first);
        process.leader.oldest(oldest);
    }

    fn connect(&mut self, n: NodeId, leader: NodeId) {
        self.hang_up(n, leader);
        let (now_ms, delay_ms) = (self.now_ms, self.delay_ms());
        let cut = self.is_cut(n, leader) || self.is_cut(leader, n);
        let up = self.node(leader).alive && self.node(leader).process.is_some() && !cut;
        let boots = (self.node(n).boot, self.node(leader).boot);
        self.last_connection += 1;
        let mut connection = Connection {
            id: self.last_connection,
            follower: n,
            leader,
            boots,
            to_leader: Pipe::default(),
            to_follower: Pipe::default(),
            outbox: VecDeque::new(),
            follower_open: true,
            leader_open: up,
        };
        let packet = if up { Packet::Bytes(Vec::new()) } else { Packet::Close };
        connection.to_follower.send(now_ms, delay_ms, packet);
        self.connections.push(connection);
    }

    fn hang_up(&mut self, n: NodeId, leader: NodeId) {
        let (now_ms, delay_ms) = (self.now_ms, self.delay_ms());
        for c in self.connections.iter_mut().filter(|c| c.follower == n && c.leader == leader && c.follower_open) {
            c.follower_open = false;
            c.to_leader.send(now_ms, delay_ms, Packet::Close);
        }
    }

    /// The tail and the data of a copy that is at rest.
    pub fn settled(&self, n: NodeId, p: PartitionId) -> Option<(Tail, &Vec<u64>)> {
        let process = self.nodes[n as usize - 1].process.as_ref()?;
        let tail = match process.leader.leads(p) {
            Some((_, tail, _)) => tail,
            None => process.follower.settled(p)?,
        };
        Some((tail, &process.data[p as usize]))
    }
}
