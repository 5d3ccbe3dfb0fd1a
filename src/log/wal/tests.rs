//! Tests of the log's writer: groups, segments, histories, failures, on a disk that fails when it is told to.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use super::{AppendError, Options, Progress, ReadBackError, Start, SyncPolicy, Wal};
use crate::log::disk::Disk;
use crate::log::disk_sim::{Fate, Op, SimulatedDisk};
use crate::log::files::scratch::Scratch;
use crate::log::files::{list, segment_name};
use crate::log::frame::{Frame, HistoryEntry, Index, Kind};
use crate::log::testing::{FIRST, log_frame, on_executor, recovered};

fn start() -> Start {
    Start { next: 1, histories: vec![FIRST], segments: Vec::new() }
}

fn frame(first: Index, bytes: usize) -> Frame {
    log_frame(FIRST.id, first, &[vec![first as u8; bytes]])
}

fn options(scratch: &Scratch, sync: SyncPolicy) -> Options {
    let retry_first = Duration::from_millis(1);
    Options { sync, retry_first, retry_max: Duration::from_millis(4), ..Options::new(scratch.0.clone()) }
}

/// Waits, within a bound, until the progress is as wanted.
async fn until(wal: &Wal, wanted: impl Fn(&Progress) -> bool) -> Progress {
    let waited = glommio::timer::timeout(Duration::from_secs(20), async {
        let mut seen = wal.progress();
        while !wanted(&seen) {
            seen = wal.changed(seen).await;
        }
        Ok::<Progress, glommio::GlommioError<()>>(seen)
    });
    waited.await.expect("the log gets there")
}

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn frames_get_to_a_real_disk_and_back() {
    let scratch = Scratch::new("wal");
    on_executor(async {
        let wal = Wal::new(Options { segment_bytes: 100_000, ..options(&scratch, SyncPolicy::Always) }, start());
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        for first in 1..=100 {
            wal.append(frame(first, 10_000)).unwrap();
        }
        // More than one write takes.
        wal.append(frame(101, 3 << 20)).unwrap();
        assert!(wal.held_bytes() > 4_000_000);
        until(&wal, |progress| progress.durable == 101).await;
        assert_eq!(wal.held_bytes(), 0);
        let on_disk: u64 = list(&scratch.0).unwrap().segments.iter().map(|first| size(&scratch, *first)).sum();
        assert_eq!(wal.total_bytes(), on_disk);
        let mut reader = wal.frames_from(37);
        for first in 37..=101 {
            let frames = reader.next(1).await.unwrap();
            assert_eq!((frames.len(), frames[0].head.first), (1, first));
            assert_eq!(frames[0].payload(), frame(first, if first == 101 { 3 << 20 } else { 10_000 }).payload());
        }
        assert!(reader.next(1).await.unwrap().is_empty());
        wal.append(frame(102, 10)).unwrap();
        until(&wal, |progress| progress.durable == 102).await;
        assert_eq!(reader.next(usize::MAX).await.unwrap()[0].head.first, 102);
        wal.close(PATIENCE).await.unwrap();
        assert_eq!(wal.append(frame(103, 10)), Err(AppendError::Closed));
    });
    let (plan, values) = recovered(&scratch.0).unwrap();
    assert_eq!((plan.end, values.len(), values[100].len()), (102, 102, 3 << 20));
    assert!(plan.torn.is_none());
    assert_eq!(plan.segments.last().unwrap().first, 103, "the end is marked");
}

fn size(scratch: &Scratch, first: Index) -> u64 {
    std::fs::metadata(scratch.0.join(segment_name(first))).unwrap().len()
}

#[test]
fn policies_sync_when_they_should() {
    let scratch = Scratch::new("wal");
    on_executor(async {
        let syncs = Rc::new(Cell::new(0));
        let counted = Rc::clone(&syncs);
        let disk = SimulatedDisk::new(move |op| {
            counted.set(counted.get() + (op == Op::Sync) as u32);
            Fate::Works
        });
        let wal = Wal::on(Disk::Simulated(disk), options(&scratch, SyncPolicy::No), start());
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        wal.append(frame(1, 10)).unwrap();
        until(&wal, |progress| progress.written == 1).await;
        let begun = syncs.get();
        for first in 2..50 {
            wal.append(frame(first, 10)).unwrap();
            until(&wal, |progress| progress.written == first).await;
        }
        assert_eq!((syncs.get(), wal.progress().durable), (begun, 0), "nobody has asked");
        wal.append(frame(50, 10)).unwrap();
        wal.request_sync(50);
        until(&wal, |progress| progress.durable == 50).await;
        assert_eq!(syncs.get(), begun + 1);
        // What is held has a bound.
        for first in 51..=100 {
            wal.append(frame(first, 1 << 20)).unwrap();
        }
        until(&wal, |progress| progress.written == 100).await;
        assert!(wal.progress().durable >= 50 + 30 && wal.held_bytes() < 34 << 20);
        wal.set_sync(SyncPolicy::EverySecond);
        until(&wal, |progress| progress.durable == 100).await;
        wal.set_sync(SyncPolicy::Always);
        let before = syncs.get();
        (101..=200).for_each(|first| wal.append(frame(first, 10)).unwrap());
        until(&wal, |progress| progress.durable == 200).await;
        assert_eq!(syncs.get(), before + 1, "one sync for the group");
    });
}

