//! The wire format: under hostile bytes, cut anywhere, every byte changed, checksums made right again after the change; and as
//! earlier versions wrote it.
//!
//! `forms/protocol-2.txt` was written by a program that speaks version 2, and each of the others, with what came with a version, by one
//! of that version. A line that is not what this program writes is a change that needs a new version: nodes of both are in one cluster while
//! it is upgraded.

use std::fmt::Write as _;

use super::*;
use crate::replication::wire::{Decoder, HEADER_LEN};

fn open() -> Open {
    let want = |partition, tail, keep| Want { partition, epoch: 7, tail, keep };
    let tail = Some(Tail { epoch: 6, index: 90 });
    let wants = vec![want(1, tail, false), want(2, None, true), want(900, Some(Tail::EMPTY), false)];
    Open { version: 1, node: 3, incarnation: 2, boot: 77, attempt: 4, number: 5, wants }
}

fn held(partition: PartitionId) -> Held {
    Held { partition, epoch: 7, tail: Tail { epoch: 7, index: 12 } }
}

fn to_leader() -> Vec<ToLeader> {
    vec![
        ToLeader::Open(open()),
        ToLeader::Ack { round: 1, received: 9, applied: 8, durable: 7 },
        ToLeader::Has { run: 3, held: vec![held(1), held(5)] },
        ToLeader::Heartbeat { wall_ms: u64::MAX },
        ToLeader::Leave,
        ToLeader::Taken { run: 1, bytes: 1 },
    ]
}

fn frame(first: Index, last: Index, units: &[u8]) -> StreamFrame {
    StreamFrame { first, last, wall_ms: -5, spans: None, units: Rc::from(units) }
}

fn piece(index: Index) -> Piece {
    Piece { tail: Tail { epoch: 6, index }, wall_ms: 1, spans: None, units: Rc::from(&b"units"[..]) }
}

fn answers() -> Vec<Answered> {
    let answered = |partition, answer| Answered { partition, epoch: 7, answer };
    vec![
        answered(1, Answer::Follow { after: 9, cut: 9 }),
        answered(2, Answer::Cut { to: Tail { epoch: 6, index: 3 }, cut: 9 }),
        answered(3, Answer::Suffix { cut: 9 }),
        answered(4, Answer::Copy),
        answered(5, Answer::NotLeading),
    ]
}

fn to_follower() -> Vec<ToFollower> {
    vec![
        Control::Answers { open: 5, round: 1, position: 9, commit: 8, answers: answers() }.into(),
        Control::CopyBegin { run: 1, partitions: vec![4, 8] }.into(),
        Control::CopyEnd { run: 1, end: 40, tails: vec![held(4), held(8)] }.into(),
        Control::CopyFailed { run: 1 }.into(),
        Control::Heartbeat { wall_ms: 1, end: 9, commit: 9 }.into(),
        Control::Refused { reason: Refusal::Stale }.into(),
        ToFollower::Frames { commit: 7, upto: 12, frames: vec![frame(8, 9, b"two"), frame(11, 11, b"one")] },
        ToFollower::Frames { commit: 7, upto: 7, frames: Vec::new() },
        ToFollower::CopyPiece { run: 1, bytes: Rc::from(&b"cover"[..]) },
        ToFollower::CopyUnits { run: 1, wall_ms: 4, units: Rc::from(&b"units"[..]) },
        ToFollower::Suffix { partition: 3, epoch: 7, pieces: vec![piece(8), piece(9)] },
    ]
}

fn release(partition: PartitionId) -> Release {
    Release { partition, epoch: 7, naming: 9 }
}

fn encoded<M: Wire>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    message.encode(&mut bytes);
    bytes
}

fn decoded<M: Wire>(bytes: &[u8]) -> Result<Option<M>, DecodeError> {
    let mut decoder = Decoder::default();
    decoder.push(bytes);
    decoder.decode()
}

/// All messages in one stream, in pieces of any length.
fn arrives_in_pieces<M: Wire + PartialEq + std::fmt::Debug>(messages: &[M]) {
    let bytes: Vec<u8> = messages.iter().flat_map(encoded).collect();
    for piece in [1, 2, 3, 7, 12, 13, 64, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut arrived = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.push(part);
            while let Some(message) = decoder.decode::<M>().unwrap() {
                arrived.push(message);
            }
        }
        assert_eq!(arrived, messages, "pieces of {piece}");
    }
}

