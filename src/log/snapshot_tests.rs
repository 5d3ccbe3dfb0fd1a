//! Tests of the snapshot writer: order of frames, ends and failures, on a disk that fails when it is told to.

use std::rc::Rc;

use super::{Options, SnapshotError, SnapshotWriter};
use crate::log::cover::{self, UPTO_END};
use crate::log::disk::Disk;
use crate::log::disk_sim::{Fate, Op, SimulatedDisk};
use crate::log::files;
use crate::log::files::scratch::Scratch;
use crate::log::frame::{Begin, End, Frame, Index, Kind};
use crate::log::recover;
use crate::log::testing::{FIRST, log_frame, on_executor};

/// A stream of two partitions that begins after index `after`.
fn stream(after: Index) -> Vec<Frame> {
    let begin = Begin { partitions: 2, databases: 1, seeds: [1, 2, 3, 4], histories: vec![FIRST] };
    let cover = |partition, next| {
        let mut payload = Vec::new();
        cover::encode(&mut payload, 0, partition, 0, |_| UPTO_END);
        Frame::new(Kind::Cover, FIRST.id, next, 0, 1, payload)
    };
    vec![
        Frame::of(Kind::Begin, FIRST.id, after + 1, 0, &begin),
        cover(0, after + 1),
        log_frame(FIRST.id, after + 1, &[vec![1; 100_000], vec![2; 2_000_000]]),
        cover(1, after + 3),
        Frame::of(Kind::End, FIRST.id, after + 3, 0, &End { covers: 2 }),
    ]
}

fn options(scratch: &Scratch) -> Options {
    Options { dir: scratch.0.clone(), keep: 2, replaces: false }
}

fn names(scratch: &Scratch) -> Vec<String> {
    let mut names: Vec<_> =
        std::fs::read_dir(&scratch.0).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_stream_becomes_a_file_and_old_ones_go() {
    let scratch = Scratch::new("snapshot");
    on_executor(async {
        for (after, kept) in [(5, vec![7]), (20, vec![7, 22]), (30, vec![22, 32])] {
            let writer = SnapshotWriter::new(options(&scratch));
            glommio::spawn_local(Rc::clone(&writer).run()).detach();
            let frames = stream(after);
            let bytes: usize = frames.iter().map(Frame::bytes).sum();
            frames.into_iter().for_each(|frame| writer.push(frame).unwrap());
            assert_eq!(writer.queued_bytes(), bytes);
            let done = writer.finished().await.unwrap();
            assert_eq!((done.end, done.bytes, &done.kept), (after + 2, bytes as u64, &kept));
            assert_eq!((writer.queued_bytes(), writer.written_bytes()), (0, bytes as u64));
            assert!(writer.push(stream(1).remove(0)).is_err());
        }
    });
    assert_eq!(names(&scratch), [files::snapshot_name(22), files::snapshot_name(32)]);
    assert_eq!(recover::inspect(&scratch.0).unwrap().end, 32);
}

#[test]
fn what_fails_or_is_given_up_leaves_nothing() {
    let scratch = Scratch::new("snapshot");
    on_executor(async {
        let writer = SnapshotWriter::new(options(&scratch));
        let task = glommio::spawn_local(Rc::clone(&writer).run());
        writer.push(stream(0).remove(0)).unwrap();
        glommio::executor().yield_now().await;
        writer.abort();
        assert!(matches!(writer.finished().await, Err(SnapshotError::Aborted)));
        task.await;
        assert_eq!(names(&scratch), Vec::<String>::new());

        for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
            let fate = move |now| if now == op { Fate::Fails(libc::ENOSPC) } else { Fate::Works };
            let disk = SimulatedDisk::new(fate);
            let writer = SnapshotWriter::on(Disk::Simulated(Rc::clone(&disk)), options(&scratch));
            glommio::spawn_local(Rc::clone(&writer).run()).detach();
            // It may have failed before all of it is there.
            stream(0).into_iter().for_each(|frame| drop(writer.push(frame)));
            let error = writer.finished().await.unwrap_err();
            assert!(error.to_string().contains("No space left"), "{error}");
            assert!(writer.push(stream(0).remove(0)).is_err());
            disk.cut_power(&scratch.0, || false);
            assert_eq!(names(&scratch), Vec::<String>::new(), "{op:?}");
        }
        let short = SimulatedDisk::new(|op| if op == Op::Write { Fate::Short(300) } else { Fate::Works });
        let writer = SnapshotWriter::on(Disk::Simulated(Rc::clone(&short)), options(&scratch));
        glommio::spawn_local(Rc::clone(&writer).run()).detach();
        stream(0).into_iter().for_each(|frame| writer.push(frame).unwrap());
        writer.finished().await.unwrap();
        short.cut_power(&scratch.0, || false);
        assert_eq!(recover::inspect(&scratch.0).unwrap().end, 2);
    });
}

#[test]
fn a_wrong_stream_is_refused() {
    let scratch = Scratch::new("snapshot");
    on_executor(async {
        let refused = |frames: Vec<Frame>| {
            let writer = SnapshotWriter::new(options(&scratch));
            let (last, rest) = frames.split_last().unwrap();
            rest.iter().for_each(|frame| writer.push(frame.clone()).unwrap());
            assert!(matches!(writer.push(last.clone()), Err(SnapshotError::Stream(_))));
            assert!(matches!(writer.push(last.clone()), Err(SnapshotError::Aborted)));
        };
        let all = stream(0);
        refused(vec![all[1].clone()]);
        refused(vec![all[0].clone(), all[0].clone()]);
        refused(vec![all[0].clone(), all[3].clone()]);
        refused(vec![all[0].clone(), log_frame(9, 1, &[vec![]])]);
        refused(vec![all[0].clone(), all[1].clone(), all[2].clone(), all[4].clone()]);
    });
}