#[test]
fn what_failed_is_written_to_a_new_segment() {
    let scratch = Scratch::new("wal");
    on_executor(async {
        for op in [Op::Create, Op::Write, Op::Sync, Op::Rename, Op::SyncDir] {
            for code in [libc::ENOSPC, libc::EIO, libc::EROFS] {
                fail_once(&scratch, op, code).await;
            }
        }
    });
}

async fn fail_once(scratch: &Scratch, op: Op, code: i32) {
    let disk = SimulatedDisk::new(|_| Fate::Works);
    // Each group of frames begins a segment.
    let options = Options { segment_bytes: 1, ..options(scratch, SyncPolicy::Always) };
    let wal = Wal::on(Disk::Simulated(Rc::clone(&disk)), options, start());
    glommio::spawn_local(Rc::clone(&wal).run()).detach();
    wal.append(frame(1, 10)).unwrap();
    until(&wal, |progress| progress.durable == 1).await;
    let failing = Rc::new(Cell::new(true));
    let fails = Rc::clone(&failing);
    disk.set_fate(move |now| if now == op && fails.get() { Fate::Fails(code) } else { Fate::Works });
    for first in 2..10 {
        wal.append(frame(first, 100)).unwrap();
    }
    let seen = until(&wal, |progress| !progress.healthy).await;
    assert_eq!(seen.durable, 1);
    let text = std::io::Error::from_raw_os_error(code).to_string();
    assert!(wal.health().unwrap().contains(&text), "{op:?}: {:?}", wal.health());
    let held = wal.held_bytes();
    wal.append(frame(10, 100)).unwrap();
    assert_eq!(wal.held_bytes(), held + frame(10, 100).bytes(), "nothing is forgotten");
    let refused = wal.close(Duration::from_millis(20)).await;
    assert_eq!(refused.unwrap_err().first, 2, "{op:?}");
    failing.set(false);

    // Again, and this time it ends.
    let disk = SimulatedDisk::new(|_| Fate::Works);
    let options = Options { segment_bytes: 1, ..self::options(scratch, SyncPolicy::Always) };
    let wal = Wal::on(Disk::Simulated(Rc::clone(&disk)), options, start());
    glommio::spawn_local(Rc::clone(&wal).run()).detach();
    wal.append(frame(1, 100)).unwrap();
    until(&wal, |progress| progress.durable == 1).await;
    disk.set_fate(move |now| if now == op { Fate::Fails(code) } else { Fate::Works });
    (2..10).for_each(|first| wal.append(frame(first, 100)).unwrap());
    let again = until(&wal, |progress| !progress.healthy).await;
    disk.set_fate(|_| Fate::Works);
    until(&wal, |progress| progress.durable == 9 && progress.healthy).await;
    assert!(again.durable < 9);
    assert_eq!((wal.held_bytes(), wal.health()), (0, None));
    wal.close(PATIENCE).await.unwrap();
    let dir = scratch.0.join(format!("{op:?}{code}"));
    std::fs::create_dir(&dir).unwrap();
    disk.cut_power(&dir, || false);
    assert_eq!(recovered(&dir).unwrap().1.len(), 9);
}

