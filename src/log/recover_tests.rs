//! Tests of looking at a data directory: what may be torn, what is refused, and where the place of damage is said.

use std::fs;
use std::path::Path;

use super::*;
use crate::log::check::check;
use crate::log::cover::{self, UPTO_END};
use crate::log::dump::dump;
use crate::log::files::scratch::Scratch;
use crate::log::files::{segment_name, snapshot_name};
use crate::log::frame::{End, Frame, HEADER_BYTES, Segment};
use crate::log::testing::{FIRST, Random, executed, log_frame, recovered};

const SECOND: HistoryEntry = HistoryEntry { id: 2, cut: 6 };

fn segment(histories: &[HistoryEntry], first: Index) -> Frame {
    let id = histories.last().unwrap().id;
    Frame::of(Kind::Segment, id, first, 0, &Segment { histories: histories.to_vec() })
}

/// Frames of two units each, of these indices.
fn frames(history: HistoryEntry, indices: std::ops::Range<Index>) -> Vec<Frame> {
    let value = |index: Index| index.to_string().repeat(7).into_bytes();
    indices.step_by(2).map(|first| log_frame(history.id, first, &[value(first), value(first + 1)])).collect()
}

fn write(path: &Path, frames: &[Frame]) -> Vec<u8> {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.write_to(&mut bytes));
    fs::write(path, &bytes).unwrap();
    bytes
}

/// A snapshot that covers nothing but says so of all partitions, of indices from `first` to `end`.
fn snapshot(first: Index, end: Index) -> Vec<Frame> {
    let begin = Begin { partitions: 2, databases: 1, seeds: [1, 2, 3, 4], histories: vec![FIRST] };
    let mut all = vec![Frame::of(Kind::Begin, FIRST.id, first, 0, &begin)];
    let mut payload = Vec::new();
    (0..2).for_each(|partition| cover::encode(&mut payload, 0, partition, 0, |_| UPTO_END));
    all.push(Frame::new(Kind::Cover, FIRST.id, first, 0, 2, payload));
    all.extend(frames(FIRST, first..end + 1));
    all.push(Frame::of(Kind::End, FIRST.id, end + 1, 0, &End { covers: 1 }));
    all
}

/// Two segments: units 1 to 6, and 7 to 12 of another history. Returns the bytes of both.
fn two_segments(dir: &Path) -> (Vec<u8>, Vec<u8>) {
    let first = [vec![segment(&[FIRST], 1)], frames(FIRST, 1..7)].concat();
    let second = [vec![segment(&[FIRST, SECOND], 7)], frames(SECOND, 7..13)].concat();
    (write(&dir.join(segment_name(1)), &first), write(&dir.join(segment_name(7)), &second))
}

/// Where the frames in these bytes end.
fn ends(mut bytes: &[u8]) -> Vec<usize> {
    let (mut ends, mut end) = (Vec::new(), 0);
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let size = HEADER_BYTES + Head::decode(header).unwrap().length;
        end += size;
        ends.push(end);
        bytes = &bytes[size..];
    }
    ends
}

#[test]
fn an_empty_directory_holds_no_data() {
    let scratch = Scratch::new("recover");
    let plan = inspect(&scratch.0).unwrap();
    assert!(plan.is_empty());
    let start = plan.start(|| vec![FIRST]);
    assert_eq!((start.next, start.histories, start.segments), (1, vec![FIRST], vec![]));
    assert_eq!(executed(&plan).unwrap().len(), 0);
    assert!(check(&scratch.0).unwrap().to_string().contains("no data"));
}

