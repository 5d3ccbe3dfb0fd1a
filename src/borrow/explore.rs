//! Every interleaving of a few transactions and requests, on the shipped state machines.
//!
//! A [`World`] is some cores with their [`Lending`] and their values, the messages under way between them (in order for
//! each pair of cores, as in the mesh), and clients that run a few operations each. What may happen next is that a client
//! sends its next operation, that the oldest message between two cores arrives, or that a client vanishes. The
//! exploration visits every world that can be reached, each once, and checks in each step:
//!
//! - mutual exclusion: whoever runs finds each of its values, so nobody else has it;
//! - first come, first served: the claims on a key run in the order in which they were made;
//! - strict serialisability: operations run in one order in which each sees exactly what those before it have written.
//!   An operation runs after it was sent and before it is answered, so this order keeps to real time;
//!
//! and in each world in which nothing more can happen: every operation is answered (no deadlock), every value is at its
//! owner, and no claim is left.
//!
//! The controls at the end make one mistake each, and the exploration must find it.
//!
//! Longer than other files: the world, its steps and the cases make sense together only.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};

use super::coordinator::{Coordinator, Step};
use super::lending::{Fault, Lending, Ticket, Wants};
use crate::route::CoreId;

type Key = u8;
/// The number of the operation that wrote it; 0 at the start.
type Value = u8;

/// Key `k` lives on core `k / 10`.
fn owner(key: Key) -> CoreId {
    (key / 10) as CoreId
}

/// What a client does.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Op {
    /// A request for one key (or several of one core): runs at the owner.
    Request(Vec<Key>),
    /// Reads and writes all of these keys at once.
    Transaction(Vec<Key>),
    /// Reads and writes every key of every core.
    Whole,
    /// Reads every key of the client's core at one moment, and these once more at a later one, while they stay locked.
    Cover(Vec<Key>),
}

/// A mistake in what surrounds the state machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mistake {
    None,
    /// Transactions of core 1 ask in descending order.
    Descending,
    /// The owner releases a claim when it sends the entries.
    ReleaseAtGrant,
    /// What arrives for a client that is gone is dropped.
    ForgetTheVanished,
    /// A request runs without looking whether its key is lent.
    Unchecked,
    Machine(Fault),
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Message {
    Request {
        op: usize,
        keys: Vec<Key>,
    },
    Done {
        op: usize,
    },
    Borrow {
        op: usize,
        wants: Wants<Key>,
    },
    Lent {
        op: usize,
        ticket: Ticket,
        values: Vec<(Key, Value)>,
    },
    Return {
        ticket: Ticket,
        values: Vec<(Key, Value)>,
    },
    /// Of a core to itself: the second part of a cover, and what it has to find.
    Slice {
        op: usize,
        ticket: Ticket,
        values: Vec<(Key, Value)>,
    },
}

/// What a claim does when it is granted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Claim {
    Run { op: usize, from: CoreId, keys: Vec<Key> },
    Lend { op: usize, to: CoreId, wants: Wants<Key> },
    Cover { op: usize, keys: Vec<Key> },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Core {
    lending: Lending<Key>,
    claims: BTreeMap<Ticket, Claim>,
    values: BTreeMap<Key, Value>,
    /// Of each key: the youngest claim that has run.
    served: BTreeMap<Key, Ticket>,
}

/// An operation under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Borrowing {
    machine: Coordinator,
    wants: BTreeMap<CoreId, Wants<Key>>,
    tickets: BTreeMap<CoreId, Ticket>,
    values: BTreeMap<Key, Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    mistake: Mistake,
    cores: Vec<Core>,
    channels: BTreeMap<(CoreId, CoreId), VecDeque<Message>>,
    /// Of each client: how many of its operations were sent, and how many are answered.
    progress: Vec<(usize, usize)>,
    gone: BTreeSet<usize>,
    borrowing: BTreeMap<usize, Borrowing>,
    /// What one core that ran the same operations would hold.
    model: BTreeMap<Key, Value>,
}

/// The core of each client, its operations, and whether it may vanish.
struct Client {
    core: CoreId,
    ops: Vec<Op>,
    may_vanish: bool,
}

struct Scenario {
    keys: Vec<Key>,
    clients: Vec<Client>,
}

