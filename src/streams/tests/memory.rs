//! Copies for which there is memory, or none.

use super::*;
use crate::streams::follower::{Action, Memory};
use crate::streams::message::Held;

const PARTITIONS: u16 = 16;
const LIMIT_BYTES: u64 = 1_600;
/// While copies are asked for, and before those on their way are given up.
const ASKS_BYTES_MAX: u64 = LIMIT_BYTES / 8 * 7;
const GIVES_UP_BYTES: u64 = LIMIT_BYTES / 16 * 15 + 1;

/// Node 1 leads all partitions, node 2 has a place for a copy of each.
fn placed() -> State {
    let mut state = State::default();
    for n in 1..=2u64 {
        let profile = Profile { host: format!("n{n}"), port: 1, bus_port: 2, weight: 1, ..Profile::default() };
        state.apply(&Command::Join { identity: n.into(), profile: profile.clone() });
        let boot = 100 + u128::from(n);
        state.apply(&Command::Register { node: n, identity: n.into(), boot, after: 0, profile });
    }
    state.apply(&Command::Create { partitions: PARTITIONS });
    let place = |partition| Placement { partition, replicas: vec![1, 2] };
    state.apply(&Command::Place { version: 0, changes: (0..PARTITIONS).map(place).collect() });
    state
}

/// Node 2, what it does, and what it has asked for.
struct Node {
    follower: Follower,
    out: Vec<Action>,
    round: u64,
    runs: u64,
}

impl Node {
    /// It has this of all partitions, and is connected to node 1.
    fn new(holding: Holding, limit_bytes: Option<u64>) -> Node {
        let mut follower = Follower::new(second());
        (0..PARTITIONS).for_each(|partition| follower.hold(partition, holding));
        follower.set_limit(limit_bytes);
        let mut node = Node { follower, out: Vec::new(), round: 0, runs: 0 };
        node.follower.roles(&placed(), &mut node.out);
        node.follower.turn_end(0, &mut node.out);
        node.follower.connected(0, 1, PROTOCOL_VERSION, &mut node.out);
        node
    }

    /// The memory is looked at; the partitions that are asked for afterwards, without those that go on, and with which tail.
    fn uses(&mut self, used_bytes: u64, data_bytes: u64) -> Vec<(u16, Option<Tail>)> {
        self.follower.memory(Memory { used_bytes, data_bytes }, &mut self.out);
        self.follower.turn_end(0, &mut self.out);
        self.asked().unwrap_or_default()
    }

    /// What the last Open asks for, if there was one.
    fn asked(&mut self) -> Option<Vec<(u16, Option<Tail>)>> {
        let opens = std::mem::take(&mut self.out).into_iter().filter_map(|action| match action {
            Action::Send { message: ToLeader::Open(open), .. } => Some(open),
            _ => None,
        });
        let wants = opens.last()?.wants;
        Some(wants.iter().filter(|want| !want.keep).map(|want| (want.partition, want.tail)).collect())
    }

    fn hears(&mut self, message: impl Into<ToFollower>) {
        self.follower.message(0, 1, message.into(), &mut self.out);
    }

    fn answers(&mut self, open: u64, partitions: &[u16], answer: Answer) {
        self.round += 1;
        let answers = partitions.iter().map(|&partition| Answered { partition, epoch: 1, answer }).collect();
        self.hears(Control::Answers { open, round: self.round, position: 3, commit: 3, answers });
    }

    /// Copies of these begin, and so many bytes come of them.
    fn begin_copy(&mut self, open: u64, partitions: &[u16], bytes: usize) {
        self.answers(open, partitions, Answer::Copy);
        self.runs += 1;
        self.hears(Control::CopyBegin { run: self.runs, partitions: partitions.to_vec() });
        self.hears(ToFollower::CopyPiece { run: self.runs, bytes: vec![0; bytes].into() });
    }

    /// They are whole, and applied.
    fn end_copy(&mut self, partitions: &[u16]) {
        let held = |&partition: &u16| Held { partition, epoch: 1, tail: Tail { epoch: 1, index: 3 } };
        let tails = partitions.iter().map(held).collect();
        self.hears(Control::CopyEnd { run: self.runs, end: 3, tails });
        let last = self.out.iter().filter_map(Action::ticket).next_back().unwrap();
        self.follower.applied(last, &mut self.out);
        self.out.clear();
    }
}

fn numbers(wants: &[(u16, Option<Tail>)]) -> Vec<u16> {
    wants.iter().map(|(partition, _)| *partition).collect()
}

#[test]
fn without_a_limit_everything_is_asked_for_at_once() {
    let mut node = Node::new(Holding::Empty, None);
    let asked = node.asked().unwrap();
    assert_eq!(asked, (0..PARTITIONS).map(|partition| (partition, Some(Tail::EMPTY))).collect::<Vec<_>>());
    assert!(!node.follower.minds_memory());
}

