//! The machines face to face, as transcripts: who is admitted how, what is committed when, and how the lead is handed over.

use std::rc::Rc;

use super::history::{Chain, History};
use super::message::*;
use super::primary::{Action, DropReason, Extent, FailoverError, Primary, Settings, WriteRefusal};
use super::replica::{self, Holdings, Replica};

fn settings() -> Settings {
    Settings {
        node: 1,
        min_insync: 2,
        insync_timeout_ms: 1_000,
        durable_quorum: false,
        heartbeat_ms: 100,
        repl_timeout_ms: 5_000,
        phi_max: 1e9,
        queue_bytes_max: 10_000,
        replicas_max: 3,
        copy_delay_ms: 50,
        good_replicas_min: 0,
        good_replica_lag_ms_max: 500,
    }
}

/// A primary that leads by history 7, with the log 1..=`end`, of which it has what is behind `oldest`.
fn leading(settings: Settings, oldest: u64, end: u64) -> Primary {
    let mut primary = Primary::new(settings);
    let extent = Extent { oldest, end, commit: 0, durable: 0 };
    primary.lead(0, Chain::root(7, 0), extent, &mut Vec::new());
    primary
}

fn hello(node: u128, received: u64) -> Hello {
    let chain = Chain::root(7, 0).histories().to_vec();
    Hello { version: PROTOCOL_VERSION, node, port: node as u16, attempt: 1, wants: Wants::Log, chain, received }
}

fn frame(first: u64, len: usize) -> Frame {
    Frame { history: 7, first, count: 1, bytes: Rc::from(vec![0; len]) }
}

/// What a primary does about a message, in words.
fn hears(primary: &mut Primary, now: u64, peer: u64, message: ToPrimary) -> Vec<String> {
    let mut out = Vec::new();
    primary.message(now, peer, message, &mut out);
    primary.validate();
    words(out)
}

fn words(actions: Vec<Action>) -> Vec<String> {
    let word = |action| match action {
        Action::Send { to, message: ToReplica::Control(Control::Continue { from, .. }) } => {
            format!("{to}: continue from {from}")
        }
        Action::Send { to, message: ToReplica::Control(Control::FullSync { run, start, .. }) } => {
            format!("{to}: copy {run} from {start}")
        }
        Action::Send { to, message: ToReplica::Control(control) } => format!("{to}: {control:?}"),
        Action::Send { to, message: ToReplica::Frames { commit, frames } } => {
            format!("{to}: {} frames, commit {commit}", frames.len())
        }
        Action::Send { to, message: ToReplica::Stream { .. } } => format!("{to}: a piece"),
        action => format!("{action:?}"),
    };
    actions.into_iter().map(word).collect()
}

fn does(primary: &mut Primary, call: impl FnOnce(&mut Primary, &mut Vec<Action>)) -> Vec<String> {
    let mut out = Vec::new();
    call(primary, &mut out);
    primary.validate();
    words(out)
}

fn ack(received: u64) -> ToPrimary {
    ToPrimary::Ack { received, applied: 0, durable: received / 2 }
}

#[test]
fn a_hello_is_answered_by_what_the_logs_have_in_common() {
    let mut primary = leading(settings(), 50, 100);
    assert_eq!(hears(&mut primary, 0, 1, ToPrimary::Hello(hello(2, 60))), ["1: continue from 61"]);
    // Its end is not ours.
    let mut diverged = hello(3, 60);
    diverged.chain.push(History { id: 8, parent: 7, cut: 55 });
    assert_eq!(hears(&mut primary, 0, 2, ToPrimary::Hello(diverged)), ["2: Diverged { cut: 55 }"]);
    assert_eq!(hears(&mut primary, 0, 2, ToPrimary::Hello(hello(3, 55))), ["2: continue from 56"]);
    // Too far behind: a copy, when others had their chance to ask for it.
    assert_eq!(hears(&mut primary, 0, 3, ToPrimary::Hello(hello(4, 48))), [""; 0]);
    assert_eq!(does(&mut primary, |p, out| p.tick(60, 0, out)), ["StartCopy { run: 1 }"]);
}

