//! Messages are read as they were meant, and not at all if they make no sense.

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};

use super::super::frame::{Decoder, Kind, frame};
use super::*;
use crate::log::testing::Random;
use crate::raft::command::{Member, Move};
use crate::raft::testing::{entry, id};

pub fn piece(bytes: usize) -> Request {
    let vote = Vote::new_committed(1, 2);
    Request::Piece(Piece { vote, transfer: 1, offset: 0, total: 1 << 20, bytes: vec![1; bytes] })
}

#[test]
fn what_a_message_says_is_read_again_and_what_makes_no_sense_is_not() {
    let append = |vote: Vote, previous, entries| {
        Request::Append(AppendEntriesRequest { vote, prev_log_id: previous, entries, leader_commit: Some(id(1, 1)) })
    };
    let vote = Vote::new_committed(3, 1);
    let good = [
        append(vote, None, vec![entry(1, 0), entry(2, 1)]),
        append(vote, Some(id(1, 4)), vec![entry(3, 5)]),
        append(vote, Some(id(1, 4)), vec![]),
        Request::Vote(VoteRequest::new(Vote::new(4, 1), None)),
        Request::PreVote(VoteRequest::new(Vote::new(4, 1), Some(id(3, 3)))),
        piece(17),
        Request::Propose(Command::Create { partitions: 256 }),
        Request::HandOver(hand_over(&[7])),
        Request::HandOver(hand_over(&[0, 3, PARTITIONS_MAX as u16 - 1])),
    ];
    for request in &good {
        let bytes = request.encode().unwrap();
        assert_eq!(format!("{:?}", Request::decode(&bytes).unwrap()), format!("{request:?}"));
        for at in 0..bytes.len() {
            // Another message, or none; the length and the checksum of the frame tell.
            let _ = Request::decode(&bytes[..at]);
            for flip in [1, 0x80, 0xff] {
                let mut bad = bytes.clone();
                bad[at] ^= flip;
                let _ = Request::decode(&bad);
                let _ = Answer::decode(&bad);
            }
        }
    }
    let bad = [
        append(Vote::new(3, 1), None, vec![]),
        append(vote, None, vec![entry(1, 1)]),
        append(vote, Some(id(1, 4)), vec![entry(1, 6)]),
        append(vote, Some(id(2, 4)), vec![entry(1, 5)]),
        append(vote, Some(id(1, 4)), vec![entry(4, 5)]),
        Request::Vote(VoteRequest::new(vote, None)),
        piece(PIECE_BYTES_MAX + 1),
        piece(0),
        Request::Propose(Command::Create { partitions: 3 }),
        Request::HandOver(HandOver { node: 0, ..hand_over(&[7]) }),
        Request::HandOver(HandOver { to: Member { node: 0, incarnation: 1 }, ..hand_over(&[7]) }),
        Request::HandOver(HandOver { to: Member { node: 2, incarnation: 0 }, ..hand_over(&[7]) }),
        Request::HandOver(HandOver { to: Member { node: 2, incarnation: COUNT_MAX + 1 }, ..hand_over(&[7]) }),
        Request::HandOver(hand_over(&[])),
        Request::HandOver(hand_over(&[4, 3])),
        Request::HandOver(hand_over(&[4, 4])),
        Request::HandOver(hand_over(&(0..=PARTITIONS_MAX as u16).collect::<Vec<_>>())),
    ];
    for request in bad {
        assert!(Request::decode(&request.encode().unwrap()).is_err(), "{request:?}");
    }
    let answers = [
        Answer::Append(AppendEntriesResponse::PartialSuccess(Some(id(1, 1)))),
        Answer::Append(AppendEntriesResponse::HigherVote(vote)),
        Answer::Proposed(7, Reply::Joined { node: 2 }),
        Answer::TransferLeader(false),
        Answer::HandingOver(0),
        Answer::HandingOver(PARTITIONS_MAX as u32),
    ];
    for answer in answers {
        assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
    }
    let more = Answer::HandingOver(PARTITIONS_MAX as u32 + 1);
    assert!(Answer::decode(&more.encode().unwrap()).is_err());
}

/// Node 2 wants these roles for itself.
pub fn hand_over(partitions: &[u16]) -> HandOver {
    let moves = partitions.iter().map(|&partition| Move { partition, epoch: 5 }).collect();
    HandOver { node: 2, to: Member { node: 2, incarnation: 3 }, moves }
}

/// All roles at once fit into a message, and whatever is asked for within the limits is understood as it was meant.
#[test]
fn roles_that_are_asked_for_travel_up_to_the_limits() {
    let all: Vec<u16> = (0..PARTITIONS_MAX as u16).collect();
    let mut random = Random(5);
    for count in [1, 2, 1_024, PARTITIONS_MAX] {
        let mut request = hand_over(&all[..count]);
        for change in &mut request.moves {
            change.epoch = random.next() % (COUNT_MAX + 1);
        }
        request.to = Member { node: 1 + random.next() % COUNT_MAX, incarnation: 1 + random.next() % COUNT_MAX };
        let bytes = Request::HandOver(request.clone()).encode().unwrap();
        let framed = frame(Kind::Request, 1, &bytes).unwrap();
        let mut decoder = Decoder::default();
        decoder.push(&framed);
        let received = decoder.take(Kind::Request).unwrap().unwrap();
        let Ok(Request::HandOver(read)) = Request::decode(&received.payload) else { panic!("{count} roles") };
        assert_eq!(read, request);
        assert_eq!(Request::HandOver(read).sender(), Some(2));
    }
}

/// Several bytes at a time, cut off, doubled or turned around: what is still a request keeps to the limits.
#[test]
fn roles_that_are_asked_for_in_damaged_words_are_refused_or_keep_to_the_limits() {
    let mut understood = 0;
    for seed in 0..20_000 {
        let mut random = Random(seed);
        let partitions: Vec<u16> = (0..1 + random.below(6) as u16).map(|n| n * 3).collect();
        let mut bytes = Request::HandOver(hand_over(&partitions)).encode().unwrap();
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len() as u64) as usize;
            match random.below(5) {
                0 => bytes[at] = random.next() as u8,
                1 => bytes[at] ^= 1 << random.below(8),
                2 => bytes.truncate(at.max(1)),
                3 => bytes.swap(at, 0),
                _ => bytes.extend_from_within(at..),
            }
        }
        if let Ok(Request::HandOver(request)) = Request::decode(&bytes) {
            assert_eq!(request.check(), Ok(()), "seed {seed}");
            understood += 1;
        }
    }
    // Else nothing behind the checks of the form was tried.
    assert!((100..19_000).contains(&understood), "{understood}");
}