#[test]
fn histories_cut_what_they_do_not_have() {
    let scratch = Scratch::new("wal");
    let second = HistoryEntry { id: 2, cut: 3 };
    on_executor(async {
        let wal = Wal::new(Options { segment_bytes: 1, ..options(&scratch, SyncPolicy::Always) }, start());
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        (1..=5).for_each(|first| wal.append(frame(first, 10)).unwrap());
        until(&wal, |progress| progress.durable == 5).await;
        let wrong = log_frame(9, 6, &[vec![]]);
        assert_eq!(wal.append(wrong), Err(AppendError::History));
        assert_eq!(wal.append(frame(7, 1)), Err(AppendError::Index { expected: 6, found: 7 }));
        assert_eq!(wal.append(Frame::new(Kind::Cover, FIRST.id, 6, 0, 0, vec![])), Err(AppendError::Kind));
        assert!(wal.start_history(vec![FIRST, second], 7).is_err(), "beyond the end");
        assert_eq!(wal.start_history(vec![FIRST, second], 3), Err(AppendError::History), "before the cut");
        wal.start_history(vec![FIRST, second], 4).unwrap();
        assert_eq!(wal.progress().durable, 3, "4 is another unit now");
        assert_eq!(wal.append(frame(4, 1)), Err(AppendError::History));
        wal.append(log_frame(2, 4, &[b"new".to_vec()])).unwrap();
        until(&wal, |progress| progress.durable == 4).await;
        let read = wal.frames_from(3).next(usize::MAX).await.unwrap();
        assert_eq!(read.iter().map(|frame| frame.head.history).collect::<Vec<_>>(), [FIRST.id, 2]);
        wal.close(PATIENCE).await.unwrap();
    });
    let (plan, values) = recovered(&scratch.0).unwrap();
    assert_eq!((plan.end, &values[3][..], plan.histories), (4, &b"new"[..], vec![FIRST, second]));
}

#[test]
fn data_of_another_origin_begins_anew() {
    let scratch = Scratch::new("wal");
    on_executor(async {
        let wal = Wal::new(options(&scratch, SyncPolicy::Always), start());
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        (1..=5).for_each(|first| wal.append(frame(first, 10)).unwrap());
        let other = HistoryEntry { id: 7, cut: 0 };
        wal.restart(vec![other], 1000).unwrap();
        wal.append(log_frame(7, 1000, &[vec![]])).unwrap();
        until(&wal, |progress| progress.durable == 1000).await;
        assert!(matches!(wal.frames_from(5).next(1).await, Err(ReadBackError::Gone(5))));
        wal.close(PATIENCE).await.unwrap();
    });
    assert_eq!(list(&scratch.0).unwrap().segments, [1000, 1001]);
}

#[test]
fn old_segments_go_when_nobody_needs_them() {
    let scratch = Scratch::new("wal");
    on_executor(async {
        let wal = Wal::new(Options { segment_bytes: 1, ..options(&scratch, SyncPolicy::Always) }, start());
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        for first in 1..=9 {
            wal.append(frame(first, 10)).unwrap();
            until(&wal, |progress| progress.durable == first).await;
        }
        let mut reader = wal.frames_from(2);
        assert_eq!(reader.next(1).await.unwrap().len(), 1);
        let before = wal.total_bytes();
        wal.retain(6);
        wal.append(frame(10, 10)).unwrap();
        until(&wal, |progress| progress.durable == 10).await;
        assert_eq!(list(&scratch.0).unwrap().segments, [6, 7, 8, 9, 10]);
        assert_eq!((wal.oldest(), wal.total_bytes() < before), (Some(6), true));
        assert!(matches!(reader.next(1).await, Err(ReadBackError::Gone(3))));
        wal.retain(1000);
        wal.append(frame(11, 10)).unwrap();
        until(&wal, |progress| progress.durable == 11).await;
        assert_eq!(list(&scratch.0).unwrap().segments.last(), Some(&11), "the one that is written stays");
        wal.close(PATIENCE).await.unwrap();
    });
}

/// A disk that is really full. Needs the right to mount; without it there is nothing to test with.
#[test]
fn a_full_disk_is_survived() {
    let scratch = Scratch::new("wal-full");
    let mount =
        std::process::Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&scratch.0).output();
    if !mount.as_ref().is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: no right to mount a small tmpfs ({mount:?})");
        return;
    }
    struct Unmount<'a>(&'a Scratch);
    impl Drop for Unmount<'_> {
        fn drop(&mut self) {
            let _ = std::process::Command::new("umount").arg("-l").arg(&self.0.0).status();
        }
    }
    let _unmount = Unmount(&scratch);
    let ballast = scratch.0.join("ballast");
    std::fs::write(&ballast, vec![0; 700_000]).unwrap();
    on_executor(async {
        let wal = Wal::new(options(&scratch, SyncPolicy::Always), start());
        glommio::spawn_local(Rc::clone(&wal).run()).detach();
        for first in 1..=40 {
            wal.append(frame(first, 10_000)).unwrap();
        }
        until(&wal, |progress| !progress.healthy).await;
        assert!(wal.health().unwrap().contains("No space left"), "{:?}", wal.health());
        std::fs::remove_file(&ballast).unwrap();
        until(&wal, |progress| progress.durable == 40 && progress.healthy).await;
        wal.close(PATIENCE).await.unwrap();
    });
    let (plan, values) = recovered(&scratch.0).unwrap();
    assert_eq!((plan.end, values.len()), (40, 40));
}