#[test]
fn who_cannot_be_served_is_refused() {
    let refused = |reason| {
        vec![format!("9: Refused {{ reason: {reason} }}"), format!("Drop {{ peer: 9, reason: Refused({reason}) }}")]
    };
    let mut primary = leading(settings(), 1, 0);
    assert_eq!(hears(&mut primary, 0, 9, ToPrimary::Hello(hello(1, 0))), refused("Loop"));
    assert_eq!(hears(&mut primary, 0, 9, ToPrimary::Hello(Hello { version: 99, ..hello(2, 0) })), refused("Version"));
    for node in 2..=4 {
        hears(&mut primary, 0, node, ToPrimary::Hello(hello(node.into(), 0)));
    }
    assert_eq!(hears(&mut primary, 0, 9, ToPrimary::Hello(hello(5, 0))), refused("TooMany"));
    assert_eq!(hears(&mut primary, 0, 9, ack(0)), ["Drop { peer: 9, reason: Protocol }"]);
    assert_eq!(hears(&mut Primary::new(settings()), 0, 9, ToPrimary::Hello(hello(5, 0))), refused("NotReady"));
    // A second connection of a node takes the place of the first, unless it is the older one.
    let again = Hello { attempt: 2, ..hello(2, 0) };
    assert_eq!(
        hears(&mut primary, 0, 10, ToPrimary::Hello(again)),
        ["Drop { peer: 2, reason: Replaced }", "10: continue from 1"]
    );
    assert_eq!(hears(&mut primary, 0, 11, ToPrimary::Hello(hello(2, 0))), ["Drop { peer: 11, reason: Stale }"]);
}

#[test]
fn a_copy_is_shared_by_all_who_asked_before_it_began() {
    let mut primary = leading(settings(), 11, 10);
    let wants_copy = |node| ToPrimary::Hello(Hello { wants: Wants::Copy, ..hello(node, 0) });
    hears(&mut primary, 0, 2, wants_copy(2));
    hears(&mut primary, 40, 3, wants_copy(3));
    assert_eq!(does(&mut primary, |p, out| p.tick(50, 0, out)), ["StartCopy { run: 1 }"]);
    hears(&mut primary, 60, 4, wants_copy(4));
    assert_eq!(does(&mut primary, |p, out| p.copy_started(60, 1, 10, out)), ["2: copy 1 from 10", "3: copy 1 from 10"]);
    let piece: Rc<[u8]> = Rc::from(&b"everything"[..]);
    assert_eq!(does(&mut primary, |p, out| p.copy_piece(60, 1, &piece, out)), ["2: a piece", "3: a piece"]);
    assert!(primary.copy_room(1).unwrap() < 10_000);
    // One is lost, the copy goes on for the other.
    assert_eq!(does(&mut primary, |p, out| p.disconnected(60, 2, out)), [""; 0]);
    does(&mut primary, |p, out| p.appended(60, &frame(11, 5), out));
    assert_eq!(does(&mut primary, |p, out| p.copy_ended(60, 1, 10, out)), ["3: FullSyncEnd { run: 1, end: 10 }"]);
    // Complete is who says so.
    assert_eq!((primary.in_sync(), primary.received_by(0)), (0, 0));
    hears(&mut primary, 70, 3, ack(10));
    assert_eq!((primary.in_sync(), primary.received_by(10)), (1, 1));
    // The next copy, for who came later; when that one is gone, too, nobody wants it.
    assert_eq!(does(&mut primary, |p, out| p.tick(110, 0, out)).last().unwrap(), "StartCopy { run: 2 }");
    assert_eq!(does(&mut primary, |p, out| p.disconnected(110, 4, out)), ["CancelCopy { run: 2 }"]);
    assert_eq!(primary.copy_room(2), None);
}

