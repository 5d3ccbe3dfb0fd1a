//! Exchange: messages from and to other cores.

use std::sync::Arc;

use super::connection::Hold;
use super::forward::{Batch, Message};
use super::limits;
use super::publish::Turn;
use super::pump::{Pump, bounds};
use super::window::{Request, RequestKey, Target, Way, in_window};
use crate::command::ask::Pause;
use crate::command::table::Row;
use crate::command::{Answer, Ask, Finish, table};
use crate::log::durability::Standing;
use crate::resp::Reply;
use crate::route::CoreId;
use crate::shard::SteadyMs;

/// A connection that waits for the answers of other cores.
pub(super) struct Asking {
    connection: u32,
    generation: u32,
    answers: Vec<Option<Answer>>,
    finish: Finish,
    row: &'static Row,
}

impl Pump {
    pub(super) fn send(&mut self, core: CoreId, message: Message) {
        // A core that has closed takes nothing any more; the node is stopping.
        let _ = self.mesh.send(core as usize, message);
    }

    /// Handles what other cores have sent, and executes the requests among it.
    pub(super) fn receive_messages(&mut self) {
        if self.mesh.executors() == 1 {
            return;
        }
        let mut received = 0;
        while received < limits::TURN_MESSAGES {
            let Some((from, message)) = self.mesh.pop() else { break };
            if received == 0 {
                self.set_now();
            }
            received += 1;
            self.handle(from as CoreId, message);
        }
        if received > 0 {
            self.active = true;
        }
        self.run_window();
    }

    fn handle(&mut self, from: CoreId, message: Message) {
        match message {
            Message::Requests(batch) => {
                if self.window.requests.len() >= limits::WINDOW_REQUESTS {
                    self.run_window();
                }
                self.take_batch(from, batch);
            }
            Message::Replies(batch) => {
                self.engine.hop_done(batch.sent_at);
                self.replied(from, batch);
            }
            Message::Question { ask, part, question } => {
                // What its connection sent here before has to be seen by the answer.
                self.run_window();
                self.take_question(from, ask, part, *question);
            }
            Message::Borrow { transaction, loan } => self.borrow(from, transaction, loan),
            Message::Lent { transaction, lent } => self.lent(from, transaction, *lent),
            Message::Return { ticket, entries, keep, seq } => self.returned(from, ticket, entries, keep, seq),
            Message::Join { waiter, kind, db, keys } => {
                // What its connection has sent here before comes first.
                self.run_window();
                self.join(waiter, kind, db, &keys);
                self.make_offers();
            }
            Message::Offer(offer) => self.offered(from, *offer),
            Message::Decline { waiter, db, key } => {
                self.declined(waiter, db, &key);
                self.make_offers();
            }
            Message::Leave(waiter) => {
                self.left(waiter);
                self.make_offers();
            }
            Message::Forget(places) => self.engine.forget_watched(places),
            Message::Answer { ask, part, answer } => self.answered(ask, part, *answer),
            Message::Socket { socket, unix } => self.serve(socket, unix),
            Message::Unwatch(core) => self.watch(core, false),
            Message::Monitor(lines) => self.show_monitors(&lines),
            Message::Published(messages) => self.receive_told(&messages),
            Message::Unlisten(buckets) => self.note_withdrawal(from, &buckets),
            Message::Progress(progress) => self.progressed(progress),
            Message::Standing(standing) => self.stand(standing),
            Message::View(view) => self.see(view),
            Message::Drop(partitions) => self.drop_partitions(partitions),
            Message::FeedFull(full) => self.note_feed(from, full),
            Message::Record(on) => self.engine.switch_feed(on),
            Message::Cover { run, pieces, only } => self.grant_pieces(run, pieces, only),
            Message::Feed(_) | Message::Replica { .. } => debug_assert!(false, "only the control core takes feeds"),
        }
    }

