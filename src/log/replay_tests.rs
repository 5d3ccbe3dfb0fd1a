//! Tests of replay: a snapshot that is made while keys change is the state at its end, whoever reads it.

use std::collections::BTreeMap;

use super::*;
use crate::log::check::check;
use crate::log::cover::{self, UPTO_END};
use crate::log::files::scratch::Scratch;
use crate::log::files::snapshot_name;
use crate::log::frame::{End, Frame};
use crate::log::recover::inspect;
use crate::log::testing::{FIRST, Random, executed};
use crate::route::slot_of;

const SEEDS: [u64; 4] = [11, 12, 13, 14];
const DATABASES: u8 = 3;

type Keyspace = BTreeMap<(u8, Vec<u8>), Vec<u8>>;

/// Executes SET, APPEND, DEL, FLUSHPARTITION, FLUSHDB and FLUSHALL, with the partitions of `hasher`. APPEND shows whether anything ran twice or not at all.
fn execute(keyspace: &mut Keyspace, hasher: &Hasher, db: u8, args: &[&[u8]]) -> Result<(), String> {
    match args[0] {
        b"SET" => drop(keyspace.insert((db, args[1].to_vec()), args[2].to_vec())),
        b"APPEND" => keyspace.entry((db, args[1].to_vec())).or_default().extend_from_slice(args[2]),
        b"DEL" => drop(keyspace.remove(&(db, args[1].to_vec()))),
        b"FLUSHPARTITION" => {
            let partition = hasher.key(args[1]).partition;
            keyspace.retain(|(other, key), _| *other != db || hasher.key(key).partition != partition);
        }
        b"FLUSHDB" => keyspace.retain(|(other, _), _| *other != db),
        b"FLUSHALL" => keyspace.clear(),
        name => return Err(format!("unknown command '{}'", name.escape_ascii())),
    }
    Ok(())
}

/// A node that writes while a snapshot is made of it.
struct Node {
    random: Random,
    keyspace: Keyspace,
    hasher: Hasher,
    next: Index,
    frames: Vec<Frame>,
    covers: u64,
}

impl Node {
    fn key(&mut self) -> Vec<u8> {
        format!("{{{}}}{}", self.random.below(40), self.random.below(3)).into_bytes()
    }

    /// A few units, and their frame.
    fn write(&mut self) {
        let units = 1 + self.random.below(3);
        let mut payload = Vec::new();
        for _ in 0..units {
            let statements = 1 + self.random.below(2);
            statement::encode_unit(&mut payload, |out| (0..statements).for_each(|_| self.statement(out)));
        }
        self.frames.push(Frame::new(Kind::Log, FIRST.id, self.next, 0, units as u32, payload));
        self.next += units;
    }

    fn statement(&mut self, out: &mut Vec<u8>) {
        let db = self.random.below(DATABASES as u64) as u8;
        let (key, value) = (self.key(), self.random.next().to_string().into_bytes());
        let (slot, args): (_, Vec<&[u8]>) = match self.random.below(100) {
            0..30 => (Some(slot_of(&key)), vec![b"SET", &key, &value]),
            30..70 => (Some(slot_of(&key)), vec![b"APPEND", &key, &value]),
            70..95 => (Some(slot_of(&key)), vec![b"DEL", &key]),
            95..97 => (Some(slot_of(&key)), vec![b"FLUSHPARTITION", &key]),
            97..99 => (None, vec![b"FLUSHDB"]),
            _ => (None, vec![b"FLUSHALL"]),
        };
        execute(&mut self.keyspace, &self.hasher, db, &args).unwrap();
        statement::encode(out, db, slot, &args);
    }

    fn position(&self, key: &[u8]) -> u64 {
        self.hasher.hash(key) >> 32
    }

    fn cover(&mut self, db: u8, partition: u16, from: u64, upto: u64) {
        let mut payload = Vec::new();
        cover::encode(&mut payload, db, partition, from as u32, |out| {
            for ((of, key), value) in &self.keyspace {
                let here = *of == db && self.hasher.key(key).partition == partition;
                if here && (from..upto).contains(&self.position(key)) {
                    statement::encode(out, db, Some(slot_of(key)), &[b"APPEND", key, value]);
                }
            }
            upto
        });
        self.frames.push(Frame::new(Kind::Cover, FIRST.id, self.next, 0, 1, payload));
        self.covers += 1;
    }

