//! Tests of printing a data directory: what is shown, and that damage is an error and never a panic.

use super::*;
use crate::log::files::scratch::Scratch;
use crate::log::files::segment_name;
use crate::log::frame::{Frame, Segment};
use crate::log::testing::{FIRST, unit};

fn printed(dir: &Path, from: Option<Index>) -> String {
    let mut out = Vec::new();
    dump(dir, from, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

#[test]
fn units_are_printed_as_redis_cli_reads_them() {
    let scratch = Scratch::new("dump");
    let mut payload = Vec::new();
    unit(&mut payload, &[b"SET", b"a \"b\"\\", b"\r\n\t\x07\x08\0\xff~"]);
    unit(&mut payload, &[b"FLUSHALL"]);
    let mut bytes = Vec::new();
    Frame::of(Kind::Segment, FIRST.id, 5, 0, &Segment { histories: vec![FIRST] }).write_to(&mut bytes);
    Frame::new(Kind::Log, FIRST.id, 5, 1_700_000_000_007, 2, payload).write_to(&mut bytes);
    std::fs::write(scratch.0.join(segment_name(5)), bytes).unwrap();
    let lines = [
        r#"5 1700000000.007 abcd0000 [0] "SET" "a \"b\"\\" "\r\n\t\a\b\x00\xff~""#,
        r#"6 1700000000.007 abcd0000 [0] "FLUSHALL""#,
    ];
    // There is nothing before it.
    assert!(dump(&scratch.0, None, &mut Vec::new()).is_err());
    assert!(matches!(dump(&scratch.0, Some(4), &mut Vec::new()), Err(DumpError::Recover(_))));
    let snapshot = crate::log::files::snapshot_name(4);
    let begin = crate::log::frame::Begin { partitions: 1, databases: 1, seeds: [1; 4], histories: vec![FIRST] };
    let mut bytes = Vec::new();
    Frame::of(Kind::Begin, FIRST.id, 5, 0, &begin).write_to(&mut bytes);
    let mut payload = Vec::new();
    crate::log::cover::encode(&mut payload, 0, 0, 0, |out| {
        statement::encode(out, 0, Some(15495), &[b"SET", b"a", b"1"]);
        crate::log::cover::UPTO_END
    });
    Frame::new(Kind::Cover, FIRST.id, 5, 0, 1, payload).write_to(&mut bytes);
    Frame::of(Kind::End, FIRST.id, 5, 0, &crate::log::frame::End { covers: 1 }).write_to(&mut bytes);
    std::fs::write(scratch.0.join(snapshot), bytes).unwrap();
    let all = printed(&scratch.0, None);
    let shown: Vec<_> = all.lines().filter(|line| !line.starts_with('#')).collect();
    let cover = "cover db 0 partition 0 positions 0x00000000 to 0x100000000";
    assert_eq!(shown, [cover, r#"  [0] "SET" "a" "1""#, lines[0], lines[1]]);
    let shown = printed(&scratch.0, Some(6));
    assert_eq!(shown.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), [lines[1]]);
    assert!(matches!(dump(&scratch.0, Some(4), &mut Vec::new()), Err(DumpError::TooOld { oldest: 5 })));
}
