//! Frames: the pieces of which the log, snapshots and replication streams consist.
//!
//! A frame is a header of 64 bytes and a payload, each with a CRC. What the payload is depends on the [`Kind`]:
//!
//! | kind | payload | where |
//! | --- | --- | --- |
//! | `Log` | units ([`crate::shard::statement`]), `count` of them; the first has index `first` | log, stream |
//! | `Begin` | [`Begin`]: a stream begins that will hold all entries | stream |
//! | `Cover` | records ([`super::cover`]): entries as they are at this place of the stream, `count` ranges of them | stream |
//! | `End` | [`End`]: the stream is complete | stream |
//! | `Segment` | [`Segment`]: a file of the log begins | log file |
//! | `RaftSegment`, `RaftRecords`, `RaftSnapshot` | [`crate::raft::stored`] | files of raft |
//!
//! In frames without units `first` is the index that the next unit gets. Header and payloads other than units and records
//! are rkyv: fixed, little-endian, checked before use. Whatever is read here may be damaged or hostile.
//!
//! No state.

use std::rc::Rc;

use rkyv::rancor::Error as RkyvError;
use rkyv::{Archive, Deserialize, Serialize};

/// Bytes of a header.
pub const HEADER_BYTES: usize = size_of::<ArchivedHeader>();
const _: () = assert!(HEADER_BYTES == 64);

/// The version of everything in here. Another version is refused by name.
pub const VERSION: u16 = 1;

/// "KLFR", read as a number.
pub(super) const MAGIC: u32 = 0x5246_4c4b;

/// Most bytes of a payload.
pub const PAYLOAD_BYTES_MAX: usize = i32::MAX as usize;
// A frame fits into a message to a replica.
const _: () = assert!(PAYLOAD_BYTES_MAX + (512 << 20) < crate::replication::message::CARRIED_LEN_MAX);

/// Most histories that are kept; older ones are forgotten, and who knows only those starts anew.
pub const HISTORIES_MAX: usize = crate::replication::history::CHAIN_LEN_MAX;

/// Who wrote the log from some index on: drawn at random when a data set is born, and when a replica is promoted.
pub type HistoryId = u128;

/// The place of a unit in the log: 1, 2, 3, ... for the life of the data set.
pub type Index = u64;

/// One history: it has the units of its parent up to `cut`, then its own.
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    pub id: HistoryId,
    /// The last index that was written before it.
    pub cut: Index,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    Log = 1,
    Begin = 2,
    Cover = 3,
    End = 4,
    Segment = 5,
    RaftSegment = 6,
    RaftRecords = 7,
    RaftSnapshot = 8,
}

impl Kind {
    const ALL: [Kind; 8] = [
        Kind::Log,
        Kind::Begin,
        Kind::Cover,
        Kind::End,
        Kind::Segment,
        Kind::RaftSegment,
        Kind::RaftRecords,
        Kind::RaftSnapshot,
    ];
}

/// The header as it lies in a file or travels.
#[derive(Archive, Serialize)]
struct Header {
    magic: u32,
    version: u16,
    kind: u8,
    reserved: u8,
    length: u32,
    payload_crc: u32,
    history: u128,
    first: u64,
    wall_ms: i64,
    count: u32,
    reserved_2: u64,
    /// Of all bytes before it.
    header_crc: u32,
}

/// Payload of [`Kind::Begin`]: how to read the positions of keys in the ranges that follow.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Begin {
    pub partitions: u16,
    pub databases: u16,
    /// The seeds of the hash that gives a key its position.
    pub seeds: [u64; 4],
    /// Oldest first.
    pub histories: Vec<HistoryEntry>,
}

/// Payload of [`Kind::End`].
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Cover frames since the beginning.
    pub covers: u64,
}

/// Payload of [`Kind::Segment`].
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Oldest first; the last one wrote the first frame.
    pub histories: Vec<HistoryEntry>,
}

