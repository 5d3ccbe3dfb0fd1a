//! Snapshots on disk: restarts, damage, power cuts, and what other nodes send.

use super::*;
use crate::log::disk_sim::{Fate, Op, SimulatedDisk};
use crate::log::files::scratch::Scratch;
use crate::log::testing::{Random, on_executor};
use crate::raft::command::{InSyncChange, Member, Move, Placement};
use crate::raft::stored::StoredError;
use crate::raft::testing::{IDENTITY, entry, id, profile};

async fn apply(machine: &mut StateMachine, indices: std::ops::Range<u64>) {
    let entries: Vec<_> = indices.map(|index| Ok((entry(1, index), None))).collect();
    machine.apply(futures_lite::stream::iter(entries)).await.unwrap();
}

async fn snapshot(machine: &mut StateMachine) -> io::Result<Snapshot> {
    machine.get_snapshot_builder().await.build_snapshot().await
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn a_restart_begins_with_the_latest_snapshot() {
    on_executor(async {
        let scratch = Scratch::new("raft-state");
        let mut machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).unwrap();
        assert!(machine.get_current_snapshot().await.unwrap().is_none());
        apply(&mut machine, 0..5).await;
        let mut early = machine.get_snapshot_builder().await;
        apply(&mut machine, 5..8).await;
        snapshot(&mut machine).await.unwrap();
        // One that was begun before, and is written later, is not the latest.
        early.build_snapshot().await.unwrap();
        assert_eq!(machine.get_current_snapshot().await.unwrap().unwrap().meta.last_log_id.unwrap().index, 7);
        assert_eq!(files_of(&scratch.0).len(), 1);
        apply(&mut machine, 8..9).await;
        assert_eq!(machine.reader().watch().borrow().unwrap().index, 8);

        // What a crash has left.
        fs::write(scratch.0.join(files::snapshot_name(3)), "old").unwrap();
        fs::write(scratch.0.join(files::temporary_name(&files::snapshot_name(99))), "half").unwrap();
        let mut machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).unwrap();
        assert_eq!(machine.applied_state().await.unwrap().0.unwrap().index, 7);
        assert_eq!(machine.reader().state().nodes().len(), 8);
        assert_eq!(files_of(&scratch.0).len(), 1);
    });
}

#[test]
fn every_damaged_byte_of_a_snapshot_is_refused() {
    on_executor(async {
        let scratch = Scratch::new("raft-state");
        let mut machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).unwrap();
        apply(&mut machine, 0..3).await;
        let good = snapshot(&mut machine).await.unwrap();
        let path = files_of(&scratch.0).remove(0);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes, *good.snapshot);
        for at in 0..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            for content in [&damaged[..], &bytes[..at]] {
                fs::write(&path, content).unwrap();
                let error = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None)
                    .err()
                    .expect("refused")
                    .to_string();
                assert!(error.contains(path.to_str().unwrap()), "{error}");
                let received = SnapshotBytes::from(content);
                machine.install_snapshot(&good.meta, received).await.unwrap_err();
            }
        }
        // Under another name, and as what another one is said to be.
        fs::remove_file(&path).unwrap();
        fs::write(scratch.0.join(files::snapshot_name(77)), &bytes).unwrap();
        let error = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).err().unwrap();
        assert!(matches!(error, StoreError::Snapshot { why: SnapshotError::Moment, .. }), "{error}");
        let meta = SnapshotMeta { last_log_id: None, ..good.meta };
        machine.install_snapshot(&meta, good.snapshot).await.unwrap_err();
        assert_eq!(machine.reader().state().nodes().len(), 3, "what is refused changes nothing");
    });
}

#[test]
fn a_snapshot_of_another_node_or_one_that_is_too_old_is_refused() {
    on_executor(async {
        let scratch = Scratch::new("raft-state");
        let mut machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).unwrap();
        apply(&mut machine, 0..5).await;
        let sent = snapshot(&mut machine).await.unwrap();
        let open = |identity, purged: Option<u64>| {
            StateMachine::open_alone(Disk::System, &scratch.0, identity, purged.map(|index| id(1, index))).err()
        };
        let foreign = SnapshotError::Stored(StoredError::Foreign);
        let error = open(IDENTITY + 1, None).unwrap();
        assert!(matches!(&error, StoreError::Snapshot { why, .. } if *why == foreign), "{error}");
        assert!(open(IDENTITY, Some(4)).is_none());
        let error = open(IDENTITY, Some(5)).unwrap();
        assert!(matches!(error, StoreError::Behind { next: 5, purged: 5, .. }), "{error}");

        // Without a snapshot nothing can have been purged.
        let other = Scratch::new("raft-state");
        let error = StateMachine::open_alone(Disk::System, &other.0, IDENTITY + 1, Some(id(1, 0))).err().unwrap();
        assert!(matches!(error, StoreError::Behind { next: 0, purged: 0, .. }), "{error}");
        // One that was received is the receiver's own from then on.
        let mut receiver = StateMachine::open_alone(Disk::System, &other.0, IDENTITY + 1, None).unwrap();
        receiver.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
        assert!(StateMachine::open_alone(Disk::System, &other.0, IDENTITY + 1, Some(id(1, 4))).is_ok());
    });
}