impl Scenario {
    /// Operations have the numbers 1, 2, ...: client and position.
    fn op_of(&self, client: usize, at: usize) -> usize {
        1 + self.clients[..client].iter().map(|client| client.ops.len()).sum::<usize>() + at
    }

    fn client_of(&self, op: usize) -> usize {
        (0..self.clients.len()).rev().find(|&client| self.op_of(client, 0) <= op).unwrap()
    }

    fn start(&self, mistake: Mistake) -> World {
        let cores = 1 + self.keys.iter().map(|&key| owner(key)).max().unwrap();
        let core = |core| {
            let mut lending = Lending::default();
            lending.fault = if let Mistake::Machine(fault) = mistake { Some(fault) } else { None };
            let values = self.keys.iter().filter(|&&key| owner(key) == core).map(|&key| (key, 0)).collect();
            Core { lending, claims: BTreeMap::new(), values, served: BTreeMap::new() }
        };
        World {
            mistake,
            cores: (0..cores).map(core).collect(),
            channels: BTreeMap::new(),
            progress: vec![(0, 0); self.clients.len()],
            gone: BTreeSet::new(),
            borrowing: BTreeMap::new(),
            model: self.keys.iter().map(|&key| (key, 0)).collect(),
        }
    }

    /// Visits every world; how many there are, or what is wrong with one of them.
    fn explore(&self, mistake: Mistake) -> Result<usize, String> {
        let mut seen = HashSet::new();
        let mut open = vec![self.start(mistake)];
        while let Some(world) = open.pop() {
            let mut ended = true;
            for next in world.successors(self) {
                ended = false;
                let next = next?;
                if seen.insert(next.clone()) {
                    open.push(next);
                }
            }
            if ended {
                world.check_end(self)?;
            }
        }
        Ok(seen.len())
    }
}

impl World {
    fn successors<'a>(&'a self, scenario: &'a Scenario) -> impl Iterator<Item = Result<World, String>> + 'a {
        let channels = self.channels.keys().map(move |&(from, to)| {
            let mut next = self.clone();
            let channel = next.channels.get_mut(&(from, to)).unwrap();
            let message = channel.pop_front().unwrap();
            if channel.is_empty() {
                next.channels.remove(&(from, to));
            }
            next.handle(scenario, from, to, message).map(|()| next)
        });
        let ready = |&client: &usize| {
            let (sent, answered) = self.progress[client];
            sent == answered && sent < scenario.clients[client].ops.len() && !self.gone.contains(&client)
        };
        let starts = (0..scenario.clients.len()).filter(ready).map(move |client| {
            let mut next = self.clone();
            next.send_op(scenario, client).map(|()| next)
        });
        let may_go = |&client: &usize| scenario.clients[client].may_vanish && !self.gone.contains(&client);
        let goes = (0..scenario.clients.len()).filter(may_go).map(move |client| {
            let mut next = self.clone();
            next.gone.insert(client);
            Ok(next)
        });
        channels.chain(starts).chain(goes)
    }

    fn check_end(&self, scenario: &Scenario) -> Result<(), String> {
        for (client, &(sent, answered)) in self.progress.iter().enumerate() {
            if sent != answered && !self.gone.contains(&client) {
                return Err(format!("deadlock: client {client} waits for ever"));
            }
        }
        let values: BTreeMap<Key, Value> = self.cores.iter().flat_map(|core| core.values.clone()).collect();
        if values != self.model {
            return Err(format!("at the end there is {values:?} instead of {:?}", self.model));
        }
        assert_eq!(values.len(), scenario.keys.len());
        match self.cores.iter().all(|core| core.lending.is_idle() && core.claims.is_empty()) {
            true => Ok(()),
            false => Err("something stays lent".into()),
        }
    }

    fn post(&mut self, scenario: &Scenario, from: CoreId, to: CoreId, message: Message) -> Result<(), String> {
        if from == to {
            return self.handle(scenario, from, to, message);
        }
        self.channels.entry((from, to)).or_default().push_back(message);
        Ok(())
    }