/// What a frame says of itself, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    pub kind: Kind,
    /// Bytes of the payload.
    pub length: usize,
    pub payload_crc: u32,
    pub history: HistoryId,
    pub first: Index,
    /// The wall clock of who wrote it, when it was written.
    pub wall_ms: i64,
    pub count: u32,
}

/// A frame in memory. Shared by all that keep or send it.
#[derive(Clone, Debug)]
pub struct Frame {
    pub head: Head,
    header: [u8; HEADER_BYTES],
    payload: Rc<Vec<u8>>,
}

/// What is wrong with a frame.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("ends in the middle of a frame")]
    Truncated,
    #[error("no frame begins here")]
    Magic,
    #[error("format version {0}, this program reads {VERSION}")]
    Version(u16),
    #[error("the header's checksum is wrong")]
    HeaderChecksum,
    #[error("the payload's checksum is wrong")]
    PayloadChecksum,
    #[error("frame kind {0} is not known")]
    Kind(u8),
    #[error("a length of {0} bytes is out of bounds")]
    Length(usize),
    #[error("what it says makes no sense: {0}")]
    Senseless(&'static str),
}

impl Frame {
    /// A frame of `count` units or records.
    pub fn new(kind: Kind, history: HistoryId, first: Index, wall_ms: i64, count: u32, payload: Vec<u8>) -> Frame {
        let payload_crc = crc32fast::hash(&payload);
        Frame::with_crc(kind, history, first, wall_ms, count, payload, payload_crc)
    }

    /// As [`Frame::new`], with the payload's CRC computed elsewhere.
    pub fn with_crc(
        kind: Kind,
        history: HistoryId,
        first: Index,
        wall_ms: i64,
        count: u32,
        payload: Vec<u8>,
        payload_crc: u32,
    ) -> Frame {
        debug_assert!(payload.len() <= PAYLOAD_BYTES_MAX);
        let head = Head { kind, length: payload.len(), payload_crc, history, first, wall_ms, count };
        Frame { head, header: head.encode(), payload: Rc::new(payload) }
    }

    /// A frame whose payload is one of the types above.
    pub fn of<T>(kind: Kind, history: HistoryId, first: Index, wall_ms: i64, payload: &T) -> Frame
    where
        T: for<'a> Serialize<
            rkyv::api::high::HighSerializer<rkyv::util::AlignedVec, rkyv::ser::allocator::ArenaHandle<'a>, RkyvError>,
        >,
    {
        let bytes = rkyv::to_bytes::<RkyvError>(payload).map(|bytes| bytes.to_vec()).unwrap_or_default();
        Frame::new(kind, history, first, wall_ms, 0, bytes)
    }

    /// A frame that was read: its header, checked, and its payload, which is checked here.
    pub fn from_parts(head: Head, payload: Vec<u8>) -> Result<Frame, FrameError> {
        if payload.len() != head.length {
            return Err(FrameError::Truncated);
        }
        if crc32fast::hash(&payload) != head.payload_crc {
            return Err(FrameError::PayloadChecksum);
        }
        Ok(Frame { head, header: head.encode(), payload: Rc::new(payload) })
    }

    /// The same, of another history and at another place.
    pub fn moved(&self, history: HistoryId, first: Index) -> Frame {
        let head = Head { history, first, ..self.head };
        Frame { head, header: head.encode(), payload: Rc::clone(&self.payload) }
    }

    pub fn header(&self) -> &[u8; HEADER_BYTES] {
        &self.header
    }

    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, shared.
    pub fn shared_payload(&self) -> Rc<Vec<u8>> {
        Rc::clone(&self.payload)
    }

    /// Bytes of header and payload.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.payload.len()
    }

    /// The index of the last unit; `first - 1` if there is none.
    pub fn last(&self) -> Index {
        self.head.last()
    }

    pub fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.header);
        out.extend_from_slice(&self.payload);
    }
}

