//! `keyloom check` and `keyloom dump` on directories that the library writes, whole and damaged.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use keyloom::log::files;
use keyloom::log::frame::{Frame, HistoryEntry, Kind, Segment};
use keyloom::shard::statement;

const HISTORY: HistoryEntry = HistoryEntry { id: 0x1234 << 112, cut: 0 };

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A directory with one segment of `units` units. Returns where its last frame begins.
fn directory(name: &str, units: u64) -> (Scratch, PathBuf, u64) {
    let dir = std::env::temp_dir().join(format!("keyloom-log-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    std::fs::create_dir_all(&dir).unwrap();
    let mut bytes = Vec::new();
    Frame::of(Kind::Segment, HISTORY.id, 1, 0, &Segment { histories: vec![HISTORY] }).write_to(&mut bytes);
    let mut last = 0;
    for index in 1..=units {
        let mut payload = Vec::new();
        statement::encode_unit(&mut payload, |out| {
            statement::encode(out, 0, Some(12182), &[b"SET", b"foo", index.to_string().as_bytes()]);
        });
        last = bytes.len() as u64;
        Frame::new(Kind::Log, HISTORY.id, index, 1_700_000_000_000, 1, payload).write_to(&mut bytes);
    }
    let path = dir.join(files::segment_name(1));
    std::fs::write(&path, bytes).unwrap();
    (Scratch(dir), path, last)
}

fn keyloom(args: &[&str], dir: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_keyloom")).arg(args[0]).arg(dir).args(&args[1..]).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn check_reports_what_is_there_and_where_it_is_damaged() {
    let (dir, path, last) = directory("check", 20);
    let whole = keyloom(&["check"], &dir.0);
    let report = text(&whole.stdout);
    assert!(whole.status.success(), "{report}");
    for part in ["index 1 to 20", "20 units", "SET 20", "ok: up to index 20", &format!("{:032x}", HISTORY.id)] {
        assert!(report.contains(part), "{part}: {report}");
    }

    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    let torn = keyloom(&["check"], &dir.0);
    let report = text(&torn.stdout);
    assert!(torn.status.success() && report.contains(&format!("at byte {last}")), "{report}");
    assert!(report.contains("up to index 19"), "{report}");
    assert_eq!(std::fs::read(&path).unwrap().len(), bytes.len() - 1, "nothing is changed");

    let mut damaged = bytes.clone();
    damaged[300] ^= 1;
    std::fs::write(&path, &damaged).unwrap();
    let refused = keyloom(&["check"], &dir.0);
    let error = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1));
    assert_eq!(error.lines().count(), 1, "{error}");
    assert!(error.contains(path.to_str().unwrap()) && error.contains("at byte "), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), damaged);

    // What the error advises helps.
    let at = error.split("truncate -s ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    std::fs::write(&path, &damaged[..at.parse::<usize>().unwrap()]).unwrap();
    assert!(keyloom(&["check"], &dir.0).status.success());

    let missing = keyloom(&["check"], &dir.0.join("none"));
    assert_eq!(missing.status.code(), Some(1));
    assert!(text(&missing.stderr).contains("No such file"), "{}", text(&missing.stderr));
}

#[test]
fn dump_prints_commands() {
    let (dir, _, _) = directory("dump", 20);
    let all = text(&keyloom(&["dump"], &dir.0).stdout);
    let units: Vec<_> = all.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(units.len(), 20);
    assert_eq!(units[6], r#"7 1700000000.000 12340000 [0] "SET" "foo" "7""#);
    let some = text(&keyloom(&["dump", "--from", "19"], &dir.0).stdout);
    assert!(some.ends_with(&(units[18..].join("\n") + "\n")), "{some}");
    assert_eq!(some.lines().filter(|line| !line.starts_with('#')).count(), 2);
}

#[test]
fn dump_ends_in_peace_when_nobody_reads_on() {
    let (dir, _, _) = directory("pipe", 200_000);
    let mut child = Command::new(env!("CARGO_BIN_EXE_keyloom"))
        .arg("dump")
        .arg(&dir.0)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut first = [0; 100];
    child.stdout.take().unwrap().read_exact(&mut first).unwrap();
    let ended = child.wait_with_output().unwrap();
    assert!(ended.status.success() && ended.stderr.is_empty(), "{}", text(&ended.stderr));
}
