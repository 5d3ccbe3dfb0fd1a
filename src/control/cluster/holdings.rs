//! Which partitions this node's own disk has whole: what a process that starts may believe of its data.
//!
//! A file of bits says so. A partition leaves it before a copy replaces it, and is back in it when the copy is on disk; so
//! a crash at any moment leaves a file that claims too little, if anything. Without a log on disk nothing is claimed: what
//! is there is older than what the node had.
//!
//! ```text
//! "KLWP" | version u16 | partitions u16 | a bit for each partition | CRC-32 of all before         little endian
//! ```
//!
//! Owned by the control core.

use std::io;
use std::path::{Path, PathBuf};

use crate::cluster::identity;
use crate::control::Control;
use crate::log::files;
use crate::route::PartitionSet;
use crate::streams::PartitionId;
use crate::streams::follower::Holding;

const FILE: &str = "whole-partitions";
const MAGIC: &[u8; 4] = b"KLWP";
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 8;

/// How a process became, or goes on as, a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Start {
    /// With all the data that its cluster has.
    Founded,
    /// Without any data.
    Joined,
    /// With what its disk has.
    Again,
}

fn encode(whole: &PartitionSet, partitions: u16) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&partitions.to_le_bytes());
    bytes.resize(HEAD_BYTES + usize::from(partitions).div_ceil(8), 0);
    for partition in whole.iter().map(usize::from) {
        bytes[HEAD_BYTES + partition / 8] |= 1 << (partition % 8);
    }
    let crc = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    bytes
}

fn decode(bytes: &[u8], partitions: u16) -> Option<PartitionSet> {
    let (body, crc) = bytes.split_last_chunk::<4>()?;
    let sound = crc32fast::hash(body) == u32::from_le_bytes(*crc)
        && body.len() == HEAD_BYTES + usize::from(partitions).div_ceil(8)
        && body[..4] == *MAGIC
        && body[4..6] == VERSION.to_le_bytes()
        && body[6..8] == partitions.to_le_bytes();
    let is_set = |partition: &u16| body[HEAD_BYTES + usize::from(*partition) / 8] >> (partition % 8) & 1 == 1;
    sound.then(|| (0..partitions).filter(is_set).collect())
}

impl Control {
    fn cluster_dir(&self) -> PathBuf {
        Path::new(&self.config().dir).join(identity::DIR)
    }

    /// What this process has of each partition; from here on the file is kept true.
    pub(super) fn find_holdings(&self, start: Start, has_keys: bool) -> Vec<Holding> {
        let partitions = self.keyspace.partitions;
        let on_disk = self.config().appendonly;
        let holdings: Vec<Holding> = match start {
            Start::Founded if has_keys => vec![Holding::Complete; partitions.into()],
            Start::Founded | Start::Joined => vec![Holding::Empty; partitions.into()],
            Start::Again => {
                let whole = std::fs::read(self.cluster_dir().join(FILE)).ok();
                let whole = whole.filter(|_| on_disk).and_then(|bytes| decode(&bytes, partitions)).unwrap_or_default();
                let holding = |partition| if whole.has(partition) { Holding::Complete } else { Holding::Incomplete };
                (0..partitions).map(holding).collect()
            }
        };
        let whole = (0..).zip(&holdings).filter(|(_, holding)| **holding != Holding::Incomplete);
        *self.whole.borrow_mut() = whole.map(|(partition, _)| partition).collect();
        self.whole_written.borrow_mut().clear();
        self.write_whole();
        holdings
    }

    /// These are about to be dropped, or are damaged.
    pub(super) fn note_incomplete(&self, partitions: &[PartitionId]) {
        let changed = partitions.iter().filter(|partition| self.whole.borrow_mut().remove(**partition)).count();
        if changed > 0 {
            self.write_whole();
        }
    }

    /// These are on disk as they are to be.
    pub(super) fn note_complete(&self, partitions: &[PartitionId]) {
        partitions.iter().for_each(|partition| _ = self.whole.borrow_mut().insert(*partition));
        self.write_whole();
    }

    fn write_whole(&self) {
        let dir = self.cluster_dir();
        let on_disk = self.config().appendonly;
        let whole = self.whole.borrow();
        let nothing = PartitionSet::new();
        let bytes = encode(if on_disk { &whole } else { &nothing }, self.keyspace.partitions);
        if *self.whole_written.borrow() == bytes {
            return;
        }
        if let Err(error) = files::write_whole(&dir, FILE, &bytes) {
            // What it says now may be too much, and a later start would believe it.
            tracing::error!(%error, "which partitions are whole cannot be noted: the node forgets all of it");
            match std::fs::remove_file(dir.join(FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::error!(%error, "not even that: the node ends");
                    self.node.end(crate::node::End::Now);
                }
                _ => {}
            }
            self.whole_written.borrow_mut().clear();
            return;
        }
        *self.whole_written.borrow_mut() = bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_damage_is_nothing() {
        let whole: PartitionSet = [0, 7, 8, 1023].into_iter().collect();
        let bytes = encode(&whole, 1024);
        assert_eq!(decode(&bytes, 1024), Some(whole));
        assert_eq!(decode(&bytes, 512), None);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[at] ^= 1 << bit;
                assert_eq!(decode(&bad, 1024), None);
            }
            assert_eq!(decode(&bytes[..at], 1024), None);
        }
        assert_eq!(decode(&encode(&PartitionSet::new(), 1), 1), Some(PartitionSet::new()));
    }
}