    /// What the node may do has changed. When it may write no longer, the control core hears of it in the feed, as soon as
    /// everything that is under way is through.
    fn stand(&mut self, standing: Arc<Standing>) {
        self.run_window();
        let may_write = |standing: &Standing| !standing.replica && !standing.handing_over;
        let stops = may_write(&self.engine.standing) && !may_write(&standing);
        if standing.handing_over != self.engine.standing.handing_over {
            let pause = Pause { until_ms: SteadyMs::MAX, writes_only: true };
            self.set_pause(standing.handing_over.then_some(pause));
        }
        let (demoted, follows) = (standing.replica && !self.engine.standing.replica, standing.follows);
        let begins = follows && !self.engine.standing.follows;
        self.engine.stand(standing);
        // What waits may have to be refused instead.
        self.update_restraint();
        self.release_held_up();
        if stops {
            self.claim_barrier();
        }
        if demoted {
            self.end_waits_of_demoted();
        }
        if begins {
            self.give_up_held();
        }
    }

    /// A batch has come back with its replies.
    pub(super) fn replied(&mut self, from: CoreId, batch: Box<Batch>) {
        if batch.lost {
            let connection = self.connections[batch.connection as usize].as_deref();
            if connection.is_some_and(|connection| connection.generation == batch.generation) {
                self.kill(batch.connection);
            }
        }
        if batch.transaction.is_some() {
            return self.transaction_replied(from, batch);
        }
        let index = batch.connection;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if connection.generation != batch.generation {
            return;
        }
        if from == self.me {
            self.note_unchecked(index);
        }
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        if let Some(forwarding) = &mut connection.forwarding {
            forwarding.arrived[from as usize].0.push_back(batch);
            self.merge_replies(index);
        }
    }

    /// Puts the requests of another core's batch into the window.
    fn take_batch(&mut self, from: CoreId, batch: Box<Batch>) {
        if batch.transaction.is_some() {
            return self.take_atomic(from, batch);
        }
        let at = self.window.batches.len() as u32;
        let first = self.window.args.len();
        let mut args: Vec<&[u8]> = Vec::new();
        let requests = &mut self.window.requests;
        batch.walk(&mut args, |request, range, owned| {
            let key = request.key.unwrap_or(RequestKey { at: 0, partition: 0, hash: 0 });
            requests.push(Request {
                row: table().row(request.row),
                owned,
                way: Way::Local,
                args: ((first + range.start) as u32, (first + range.end) as u32),
                target: Target::Batch(at),
                hash: key.hash,
                key_at: key.at,
                partition: key.partition,
                db: request.db,
                version: request.version,
                no_touch: request.no_touch,
                counted: request.counted,
            });
        });
        // SAFETY: the batch moves into the window as a box and is not changed before the window has run: its bytes stay
        // where they are.
        self.window.args.extend(args.iter().map(|arg| unsafe { in_window(arg) }));
        self.window.batches.push((from, Some(batch)));
    }

    /// Asks the cores named, this one included, and finishes the command when all have answered.
    pub(super) fn ask(&mut self, index: u32, row: &'static Row, questions: Vec<(CoreId, Ask)>, finish: Finish) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.hold.set(Hold::ASK);
        let generation = connection.generation;
        let answers = questions.iter().map(|_| None).collect();
        let asking = Asking { connection: index, generation, answers, finish, row };
        let ask = match self.asks.iter().position(Option::is_none) {
            Some(free) => free,
            None => {
                self.asks.push(None);
                self.asks.len() - 1
            }
        };
        self.asks[ask] = Some(asking);
        if questions.is_empty() {
            return self.finish(ask as u32);
        }
        // Requests of this connection that are still to leave must not be overtaken by its questions.
        if questions.iter().any(|(core, _)| *core != self.me) {
            self.send_batches();
        }
        for (part, (core, question)) in questions.into_iter().enumerate() {
            let (ask, part) = (ask as u32, part as u16);
            if core == self.me {
                self.take_question(core, ask, part, question);
            } else {
                self.send(core, Message::Question { ask, part, question: Box::new(question) });
            }
        }
    }

