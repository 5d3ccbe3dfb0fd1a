//! No two nodes have served one partition at the same time: what data cores have written of that
//! (`KEYLOOM_SERVED_LOG`), of all processes that there were.
//!
//! An epoch of a partition belongs to one process, and everything that was executed in it was over before anything of a later
//! one was begun.

use std::collections::BTreeMap;
use std::path::Path;

/// When something of an epoch was served first, and last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    process: u32,
    first_ns: i64,
    last_ns: i64,
}

/// By partition and epoch.
type Spans = BTreeMap<(u16, u64), Span>;

/// What was found, for people.
#[derive(Debug, Default)]
pub struct Found {
    pub partitions: usize,
    pub epochs: usize,
}

fn add(spans: &mut Spans, process: u32, text: &str) -> Result<(), String> {
    // A process that was killed may have left a part of its last line.
    for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let words: Vec<i64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
        let [partition, epoch, first_ns, last_ns] = words[..] else { return Err(format!("process {process}: {line}")) };
        let span = spans.entry((partition as u16, epoch as u64)).or_insert(Span { process, first_ns, last_ns });
        if span.process != process {
            return Err(format!("two processes have served partition {partition} in epoch {epoch}"));
        }
        (span.first_ns, span.last_ns) = (span.first_ns.min(first_ns), span.last_ns.max(last_ns));
    }
    Ok(())
}

fn check(spans: &Spans) -> Result<Found, String> {
    let mut found = Found { epochs: spans.len(), ..Found::default() };
    let mut before: Option<(u16, u64, Span)> = None;
    for (&(partition, epoch), &span) in spans {
        match before.filter(|(other, ..)| *other == partition) {
            Some((_, older, past)) if past.last_ns > span.first_ns => {
                return Err(format!("partition {partition}: epochs {older} {past:?} and {epoch} {span:?} overlap"));
            }
            Some(_) => {}
            None => found.partitions += 1,
        }
        before = Some((partition, epoch, span));
    }
    Ok(found)
}

/// Looks through the files of a directory.
pub fn check_files(dir: &Path) -> Result<Found, String> {
    let mut spans = Spans::new();
    for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
        let name = entry.file_name().into_string().expect("a name of digits");
        let (process, _) = name.split_once('-').expect("a process and a core");
        let text = std::fs::read_to_string(entry.path()).expect("a file of lines");
        add(&mut spans, process.parse().expect("a number"), &text)?;
    }
    check(&spans)
}

#[test]
fn an_overlap_is_found() {
    let found = |files: &[(u32, &str)]| {
        let mut spans = Spans::new();
        files.iter().try_for_each(|(process, text)| add(&mut spans, *process, text))?;
        check(&spans).map(|found| (found.partitions, found.epochs))
    };
    let older = "7 1 100 110\n7 1 200 210\n9 1 5 6\n";
    assert_eq!(found(&[(1, older), (2, "7 2 210 220\n9 2 6 9\n9 3 9")]), Ok((2, 4)));
    assert!(found(&[(1, older), (2, "7 2 209 220\n")]).is_err());
    assert!(found(&[(1, older), (2, "7 1 300 310\n")]).is_err());
    // One of another partition says nothing of this one.
    assert_eq!(found(&[(1, older), (2, "8 2 1 300\n")]), Ok((3, 3)));
}