    fn snapshot(&mut self) {
        let partitions = self.hasher.partitions();
        let begin = Begin { partitions, databases: DATABASES as u16, seeds: SEEDS, histories: vec![FIRST] };
        self.frames.push(Frame::of(Kind::Begin, FIRST.id, self.next, 0, &begin));
        for partition in 0..partitions {
            for db in 0..DATABASES {
                let mut from = 0;
                // Ranges end in a hurry, or where they like.
                while from < UPTO_END {
                    let upto = if self.random.percent(50) { UPTO_END } else { from + 1 + self.random.below(1 << 31) };
                    self.cover(db, partition, from, upto.min(UPTO_END));
                    from = upto.min(UPTO_END);
                    if self.random.percent(60) {
                        self.write();
                    }
                }
            }
        }
        self.frames.push(Frame::of(Kind::End, FIRST.id, self.next, 0, &End { covers: self.covers }));
    }
}

fn save(scratch: &Scratch, end: Index, frames: &[Frame]) {
    let mut bytes = Vec::new();
    frames.iter().for_each(|frame| frame.write_to(&mut bytes));
    std::fs::write(scratch.0.join(snapshot_name(end)), bytes).unwrap();
}

#[test]
fn a_snapshot_made_while_keys_change_is_the_state_at_its_end() {
    for seed in 0..150 {
        let scratch = Scratch::new("replay");
        let hasher = Hasher::new(1 << (seed % 4), SEEDS);
        let (keyspace, frames) = (Keyspace::new(), Vec::new());
        let mut node = Node { random: Random(seed), keyspace, hasher, next: 1, frames, covers: 0 };
        (0..40).for_each(|_| node.write());
        node.frames.clear();
        node.snapshot();
        save(&scratch, node.next - 1, &node.frames);
        let plan = inspect(&scratch.0).unwrap();
        let mut all = Keyspace::new();
        // Another number of cores reads it.
        let cores = 1 + seed as u16 % 3;
        for core in 0..cores {
            let mut told = Vec::new();
            let mut keyspace = Keyspace::new();
            let owns = |slot| slot / (SLOTS / node.hasher.partitions()) % cores == core;
            let visit = |db, args: &[&[u8]]| execute(&mut keyspace, &node.hasher, db, args);
            let counts = replay(&plan, owns, visit, |done, of| told.push((done, of))).unwrap();
            assert_eq!((counts.bytes, told.last()), (plan.bytes(), Some(&(plan.bytes(), plan.bytes()))));
            assert!(keyspace.keys().all(|(_, key)| owns(slot_of(key))));
            all.extend(keyspace);
        }
        assert_eq!(all, node.keyspace, "seed {seed}");
        let report = check(&scratch.0).unwrap();
        assert_eq!((report.files.len(), report.files[0].ranges), (1, node.covers));
    }
}

