//! The log store against openraft's suite, a log in memory, restarts, power cuts and damage.

use std::fs;
use std::path::PathBuf;

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine};
use openraft::testing::log::{StoreBuilder, Suite};

use super::*;
use crate::log::disk_sim::{Fate, Op, SimulatedDisk};
use crate::log::files;
use crate::log::files::scratch::Scratch;
use crate::log::frame::HEADER_BYTES;
use crate::log::testing::{Random, on_executor};
use crate::raft::state_machine::StateMachine;
use crate::raft::stored::{StoredError, Tip};
use crate::raft::testing::{IDENTITY, append, change, close, entry, id, open_small, said};
use crate::raft::types::LeaderId;

struct Builder;

impl StoreBuilder<Types, LogStore, StateMachine, Scratch> for Builder {
    async fn build(&self) -> Result<(Scratch, LogStore, StateMachine), openraft::StorageError<Types>> {
        let scratch = Scratch::new("raft-suite");
        let log = open_small(Disk::System, &scratch.0);
        let machine = StateMachine::open(&scratch.0, IDENTITY, &log).unwrap();
        Ok((scratch, log, machine))
    }
}

#[test]
fn openraft_finds_it_a_storage() {
    on_executor(async { Suite::test_all(Builder).await }).unwrap();
}

fn recovered(dir: &Path) -> Result<Image, StoreError> {
    recover(dir, IDENTITY).map(|recovered| recovered.image)
}

/// A change that makes sense, mostly.
fn random_change(random: &mut Random, tip: &Tip) -> Change {
    let last = tip.last.map_or(0, |id| id.index);
    let first = tip.purged.map_or(0, |id| id.index);
    let term = tip.last.map_or(1, |id| id.leader_id.term);
    match random.below(20) {
        0..=11 => {
            let term = term + random.below(2);
            Change::Append(entry(term, tip.last.map_or(0, |id| id.index + 1)))
        }
        12..=13 => {
            let voted = tip.vote.map_or(1, |vote| vote.leader_id.term + 1);
            Change::Vote(Vote { leader_id: LeaderId { term: voted, node_id: random.below(3) }, committed: false })
        }
        14 => Change::Committed(tip.last),
        15 => Change::Number(3 + random.below(2)),
        16..=17 => {
            let after = first + random.below(last - first + 1);
            Change::Truncate(Some(LogId { leader_id: LeaderId { term, node_id: 1 }, index: after }))
        }
        _ => Change::Purge(LogId {
            leader_id: LeaderId { term, node_id: 1 },
            index: first + random.below((last - first) / 2 + 1),
        }),
    }
}

async fn execute(store: &mut LogStore, change: Change) -> io::Result<()> {
    match change {
        Change::Append(entry) => append(store, [entry]).await,
        Change::Vote(vote) => store.save_vote(&vote).await,
        Change::Committed(id) => store.save_committed(id).await,
        Change::Truncate(after) => store.truncate_after(after).await,
        Change::Purge(upto) => store.purge(upto).await,
        Change::Number(number) => store.set_number(number).await.map_err(io::Error::from),
    }
}

#[test]
fn what_was_written_is_there_after_restarts() {
    on_executor(async {
        for seed in 0..20 {
            let scratch = Scratch::new("raft-log");
            let mut random = Random(seed);
            let mut model = Image::default();
            for _ in 0..4 {
                let mut store = open_small(Disk::System, &scratch.0);
                assert_eq!(said(&store.store.borrow().image), said(&model), "seed {seed}");
                for _ in 0..random.below(60) {
                    let next = random_change(&mut random, model.tip());
                    if model.check(&next).is_ok() {
                        change(&mut model, next.clone());
                        execute(&mut store, next).await.unwrap();
                    } else {
                        execute(&mut store, next).await.unwrap_err();
                    }
                }
                assert_eq!(said(&store.store.borrow().image), said(&model), "seed {seed}");
                close(store).await;
            }
        }
    });
}

#[test]
fn purged_segments_are_removed() {
    on_executor(async {
        let scratch = Scratch::new("raft-log");
        let mut store = open_small(Disk::System, &scratch.0);
        for index in 0..100 {
            append(&mut store, [entry(1, index)]).await.unwrap();
        }
        let segments = || files::list(&scratch.0).unwrap().segments;
        let before = segments().len();
        assert!(before > 10, "{before}");
        store.purge(id(1, 97)).await.unwrap();
        append(&mut store, [entry(1, 100)]).await.unwrap();
        assert!(segments().len() <= 3, "{:?}", segments());
        close(store).await;
        let image = recovered(&scratch.0).unwrap();
        assert_eq!((image.tip().purged, image.read(&.., usize::MAX).len()), (Some(id(1, 97)), 3));
        // Without what the log begins with it is none.
        let first = segments()[0];
        fs::remove_file(scratch.0.join(files::segment_name(first))).unwrap();
        let error = recovered(&scratch.0).err().map(|error| error.to_string());
        assert!(error.is_none_or(|error| error.contains("files are missing")));
    });
}

