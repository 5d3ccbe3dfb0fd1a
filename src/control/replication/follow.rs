//! Following a primary: what the machine of the replica decides, and its log on the way to disk and data cores.
//!
//! Owned by the control core.

use std::rc::Rc;

use super::{Control, Replication, Role, carried, encoded, entries_of};
use crate::control::links::{self, Outbox};
use crate::control::{aside, random_id};
use crate::log::frame::{self, Frame, HistoryId, Index, Kind};
use crate::replication::message::{self, Decoder, ToReplica};
use crate::replication::replica::{Action as Follow, Replica};

use super::receive::Receiving;

impl Control {
    /// Lets the machine of the replica decide something, and does what comes of it.
    pub(super) fn follow(self: &Rc<Self>, decide: impl FnOnce(&mut Replica, u64, &mut Vec<Follow>)) {
        let now_ms = self.steady_ms();
        let mut actions = Vec::new();
        decide(&mut self.replication.borrow_mut().replica, now_ms, &mut actions);
        for action in actions {
            self.do_follow(action);
        }
    }

    pub(super) fn do_follow(self: &Rc<Self>, action: Follow) {
        match action {
            Follow::Connect => self.connect_upstream(),
            Follow::Disconnect => self.hang_up(),
            Follow::Send(message) => {
                if let Some(upstream) = &self.replication.borrow().upstream {
                    upstream.push(encoded(&message), 0);
                }
            }
            Follow::SaveChain(chain) => {
                let mut replication = self.replication.borrow_mut();
                let received = replication.replica.has().received;
                self.log.borrow_mut().sequencer.follow(entries_of(&chain.upto(received)), received);
                replication.chain = chain;
            }
            Follow::Append(frame) => self.append_received(&frame),
            Follow::Apply { upto } => self.replication.borrow_mut().apply.allow(upto),
            Follow::SetAside { from, to } => self.set_aside(from, to),
            Follow::Truncate { to } => {
                let mut replication = self.replication.borrow_mut();
                replication.apply.truncate(to);
                let mut log = self.log.borrow_mut();
                log.backlog.truncate(to);
                let entries = entries_of(&replication.chain.upto(to));
                log.sequencer.follow(entries.clone(), to);
                if let Some(wal) = log.wal()
                    && let Err(error) = wal.start_history(entries, to + 1)
                {
                    tracing::error!(%error, "the log cannot be cut");
                }
            }
            Follow::BeginCopy { run } => self.begin_receiving(run),
            Follow::CopyPiece(bytes) => self.receive_piece(&bytes),
            Follow::FinishCopy { run, end, chain } => {
                let mut replication = self.replication.borrow_mut();
                if let Some(receiving) = replication.receiving.as_mut().filter(|receiving| receiving.run == run) {
                    receiving.end = Some((end, chain));
                }
            }
            Follow::TakeOver => {
                if let Err(error) = self.take_over() {
                    tracing::error!(error, "this node cannot take over");
                }
            }
        }
    }

