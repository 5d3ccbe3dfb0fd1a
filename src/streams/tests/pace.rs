//! How fast copies go.

use super::*;
use crate::streams::message::PROTOCOL_OLDEST;

const WINDOW: u64 = 1 << 10;

/// Node 1 copies a partition for node 2, which speaks this version of the protocol.
struct Copying {
    leader: Leader,
    run: u64,
    out: Vec<leader::Action>,
}

impl Copying {
    fn new(version: u16) -> Copying {
        let mut leader = leader(&[1], BASE, None);
        let mut out = Vec::new();
        let ToLeader::Open(asked) = open(2, &[(0, None)]) else { unreachable!() };
        leader.message(0, 5, ToLeader::Open(Open { version, ..asked }), &mut out);
        leader.tick(0, 0, &mut out);
        let run = out.iter().find_map(|action| match action {
            leader::Action::StartCopy { run, .. } => Some(*run),
            _ => None,
        });
        let run = run.unwrap_or_else(|| panic!("{out:?}"));
        leader.copy_started(0, run, 10, &mut out);
        Copying { leader, run, out }
    }

    fn piece(&mut self, bytes: usize) {
        self.leader.copy_piece(0, self.run, &vec![0; bytes].into(), &mut self.out);
    }

    /// Everything that was to be sent is.
    fn writes(&mut self) {
        for action in std::mem::take(&mut self.out) {
            if let leader::Action::Send { to, message } = action {
                self.leader.written(0, to, message.cost());
            }
        }
    }

    fn hears_taken(&mut self, run: u64, bytes: u64) {
        self.leader.message(0, 5, ToLeader::Taken { run, bytes }, &mut self.out);
    }

    fn room(&self) -> u64 {
        self.leader.copy_room(self.run).unwrap()
    }
}

#[test]
fn a_leader_sends_no_more_than_its_follower_has_taken_and_a_window() {
    let mut copying = Copying::new(PROTOCOL_VERSION);
    copying.writes();
    assert_eq!(copying.room(), WINDOW);
    copying.piece(700);
    copying.piece(700);
    copying.writes();
    assert_eq!(copying.room(), 0, "what is written is not taken");
    copying.hears_taken(copying.run + 1, 700);
    assert_eq!(copying.room(), 0, "another run");
    copying.hears_taken(copying.run, 700);
    assert_eq!(copying.room(), WINDOW - 700);
    copying.hears_taken(copying.run, u64::MAX);
    assert_eq!(copying.room(), WINDOW);
}

#[test]
fn a_follower_that_does_not_say_what_it_takes_is_sent_what_its_connection_takes() {
    let mut copying = Copying::new(PROTOCOL_OLDEST);
    copying.piece(2_000);
    assert!(copying.room() > WINDOW && copying.room() < settings().queue_bytes_max);
    copying.writes();
    assert_eq!(copying.room(), settings().queue_bytes_max);
}

/// What the follower has told node 1 that it has taken.
fn taken(out: &mut Vec<follower::Action>) -> u64 {
    let taken = |action: &follower::Action| match action {
        follower::Action::Send { leader: 1, message: ToLeader::Taken { run: 1, bytes } } => Some(*bytes),
        _ => None,
    };
    std::mem::take(out).iter().filter_map(taken).sum()
}

/// Node 2 is sent a copy, and is through with what it has got of it.
fn copied(version: u16, rate: Option<u64>, pieces: u64) -> (Follower, Vec<follower::Action>) {
    let mut follower = Follower::new(second());
    (0..2).for_each(|partition| follower.hold(partition, Holding::Incomplete));
    follower.set_copy_rate(rate);
    let mut out = Vec::new();
    follower.roles(&state(&[1]), &mut out);
    follower.tick(0, 0, &mut out);
    follower.connected(0, 1, version, &mut out);
    let answers = vec![Answered { partition: 0, epoch: 1, answer: Answer::Copy }];
    follower.message(0, 1, Control::Answers { open: 1, round: 1, position: 3, commit: 3, answers }.into(), &mut out);
    follower.message(0, 1, Control::CopyBegin { run: 1, partitions: vec![0] }.into(), &mut out);
    for _ in 0..pieces {
        follower.message(0, 1, ToFollower::CopyPiece { run: 1, bytes: vec![0; 100].into() }, &mut out);
    }
    follower.turn_end(0, &mut out);
    assert_eq!(taken(&mut out), 0, "none of it has been executed");
    follower.applied(1 + pieces, &mut out);
    (follower, out)
}

#[test]
fn a_follower_takes_pieces_when_they_are_executed_and_no_faster_than_it_may() {
    let (mut follower, mut out) = copied(PROTOCOL_VERSION, None, 50);
    follower.turn_end(0, &mut out);
    assert_eq!(taken(&mut out), 5_000);
    follower.turn_end(0, &mut out);
    assert_eq!(taken(&mut out), 0, "each is told of once");

    let (mut follower, mut out) = copied(PROTOCOL_VERSION, Some(10_000), 50);
    follower.turn_end(0, &mut out);
    assert_eq!(taken(&mut out), 0);
    let mut bytes = 0;
    for now_ms in (10..=250).step_by(10) {
        follower.tick(now_ms, 0, &mut out);
        bytes += taken(&mut out);
    }
    assert_eq!(bytes, 2_500);
    // The limit falls away; what comes meanwhile is not made up for when there is one again.
    follower.set_copy_rate(None);
    follower.turn_end(250, &mut out);
    assert_eq!(taken(&mut out), 2_500);
    follower.message(250, 1, ToFollower::CopyPiece { run: 1, bytes: vec![0; 100].into() }, &mut out);
    follower.applied(52, &mut out);
    follower.set_copy_rate(Some(10_000));
    follower.tick(260, 0, &mut out);
    assert_eq!(taken(&mut out), 100);
}

/// Its leader would wait for ever.
#[test]
fn pieces_that_nobody_wants_are_taken_as_they_come() {
    let (mut follower, mut out) = copied(PROTOCOL_VERSION, Some(1), 0);
    out.clear();
    follower.message(0, 1, ToFollower::CopyPiece { run: 9, bytes: vec![0; 100].into() }, &mut out);
    assert_eq!(out, [follower::Action::Send { leader: 1, message: ToLeader::Taken { run: 9, bytes: 100 } }]);
}

#[test]
fn a_leader_of_an_older_build_is_told_nothing_that_it_does_not_know() {
    let (mut follower, mut out) = copied(PROTOCOL_OLDEST, None, 50);
    follower.turn_end(0, &mut out);
    assert!(out.iter().all(|action| !matches!(action, follower::Action::Send { message: ToLeader::Taken { .. }, .. })));
}
