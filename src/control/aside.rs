//! What is set aside: the end of a log that the primary does not have, and directories that cannot be read.
//!
//! Nothing that was written is thrown away without an operator having had the chance to look at it: `keyloom dump` shows
//! what is in such files.
//!
//! Blocking; used by the main thread at start, and by the control core in the rare moment when a node finds out that its
//! log has another end than its primary's. One segment of the log is held in memory at a time.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use crate::log::files;
use crate::log::frame::{Frame, Index, Kind, take_frame};

/// Names that are tried for a directory.
const NAMES_MAX: u32 = 1000;

/// Writes the log from index `from` on to the file `to`: what lies in `dir`, if the log is written there, and behind that
/// what is in memory. Frames stay whole, so it may begin a little before `from`. Returns the first and the last index that
/// it has.
pub(super) fn write_tail(
    to: &Path,
    dir: Option<&Path>,
    from: Index,
    memory: &[Frame],
) -> io::Result<Option<(Index, Index)>> {
    let mut file = BufWriter::new(File::create(to)?);
    let (mut first, mut last) = (None, from - 1);
    let mut take = |frame: &Frame| {
        let mut bytes = Vec::with_capacity(frame.bytes());
        frame.write_to(&mut bytes);
        first.get_or_insert(frame.head.first);
        last = frame.last();
        file.write_all(&bytes)
    };
    let mut next = from;
    if let Some(dir) = dir {
        let segments = files::list(dir)?.segments;
        for (at, &begin) in segments.iter().enumerate() {
            let limit = segments.get(at + 1).map_or(Index::MAX, |next| *next);
            if limit <= from {
                continue;
            }
            let bytes = std::fs::read(dir.join(files::segment_name(begin)))?;
            let mut rest = &bytes[..];
            // Its end may be damaged, or be counted in the next one.
            while let Ok(Some(frame)) = take_frame(&mut rest) {
                if frame.head.kind == Kind::Log && frame.last() >= next && frame.head.first < limit {
                    take(&frame)?;
                    next = frame.last() + 1;
                }
            }
        }
    }
    for frame in memory.iter().filter(|frame| frame.last() >= from) {
        if frame.last() >= next {
            take(frame)?;
            next = frame.last() + 1;
        }
    }
    file.flush()?;
    file.get_ref().sync_all()?;
    Ok(first.map(|first| (first, last)))
}

/// Gives a directory another name, so that there is room for a new one. Returns that name.
pub fn rename_directory(dir: &Path) -> io::Result<PathBuf> {
    for number in 1..=NAMES_MAX {
        let mut name = dir.as_os_str().to_owned();
        name.push(format!(".aside-{number}"));
        let name = PathBuf::from(name);
        if !name.exists() {
            std::fs::rename(dir, &name)?;
            return Ok(name);
        }
    }
    Err(io::Error::other("too many directories have been set aside"))
}