#[test]
fn committed_is_what_all_in_sync_replicas_have() {
    let mut primary = leading(settings(), 1, 0);
    assert_eq!(primary.writable(0), Err(WriteRefusal::NoReplicas));
    for node in [2, 3] {
        hears(&mut primary, 0, node, ToPrimary::Hello(hello(node.into(), 0)));
    }
    assert_eq!((primary.in_sync(), primary.writable(0)), (2, Ok(())));
    for index in 1..=3 {
        does(&mut primary, |p, out| p.appended(10, &frame(index, 5), out));
    }
    assert_eq!(does(&mut primary, |p, out| p.turn_end(10, out)), ["2: 3 frames, commit 0", "3: 3 frames, commit 0"]);
    hears(&mut primary, 20, 2, ack(3));
    assert_eq!((primary.commit(), primary.received_by(3), primary.durable_on(1)), (0, 1, 1));
    hears(&mut primary, 30, 3, ack(2));
    assert_eq!((primary.commit(), primary.received_by(2), primary.received_by(3)), (2, 2, 1));
    // On all disks is what is on ours, too.
    assert_eq!(primary.commit_durable(), 0);
    primary.durable(30, 3);
    assert_eq!(primary.commit_durable(), 1);
    let lag = primary.lags(50).find(|lag| lag.node == 3).unwrap();
    assert_eq!((lag.entries, lag.ms, lag.in_sync), (1, 40, true));
    assert_eq!((primary.good_replicas(525, 500), primary.good_replicas(531, 500)), (1, 0));
    // Node 3 gets no further: it leaves, and no one waits for it any more. Node 2 goes on alone.
    for now in [400, 800, 1_009, 1_011] {
        hears(&mut primary, now, 2, ack(3));
        hears(&mut primary, now, 3, ack(2));
        assert_eq!(primary.commit(), if now <= 1_009 { 2 } else { 3 }, "at {now}");
    }
    assert_eq!((primary.in_sync(), primary.received_by(2)), (1, 2));
    // Without the last one nothing is committed, and nothing written.
    does(&mut primary, |p, out| p.disconnected(1_020, 2, out));
    assert_eq!((primary.commit(), primary.writable(1_020)), (3, Err(WriteRefusal::NoReplicas)));
}

#[test]
fn who_catches_up_under_load_is_waited_for_and_then_in_sync() {
    let mut primary = leading(Settings { min_insync: 1, ..settings() }, 1, 0);
    does(&mut primary, |p, out| p.appended(10, &frame(1, 5), out));
    assert_eq!(primary.commit(), 1);
    hears(&mut primary, 20, 2, ToPrimary::Hello(hello(2, 0)));
    // There is always one record more than it has acknowledged. While it joins, nothing new is committed.
    does(&mut primary, |p, out| p.appended(30, &frame(2, 5), out));
    assert_eq!((primary.in_sync(), primary.commit()), (0, 1));
    does(&mut primary, |p, out| p.turn_end(30, out));
    let frames = [frame(1, 5), frame(2, 5)];
    assert_eq!(does(&mut primary, |p, out| p.read(30, 2, &frames, out)), [""; 0]);
    does(&mut primary, |p, out| p.appended(40, &frame(3, 5), out));
    hears(&mut primary, 40, 2, ack(2));
    assert_eq!((primary.in_sync(), primary.commit()), (1, 2));
}