#[test]
fn appends_share_writes() {
    on_executor(async {
        let scratch = Scratch::new("raft-log");
        let disk = SimulatedDisk::new(|_| Fate::Works);
        let mut store = LogStore::open_on(Disk::Simulated(Rc::clone(&disk)), &scratch.0, IDENTITY, 1 << 20).unwrap();
        append(&mut store, [entry(1, 0)]).await.unwrap();
        let before = disk.operations.get();
        for index in 1..50 {
            store.append([entry(1, index)], IoFlushed::noop()).await.unwrap();
        }
        append(&mut store, [entry(1, 50)]).await.unwrap();
        let operations = disk.operations.get() - before;
        assert!(operations <= 6, "{operations} operations for 50 appends");
        close(store).await;
    });
}

/// What is acknowledged survives a power cut, and what is left is what the log was at some moment since.
#[test]
fn a_power_cut_takes_nothing_that_was_acknowledged() {
    for seed in 0..150 {
        let scratch = Scratch::new("raft-power");
        on_executor(async {
            let mut random = Random(seed);
            let disk = SimulatedDisk::new(|_| Fate::Works);
            let mut store = open_small(Disk::Simulated(Rc::clone(&disk)), &scratch.0);
            let mut model = Image::default();
            let mut history = vec![said(&model)];
            let mut acknowledged = 0;
            for _ in 0..random.below(60) {
                let next = random_change(&mut random, model.tip());
                if model.check(&next).is_err() {
                    continue;
                }
                change(&mut model, next.clone());
                history.push(said(&model));
                let waits = !matches!(next, Change::Purge(_) | Change::Committed(_));
                match next {
                    Change::Append(entry) if random.percent(40) => {
                        store.append([entry], IoFlushed::noop()).await.unwrap();
                    }
                    next => {
                        execute(&mut store, next).await.unwrap();
                        if waits {
                            acknowledged = history.len() - 1;
                        }
                    }
                }
                for _ in 0..random.below(4) {
                    glommio::executor().yield_now().await;
                }
            }
            let mut chance = Random(seed ^ 0xfeed);
            disk.cut_power(&scratch.0, || chance.percent(50));
            let image = recovered(&scratch.0).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let found = said(&image);
            assert!(history[acknowledged..].contains(&found), "seed {seed}: {found}");
        });
    }
}

#[test]
fn nothing_is_applied_before_it_is_on_disk() {
    on_executor(async {
        let scratch = Scratch::new("raft-log");
        let on = Disk::Simulated(SimulatedDisk::new(|_| Fate::Works));
        let mut store = open_small(on.clone(), &scratch.0);
        let mut machine = StateMachine::open_on(on, &scratch.0, IDENTITY, &store).unwrap();
        store.append([entry(1, 0), entry(1, 1)], IoFlushed::noop()).await.unwrap();
        store.save_committed(Some(id(1, 1))).await.unwrap();
        // Whoever applies does not wait for what is committed later.
        store.append([entry(1, 2)], IoFlushed::noop()).await.unwrap();
        let reader = machine.reader();
        let entries = futures_lite::stream::iter([Ok((entry(1, 0), None)), Ok((entry(1, 1), None))]);
        let mut applying = std::pin::pin!(machine.apply(entries));
        assert!(futures_lite::future::poll_once(&mut applying).await.is_none());
        assert_eq!(reader.applied(), None);
        let durable = || store.store.borrow().durable;
        let before = durable();
        applying.await.unwrap();
        assert!(durable() >= before + 2);
        assert_eq!(reader.applied(), Some(id(1, 1)));
    });
}

#[test]
fn the_committed_index_is_written_with_what_comes_next() {
    on_executor(async {
        let scratch = Scratch::new("raft-log");
        let disk = SimulatedDisk::new(|_| Fate::Works);
        let mut store = open_small(Disk::Simulated(Rc::clone(&disk)), &scratch.0);
        append(&mut store, [entry(1, 0)]).await.unwrap();
        let before = disk.operations.get();
        store.save_committed(Some(id(1, 0))).await.unwrap();
        for _ in 0..10 {
            glommio::executor().yield_now().await;
        }
        assert_eq!(disk.operations.get(), before, "it has a write of its own");
        // Nothing to append is nothing to wait for.
        append(&mut store, []).await.unwrap();
        append(&mut store, [entry(1, 1)]).await.unwrap();
        disk.cut_power(&scratch.0, || false);
        assert_eq!(recovered(&scratch.0).unwrap().tip().committed, Some(id(1, 0)));
        // So it is when the log is closed.
        let scratch = Scratch::new("raft-log");
        let mut store = open_small(Disk::System, &scratch.0);
        append(&mut store, [entry(1, 0)]).await.unwrap();
        store.save_committed(Some(id(1, 0))).await.unwrap();
        close(store).await;
        assert_eq!(recovered(&scratch.0).unwrap().tip().committed, Some(id(1, 0)));
    });
}