#[test]
fn messages_arrive_in_pieces() {
    arrives_in_pieces(&to_leader());
    arrives_in_pieces(&to_follower());
}

fn survives_damage<M: Wire + PartialEq + std::fmt::Debug>(message: &M) {
    let bytes = encoded(message);
    for len in 0..bytes.len() {
        assert_eq!(decoded::<M>(&bytes[..len]), Ok(None), "{message:?} cut to {len}");
    }
    for at in 0..bytes.len() {
        for flip in 1..=255u8 {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            // A longer length than before: it waits for bytes that never come. Anything else is an error.
            match decoded::<M>(&changed) {
                Ok(None) => assert!(at < 4),
                Ok(Some(other)) => panic!("byte {at} ^ {flip}: taken for {other:?}"),
                Err(_) => {}
            }
            // A peer that makes its checksums right can say anything that makes sense, and nothing else.
            if at >= 8 {
                seal(&mut changed, 0);
                if let Ok(Some(other)) = decoded::<M>(&changed) {
                    assert!(other.check().is_ok());
                }
            }
        }
    }
}

#[test]
fn damage_is_noticed() {
    to_leader().iter().for_each(survives_damage);
    to_follower().iter().for_each(survives_damage);
}

#[test]
fn random_payloads_are_no_harm() {
    let mut state = 1u64;
    for round in 0..20_000 {
        let mut bytes = Vec::new();
        header(&mut bytes, KIND_TO_LEADER + (round % 6) as u8);
        for _ in 0..round % 97 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.push(if state >> 63 == 0 { 0 } else { (state >> 40) as u8 });
        }
        seal(&mut bytes, 0);
        let _ = decoded::<ToLeader>(&bytes);
        let _ = decoded::<ToFollower>(&bytes);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |message: ToLeader| {
        let result = decoded::<ToLeader>(&encoded(&message));
        assert!(matches!(result, Err(DecodeError::Sense(_))), "{message:?}: {result:?}");
    };
    refused(ToLeader::Open(Open { node: 0, ..open() }));
    refused(ToLeader::Open(Open { incarnation: 0, ..open() }));
    refused(ToLeader::Open(Open { wants: vec![open().wants[1], open().wants[0]], ..open() }));
    let later = Want { tail: Some(Tail { epoch: 8, index: 1 }), ..open().wants[0] };
    refused(ToLeader::Open(Open { wants: vec![later], ..open() }));
    let beyond = Want { partition: PARTITIONS_MAX as u16, ..open().wants[0] };
    refused(ToLeader::Open(Open { wants: vec![beyond], ..open() }));
    refused(ToLeader::Ack { round: 1, received: 1, applied: 2, durable: 0 });
    refused(ToLeader::Ack { round: 1, received: 2, applied: 1, durable: 2 });
    refused(ToLeader::Has { run: 1, held: vec![held(5), held(1)] });

    let refused = |message: ToFollower| {
        let result = decoded::<ToFollower>(&encoded(&message));
        assert!(matches!(result, Err(DecodeError::Sense(_))), "{message:?}: {result:?}");
    };
    let frames = |upto, frames| ToFollower::Frames { commit: 0, upto, frames };
    refused(frames(9, vec![frame(8, 9, b"")]));
    refused(frames(9, vec![frame(0, 1, b"x")]));
    refused(frames(9, vec![frame(9, 8, b"x")]));
    refused(frames(9, vec![frame(5, 6, b"x"), frame(6, 7, b"x")]));
    refused(frames(8, vec![frame(8, 9, b"x")]));
    refused(frames(u64::MAX, Vec::new()));
    refused(Control::Heartbeat { wall_ms: 0, end: 1, commit: 2 }.into());
    refused(Control::CopyBegin { run: 1, partitions: vec![2, 2] }.into());
    refused(Control::Released { releases: vec![] }.into());
    refused(Control::Released { releases: vec![release(4), release(4)] }.into());
    refused(Control::Released { releases: vec![Release { epoch: 0, ..release(4) }] }.into());
    refused(Control::Released { releases: vec![Release { naming: 0, ..release(4) }] }.into());
    refused(Control::CopyEnd { run: 0, end: 1, tails: vec![held(1)] }.into());
    let answer = |answer| Control::Answers {
        open: 1,
        round: 1,
        position: 1,
        commit: 1,
        answers: vec![Answered { partition: 1, epoch: 7, answer }],
    };
    refused(answer(Answer::Follow { after: 8, cut: 9 }).into());
    refused(answer(Answer::Cut { to: Tail { epoch: 7, index: 1 }, cut: 9 }).into());
    refused(ToFollower::Suffix { partition: 1, epoch: 7, pieces: vec![piece(9), piece(8)] });
    refused(ToFollower::Suffix { partition: 1, epoch: 7, pieces: Vec::new() });
}