#[test]
fn a_full_queue_and_a_trimmed_log_end_a_connection() {
    let mut primary = leading(settings(), 1, 0);
    hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 0)));
    hears(&mut primary, 0, 3, ToPrimary::Hello(hello(3, 0)));
    // One frame always fits.
    assert_eq!(
        does(&mut primary, |p, out| p.appended(0, &frame(1, 20_000), out)),
        ["Drop { peer: 2, reason: QueueFull }"; 0]
    );
    let full = does(&mut primary, |p, out| p.appended(0, &frame(2, 5), out));
    assert!(full.contains(&"Drop { peer: 2, reason: QueueFull }".to_string()), "{full:?}");
    // Behind, and what it lacks is gone by the time it is read.
    let mut primary = leading(settings(), 1, 5);
    hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 3)));
    let asked = does(&mut primary, |p, out| p.turn_end(0, out));
    assert_eq!(asked, ["Read { peer: 2, from: 4, bytes_max: 9936 }"]);
    assert_eq!(does(&mut primary, |p, out| p.read(0, 2, &[], out)), ["Drop { peer: 2, reason: Overrun }"]);
}

/// A replica of node 2 that follows and has received everything up to `received`.
fn streaming(received: u64) -> Replica {
    let settings = replica::Settings { node: 2, port: 2, heartbeat_ms: 100, repl_timeout_ms: 5_000, phi_max: 1e9 };
    let has = Holdings { chain: Chain::root(7, 0), received, applied: 0, durable: 0, complete: true };
    let (mut replica, mut out) = (Replica::new(settings, has, 0), Vec::new());
    replica.follow(0, &mut out);
    replica.connected(0, &mut out);
    let chain = Chain::root(7, 0).histories().to_vec();
    replica.message(0, Control::Continue { from: received + 1, chain }.into(), 0, &mut out);
    assert!(replica.is_streaming());
    replica
}

#[test]
fn a_failover_hands_over_what_was_received() {
    let mut primary = leading(settings(), 1, 5);
    hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 4)));
    assert_eq!(does(&mut primary, |p, out| p.failover(0, None, None, false, out).unwrap()), ["PauseWrites"]);
    assert_eq!(primary.writable(0), Err(WriteRefusal::Paused));
    assert_eq!(does(&mut primary, |p, out| p.writes_paused(0, out)), [""; 0]);
    does(&mut primary, |p, out| p.turn_end(0, out));
    does(&mut primary, |p, out| p.read(0, 2, &[frame(5, 5)], out));
    hears(&mut primary, 10, 2, ack(5));
    assert_eq!(does(&mut primary, |p, out| p.turn_end(10, out)).remove(0), "2: Handover { end: 5 }");
    assert_eq!(primary.abort_failover(&mut Vec::new()), Err(FailoverError::TooLate));

    let (mut replica, mut out) = (streaming(5), Vec::new());
    replica.message(20, Control::Handover { end: 5 }.into(), 0, &mut out);
    assert_eq!(out, [replica::Action::TakeOver]);
    out.clear();
    let heartbeat = Control::Heartbeat { wall_ms: 1_000, end: 5, commit: 0, in_sync: true };
    replica.message(20, heartbeat.into(), 0, &mut out);
    assert_eq!((replica.was_in_sync(), replica.wall_ms(25)), (true, Some(1_005)));
    out.clear();
    let chain = replica.promote(9, &mut out).unwrap();
    assert_eq!(chain, Chain::root(7, 0).promote(9, 5));
    let answer = ToPrimary::TakeOver { history: 9, cut: 5 };
    assert_eq!(
        out,
        [
            replica::Action::Apply { upto: 5 },
            replica::Action::SaveChain(chain.clone()),
            replica::Action::Send(answer.clone()),
            replica::Action::Disconnect,
        ]
    );
    let end = hears(&mut primary, 30, 2, answer);
    assert_eq!(end, ["Drop { peer: 2, reason: HandedOver }", "StepDown { node: 2, port: 2 }"]);
    assert_eq!(primary.writable(30), Err(WriteRefusal::NotLeading));

    // The old primary has nothing that the new one has not, so it goes on.
    let mut next = Primary::new(Settings { node: 2, ..settings() });
    next.lead(30, chain, Extent { oldest: 1, end: 5, commit: 5, durable: 0 }, &mut Vec::new());
    assert_eq!(hears(&mut next, 40, 1, ToPrimary::Hello(hello(1, 5))), ["1: continue from 6"]);
}