#[test]
fn streams_that_make_no_sense_are_refused() {
    let begin = Begin { partitions: 2, databases: 2, seeds: SEEDS, histories: vec![FIRST] };
    let begin = Frame::of(Kind::Begin, FIRST.id, 1, 0, &begin);
    let cover = |db, partition, from, upto, slot: Option<u16>| {
        let mut payload = Vec::new();
        cover::encode(&mut payload, db, partition, from, |out| {
            statement::encode(out, db, slot, &[b"SET", b"a", b"b"]);
            upto
        });
        Frame::new(Kind::Cover, FIRST.id, 1, 0, 1, payload)
    };
    let refused = |frames: &[Frame], next: Index, wanted: &str| {
        let scratch = Scratch::new("replay");
        let covers = frames.iter().filter(|frame| frame.head.kind == Kind::Cover).count() as u64;
        let end = Frame::of(Kind::End, FIRST.id, next, 0, &End { covers });
        save(&scratch, next - 1, &[std::slice::from_ref(&begin), frames, &[end]].concat());
        let plan = inspect(&scratch.0).unwrap();
        let error = executed(&plan).unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
        let error = check(&scratch.0).unwrap_err().to_string();
        assert!(error.contains(wanted), "check: {error}");
    };
    let whole = |partition| cover(1, partition, 0, UPTO_END, Some(partition * 8192));
    refused(&[whole(0)], 1, "partition 1 is not covered");
    refused(&[whole(0), cover(0, 1, 0, UPTO_END, Some(8192))], 1, "partition 1 is not covered");
    refused(&[whole(0), cover(1, 2, 0, UPTO_END, Some(8192))], 1, "does not exist");
    refused(&[whole(0), cover(2, 1, 0, UPTO_END, Some(8192))], 1, "does not exist");
    refused(&[whole(0), cover(1, 1, 5, UPTO_END, Some(8192))], 1, "length");
    refused(&[whole(0), cover(1, 1, 0, UPTO_END, None)], 1, "does not exist");
    let units = |count, args: &[&[u8]]| {
        let mut payload = Vec::new();
        statement::encode_unit(&mut payload, |out| statement::encode(out, 0, None, args));
        Frame::new(Kind::Log, FIRST.id, 1, 0, count, payload)
    };
    refused(&[whole(0), units(1, &[b"SWAPDB", b"0", b"1"])], 2, "exchanged");
    refused(&[whole(0), units(2, &[b"FLUSHALL"])], 3, "another number");
}

/// All cores may have exchanged them before they heard of the run, and the log hears of that behind its beginning.
#[test]
fn databases_may_have_been_exchanged_before_anything_is_covered() {
    let scratch = Scratch::new("replay");
    let begin = Begin { partitions: 1, databases: 2, seeds: SEEDS, histories: vec![FIRST] };
    let frame = |kind, first, payload| Frame::new(kind, FIRST.id, first, 0, 1, payload);
    let (mut swap, mut piece) = (Vec::new(), Vec::new());
    statement::encode_unit(&mut swap, |out| statement::encode(out, 0, None, &[b"SWAPDB", b"0", b"1"]));
    cover::encode(&mut piece, 1, 0, 0, |out| {
        statement::encode(out, 1, Some(crate::route::slot_of(b"a")), &[b"SET", b"a", b"b"]);
        UPTO_END
    });
    let frames = [
        Frame::of(Kind::Begin, FIRST.id, 1, 0, &begin),
        frame(Kind::Log, 1, swap),
        frame(Kind::Cover, 2, piece),
        Frame::of(Kind::End, FIRST.id, 2, 0, &End { covers: 1 }),
    ];
    save(&scratch, 1, &frames);
    check(&scratch.0).unwrap();
    let names: Vec<Vec<u8>> =
        executed(&inspect(&scratch.0).unwrap()).unwrap().iter().map(|args| args[0].clone()).collect();
    assert_eq!(names, [b"SWAPDB".to_vec(), b"SET".to_vec()]);
}

#[test]
fn a_statement_that_fails_stops_the_replay_and_says_where() {
    let scratch = Scratch::new("replay");
    let segment = crate::log::frame::Segment { histories: vec![FIRST] };
    let segment = Frame::of(Kind::Segment, FIRST.id, 1, 0, &segment);
    let frame = crate::log::testing::log_frame(FIRST.id, 1, &[vec![], vec![]]);
    let mut bytes = Vec::new();
    segment.write_to(&mut bytes);
    frame.write_to(&mut bytes);
    std::fs::write(scratch.0.join(crate::log::files::segment_name(1)), bytes).unwrap();
    let plan = inspect(&scratch.0).unwrap();
    let visit = |_, args: &[&[u8]]| if args[1] == b"2" { Err("WRONGTYPE") } else { Ok(()) };
    let error = replay(&plan, |_| true, visit, |_, _| {}).unwrap_err().to_string();
    assert!(error.contains(&format!("byte {}, unit 2: WRONGTYPE", segment.bytes())), "{error}");
}