#[test]
fn what_is_too_long_or_of_another_kind_is_refused_at_its_header() {
    let mut bytes = encoded(&ToLeader::Heartbeat { wall_ms: 1 });
    bytes[..4].copy_from_slice(&(LISTS_LEN_MAX as u32 + 1).to_le_bytes());
    assert_eq!(decoded::<ToLeader>(&bytes[..HEADER_LEN]), Err(DecodeError::TooLong(LISTS_LEN_MAX as u32 + 1)));
    let heartbeat = encoded(&ToLeader::Heartbeat { wall_ms: 1 });
    assert_eq!(decoded::<ToFollower>(&heartbeat), Err(DecodeError::Kind(KIND_TO_LEADER)));
}

#[test]
fn all_partitions_fit_into_one_message() {
    let want = |partition| Want { partition, epoch: 7, tail: Some(Tail { epoch: 6, index: 90 }), keep: false };
    let message = ToLeader::Open(Open { wants: (0..PARTITIONS_MAX as u16).map(want).collect(), ..open() });
    assert_eq!(decoded::<ToLeader>(&encoded(&message)).unwrap().unwrap(), message);
    let answer = Answer::Cut { to: Tail { epoch: 6, index: 3 }, cut: 9 };
    let answers = (0..PARTITIONS_MAX as u16).map(|partition| Answered { partition, epoch: 7, answer }).collect();
    let message = ToFollower::from(Control::Answers { open: 5, round: 1, position: 9, commit: 8, answers });
    assert_eq!(decoded::<ToFollower>(&encoded(&message)).unwrap().unwrap(), message);
}

const PROTOCOL_2: &str = include_str!("forms/protocol-2.txt");
const PROTOCOL_3: &str = include_str!("forms/protocol-3.txt");
const PROTOCOL_4: &str = include_str!("forms/protocol-4.txt");

fn line(message: &(impl Wire + std::fmt::Debug)) -> String {
    let name: String = format!("{message:?}").chars().take_while(|c| c.is_alphanumeric()).collect();
    encoded(message).iter().fold(name + ": ", |mut line, byte| {
        let _ = write!(line, "{byte:02x}");
        line
    })
}

#[test]
fn what_version_2_says_is_said_and_read_as_it_was() {
    let written: Vec<String> = to_leader().iter().map(line).chain(to_follower().iter().map(line)).collect();
    let known: Vec<&str> = PROTOCOL_2.lines().collect();
    for (written, known) in written.iter().zip(&known) {
        assert_eq!(written, known);
    }
    assert_eq!(written.len(), known.len());
}

#[test]
fn a_leader_says_what_it_has_ended() {
    let message = ToFollower::from(Control::Released { releases: vec![release(3), release(4)] });
    assert_eq!(line(&message), PROTOCOL_4.trim_end());
    assert_eq!(decoded::<ToFollower>(&encoded(&message)), Ok(Some(message.clone())));
    survives_damage(&message);
}

#[test]
fn frames_say_what_they_span() {
    let spans: Spans = [1, 7].map(|partition| Move { partition, epoch: 7 }).into();
    let message = |spans: Option<Spans>| ToFollower::Frames {
        commit: 7,
        upto: 12,
        frames: vec![StreamFrame { spans, ..frame(8, 9, b"two") }, frame(11, 11, b"one")],
    };
    let both = message(Some(spans.clone()));
    assert_eq!(line(&both), PROTOCOL_3.trim_end());
    assert_eq!(decoded::<ToFollower>(&encoded(&both)), Ok(Some(both.clone())));
    survives_damage(&both);
    let backwards: Spans = spans.iter().rev().copied().collect();
    let nowhere: Spans = [Move { partition: PARTITIONS_MAX as u16, epoch: 7 }].into();
    for senseless in [backwards, nowhere] {
        let decoded = decoded::<ToFollower>(&encoded(&message(Some(senseless))));
        assert!(matches!(decoded, Err(DecodeError::Sense(_))), "{decoded:?}");
    }
}