    /// Answers a question of core `from`, which may be this one.
    pub(super) fn answer_question(&mut self, from: CoreId, ask: u32, part: u16, question: Ask) {
        let answer = self.answer(question);
        if from == self.me {
            self.answered(ask, part, answer);
        } else {
            self.send(from, Message::Answer { ask, part, answer: Box::new(answer) });
        }
    }

    fn answered(&mut self, ask: u32, part: u16, answer: Answer) {
        let Some(asking) = &mut self.asks[ask as usize] else { return };
        asking.answers[part as usize] = Some(answer);
        if asking.answers.iter().all(Option::is_some) {
            self.finish(ask);
        }
    }

    /// All answers are there: runs the second half of the command.
    fn finish(&mut self, ask: u32) {
        let Some(asking) = self.asks[ask as usize].take() else { return };
        let index = asking.connection;
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        debug_assert_eq!(connection.generation, asking.generation, "a connection that asks is not freed");
        let answers = asking.answers.into_iter().flatten().collect();
        self.void.clear(limits::POOL_BUFFER_BYTES);
        let session = &mut connection.session;
        let mut reply = Reply::new(&mut self.void, session.version);
        let flow = self.engine.finish_session(asking.row, session, asking.finish, answers, &mut reply);
        self.follow(index, asking.row, flow);
        if !self.is_asking(index) {
            self.release(index, Hold::ASK);
            self.settle(index);
            self.reclaim(index);
        }
    }

    fn is_asking(&self, index: u32) -> bool {
        self.asks.iter().flatten().any(|asking| asking.connection == index)
    }

    /// Answers a question about this core.
    fn answer(&mut self, ask: Ask) -> Answer {
        match ask {
            Ask::Clients(filter) => self.list_clients(&filter),
            Ask::Kill { filter, except } => Answer::Count(self.kill_clients(&filter, except)),
            Ask::Unblock { id, error } => Answer::Count(self.unblock(id, error) as u64),
            Ask::Pause(pause) => {
                self.set_pause(pause);
                Answer::Done
            }
            Ask::Monitor { core, on } => {
                self.watch(core, on);
                Answer::Done
            }
            ask => {
                if let Ask::Snapshot = ask {
                    self.publish_net_numbers();
                }
                let Ok(answer) = self.engine.answer(ask) else { unreachable!("the other questions are above") };
                self.bounds = bounds(&self.engine.config);
                // A message to deliver, or a key that had to make way.
                self.tell();
                answer
            }
        }
    }

    /// Shows executed commands to this core's monitors, and to those of other cores.
    pub(super) fn share_monitor_lines(&mut self) {
        if self.monitor_lines.is_empty() {
            return;
        }
        let lines = std::mem::take(&mut self.monitor_lines);
        for core in self.monitor_cores.clone() {
            if core == self.me {
                self.show_monitors(&lines);
            } else {
                self.send(core, Message::Monitor(Box::new(lines.clone())));
            }
        }
    }

    /// Notes whether a core wants to see executed commands.
    pub(super) fn watch(&mut self, core: CoreId, on: bool) {
        self.monitor_cores.retain(|&other| other != core);
        if on {
            self.monitor_cores.push(core);
        }
    }

    fn show_monitors(&mut self, lines: &[u8]) {
        for index in self.monitors.clone() {
            self.append_out_of_band(index, lines);
        }
    }

    /// Writes something that is no reply. While replies are owed it waits for its turn behind them.
    pub(super) fn append_out_of_band(&mut self, index: u32, bytes: &[u8]) {
        let Some(connection) = self.connections[index as usize].as_deref_mut() else { return };
        connection.write_out_of_band(&mut self.pool, Turn::Behind, |out| out.push(bytes));
        self.mark_dirty(index);
    }
}