impl Head {
    /// The index of the last unit; `first - 1` if there is none.
    pub fn last(&self) -> Index {
        let units = if self.kind == Kind::Log { self.count as u64 } else { 0 };
        (self.first + units).saturating_sub(1)
    }

    fn encode(&self) -> [u8; HEADER_BYTES] {
        let header = Header {
            magic: MAGIC,
            version: VERSION,
            kind: self.kind as u8,
            reserved: 0,
            length: self.length as u32,
            payload_crc: self.payload_crc,
            history: self.history,
            first: self.first,
            wall_ms: self.wall_ms,
            count: self.count,
            reserved_2: 0,
            header_crc: 0,
        };
        let mut bytes = [0; HEADER_BYTES];
        if let Ok(encoded) = rkyv::to_bytes::<RkyvError>(&header) {
            bytes.copy_from_slice(&encoded);
        }
        let crc = crc32fast::hash(&bytes[..HEADER_BYTES - 4]);
        bytes[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads and checks a header.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Head, FrameError> {
        let header = rkyv::access::<ArchivedHeader, RkyvError>(bytes).map_err(|_| FrameError::HeaderChecksum)?;
        if header.magic != MAGIC {
            return Err(FrameError::Magic);
        }
        if crc32fast::hash(&bytes[..HEADER_BYTES - 4]) != header.header_crc.to_native() {
            return Err(FrameError::HeaderChecksum);
        }
        if header.version != VERSION {
            return Err(FrameError::Version(header.version.to_native()));
        }
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == header.kind);
        let kind = kind.ok_or(FrameError::Kind(header.kind))?;
        let length = header.length.to_native() as usize;
        if length > PAYLOAD_BYTES_MAX {
            return Err(FrameError::Length(length));
        }
        let (first, count) = (header.first.to_native(), header.count.to_native());
        if first == 0 || first.checked_add(count as u64).is_none() {
            return Err(FrameError::Senseless("an index that does not exist"));
        }
        if (kind == Kind::Log) && (count == 0 || length < count as usize) {
            return Err(FrameError::Senseless("fewer bytes than units"));
        }
        Ok(Head {
            kind,
            length,
            payload_crc: header.payload_crc.to_native(),
            history: header.history.to_native(),
            first,
            wall_ms: header.wall_ms.to_native(),
            count,
        })
    }
}

/// Takes the next frame from bytes that arrive in pieces: None if there are too few yet.
pub fn take_frame(bytes: &mut &[u8]) -> Result<Option<Frame>, FrameError> {
    let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let head = Head::decode(header)?;
    let Some((payload, rest)) = rest.split_at_checked(head.length) else { return Ok(None) };
    let frame = Frame::from_parts(head, payload.to_vec())?;
    *bytes = rest;
    Ok(Some(frame))
}

/// Reads the payload of a [`Kind::Begin`].
pub fn read_begin(payload: &[u8]) -> Result<Begin, FrameError> {
    let begin = rkyv::from_bytes::<Begin, RkyvError>(payload).map_err(|_| FrameError::Senseless("not a beginning"))?;
    if !begin.partitions.is_power_of_two() || begin.partitions > crate::route::SLOTS {
        return Err(FrameError::Senseless("a number of partitions that cannot be"));
    }
    if begin.databases == 0 || begin.databases > 256 {
        return Err(FrameError::Senseless("a number of databases that cannot be"));
    }
    check_histories(&begin.histories)?;
    Ok(begin)
}

/// Reads the payload of a [`Kind::End`].
pub fn read_end(payload: &[u8]) -> Result<End, FrameError> {
    rkyv::from_bytes::<End, RkyvError>(payload).map_err(|_| FrameError::Senseless("not an end"))
}

/// Reads the payload of a [`Kind::Segment`].
pub fn read_segment(payload: &[u8]) -> Result<Segment, FrameError> {
    let segment =
        rkyv::from_bytes::<Segment, RkyvError>(payload).map_err(|_| FrameError::Senseless("not a segment"))?;
    check_histories(&segment.histories)?;
    Ok(segment)
}

/// Histories are different ones, oldest first, and begin where their parents end.
pub fn check_histories(histories: &[HistoryEntry]) -> Result<(), FrameError> {
    if histories.is_empty() || histories.len() > HISTORIES_MAX {
        return Err(FrameError::Senseless("too many histories, or none"));
    }
    if !histories.is_sorted_by_key(|history| history.cut) {
        return Err(FrameError::Senseless("histories in the wrong order"));
    }
    let mut ids: Vec<HistoryId> = histories.iter().map(|history| history.id).collect();
    ids.sort_unstable();
    ids.dedup();
    if ids.len() != histories.len() {
        return Err(FrameError::Senseless("the same history twice"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame::new(Kind::Log, 7 << 100, 41, 1_700_000_000_000, 2, vec![1, 2, 3, 4, 5])
    }

    #[test]
    fn a_frame_comes_back_from_its_bytes() {
        let mut bytes = Vec::new();
        frame().write_to(&mut bytes);
        frame().write_to(&mut bytes);
        let mut rest = &bytes[..];
        for _ in 0..2 {
            let read = take_frame(&mut rest).unwrap().unwrap();
            assert_eq!((read.head, read.payload()), (frame().head, frame().payload()));
            assert_eq!((read.last(), read.bytes()), (42, HEADER_BYTES + 5));
        }
        assert!(take_frame(&mut rest).unwrap().is_none());
        for end in 0..HEADER_BYTES + 5 {
            assert!(take_frame(&mut &bytes[..end]).unwrap().is_none(), "more may arrive");
        }
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let mut bytes = Vec::new();
        frame().write_to(&mut bytes);
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut damaged = bytes.clone();
                damaged[at] ^= 1 << bit;
                assert!(take_frame(&mut &damaged[..]).is_err(), "byte {at} bit {bit}");
            }
        }
    }

    #[test]
    fn what_other_versions_wrote_is_refused_by_name() {
        let mut header = *frame().header();
        header[4] = 9;
        let crc = crc32fast::hash(&header[..HEADER_BYTES - 4]);
        header[HEADER_BYTES - 4..].copy_from_slice(&crc.to_le_bytes());
        let error = Head::decode(&header).unwrap_err();
        assert_eq!(error.to_string(), "format version 9, this program reads 1");
    }

    #[test]
    fn payloads_are_checked() {
        let histories = vec![HistoryEntry { id: 1, cut: 0 }, HistoryEntry { id: 2, cut: 9 }];
        let begin = Begin { partitions: 256, databases: 16, seeds: [1, 2, 3, 4], histories };
        let frame = Frame::of(Kind::Begin, 2, 10, 0, &begin);
        assert_eq!(read_begin(frame.payload()).unwrap(), begin);
        let refused = |begin: Begin| read_begin(Frame::of(Kind::Begin, 2, 10, 0, &begin).payload()).is_err();
        assert!(refused(Begin { partitions: 3, ..begin.clone() }));
        assert!(refused(Begin { databases: 0, ..begin.clone() }));
        assert!(refused(Begin { histories: Vec::new(), ..begin.clone() }));
        let twice = vec![HistoryEntry { id: 1, cut: 0 }, HistoryEntry { id: 1, cut: 9 }];
        assert!(refused(Begin { histories: twice, ..begin.clone() }));
        let back = vec![HistoryEntry { id: 1, cut: 5 }, HistoryEntry { id: 2, cut: 4 }];
        assert!(refused(Begin { histories: back, ..begin }));
        for end in 0..frame.payload().len() {
            assert!(read_begin(&frame.payload()[..end]).is_err());
        }
        assert_eq!(read_end(Frame::of(Kind::End, 2, 10, 0, &End { covers: 5 }).payload()).unwrap().covers, 5);
    }
}