/// A tail that contradicts the snapshot which comes after it is never there together with that snapshot.
#[test]
fn a_power_cut_leaves_no_tail_that_contradicts_the_snapshot() {
    let sent = on_executor(async {
        let scratch = Scratch::new("raft-sent");
        let mut leader = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY + 1, None).unwrap();
        let entries: Vec<_> = (0..9).map(|index| Ok((entry(2, index), None))).collect();
        leader.apply(futures_lite::stream::iter(entries)).await.unwrap();
        leader.get_snapshot_builder().await.build_snapshot().await.unwrap()
    });
    for seed in 0..60 {
        let scratch = Scratch::new("raft-tail");
        on_executor(async {
            let mut random = Random(seed);
            let disk = SimulatedDisk::new(|_| Fate::Works);
            let mut store = open_small(Disk::Simulated(Rc::clone(&disk)), &scratch.0);
            let on = Disk::Simulated(Rc::clone(&disk));
            let mut machine = StateMachine::open_alone(on, &scratch.0, IDENTITY, None).unwrap();
            let tail = 5 + random.below(8);
            append(&mut store, (0..tail).map(|index| entry(1, index))).await.unwrap();
            store.truncate_after(Some(id(1, 3))).await.unwrap();
            assert_eq!(store.store.borrow().durable, store.store.borrow().next, "a cut is durable when it returns");
            machine.install_snapshot(&sent.meta, Rc::clone(&sent.snapshot)).await.unwrap();
            if random.percent(50) {
                store.purge(sent.meta.last_log_id.unwrap()).await.unwrap();
            }
            for _ in 0..random.below(4) {
                glommio::executor().yield_now().await;
            }
            let mut chance = Random(seed ^ 0xfeed);
            disk.cut_power(&scratch.0, || chance.percent(50));
            let image = recovered(&scratch.0).unwrap();
            let machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, image.tip().purged).unwrap();
            assert_eq!(machine.reader().applied(), sent.meta.last_log_id, "seed {seed}");
            let left = image.read(&.., usize::MAX);
            assert!(left.iter().all(|entry| entry.log_id.index <= 3), "seed {seed}: {left:?}");
        });
    }
}

#[test]
fn an_error_of_the_disk_is_final() {
    on_executor(async {
        for op in [Op::Write, Op::Sync, Op::Create, Op::Rename, Op::SyncDir] {
            let scratch = Scratch::new("raft-log");
            let disk = SimulatedDisk::new(move |at| if at == op { Fate::Fails(libc::EIO) } else { Fate::Works });
            let mut store = open_small(Disk::Simulated(Rc::clone(&disk)), &scratch.0);
            append(&mut store, [entry(1, 0)]).await.unwrap_err();
            disk.set_fate(|_| Fate::Works);
            append(&mut store, [entry(1, 1)]).await.unwrap_err();
            store.save_vote(&Vote::new(1, 1)).await.unwrap_err();
            let closing = store.closing();
            drop(store);
            assert!(matches!(closing.done().await, Err(StoreError::Failed(_))), "{op:?}");
        }
    });
}

/// A log of two files, and what it was after each frame.
fn two_files() -> (Scratch, Vec<PathBuf>, Vec<String>) {
    let scratch = Scratch::new("raft-damage");
    let states = on_executor(async {
        let mut store = open_small(Disk::System, &scratch.0);
        let mut states = Vec::new();
        for index in 0..6 {
            append(&mut store, [entry(1, index)]).await.unwrap();
            states.push(said(&store.store.borrow().image));
        }
        close(store).await;
        states
    });
    let segments = files::list(&scratch.0).unwrap().segments;
    let paths: Vec<PathBuf> = segments.iter().map(|first| scratch.0.join(files::segment_name(*first))).collect();
    assert_eq!(paths.len(), 2);
    (scratch, paths, states)
}