#[test]
fn a_node_that_has_nothing_asks_for_few_first_and_then_for_what_fits() {
    let mut node = Node::new(Holding::Empty, Some(LIMIT_BYTES));
    // The leader may have the log from its beginning: it is to send a copy.
    assert_eq!(node.asked(), Some(vec![]));
    assert_eq!(node.uses(600, 0), [0, 1, 2, 3].map(|partition| (partition, None)));
    assert_eq!(node.uses(600, 0), []);
    assert_eq!(node.follower.without_memory(), (0, 0), "nobody knows whether there is memory for the others");
    // They take 100 bytes each.
    node.begin_copy(2, &[0, 1, 2, 3], 400);
    node.end_copy(&[0, 1, 2, 3]);
    assert_eq!(numbers(&node.uses(1_000, 400)), [4, 5, 6, 7]);
    assert_eq!(node.follower.without_memory(), (8, 0));
    // What has come is not counted twice.
    node.begin_copy(3, &[4, 5, 6, 7], 200);
    assert_eq!(node.uses(1_200, 600), []);
    assert_eq!(node.follower.without_memory(), (8, 0));
    node.end_copy(&[4, 5, 6, 7]);
    assert_eq!(node.uses(ASKS_BYTES_MAX, 800), []);
    // Some keys go; not enough, for a node that has refused copies. Then some more.
    assert_eq!(node.uses(ASKS_BYTES_MAX - 100, 800), []);
    assert_eq!(numbers(&node.uses(ASKS_BYTES_MAX - 150, 800)), [8]);
    assert_eq!(node.follower.without_memory(), (7, 0));
    // There is no limit any more.
    node.follower.set_limit(None);
    node.follower.turn_end(0, &mut node.out);
    assert_eq!(numbers(&node.asked().unwrap()), (9..PARTITIONS).collect::<Vec<_>>());
    assert_eq!(node.follower.without_memory(), (0, 0));
}

#[test]
fn copies_that_use_up_the_memory_are_given_up_and_dropped() {
    let mut node = Node::new(Holding::Incomplete, Some(LIMIT_BYTES));
    // What may be left of an earlier start is dropped before anything is known of it.
    node.follower.memory(Memory { used_bytes: LIMIT_BYTES, data_bytes: 0 }, &mut node.out);
    let all: Rc<[u16]> = (0..PARTITIONS).collect();
    assert_eq!(node.out.last(), Some(&Action::DropPartitions { ticket: 1, copy: None, partitions: all }));
    assert_eq!(numbers(&node.uses(600, 0)), [0, 1, 2, 3]);
    node.begin_copy(2, &[0, 1, 2], 600);
    node.out.clear();
    // They take more than they should, which is what memory is kept free for; and then more than that.
    assert_eq!(node.uses(GIVES_UP_BYTES - 1, 800), []);
    node.follower.memory(Memory { used_bytes: GIVES_UP_BYTES, data_bytes: 900 }, &mut node.out);
    let dropped = Action::DropPartitions { ticket: 4, copy: None, partitions: Rc::from([0, 1, 2, 3]) };
    let taken = Action::Send { leader: 1, message: ToLeader::Taken { run: 1, bytes: 600 } };
    assert_eq!(node.out, [taken, Action::CopyAborted { leader: 1, run: 1 }, dropped]);
    node.follower.turn_end(0, &mut node.out);
    assert_eq!(node.asked(), Some(vec![]), "nor is the fourth one asked for any more");
    assert_eq!(node.follower.without_memory(), (16, 3));
    // Three have taken 900 bytes and more, so each is taken for 600; of others, only one is asked for.
    assert_eq!(numbers(&node.uses(1_000, 0)), [3]);
    node.begin_copy(4, &[3], 100);
    node.end_copy(&[3]);
    // The others may be as small as that one; those that were given up may not.
    assert_eq!(numbers(&node.uses(700, 100)), [4, 5, 6, 7, 8, 9, 10]);
    // The limit is another one: nothing of this counts.
    node.follower.set_limit(Some(10 * LIMIT_BYTES));
    assert_eq!(numbers(&node.uses(700, 100)), [0, 1, 2, 11, 12, 13, 14, 15]);
}

#[test]
fn what_is_here_is_followed_whatever_the_memory() {
    // Its own disk has brought it: a copy takes the place of that.
    let mut node = Node::new(Holding::Complete, Some(LIMIT_BYTES));
    assert_eq!(node.asked().unwrap().len(), usize::from(PARTITIONS));
    assert!(!node.follower.minds_memory());
    node.begin_copy(1, &[0, 1], 100);
    node.answers(1, &[2], Answer::Follow { after: 3, cut: 3 });
    node.out.clear();
    node.follower.memory(Memory { used_bytes: 2 * LIMIT_BYTES, data_bytes: 100 }, &mut node.out);
    assert_eq!(node.out, []);
    // Also if the connection is lost, and a copy has come to nothing.
    node.follower.disconnected(0, 1, &mut node.out);
    node.follower.tick(100, 0, &mut node.out);
    node.follower.connected(100, 1, PROTOCOL_VERSION, &mut node.out);
    assert_eq!(node.asked().unwrap().len(), usize::from(PARTITIONS));
    assert_eq!(node.follower.without_memory(), (0, 0));
}

#[test]
fn memory_is_not_kept_for_a_leader_that_is_gone() {
    let mut node = Node::new(Holding::Empty, Some(LIMIT_BYTES));
    assert_eq!(node.uses(600, 0).len(), 4);
    node.begin_copy(2, &[0, 1, 2, 3], 400);
    node.follower.disconnected(0, 1, &mut node.out);
    node.out.clear();
    node.follower.memory(Memory { used_bytes: 1_000, data_bytes: 400 }, &mut node.out);
    let dropped = Action::DropPartitions { ticket: 3, copy: None, partitions: Rc::from([0, 1, 2, 3]) };
    assert_eq!(node.out, [dropped]);
    node.follower.tick(100, 0, &mut node.out);
    node.follower.connected(100, 1, PROTOCOL_VERSION, &mut node.out);
    assert_eq!(node.asked(), Some(vec![]));
    assert_eq!(node.uses(600, 0).len(), 4);
}