#[test]
fn roles_that_come_to_a_node_are_counted_but_not_what_is_applied_again() {
    let entry = |index, command| Entry { log_id: id(1, index), payload: Payload::Normal(command) };
    let member = |node| Member { node, incarnation: 1 };
    let mut commands = Vec::new();
    for node in 1..=2u64 {
        let (identity, profile) = (u128::from(node), profile("host"));
        commands.push(Command::Join { identity, profile: profile.clone() });
        commands.push(Command::Register { node, identity, boot: identity, after: 0, profile });
    }
    commands.push(Command::Create { partitions: 4 });
    let place = |partition| Placement { partition, replicas: vec![1, 2] };
    commands.push(Command::Place { version: 0, changes: (0..4).map(place).collect() });
    let in_sync = |partition| InSyncChange { partition, epoch: 1, version: 1, in_sync: vec![member(1), member(2)] };
    commands.push(Command::SetInSync { changes: (0..4).map(in_sync).collect() });
    let moves = |partitions: &[u16], epoch| partitions.iter().map(|&partition| Move { partition, epoch }).collect();
    commands.push(Command::Lead { moves: moves(&[0, 1], 1), to: member(2) });
    commands.push(Command::Lead { moves: moves(&[0], 2), to: member(1) });
    // One of these two is in another epoch.
    commands.push(Command::Lead { moves: moves(&[0, 1], 3), to: member(2) });
    let starts = 2;
    commands.push(Command::Promote { starts, dead: vec![member(1)], ready: vec![member(2)] });
    let gained = |node, after| {
        on_executor(async {
            let scratch = Scratch::new("raft-state");
            let mut machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).unwrap();
            machine.reader().count_gained(node, after);
            let entries: Vec<_> = (1..).zip(&commands).map(|(index, c)| Ok((entry(index, c.clone()), None))).collect();
            machine.apply(futures_lite::stream::iter(entries)).await.unwrap();
            machine.reader().gained()
        })
    };
    assert_eq!(gained(2, 0), Gained { promoted: 2, handed_over: 3 });
    assert_eq!(gained(1, 0), Gained { promoted: 0, handed_over: 1 });
    // The last entry of these was there when the process began.
    let all = commands.len() as u64;
    assert_eq!(gained(2, all - 1), Gained { promoted: 2, handed_over: 0 });
    assert_eq!(gained(2, all), Gained::default());
}

#[test]
fn a_power_cut_leaves_one_snapshot_or_the_other() {
    for seed in 0..60 {
        let scratch = Scratch::new("raft-state");
        on_executor(async {
            let mut random = Random(seed);
            let fails_at = random.below(24);
            let disk = SimulatedDisk::new(|_| Fate::Works);
            let mut machine =
                StateMachine::open_alone(Disk::Simulated(Rc::clone(&disk)), &scratch.0, IDENTITY, None).unwrap();
            apply(&mut machine, 0..4).await;
            snapshot(&mut machine).await.unwrap();
            let mut count = 0;
            disk.set_fate(move |op| {
                count += 1;
                let fails = count > fails_at && op != Op::Remove;
                if fails { Fate::Fails(libc::EIO) } else { Fate::Works }
            });
            apply(&mut machine, 4..9).await;
            let written = snapshot(&mut machine).await.is_ok();
            disk.cut_power(&scratch.0, || random.percent(50));
            let machine = StateMachine::open_alone(Disk::System, &scratch.0, IDENTITY, None).unwrap();
            let nodes = machine.reader().state().nodes().len();
            assert!(nodes == 9 || (nodes == 4 && !written), "seed {seed}: {nodes} nodes, {written}");
        });
    }
}

proptest::proptest! {
    /// Behind an intact checksum, too, nothing is believed, and nothing panics.
    #[test]
    fn no_bytes_make_a_state_that_breaks_its_promises(at: proptest::sample::Index, by: u8) {
        let mut state = State::default();
        for index in 0..3 {
            if let Payload::Normal(command) = entry(1, index).payload {
                state.apply(&command);
            }
        }
        let content = Content { state, ..Content::default() };
        let frame = content.encode(1, 0).unwrap();
        let mut payload = frame.payload().to_vec();
        let at = at.index(payload.len());
        payload[at] ^= by;
        let forged = crate::log::frame::Frame::new(frame.head.kind, 1, frame.head.first, 0, 0, payload);
        let mut bytes = Vec::new();
        forged.write_to(&mut bytes);
        match Content::decode(&bytes) {
            Ok(content) => proptest::prop_assert_eq!(content.state.validate(), Ok(())),
            Err(error) => proptest::prop_assert!(!matches!(error, SnapshotError::Stored(StoredError::Truncated))),
        }
    }
}
