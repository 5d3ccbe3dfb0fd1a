//! What is removed of old backups, what a file waits for, and when a backup gives way.

use super::*;
use crate::log::durability::{LaneMap, NO_LANE};
use crate::log::files::scratch::Scratch;

#[test]
fn only_files_of_backups_are_removed() {
    let scratch = Scratch::new("backups");
    let dir = scratch.0.join("one");
    fs::create_dir(&dir).unwrap();
    for name in [files::snapshot_name(7), files::temporary_name(&files::snapshot_name(9))] {
        fs::write(dir.join(name), "data").unwrap();
    }
    remove_now(&dir).unwrap();
    assert!(!dir.exists());
    remove_now(&dir).unwrap();
    fs::create_dir(&dir).unwrap();
    fs::write(dir.join("letter"), "not ours").unwrap();
    fs::write(dir.join(files::snapshot_name(7)), "data").unwrap();
    assert_eq!(remove_now(&dir).unwrap_err().kind(), io::ErrorKind::DirectoryNotEmpty);
    assert_eq!(fs::read_to_string(dir.join("letter")).unwrap(), "not ours");
    assert!(!dir.join(files::snapshot_name(7)).exists());
}

#[test]
fn each_partition_waits_for_its_own_followers() {
    let map = Arc::new(LaneMap { number: 1, of: [0, 1, NO_LANE].into() });
    let lanes = Some(LaneEnds { map, ends: vec![(20, 3), (7, 7)] });
    let committed = Copied { received: 5, durable: 3, lanes };
    assert_eq!([0, 1, 2, 3].map(|partition| committed_upto(&committed, partition)), [20, 7, 5, 5]);
    let alike = Copied { received: 9, durable: 9, lanes: None };
    assert_eq!(committed_upto(&alike, 1), 9);
}

#[test]
fn a_backup_gives_way_when_nobody_wants_it() {
    let backup = Backup {
        name: "monday".into(),
        dir: PathBuf::new(),
        state: RefCell::new(State::Running(None)),
        given_up: Cell::new(false),
        asked_at: Cell::new(Instant::now()),
    };
    assert_eq!(backup.status(), json!({ "name": "monday", "state": "running", "bytes": 0 }));
    assert!(matches!(backup.gives_way("monday"), Err(BackupError::Busy(_))));
    let led = [(0, 3), (1, 3), (5, 4)].into();
    let path = Path::new("a/snapshot-1.kl").into();
    *backup.state.borrow_mut() = State::Done(Done { path, bytes: 10, wall_ms: 99, led });
    assert!(matches!(backup.gives_way("tuesday"), Err(BackupError::Kept(_))));
    assert!(backup.gives_way("monday").is_ok());
    let group = |epoch, partitions| json!({ "epoch": epoch, "partitions": partitions });
    let status = json!({ "name": "monday", "state": "done", "bytes": 10, "moment_ms": 99, "file": "snapshot-1.kl",
        "partitions": [group(3, "0-1"), group(4, "5")] });
    assert_eq!(backup.status(), status);
    if let Some(long_ago) = Instant::now().checked_sub(IDLE_MAX) {
        backup.asked_at.set(long_ago);
        assert!(backup.gives_way("tuesday").is_ok());
    }
    *backup.state.borrow_mut() = State::Failed("why".into());
    backup.asked_at.set(Instant::now());
    assert!(backup.gives_way("tuesday").is_ok());
    assert_eq!(backup.status()["error"], "why");
}