/// A primary that has sent a handover to node 2, over connection 2, and lost the connection.
fn in_doubt() -> Primary {
    let mut primary = leading(settings(), 1, 5);
    hears(&mut primary, 0, 2, ToPrimary::Hello(Hello { attempt: 5, ..hello(2, 5) }));
    does(&mut primary, |p, out| p.failover(0, Some(2), Some(100), false, out).unwrap());
    assert_eq!(does(&mut primary, |p, out| p.writes_paused(0, out)), ["2: Handover { end: 5 }"]);
    does(&mut primary, |p, out| p.disconnected(0, 2, out));
    assert_eq!(primary.writable(10_000), Err(WriteRefusal::Paused));
    primary
}

#[test]
fn while_it_is_not_known_who_leads_nothing_is_written() {
    let mut primary = in_doubt();
    assert_eq!(does(&mut primary, |p, out| p.tick(1_000, 0, out)), ["Inquire { node: 2, port: 2 }"]);
    // Another one that follows, or one that does not lead, says nothing about it.
    does(&mut primary, |p, out| p.standing(1_000, 2, false, &Chain::root(7, 0), out));
    assert_eq!(primary.writable(1_000), Err(WriteRefusal::Paused));
    let taken = Chain::root(7, 0).promote(9, 5);
    assert_eq!(does(&mut primary, |p, out| p.standing(1_000, 2, true, &taken, out)), ["StepDown { node: 2, port: 2 }"]);

    // Its next connection says that it has not taken over; one from before the handover says nothing.
    let mut primary = in_doubt();
    let old = Hello { attempt: 4, ..hello(2, 5) };
    assert_eq!(hears(&mut primary, 10, 3, ToPrimary::Hello(old)), ["3: continue from 6"]);
    assert_eq!(primary.writable(10), Err(WriteRefusal::Paused));
    let new = Hello { attempt: 6, ..hello(2, 5) };
    let back = hears(&mut primary, 20, 4, ToPrimary::Hello(new));
    assert_eq!(back, ["Drop { peer: 3, reason: Replaced }", "ResumeWrites", "4: continue from 6"]);
    assert_eq!(primary.writable(20), Ok(()));
}

#[test]
fn a_failover_is_given_up_in_time_or_forced() {
    for force in [false, true] {
        let mut primary = leading(settings(), 1, 5);
        hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 4)));
        assert_eq!(primary.failover(0, Some(9), None, false, &mut Vec::new()), Err(FailoverError::NoTarget));
        does(&mut primary, |p, out| p.failover(0, Some(2), Some(100), force, out).unwrap());
        does(&mut primary, |p, out| p.writes_paused(0, out));
        let end = does(&mut primary, |p, out| p.tick(99, 0, out));
        assert!(end.is_empty(), "{end:?}");
        let end = does(&mut primary, |p, out| p.tick(100, 0, out));
        let expected = if force { "2: Handover { end: 4 }" } else { "ResumeWrites" };
        assert_eq!(end.last().unwrap(), expected);
    }
    let mut primary = leading(settings(), 1, 5);
    hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 4)));
    does(&mut primary, |p, out| p.failover(0, None, None, false, out).unwrap());
    assert_eq!(does(&mut primary, |p, out| p.abort_failover(out).unwrap()), ["ResumeWrites"]);
}

