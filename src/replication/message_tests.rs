//! The wire format under hostile bytes: cut anywhere, every byte changed, checksums made right again after the change.

use super::*;
use crate::replication::wire::HEADER_LEN;

fn chain() -> Vec<History> {
    vec![History { id: 5, parent: 0, cut: 0 }, History { id: u128::MAX, parent: 5, cut: 17 }]
}

fn hello() -> Hello {
    Hello { version: 1, node: 77, port: 6379, attempt: 3, wants: Wants::Log, chain: chain(), received: 40 }
}

fn to_primary() -> Vec<ToPrimary> {
    vec![
        ToPrimary::Hello(hello()),
        ToPrimary::Ack { received: 9, applied: 8, durable: 7 },
        ToPrimary::Heartbeat { wall_ms: u64::MAX },
        ToPrimary::TakeOver { history: 3, cut: 4 },
        ToPrimary::Declined,
    ]
}

fn frame(first: u64, count: u32, bytes: &[u8]) -> Frame {
    Frame { history: u128::MAX - 1, first, count, bytes: Rc::from(bytes) }
}

fn to_replica() -> Vec<ToReplica> {
    vec![
        Control::Standing { node: 1, leading: true, chain: chain() }.into(),
        Control::Continue { from: 41, chain: chain() }.into(),
        Control::Diverged { cut: 3 }.into(),
        Control::FullSync { run: 1, start: 17, chain: chain() }.into(),
        Control::FullSyncEnd { run: 1, end: 99 }.into(),
        Control::Heartbeat { wall_ms: 1, end: 9, commit: 9, in_sync: true }.into(),
        Control::Refused { reason: Refusal::TooMany }.into(),
        Control::Handover { end: 5 }.into(),
        ToReplica::Frames { commit: 7, frames: vec![frame(8, 2, b"two records"), frame(10, 1, b"")] },
        ToReplica::Frames { commit: 7, frames: Vec::new() },
        ToReplica::Stream { run: 1, bytes: Rc::from(&b"cover"[..]) },
    ]
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
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes);
    }
    for piece in [1, 2, 3, 7, 11, 12, 13, 64, bytes.len()] {
        let mut decoder = Decoder::default();
        let mut arrived = Vec::new();
        for part in bytes.chunks(piece) {
            decoder.push(part);
            while let Some(message) = decoder.decode::<M>().unwrap() {
                arrived.push(message);
            }
            assert!(decoder.buffer.len() <= 2 * bytes.len());
        }
        assert_eq!(arrived, messages, "pieces of {piece}");
    }
}

#[test]
fn messages_arrive_in_pieces() {
    arrives_in_pieces(&to_primary());
    arrives_in_pieces(&to_replica());
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
    to_primary().iter().for_each(survives_damage);
    to_replica().iter().for_each(survives_damage);
}

#[test]
fn payloads_without_sense_are_refused() {
    // Random payloads under a right checksum: whatever the form, no panic.
    let mut state = 1u64;
    for round in 0..20_000 {
        let mut bytes = Vec::new();
        header(&mut bytes, 1 + (round % 4) as u8);
        for _ in 0..round % 97 {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            bytes.push(if state >> 63 == 0 { 0 } else { (state >> 40) as u8 });
        }
        seal(&mut bytes, 0);
        let _ = decoded::<ToPrimary>(&bytes);
        let _ = decoded::<ToReplica>(&bytes);
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let refused = |message: ToPrimary| decoded::<ToPrimary>(&encoded(&message)).unwrap_err();
    assert!(matches!(refused(ToPrimary::Hello(Hello { node: 0, ..hello() })), DecodeError::Sense(_)));
    assert!(matches!(refused(ToPrimary::Hello(Hello { received: 16, ..hello() })), DecodeError::Sense(_)));
    assert!(matches!(refused(ToPrimary::Hello(Hello { chain: Vec::new(), ..hello() })), DecodeError::Chain(_)));
    assert!(matches!(refused(ToPrimary::Ack { received: 1, applied: 2, durable: 0 }), DecodeError::Sense(_)));
    assert!(matches!(refused(ToPrimary::TakeOver { history: 0, cut: 0 }), DecodeError::Sense(_)));

    let refused = |message: ToReplica| decoded::<ToReplica>(&encoded(&message)).unwrap_err();
    let frames = |frames| ToReplica::Frames { commit: 0, frames };
    assert!(matches!(refused(frames(vec![frame(1, 0, b"")])), DecodeError::Sense(_)));
    assert!(matches!(refused(frames(vec![frame(0, 1, b"")])), DecodeError::Sense(_)));
    assert!(matches!(refused(frames(vec![frame(1, 1, b""), frame(3, 1, b"")])), DecodeError::Sense(_)));
    assert!(matches!(refused(frames(vec![frame(u64::MAX, 1, b"")])), DecodeError::Sense(_)));
    assert!(matches!(
        refused(Control::Heartbeat { wall_ms: 0, end: 1, commit: 2, in_sync: false }.into()),
        DecodeError::Sense(_)
    ));
    assert!(matches!(refused(Control::Continue { from: 0, chain: chain() }.into()), DecodeError::Sense(_)));
}

#[test]
fn what_is_too_long_or_of_another_kind_is_refused_at_its_header() {
    let mut bytes = encoded(&ToPrimary::Declined);
    bytes[..4].copy_from_slice(&(CONTROL_LEN_MAX as u32 + 1).to_le_bytes());
    let mut decoder = Decoder::default();
    decoder.push(&bytes[..HEADER_LEN]);
    assert_eq!(decoder.decode::<ToPrimary>(), Err(DecodeError::TooLong(CONTROL_LEN_MAX as u32 + 1)));
    assert_eq!(decoder.decode::<ToPrimary>(), Err(DecodeError::Broken));
    decoder.push(&[0; 100]);
    assert!(decoder.buffer.is_empty());

    assert_eq!(decoded::<ToReplica>(&encoded(&ToPrimary::Declined)), Err(DecodeError::Kind(KIND_TO_PRIMARY)));
    let mut bytes = encoded(&ToPrimary::Declined);
    bytes[8] = 9;
    assert_eq!(decoded::<ToPrimary>(&bytes), Err(DecodeError::Version(9)));
}