    pub(super) fn connect_upstream(self: &Rc<Self>) {
        let (host, port, number) = {
            let mut replication = self.replication.borrow_mut();
            let Role::Following { host, port } = replication.role.clone() else { return };
            replication.upstream_number += 1;
            (host, port, replication.upstream_number)
        };
        let (control, credentials) = (Rc::clone(self), self.credentials());
        glommio::spawn_local(async move {
            let connected = links::connect(&host, port, credentials)
                .await
                .and_then(|socket| links::halves(socket).map_err(|error| error.to_string()));
            let is_current = || control.replication.borrow().upstream_number == number;
            let (reader, writer) = match connected {
                Ok(halves) if is_current() => halves,
                Ok(_) => return,
                Err(error) => {
                    tracing::warn!(host, port, error, "the primary cannot be reached");
                    return control.lost_upstream(number);
                }
            };
            tracing::info!(host, port, "connected to the primary");
            let outbox = Rc::new(Outbox::default());
            control.replication.borrow_mut().upstream = Some(Rc::clone(&outbox));
            glommio::spawn_local(links::write_all(writer, Rc::clone(&outbox), |_| ())).detach();
            control.follow(|replica, now_ms, out| replica.connected(now_ms, out));
            let mut decoder = Decoder::default();
            links::read_all(reader, async |bytes| {
                decoder.push(bytes);
                loop {
                    if control.replication.borrow().upstream_number != number {
                        return false;
                    }
                    match decoder.decode::<ToReplica>() {
                        Ok(Some(message)) if is_sound(&message) => {
                            if let ToReplica::Control(message::Control::Refused { reason }) = &message {
                                tracing::warn!(host, port, ?reason, "the primary refuses this replica");
                            }
                            let random = random_id() as u64;
                            control.follow(|replica, now_ms, out| replica.message(now_ms, message, random, out));
                        }
                        Ok(Some(_)) => {
                            tracing::error!(host, port, "a frame of the primary is damaged");
                            return false;
                        }
                        Ok(None) => break,
                        Err(error) => {
                            tracing::warn!(host, port, %error, "the primary says what makes no sense");
                            return false;
                        }
                    }
                }
                control.advance();
                // A copy comes as fast as data cores can take it.
                while control.is_choked() && control.replication.borrow().upstream_number == number {
                    glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
                }
                true
            })
            .await;
            outbox.close(true);
            control.lost_upstream(number);
        })
        .detach();
    }

    /// More has been received than data cores have taken.
    pub(super) fn is_choked(&self) -> bool {
        let replication = self.replication.borrow();
        let disk =
            |receiving: &Receiving| receiving.writer.as_ref().is_some_and(|writer| writer.queued_bytes() > 32 << 20);
        replication.receiving.as_ref().is_some_and(|receiving| !replication.apply.has_room() || disk(receiving))
    }

    pub(super) fn lost_upstream(self: &Rc<Self>, number: u64) {
        if self.replication.borrow().upstream_number == number {
            self.break_upstream();
        }
    }

    /// Gives the connection to the primary up; another one follows.
    pub(super) fn break_upstream(self: &Rc<Self>) {
        self.hang_up();
        let random = random_id() as u64;
        self.follow(|replica, now_ms, _| replica.disconnected(now_ms, random));
    }

    pub(super) fn hang_up(&self) {
        let mut replication = self.replication.borrow_mut();
        replication.upstream_number += 1;
        if let Some(upstream) = replication.upstream.take() {
            upstream.close(false);
        }
    }

    /// A frame of the primary's log: kept and passed on as it is.
    pub(super) fn append_received(self: &Rc<Self>, frame: &message::Frame) {
        if let Some(receiving) = &mut self.replication.borrow_mut().receiving {
            receiving.later.push(frame.clone());
            return;
        }
        // It was looked at when it came.
        let Some(frame) = sound_frame(frame) else { return };
        let mut replication = self.replication.borrow_mut();
        let mut log = self.log.borrow_mut();
        let histories = entries_of(&replication.chain.upto(frame.last()));
        if let Some(wal) = log.wal().cloned() {
            if wal.history() != Some(frame.head.history)
                && let Err(error) = wal.start_history(histories.clone(), frame.head.first)
            {
                tracing::error!(%error, "the log cannot begin a history");
            }
            if let Err(error) = wal.append(frame.clone()) {
                tracing::error!(%error, index = frame.head.first, "the log cannot take a frame");
            }
        }
        log.sequencer.follow(histories, frame.last());
        log.backlog.push(frame.clone());
        replication.apply.push(frame);
    }