    fn send_op(&mut self, scenario: &Scenario, client: usize) -> Result<(), String> {
        let at = self.progress[client].0;
        self.progress[client].0 += 1;
        let (home, op) = (scenario.clients[client].core, scenario.op_of(client, at));
        let keys = match &scenario.clients[client].ops[at] {
            Op::Request(keys) => {
                let message = Message::Request { op, keys: keys.clone() };
                return self.post(scenario, home, owner(keys[0]), message);
            }
            Op::Cover(keys) => {
                let claim = Claim::Cover { op, keys: keys.clone() };
                return self.claim(scenario, home, Wants::Whole, claim);
            }
            Op::Transaction(keys) => Some(keys),
            Op::Whole => None,
        };
        let mut wants = BTreeMap::new();
        for (core, _) in self.cores.iter().enumerate() {
            let core = core as CoreId;
            match keys {
                None => drop(wants.insert(core, Wants::Whole)),
                Some(keys) => {
                    let here: Vec<Key> = keys.iter().copied().filter(|&key| owner(key) == core).collect();
                    if !here.is_empty() {
                        wants.insert(core, Wants::Keys(here));
                    }
                }
            }
        }
        let mut cores: Vec<CoreId> = wants.keys().copied().collect();
        let machine = if self.mistake == Mistake::Descending && home == 1 {
            cores.reverse();
            Coordinator::in_order(cores)
        } else {
            Coordinator::new(cores)
        };
        let step = machine.begin();
        let borrowing = Borrowing { machine, wants, tickets: BTreeMap::new(), values: BTreeMap::new() };
        self.borrowing.insert(op, borrowing);
        self.take_step(scenario, op, step)
    }

    fn take_step(&mut self, scenario: &Scenario, op: usize, step: Step) -> Result<(), String> {
        let client = scenario.client_of(op);
        let home = scenario.clients[client].core;
        if let Step::Borrow(core) = step {
            let wants = self.borrowing[&op].wants[&core].clone();
            return self.post(scenario, home, core, Message::Borrow { op, wants });
        }
        let Borrowing { machine, wants, tickets, mut values } = self.borrowing.remove(&op).unwrap();
        if step == Step::Run {
            let mut keys: Vec<Key> = Vec::new();
            for (core, wants) in &wants {
                match wants {
                    Wants::Keys(some) => keys.extend(some),
                    Wants::Whole => keys.extend(scenario.keys.iter().filter(|&&key| owner(key) == *core)),
                }
            }
            run(op, &keys, &mut values, &mut self.model)?;
        }
        self.progress[client].1 += 1;
        for &core in machine.held() {
            let values = values.iter().filter(|&(&key, _)| owner(key) == core).map(|(&key, &value)| (key, value));
            let message = Message::Return { ticket: tickets[&core], values: values.collect() };
            self.post(scenario, home, core, message)?;
        }
        Ok(())
    }

    fn handle(&mut self, scenario: &Scenario, from: CoreId, to: CoreId, message: Message) -> Result<(), String> {
        match message {
            Message::Request { op, keys } if self.mistake == Mistake::Unchecked => {
                run(op, &keys, &mut self.cores[to as usize].values, &mut self.model)?;
                self.post(scenario, to, from, Message::Done { op })
            }
            Message::Request { op, keys } => {
                self.claim(scenario, to, Wants::Keys(keys.clone()), Claim::Run { op, from, keys })
            }
            Message::Borrow { op, wants } => {
                self.claim(scenario, to, wants.clone(), Claim::Lend { op, to: from, wants })
            }
            Message::Done { op } => {
                self.progress[scenario.client_of(op)].1 += 1;
                Ok(())
            }
            Message::Lent { op, ticket, values } => {
                let alive = !self.gone.contains(&scenario.client_of(op));
                if !alive && self.mistake == Mistake::ForgetTheVanished {
                    return Ok(());
                }
                let borrowing = self.borrowing.get_mut(&op).unwrap();
                borrowing.tickets.insert(from, ticket);
                borrowing.values.extend(values);
                let step = borrowing.machine.granted(alive);
                self.take_step(scenario, op, step)
            }
            Message::Return { ticket, values } => {
                let core = &mut self.cores[to as usize];
                for (key, value) in values {
                    if core.values.insert(key, value).is_some() {
                        return Err(format!("key {key} comes back to where it is already"));
                    }
                }
                if self.mistake == Mistake::ReleaseAtGrant {
                    return Ok(());
                }
                self.release(scenario, to, ticket)
            }
            Message::Slice { op, ticket, values } => {
                let here = &self.cores[to as usize].values;
                if values.iter().any(|(key, value)| here.get(key) != Some(value)) {
                    return Err("a locked key has changed".into());
                }
                self.progress[scenario.client_of(op)].1 += 1;
                self.release(scenario, to, ticket)
            }
        }
    }