#[test]
fn a_replica_takes_back_what_is_received_and_copies_what_is_applied() {
    let chain = Chain::root(7, 0).promote(9, 3).histories().to_vec();
    let diverges = |applied: bool| {
        let (mut replica, mut out) = (streaming(5), Vec::new());
        if applied {
            replica.message(0, ToReplica::Frames { commit: 4, frames: Vec::new() }, 0, &mut out);
            replica.applied(4);
        }
        replica.follow(10, &mut out);
        replica.connected(10, &mut out);
        out.clear();
        replica.message(10, Control::Diverged { cut: 3 }.into(), 0, &mut out);
        (replica, out)
    };
    let (mut replica, out) = diverges(false);
    assert_eq!(out[..2], [replica::Action::SetAside { from: 4, to: 5 }, replica::Action::Truncate { to: 3 }]);
    let mut out = Vec::new();
    replica.message(10, Control::Continue { from: 4, chain: chain.clone() }.into(), 0, &mut out);
    assert!(replica.is_streaming() && replica.has().received == 3);

    let (mut replica, out) = diverges(true);
    assert_eq!(out[0], replica::Action::SetAside { from: 4, to: 5 });
    assert!(matches!(&out[1], replica::Action::Send(ToPrimary::Hello(hello)) if hello.wants == Wants::Copy));
    // Half a copy is nothing, and is begun again.
    let mut out = Vec::new();
    replica.message(10, Control::FullSync { run: 1, start: 9, chain }.into(), 0, &mut out);
    assert_eq!(out, [replica::Action::BeginCopy { run: 1 }]);
    replica.disconnected(10, 0);
    assert!(!replica.has().complete && !replica.is_readable());
    assert!(replica.promote(10, &mut Vec::new()).is_err());
    out.clear();
    replica.tick(10_000, 0, 0, &mut out);
    replica.connected(10_000, &mut out);
    assert!(matches!(&out[1], replica::Action::Send(ToPrimary::Hello(hello)) if hello.wants == Wants::Copy));
}

#[test]
fn pauses_between_attempts_grow_and_are_bounded() {
    let mut replica = streaming(0);
    let mut now = 0;
    for attempt in 0..100u64 {
        replica.disconnected(now, attempt * 7919);
        let mut out = Vec::new();
        let failed = now;
        while out.is_empty() {
            now += 1;
            replica.tick(now, 0, 0, &mut out);
        }
        assert_eq!(out, [replica::Action::Connect]);
        let most = (replica::BACKOFF_MS_MIN << attempt.min(16)).min(replica::BACKOFF_MS_MAX);
        assert!((most / 2..=most).contains(&(now - failed)), "attempt {attempt}: {}", now - failed);
    }
}

#[test]
fn what_cannot_come_now_ends_the_connection() {
    let mut primary = leading(settings(), 1, 5);
    hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 4)));
    let protocol = format!("{:?}", Action::Drop { peer: 2, reason: DropReason::Protocol });
    // More than it was sent; an answer that nobody has asked for.
    assert_eq!(hears(&mut primary, 0, 2, ack(5)), std::slice::from_ref(&protocol));
    hears(&mut primary, 0, 2, ToPrimary::Hello(hello(2, 4)));
    assert_eq!(hears(&mut primary, 0, 2, ToPrimary::TakeOver { history: 9, cut: 4 }), [protocol]);

    let wrong_history = Frame { history: 8, ..frame(6, 5) };
    for message in [
        ToReplica::Frames { commit: 0, frames: vec![frame(7, 5)] },
        ToReplica::Frames { commit: 0, frames: vec![wrong_history] },
        ToReplica::Stream { run: 1, bytes: Rc::from(&b"x"[..]) },
        Control::FullSyncEnd { run: 1, end: 9 }.into(),
        Control::Continue { from: 6, chain: Chain::root(7, 0).histories().to_vec() }.into(),
        Control::Diverged { cut: 1 }.into(),
    ] {
        let (mut replica, mut out) = (streaming(5), Vec::new());
        replica.message(0, message, 0, &mut out);
        assert_eq!(out, [replica::Action::Disconnect]);
        assert!(!replica.is_streaming() && replica.has().received == 5);
    }
}

/// Numbers from a seed, most of them small, some at the edges.
struct Any(u64);

