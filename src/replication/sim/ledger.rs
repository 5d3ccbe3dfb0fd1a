//! What the simulator knows and no node does: every record that was ever written, by whom, and what the data is after it.

use std::collections::HashMap;

use crate::replication::history::{Chain, HistoryId};
use crate::replication::message::Frame;

pub const PARTITIONS: usize = 4;
pub const KEYS_PER_PARTITION: usize = 4;
/// Bytes of a record: the operation, its key, and something that takes room.
pub const RECORD_LEN: usize = 48;

/// The data of a node. A value is a mixture of all operations on it, in their order, so that one that is lost, made twice or out
/// of order can be seen in it for ever.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State(pub [[u64; KEYS_PER_PARTITION]; PARTITIONS]);

impl State {
    pub fn apply(&mut self, record: Record) {
        let value = &mut self.0[record.partition()][record.key as usize % KEYS_PER_PARTITION];
        *value = (value.rotate_left(7) ^ record.op).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    }

    pub fn apply_all(&mut self, frame: &Frame) {
        records(frame).for_each(|record| self.apply(record));
    }

    pub fn digest(&self) -> u64 {
        self.0
            .iter()
            .flatten()
            .fold(0, |digest: u64, value| (digest.rotate_left(5) ^ value).wrapping_mul(0xA24B_AED4_963E_E407))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    pub op: u64,
    pub key: u8,
}

impl Record {
    pub fn partition(self) -> usize {
        self.key as usize / KEYS_PER_PARTITION % PARTITIONS
    }

    pub fn write(self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.op.to_le_bytes());
        out.push(self.key);
        out.resize(out.len() + RECORD_LEN - 9, 0);
    }
}

pub fn records(frame: &Frame) -> impl Iterator<Item = Record> + '_ {
    frame
        .bytes
        .chunks(RECORD_LEN)
        .map(|bytes| Record { op: u64::from_le_bytes(bytes[..8].try_into().unwrap()), key: bytes[8] })
}

#[derive(Debug, Default)]
pub struct Ledger {
    records: HashMap<(HistoryId, u64), (Record, u64)>,
    histories: Vec<HistoryId>,
}

impl Ledger {
    /// A history begins.
    pub fn history(&mut self, id: HistoryId) {
        assert!(!self.histories.contains(&id));
        self.histories.push(id);
    }

    /// The one who leads has written this.
    pub fn written(&mut self, history: HistoryId, index: u64, record: Record, digest: u64) -> Result<(), String> {
        match self.records.insert((history, index), (record, digest)) {
            None => Ok(()),
            Some(_) => Err(format!("index {index} of one history was written twice")),
        }
    }

    /// Whether a frame holds what was written by these names.
    pub fn knows(&self, frame: &Frame) -> Result<(), String> {
        for (index, record) in (frame.first..).zip(records(frame)) {
            if self.records.get(&(frame.history, index)).map(|r| r.0) != Some(record) {
                return Err(format!("record {index} is not what was written"));
            }
        }
        Ok(())
    }

    /// What the data has to be after `index` of a log with this chain.
    pub fn digest(&self, chain: &Chain, index: u64) -> Option<u64> {
        if index == 0 {
            return Some(State::default().digest());
        }
        self.records.get(&(chain.at(index)?, index)).map(|r| r.1)
    }
}