    fn claim(&mut self, scenario: &Scenario, core: CoreId, wants: Wants<Key>, claim: Claim) -> Result<(), String> {
        let lending = &mut self.cores[core as usize].lending;
        let waits = lending.would_wait(&wants);
        let (ticket, granted) = lending.claim(wants);
        lending.validate();
        if !matches!(self.mistake, Mistake::Machine(_)) {
            assert_eq!(waits, !granted);
        }
        self.cores[core as usize].claims.insert(ticket, claim);
        if granted { self.grant(scenario, core, ticket) } else { Ok(()) }
    }

    fn grant(&mut self, scenario: &Scenario, at: CoreId, ticket: Ticket) -> Result<(), String> {
        let core = &mut self.cores[at as usize];
        let claim = core.claims.remove(&ticket).unwrap();
        let keys: Vec<Key> = match &claim {
            Claim::Run { keys, .. } | Claim::Lend { wants: Wants::Keys(keys), .. } => keys.clone(),
            Claim::Lend { .. } | Claim::Cover { .. } => {
                scenario.keys.iter().copied().filter(|&key| owner(key) == at).collect()
            }
        };
        for &key in &keys {
            if core.served.insert(key, ticket).is_some_and(|last| last >= ticket) {
                return Err(format!("key {key}: somebody was overtaken"));
            }
        }
        match claim {
            Claim::Run { op, from, keys } => {
                run(op, &keys, &mut core.values, &mut self.model)?;
                self.post(scenario, at, from, Message::Done { op })?;
                self.release(scenario, at, ticket)
            }
            Claim::Lend { op, to, .. } => {
                let mut values = Vec::new();
                for key in keys {
                    let Some(value) = core.values.remove(&key) else {
                        return Err(format!("key {key} is lent twice"));
                    };
                    values.push((key, value));
                }
                self.post(scenario, at, to, Message::Lent { op, ticket, values })?;
                if self.mistake == Mistake::ReleaseAtGrant { self.release(scenario, at, ticket) } else { Ok(()) }
            }
            Claim::Cover { op, keys: locked } => {
                if keys.iter().any(|key| core.values.get(key) != Some(&self.model[key])) {
                    return Err(format!("operation {op} covers what is not here, or old"));
                }
                let values = locked.iter().map(|&key| (key, core.values[&key])).collect();
                let mut granted = Vec::new();
                core.lending.narrow(ticket, locked, &mut granted);
                core.lending.validate();
                // It arrives later, whatever happens until then.
                let slice = Message::Slice { op, ticket, values };
                self.channels.entry((at, at)).or_default().push_back(slice);
                granted.into_iter().try_for_each(|ticket| self.grant(scenario, at, ticket))
            }
        }
    }

    fn release(&mut self, scenario: &Scenario, core: CoreId, ticket: Ticket) -> Result<(), String> {
        let mut granted = Vec::new();
        let state = &mut self.cores[core as usize];
        if matches!(self.mistake, Mistake::Machine(_) | Mistake::ReleaseAtGrant) && !state.lending.is_granted(ticket) {
            return Err("what is released is not granted".into());
        }
        state.lending.release(ticket, &mut granted);
        state.lending.validate();
        if state.lending.is_idle() {
            // Tickets begin anew.
            state.served.clear();
        }
        granted.into_iter().try_for_each(|ticket| self.grant(scenario, core, ticket))
    }
}

/// Reads and writes `keys`: what it finds must be what the operations before it have left.
fn run(
    op: usize,
    keys: &[Key],
    values: &mut BTreeMap<Key, Value>,
    model: &mut BTreeMap<Key, Value>,
) -> Result<(), String> {
    for key in keys {
        match values.get(key) {
            None => return Err(format!("operation {op} runs without key {key}")),
            Some(value) if *value != model[key] => {
                return Err(format!("operation {op} sees an old value of key {key}"));
            }
            Some(_) => {}
        }
    }
    for &key in keys {
        values.insert(key, op as Value);
        model.insert(key, op as Value);
    }
    Ok(())
}

fn client(core: CoreId, ops: &[Op]) -> Client {
    Client { core, ops: ops.to_vec(), may_vanish: false }
}