#[test]
fn segments_and_snapshots_make_one_sequence() {
    let scratch = Scratch::new("recover");
    let (first, second) = two_segments(&scratch.0);
    let (plan, values) = recovered(&scratch.0).unwrap();
    assert_eq!((plan.end, values.len(), plan.replayed().len()), (12, 12, 2));
    assert_eq!(plan.histories, [FIRST, SECOND]);
    assert_eq!((plan.bytes(), plan.wall_ms), ((first.len() + second.len()) as u64, 1_700_000_000_011));
    write(&scratch.0.join(snapshot_name(4)), &snapshot(3, 4));
    let plan = inspect(&scratch.0).unwrap();
    let index: Vec<_> = executed(&plan).unwrap().into_iter().map(|args| args[1].clone()).collect();
    let wanted: Vec<_> = (3..=12).map(|index: u32| index.to_string().into_bytes()).collect();
    assert_eq!(index, wanted, "3 and 4 from the snapshot, as they are covered");
    // One that reaches beyond the log: its tail was not on disk.
    fs::remove_file(scratch.0.join(snapshot_name(4))).unwrap();
    fs::remove_file(scratch.0.join(segment_name(7))).unwrap();
    write(&scratch.0.join(snapshot_name(8)), &snapshot(5, 8));
    let plan = inspect(&scratch.0).unwrap();
    assert_eq!((plan.end, executed(&plan).unwrap().len()), (8, 4));
    write(&scratch.0.join(segment_name(9)), &[vec![segment(&[FIRST], 9)], frames(FIRST, 9..11)].concat());
    let plan = inspect(&scratch.0).unwrap();
    assert_eq!((plan.end, executed(&plan).unwrap().len(), plan.replayed().len()), (10, 6, 1));
}

#[test]
fn a_later_segment_counts_from_where_it_begins() {
    let scratch = Scratch::new("recover");
    let old = [vec![segment(&[FIRST], 1)], frames(FIRST, 1..11)].concat();
    let bytes = write(&scratch.0.join(segment_name(1)), &old);
    let new = |first| log_frame(FIRST.id, first, &[b"new".to_vec()]);
    for (cut, first) in [(0, 5), (20, 5), (0, 6)] {
        // Damage behind its place is of no consequence.
        fs::write(scratch.0.join(segment_name(1)), &bytes[..bytes.len() - cut]).unwrap();
        write(&scratch.0.join(segment_name(first)), &[segment(&[FIRST], first), new(first)]);
        let (plan, values) = recovered(&scratch.0).unwrap();
        assert_eq!(plan.end, first);
        assert_eq!(values.last().unwrap(), b"new");
        fs::remove_file(scratch.0.join(segment_name(first))).unwrap();
    }
}

#[test]
fn what_is_missing_is_refused() {
    let scratch = Scratch::new("recover");
    let path = |first| scratch.0.join(segment_name(first));
    let reset = || {
        let _ = fs::remove_file(scratch.0.join(snapshot_name(4)));
        two_segments(&scratch.0)
    };
    reset();
    fs::remove_file(path(1)).unwrap();
    let refused = inspect(&scratch.0).unwrap_err();
    assert!(matches!(refused, RecoverError::Gap { from: 1, to: 6, .. }), "{refused}");
    reset();
    write(&path(1), &[vec![segment(&[FIRST], 1)], frames(FIRST, 1..5)].concat());
    let refused = inspect(&scratch.0).unwrap_err();
    assert!(matches!(refused, RecoverError::Gap { from: 5, to: 6, .. }), "{refused}");
    let refused = |frames: &[Frame], wanted: Disorder| {
        write(&path(7), frames);
        match inspect(&scratch.0).unwrap_err() {
            RecoverError::Segment { error: ReadError { why: Why::Order(found), .. } } => assert_eq!(found, wanted),
            other => panic!("{other}"),
        }
    };
    reset();
    let both = [FIRST, SECOND];
    refused(&[vec![segment(&both, 7)], frames(SECOND, 9..11)].concat(), Disorder::Index { expected: 7, found: 9 });
    refused(&[vec![segment(&both, 8)], frames(SECOND, 8..11)].concat(), Disorder::Name { expected: 7, found: 8 });
    refused(&[vec![segment(&both, 7)], frames(FIRST, 7..11)].concat(), Disorder::History);
    refused(&[segment(&[FIRST, HistoryEntry { id: 2, cut: 7 }], 7)], Disorder::History);
    refused(&[segment(&[HistoryEntry { id: 3, cut: 0 }, SECOND], 7)], Disorder::Line);
    refused(&frames(SECOND, 7..9), Disorder::Kind);
    refused(&[segment(&both, 7), segment(&both, 7)], Disorder::Kind);
    // A snapshot of units that the log's history has not.
    reset();
    write(&scratch.0.join(snapshot_name(8)), &snapshot(5, 8));
    let refused = inspect(&scratch.0).unwrap_err();
    assert!(refused.to_string().contains("histories"), "{refused}");
}

