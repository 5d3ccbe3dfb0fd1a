//! Writes raft's log: the task that has the files.
//!
//! Group commit: what was queued while the last frame was on its way to the disk becomes the next one, so many changes
//! share one write, which is durable when it ends (O_DSYNC). Files are segments; one that is full is left behind, and
//! removed when all its entries are purged. A segment begins with everything that older ones say besides entries.
//!
//! An error is final: nothing is written again, and everybody is told. The next start finds out what is on disk.
//!
//! On the control core. Invariant: a frame is written only when the one before it is durable.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::recover::{SegmentFile, put_record};
use super::stored::{Change, Tip};
use crate::log::disk::{Disk, DiskFile};
use crate::log::files;
use crate::log::frame::{Frame, Kind};

/// A segment that is as large is left behind for the next one.
pub const SEGMENT_BYTES_MAX: u64 = 4 << 20;

/// Most bytes of records in a frame, beyond the first one.
pub const GROUP_BYTES_MAX: usize = 1 << 20;

/// A change that is to be written.
pub(super) struct Queued {
    pub change: Change,
    pub record: Vec<u8>,
}

/// The files of the log.
pub(super) struct Writer {
    pub disk: Disk,
    pub dir: PathBuf,
    pub identity: u128,
    pub segments: VecDeque<SegmentFile>,
    /// The last segment, if it takes more.
    pub open: Option<DiskFile>,
    /// What all records until now say.
    pub tip: Tip,
    /// The number of the next record.
    pub next: u64,
    /// A segment is left behind when it is as large. A constant but in tests.
    pub segment_bytes_max: u64,
}

impl Writer {
    /// Writes changes and waits until they are durable.
    pub async fn write(&mut self, group: &[Queued]) -> Result<(), StoreError> {
        self.open_segment().await?;
        let mut payload = Vec::new();
        for queued in group {
            put_record(&mut payload, &queued.record);
        }
        let frame = self.frame(Kind::RaftRecords, group.len() as u32, payload);
        let (Some(file), Some(segment)) = (&self.open, self.segments.back_mut()) else { return Ok(()) };
        let written = write_all(file, &frame, segment.bytes).await;
        segment.bytes += written.map_err(StoreError::io(&segment.path))?;
        let mut purged = false;
        for Queued { change, .. } in group {
            self.tip.pass(change);
            match change {
                Change::Append(entry) => segment.index_max = segment.index_max.max(Some(entry.log_id.index)),
                Change::Purge(_) => purged = true,
                Change::Number(_) | Change::Vote(_) | Change::Committed(_) | Change::Truncate(_) => {}
            }
        }
        self.next += group.len() as u64;
        if purged {
            self.remove_old().await?;
        }
        Ok(())
    }

    fn frame(&self, kind: Kind, count: u32, payload: Vec<u8>) -> Frame {
        Frame::new(kind, self.identity, self.next, wall_ms(), count, payload)
    }

    /// Makes sure that there is a segment which takes more.
    async fn open_segment(&mut self) -> Result<(), StoreError> {
        let full = self.segments.back().is_none_or(|last| last.bytes >= self.segment_bytes_max);
        if full {
            self.begin_segment().await?;
        }
        if let (None, Some(last)) = (&self.open, self.segments.back()) {
            let opened = self.disk.open_through(&last.path).await;
            self.open = Some(opened.map_err(StoreError::io(&last.path))?);
        }
        Ok(())
    }

    /// Begins a segment: it has its name when it is a log by itself.
    async fn begin_segment(&mut self) -> Result<(), StoreError> {
        self.close().await;
        let head = self.frame(Kind::RaftSegment, 0, self.tip.encode()?);
        let name = files::segment_name(self.next);
        let path = self.dir.join(&name);
        let bytes = write_file(&self.disk, &self.dir, &name, &head).await?;
        self.segments.push_back(SegmentFile { path, bytes, index_max: None });
        Ok(())
    }

    /// Removes segments whose entries are all purged, the oldest first, so that what is left is a log at any time.
    async fn remove_old(&mut self) -> Result<(), StoreError> {
        let mut removed = false;
        while self.segments.len() > 1 && self.segments[0].index_max <= self.tip.purged.map(|id| id.index) {
            let path = &self.segments[0].path;
            self.disk.remove(path).await.map_err(StoreError::io(path))?;
            self.segments.pop_front();
            removed = true;
        }
        if removed {
            self.disk.sync_dir(&self.dir).await.map_err(StoreError::io(&self.dir))?;
        }
        Ok(())
    }

    pub async fn close(&mut self) {
        if let Some(file) = self.open.take() {
            file.close().await;
        }
    }
}

/// Writes a frame at a place of a file; returns its bytes.
async fn write_all(file: &DiskFile, frame: &Frame, from: u64) -> std::io::Result<u64> {
    let mut bytes = Vec::with_capacity(frame.bytes());
    frame.write_to(&mut bytes);
    let mut done = 0;
    while done < bytes.len() {
        let rest = if done == 0 { bytes.clone() } else { bytes[done..].to_vec() };
        match file.write_at(rest, from + done as u64).await? {
            0 => return Err(std::io::ErrorKind::WriteZero.into()),
            written => done += written,
        }
    }
    Ok(bytes.len() as u64)
}

/// Writes a file that begins with this frame, so that it is there whole or not at all; returns its bytes.
pub(super) async fn write_file(disk: &Disk, dir: &Path, name: &str, frame: &Frame) -> Result<u64, StoreError> {
    let temporary = dir.join(files::temporary_name(name));
    let path = dir.join(name);
    let file = disk.create(&temporary).await.map_err(StoreError::io(&temporary))?;
    let written = async {
        let bytes = write_all(&file, frame, 0).await?;
        file.sync().await?;
        Ok(bytes)
    };
    let written = written.await.map_err(StoreError::io(&temporary));
    file.close().await;
    let bytes = written?;
    disk.rename(&temporary, &path).await.map_err(StoreError::io(&temporary))?;
    disk.sync_dir(dir).await.map_err(StoreError::io(dir))?;
    Ok(bytes)
}

/// The wall clock; for whoever reads the files, or watches.
pub(super) fn wall_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as i64)
}