fn request(key: Key) -> Op {
    Op::Request(vec![key])
}

fn transaction(keys: &[Key]) -> Op {
    Op::Transaction(keys.to_vec())
}

/// Two cores; transactions from both sides, and requests for the same keys.
fn two_cores() -> Scenario {
    let clients = vec![
        client(0, &[transaction(&[0, 10]), request(10)]),
        client(1, &[transaction(&[10, 0]), request(0)]),
        client(0, &[request(0), transaction(&[10, 1])]),
        client(1, &[Op::Request(vec![0, 1])]),
    ];
    Scenario { keys: vec![0, 1, 10], clients }
}

/// Three cores, each pair of which is used by one transaction.
fn three_cores() -> Scenario {
    let clients = vec![
        client(0, &[transaction(&[0, 10])]),
        client(1, &[transaction(&[10, 20]), request(0)]),
        client(2, &[transaction(&[20, 0])]),
        client(2, &[request(10), transaction(&[0, 10, 20])]),
    ];
    Scenario { keys: vec![0, 10, 20], clients }
}

/// Several keys of each core, so that claims overlap in parts.
fn many_keys() -> Scenario {
    let clients = vec![
        client(0, &[transaction(&[0, 1, 10])]),
        client(1, &[transaction(&[1, 10, 11])]),
        client(1, &[transaction(&[0, 11])]),
        client(0, &[Op::Request(vec![10, 11]), request(1)]),
    ];
    Scenario { keys: vec![0, 1, 10, 11], clients }
}

/// Whole cores between transactions and requests.
fn whole_cores() -> Scenario {
    let clients = vec![
        client(1, &[Op::Whole, request(0)]),
        client(0, &[transaction(&[0, 10]), request(10)]),
        client(0, &[request(10), Op::Whole]),
    ];
    Scenario { keys: vec![0, 10], clients }
}

/// A core is covered, and some of its keys stay locked, between transactions and requests.
fn covering() -> Scenario {
    let clients = vec![
        client(0, &[Op::Cover(vec![0, 1]), request(2)]),
        client(0, &[request(1), transaction(&[0, 2])]),
        client(1, &[transaction(&[1, 10]), request(0)]),
        client(1, &[Op::Whole]),
    ];
    Scenario { keys: vec![0, 1, 2, 10], clients }
}

/// Clients that vanish at any moment.
fn vanishing() -> Scenario {
    let mut clients = vec![
        client(0, &[transaction(&[0, 10])]),
        client(1, &[transaction(&[10, 0])]),
        client(0, &[request(0), request(10)]),
        client(1, &[Op::Whole]),
    ];
    clients.iter_mut().for_each(|client| client.may_vanish = true);
    clients[2].may_vanish = false;
    Scenario { keys: vec![0, 10], clients }
}

#[test]
fn every_interleaving_is_serialisable_and_ends() {
    for (scenario, worlds_min) in [
        (two_cores(), 1000),
        (three_cores(), 1000),
        (many_keys(), 1000),
        (whole_cores(), 300),
        (covering(), 1000),
        (vanishing(), 300),
    ] {
        let worlds = scenario.explore(Mistake::None).unwrap();
        println!("{worlds} worlds");
        assert!(worlds > worlds_min, "only {worlds} worlds");
    }
}

#[test]
fn mistakes_are_found() {
    for (mistake, scenario, found) in [
        (Mistake::Descending, two_cores(), "deadlock"),
        (Mistake::Descending, three_cores(), "deadlock"),
        (Mistake::ReleaseAtGrant, two_cores(), "without key"),
        (Mistake::ForgetTheVanished, vanishing(), ""),
        (Mistake::Unchecked, two_cores(), "without key"),
        (Mistake::Machine(Fault::FirstOfOneKey), many_keys(), ""),
        (Mistake::Machine(Fault::WholeAtOnce), whole_cores(), ""),
        (Mistake::Machine(Fault::PassingWhole), whole_cores(), ""),
        (Mistake::Machine(Fault::NarrowToOneKey), covering(), "locked key"),
    ] {
        let error = scenario.explore(mistake).expect_err(&format!("{mistake:?} was not noticed"));
        println!("{mistake:?}: {error}");
        assert!(error.contains(found), "{mistake:?}: {error}");
    }
}