    /// Keeps records that the primary does not have in a file of their own.
    pub(super) fn set_aside(&self, from: Index, to: Index) {
        let dir = self.saves.borrow_mut().directory();
        let log = self.log.borrow();
        let history: HistoryId = log.sequencer.history();
        let name = format!("set-aside-{:08x}-{from}-{to}.kl", (history >> 96) as u32);
        let first = log.backlog.first().unwrap_or(Index::MAX);
        let frames = log.backlog.from(from.max(first).min(to));
        let frames: Vec<Frame> = frames.map(|frames| frames.cloned().collect()).unwrap_or_default();
        let written = dir.and_then(|dir| {
            let on_disk = log.wal().is_some().then_some(&*dir);
            aside::write_tail(&dir.join(&name), on_disk, from, &frames).map_err(|error| error.to_string())
        });
        match written {
            Ok(found) => {
                let complete = found.is_some_and(|(first, last)| first <= from && last >= to);
                tracing::warn!(
                    from,
                    to,
                    file = name,
                    complete,
                    "the primary does not have the end of this node's log: it is set aside"
                );
                self.replication.borrow_mut().set_aside = Some(name);
            }
            Err(error) => tracing::error!(from, to, error, "the end of this node's log cannot be set aside"),
        }
    }

    /// Moves a log on that is followed.
    pub(in crate::control) fn advance_following(self: &Rc<Self>) {
        if self.replication.borrow().leads() {
            return;
        }
        self.finish_receiving();
        let (applied, failed) = {
            let mut replication = self.replication.borrow_mut();
            let Replication { apply, relayed, receiving, .. } = &mut *replication;
            let mut log = self.log.borrow_mut();
            let mut failed = None;
            if receiving.is_none() {
                apply.held = log.runs.wants_pieces() || log.runs.waits_to_begin();
                let passed = apply.advance(|frame| {
                    log.runs.push_log(frame);
                    relayed.push_back(frame.clone());
                });
                failed = passed.err();
                log.may_cover = !apply.held || apply.is_at_rest();
            } else {
                log.may_cover = false;
                apply.flush();
            }
            log.out.append(&mut apply.out);
            (apply.applied(), failed)
        };
        if let Some(error) = failed {
            // What cannot be applied cannot be passed over either.
            tracing::error!(%error, "the primary's log cannot be applied; this node takes a copy");
            self.replication.borrow_mut().apply.start_at(applied);
            self.follow(|replica, _, _| replica.give_up_data());
            self.break_upstream();
            return;
        }
        let receiving = self.replication.borrow().receiving.is_some();
        if !receiving {
            self.follow(|replica, _, _| {
                if applied <= replica.has().received && applied > replica.has().applied {
                    replica.applied(applied);
                }
            });
            self.relay(applied);
            let durable = self.log.borrow().durable();
            self.follow(|replica, _, out| {
                let received = replica.has().received;
                replica.durable(durable.min(received), out);
            });
        }
        self.finish_taking_over();
    }

    /// Passes on to this node's replicas what it has applied.
    pub(super) fn relay(self: &Rc<Self>, applied: Index) {
        loop {
            let frame = {
                let mut replication = self.replication.borrow_mut();
                if replication.relayed.front().is_none_or(|frame| frame.last() > applied) {
                    break;
                }
                replication.relayed.pop_front()
            };
            let Some(frame) = frame else { break };
            let carries = self.replication.borrow().has_peers();
            self.serve(|primary, now_ms, out| primary.appended(now_ms, &carried(&frame, carries), out));
        }
        let commit = self.replication.borrow().replica.commit().min(applied);
        self.serve(|primary, now_ms, _| primary.upstream_commit(now_ms, commit));
    }
}

/// What a frame of a primary's log contains; None: it is not what it says it is.
fn sound_frame(frame: &message::Frame) -> Option<Frame> {
    let found = frame::take_frame(&mut &frame.bytes[..]).ok().flatten()?;
    let head = &found.head;
    let same = (head.history, head.first, head.count) == (frame.history, frame.first, frame.count);
    (head.kind == Kind::Log && same && found.bytes() == frame.bytes.len()).then_some(found)
}

/// Whether a message can be believed as far as its frames go.
fn is_sound(message: &ToReplica) -> bool {
    match message {
        ToReplica::Frames { frames, .. } => frames.iter().all(|frame| sound_frame(frame).is_some()),
        _ => true,
    }
}