impl Any {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        match self.0 >> 60 {
            0 => u64::MAX - (self.0 >> 33) % 3,
            _ => (self.0 >> 33) % 12,
        }
    }

    fn chain(&mut self) -> Vec<History> {
        let (mut id, mut cut) = (7 + u128::from(self.number() % 2), 0);
        let mut histories = vec![History { id, parent: 0, cut: self.number() % 3 }];
        for _ in 0..self.number() % 3 {
            cut = histories[0].cut.max(cut) + self.number() % 4;
            histories.push(History { id: id + 2, parent: id, cut });
            id += 2;
        }
        histories
    }

    fn frames(&mut self, first: u64) -> Vec<Frame> {
        let frame = |at| Frame { history: 7 + u128::from(at % 5), ..frame(first + at, 3) };
        (0..self.number() % 4).map(frame).collect()
    }
}

/// Whatever a peer says that can be decoded: no panic, and the invariants hold.
#[test]
fn any_message_at_any_time_is_survived() {
    for seed in 0..2_000 {
        let mut any = Any(seed);
        let (mut primary, mut out) = (leading(settings(), 1 + any.number() % 9, 12), Vec::new());
        for now in 0..60 {
            let peer = any.number() % 5;
            let wants = [Wants::Log, Wants::Copy, Wants::Standing][any.number() as usize % 3];
            let (received, node) = (any.number(), u128::from(any.number()));
            let message = match any.number() % 6 {
                0..=2 => ToPrimary::Hello(Hello {
                    chain: any.chain(),
                    attempt: any.number(),
                    wants,
                    ..hello(node, received)
                }),
                3 => ToPrimary::Ack { received, applied: any.number(), durable: any.number() },
                4 => ToPrimary::TakeOver { history: 9, cut: any.number() },
                _ => ToPrimary::Declined,
            };
            if message.check().is_ok() {
                primary.message(now, peer, message, &mut out);
            }
            match any.number() % 8 {
                0 => {
                    let _ = primary.failover(now, None, Some(any.number()), false, &mut out);
                }
                1 => primary.writes_paused(now, &mut out),
                2 => primary.turn_end(now, &mut out),
                3 => primary.copy_started(now, any.number(), 12, &mut out),
                4 => primary.copy_ended(now, any.number(), 12, &mut out),
                5 => primary.read(now, peer, &any.frames(5), &mut out),
                _ => primary.tick(now * 100, 0, &mut out),
            }
            primary.validate();
        }

        let mut replica = streaming(any.number() % 9);
        for now in 0..60 {
            let (run, index) = (1 + any.number() % 2, any.number());
            let message: ToReplica = match any.number() % 8 {
                0 => Control::Continue { from: index, chain: any.chain() }.into(),
                1 => Control::Diverged { cut: index }.into(),
                2 => Control::FullSync { run, start: index, chain: any.chain() }.into(),
                3 => Control::FullSyncEnd { run, end: index }.into(),
                4 => Control::Heartbeat { wall_ms: index, end: index, commit: index, in_sync: true }.into(),
                5 => Control::Handover { end: index }.into(),
                6 => ToReplica::Stream { run, bytes: Rc::from(&b"x"[..]) },
                _ => ToReplica::Frames { commit: index, frames: any.frames(replica.has().received.min(99) + 1) },
            };
            let mut out = Vec::new();
            if message.check().is_ok() {
                replica.message(now, message, 0, &mut out);
            }
            if out.contains(&replica::Action::Disconnect) {
                replica.follow(now, &mut out);
            }
            match any.number() % 6 {
                0 => replica.tick(now * 200, 0, 0, &mut Vec::new()),
                1 => replica.copy_durable(run, &mut Vec::new()),
                2 => replica.applied(any.number()),
                3 => replica.follow(now, &mut Vec::new()),
                4 if any.number() < 3 => {
                    let _ = replica.promote(1_000 + u128::from(now), &mut Vec::new());
                }
                _ => {}
            }
            replica.connected(now, &mut Vec::new());
            replica.validate();
        }
    }
}