/// Cuts the last segment at every byte: what is whole before it is there.
#[test]
fn a_log_that_was_cut_short_keeps_its_beginning() {
    let scratch = Scratch::new("recover");
    let (_, bytes) = two_segments(&scratch.0);
    let ends = ends(&bytes);
    let path = scratch.0.join(segment_name(7));
    for cut in 0..bytes.len() {
        for fill in [0, 40, 5000] {
            // Some file systems leave zeros.
            let mut torn = bytes[..cut].to_vec();
            torn.resize(cut + fill, 0);
            fs::write(&path, &torn).unwrap();
            let whole = ends.partition_point(|end| torn.get(..*end) == Some(&bytes[..*end]));
            if whole == 0 {
                assert!(inspect(&scratch.0).is_err(), "a segment has its first frame before its name");
                continue;
            }
            let report = check(&scratch.0).unwrap();
            let is_whole = ends[whole - 1] == torn.len();
            assert_eq!(report.plan.torn.is_none(), is_whole);
            assert_eq!(fs::read(&path).unwrap(), torn, "nothing is changed by a look");
            let (plan, values) = recovered(&scratch.0).unwrap();
            assert_eq!((plan.end, values.len()), (4 + 2 * whole as u64, 4 + 2 * whole), "cut at {cut}");
            let again = inspect(&scratch.0).unwrap();
            assert!(again.torn.is_none() && again.end == plan.end);
        }
    }
}