/// Where the last frame of a file begins.
fn last_frame(bytes: &[u8]) -> usize {
    let (mut at, mut last) = (0, 0);
    while at < bytes.len() {
        last = at;
        let header = bytes[at..at + HEADER_BYTES].try_into().unwrap();
        at += HEADER_BYTES + crate::log::frame::Head::decode(header).unwrap().length;
    }
    last
}

#[test]
fn every_damaged_byte_is_refused_or_cut_off() {
    let (scratch, paths, states) = two_files();
    for (at, path) in paths.iter().enumerate() {
        let bytes = fs::read(path).unwrap();
        let last = if at + 1 == paths.len() { last_frame(&bytes) } else { bytes.len() };
        for offset in 0..bytes.len() {
            for flip in [1, 0x80, 0xff] {
                let mut damaged = bytes.clone();
                damaged[offset] ^= flip;
                fs::write(path, &damaged).unwrap();
                match recovered(&scratch.0) {
                    Ok(image) => {
                        assert!(offset >= last, "byte {offset} of file {at} was not noticed");
                        assert_eq!(said(&image), states[states.len() - 2]);
                    }
                    Err(error) => {
                        assert!(offset < last, "byte {offset} of file {at}: {error}");
                        let text = error.to_string();
                        assert!(text.contains(path.to_str().unwrap()) && text.contains("byte"), "{text}");
                    }
                }
            }
        }
        fs::write(path, &bytes).unwrap();
    }
    assert_eq!(said(&recovered(&scratch.0).unwrap()), *states.last().unwrap());
}

#[test]
fn a_torn_end_is_cut_off() {
    let (scratch, paths, states) = two_files();
    let path = paths.last().unwrap();
    let bytes = fs::read(path).unwrap();
    let mut lengths = Vec::new();
    for length in (0..bytes.len()).rev() {
        fs::write(path, &bytes[..length]).unwrap();
        match recovered(&scratch.0) {
            Ok(image) => {
                assert!(states.contains(&said(&image)));
                lengths.push(fs::metadata(path).unwrap().len());
                // The rest is gone for good, and so the log can go on.
                assert_eq!(said(&recovered(&scratch.0).unwrap()), said(&image));
            }
            // Without its head it is no file of the log.
            Err(error) => assert!(length < lengths[lengths.len() - 1] as usize, "{error}"),
        }
    }
    // Garbage of any kind behind the end, too.
    for garbage in [vec![0; 5000], b"KLFR".repeat(100), bytes[..HEADER_BYTES].to_vec()] {
        fs::write(path, [&bytes[..], &garbage].concat()).unwrap();
        match recovered(&scratch.0) {
            Ok(image) => assert_eq!(said(&image), *states.last().unwrap()),
            Err(error) => assert!(garbage.len() == HEADER_BYTES, "{error}"),
        }
    }
}

#[test]
fn the_log_of_another_node_is_refused() {
    let (scratch, paths, _) = two_files();
    let error = recover(&scratch.0, IDENTITY + 1).err().unwrap();
    assert!(matches!(error, StoreError::Record { why: StoredError::Foreign, .. }), "{error}");
    // Snapshots without a log: the votes are lost.
    let lost = Scratch::new("raft-lost");
    assert!(recovered(&lost.0).is_ok());
    fs::write(lost.0.join(files::snapshot_name(9)), "whatever").unwrap();
    let error = recovered(&lost.0).err().unwrap();
    assert!(matches!(error, StoreError::NoLog { .. }), "{error}");
    // A file in the middle that is missing.
    fs::rename(&paths[1], scratch.0.join(files::segment_name(99))).unwrap();
    assert!(recovered(&scratch.0).is_err());
}

proptest::proptest! {
    /// Behind an intact checksum, too, nothing is believed, and nothing panics.
    #[test]
    fn no_bytes_make_a_record_panic(at: proptest::sample::Index, by: u8, kind in 0..6u8, cut: bool) {
        let change = match kind {
            0 => Change::Append(entry(3, 4)),
            1 => Change::Vote(Vote::new(3, 4)),
            2 => Change::Committed(Some(id(3, 4))),
            3 => Change::Truncate(None),
            4 => Change::Number(3),
            _ => Change::Purge(id(3, 4)),
        };
        let mut bytes = change.encode().unwrap();
        let at = at.index(bytes.len());
        bytes[at] ^= by;
        if cut {
            bytes.truncate(at);
        }
        if let Ok(change) = Change::decode(&bytes) {
            let again = Change::decode(&change.encode().unwrap()).unwrap();
            proptest::prop_assert_eq!(format!("{:?}", change), format!("{:?}", again));
        }
        if let Ok(tip) = Tip::decode(&bytes) {
            proptest::prop_assert_eq!(Tip::decode(&tip.encode().unwrap()), Ok(tip));
        }
    }
}