/// Changes every byte of every file: the change is found, or it was in the last frame, which may have been torn.
#[test]
fn damage_is_found() {
    let scratch = Scratch::new("recover");
    let (first, second) = two_segments(&scratch.0);
    let (one, two) = (scratch.0.join(segment_name(1)), scratch.0.join(segment_name(7)));
    let found = |path: &Path, bytes: &[u8], at: usize| {
        let mut damaged = bytes.to_vec();
        damaged[at] ^= 1 << (at % 8);
        fs::write(path, &damaged).unwrap();
        let checked = check(&scratch.0).map(|report| report.plan.end);
        let replayed = inspect(&scratch.0).and_then(|plan| executed(&plan));
        assert_eq!(checked.is_err(), replayed.is_err(), "{at}");
        if let Err(error) = &checked {
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        let _ = dump(&scratch.0, None, &mut Vec::new());
        fs::write(path, bytes).unwrap();
        checked
    };
    (0..first.len()).for_each(|at| assert!(found(&one, &first, at).is_err(), "{at}"));
    let ends = ends(&second);
    let last = ends[ends.len() - 2];
    for at in 0..second.len() {
        match found(&two, &second, at) {
            Ok(end) => assert!(at >= last && end == 10, "byte {at}: {end}"),
            Err(_) => assert!(at < last || at < last + HEADER_BYTES, "byte {at}"),
        }
    }
    let snapshot_path = scratch.0.join(snapshot_name(4));
    let bytes = write(&snapshot_path, &snapshot(1, 4));
    (0..bytes.len()).for_each(|at| assert!(found(&snapshot_path, &bytes, at).is_err(), "{at}"));
    for cut in 0..bytes.len() {
        fs::write(&snapshot_path, &bytes[..cut]).unwrap();
        let error = inspect(&scratch.0).unwrap_err();
        assert!(matches!(error, RecoverError::Snapshot(_)), "{error}");
        assert!(check(&scratch.0).is_err());
    }
}

/// Files of random bytes, and of frames in random order: nothing panics, whatever they say.
#[test]
fn no_file_makes_it_panic() {
    let scratch = Scratch::new("recover");
    let mut random = Random(7);
    for round in 0..3000 {
        let mut pieces = [snapshot(1, 4), snapshot(3, 6), frames(FIRST, 1..9), frames(SECOND, 7..11)].concat();
        pieces.extend([segment(&[FIRST], 1), segment(&[FIRST, SECOND], 7), segment(&[FIRST], 5)]);
        for name in [snapshot_name(4), segment_name(1), segment_name(5), segment_name(7)] {
            let path = scratch.0.join(&name);
            let _ = fs::remove_file(&path);
            if random.percent(30) {
                continue;
            }
            let mut bytes = Vec::new();
            match name.as_bytes()[0] {
                b's' => pieces[0].write_to(&mut bytes),
                _ if random.percent(80) => {
                    let first: Index = name[4..24].parse().unwrap();
                    segment(&[FIRST, SECOND][..1 + (first == 7) as usize], first).write_to(&mut bytes);
                }
                _ => {}
            }
            for _ in 0..random.below(6) {
                let piece = random.below(pieces.len() as u64) as usize;
                // Sums are right and contents are not.
                let mut head = pieces[piece].head;
                let mut payload = pieces[piece].payload().to_vec();
                if random.percent(30) && !payload.is_empty() {
                    let at = random.below(payload.len() as u64) as usize;
                    payload[at] = random.next() as u8;
                }
                if random.percent(10) {
                    head.count = random.below(4) as u32 + 1;
                }
                Frame::new(head.kind, head.history, head.first, 0, head.count, payload).write_to(&mut bytes);
            }
            if random.percent(30) {
                bytes.truncate(random.below(bytes.len() as u64 + 1) as usize);
            }
            fs::write(&path, &bytes).unwrap();
        }
        let _ = check(&scratch.0).map(|report| report.to_string());
        let _ = dump(&scratch.0, None, &mut Vec::new());
        let _ = dump(&scratch.0, Some(random.below(12)), &mut Vec::new());
        if let Ok(mut plan) = inspect(&scratch.0) {
            plan.settle().unwrap();
            assert!(inspect(&scratch.0).unwrap().torn.is_none(), "round {round}");
            let _ = executed(&plan);
        }
    }
}

#[test]
fn what_other_versions_wrote_is_not_cut_off() {
    let scratch = Scratch::new("recover");
    let (_, mut bytes) = two_segments(&scratch.0);
    let last = ends(&bytes)[2];
    bytes[last + 4] = 9;
    let crc = crc32fast::hash(&bytes[last..last + HEADER_BYTES - 4]);
    bytes[last + HEADER_BYTES - 4..last + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    fs::write(scratch.0.join(segment_name(7)), &bytes).unwrap();
    let refused = inspect(&scratch.0).unwrap_err();
    assert!(refused.to_string().contains("version 9"), "{refused}");
    assert!(refused.to_string().contains(&format!("at byte {last}")), "{refused}");
}

#[test]
fn histories_are_forgotten_from_the_front() {
    let entry = |id: u128| HistoryEntry { id, cut: id as Index };
    let line = |ids: std::ops::Range<u128>| ids.map(entry).collect::<Vec<_>>();
    assert!(same_line(&line(1..5), &line(1..9)) && same_line(&line(1..9), &line(4..6)));
    assert!(same_line(&line(3..5), &line(1..5)) && same_line(&[], &line(1..2)));
    assert!(!same_line(&line(1..3), &line(3..5)));
    let mut other = line(1..5);
    other[2].cut += 1;
    assert!(!same_line(&other, &line(1..5)));
}
