//! Frames of the bus: what the bytes of a connection are cut into.
//!
//! ```text
//! length u32 | crc u32 | version u8 | kind u8 | 0 u16 | request u64 | payload of `length` bytes         little endian
//! ```
//!
//! The CRC-32 covers everything but itself. An answer carries the number of its request. Version, kind and length are
//! checked as soon as they are there, before anything is kept for the payload; which kind is due is known from the state
//! of the connection, so that one which has not proved who it is can send no more than a handshake.
//!
//! Pure. Invariant: a decoder that has met an error stays broken, because nothing behind it can be trusted.

use crate::raft::stored::STORED_BYTES_MAX;

/// The version of the framing. What the messages mean has a version of its own, in the handshake.
pub const FRAMING_VERSION: u8 = 1;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 20;

/// Longest payload of a step of the handshake.
pub const HANDSHAKE_BYTES_MAX: usize = 512;

/// Longest payload of a request: as long as what lies on disk may be, with its version.
pub const REQUEST_BYTES_MAX: usize = STORED_BYTES_MAX;

/// Longest payload of an answer. It has a few numbers and the name of a host.
pub const ANSWER_BYTES_MAX: usize = 4 << 10;

/// What a frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Handshake = 1,
    Request = 2,
    Answer = 3,
}

impl Kind {
    const fn bytes_max(self) -> usize {
        match self {
            Kind::Handshake => HANDSHAKE_BYTES_MAX,
            Kind::Request => REQUEST_BYTES_MAX,
            Kind::Answer => ANSWER_BYTES_MAX,
        }
    }
}

/// Why bytes are no frame. The connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("framing version {0}, this program speaks {FRAMING_VERSION}")]
    Version(u8),
    #[error("a frame of kind {0} is not expected")]
    Kind(u8),
    #[error("a frame of {0} bytes is longer than its kind may be")]
    TooLong(u32),
    #[error("the checksum of a frame does not match")]
    Checksum,
    #[error("reserved bytes are in use")]
    Reserved,
    #[error("the connection ended in the middle of a frame")]
    Truncated,
    #[error("an earlier frame was broken")]
    Broken,
}

/// A frame that was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub request: u64,
    pub payload: Vec<u8>,
}

fn checksum(frame: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&frame[..4]);
    hasher.update(&frame[8..]);
    hasher.finalize()
}

/// Makes a frame. Fails if the payload is longer than its kind may be.
pub fn frame(kind: Kind, request: u64, payload: &[u8]) -> Result<Vec<u8>, FrameError> {
    let bytes = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    if payload.len() > kind.bytes_max() {
        return Err(FrameError::TooLong(bytes));
    }
    let mut out = Vec::with_capacity(HEADER_BYTES + payload.len());
    out.extend_from_slice(&bytes.to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&[FRAMING_VERSION, kind as u8, 0, 0]);
    out.extend_from_slice(&request.to_le_bytes());
    out.extend_from_slice(payload);
    let crc = checksum(&out);
    out[4..8].copy_from_slice(&crc.to_le_bytes());
    Ok(out)
}

/// Finds frames in bytes that arrive in pieces. It holds at most one frame and what came with it: its user takes all
/// frames that are there before it reads on.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    /// What lies before it is consumed.
    start: usize,
    broken: bool,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        if !self.broken {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next frame, which has to be of this kind; None: more bytes are needed.
    pub fn take(&mut self, kind: Kind) -> Result<Option<Received>, FrameError> {
        if self.broken {
            return Err(FrameError::Broken);
        }
        let taken = self.look(kind);
        match &taken {
            Ok(Some(received)) => {
                self.start += HEADER_BYTES + received.payload.len();
                if self.start == self.buffer.len() {
                    // The memory of a long frame is not kept for short ones.
                    (self.buffer, self.start) = (Vec::new(), 0);
                }
            }
            Ok(None) => {}
            Err(_) => *self = Decoder { broken: true, ..Decoder::default() },
        }
        taken
    }

    /// The bytes that are not taken: whoever reads on reads something else.
    pub fn into_rest(mut self) -> Vec<u8> {
        self.buffer.split_off(self.start)
    }

    /// What it means that nothing more comes.
    pub fn end(&self) -> Result<(), FrameError> {
        if self.broken {
            return Err(FrameError::Broken);
        }
        if self.start < self.buffer.len() { Err(FrameError::Truncated) } else { Ok(()) }
    }

    fn look(&self, kind: Kind) -> Result<Option<Received>, FrameError> {
        let frame = &self.buffer[self.start..];
        let Some(head) = frame.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
        let word = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[8] != FRAMING_VERSION {
            return Err(FrameError::Version(head[8]));
        }
        if head[9] != kind as u8 {
            return Err(FrameError::Kind(head[9]));
        }
        if head[10..12] != [0, 0] {
            return Err(FrameError::Reserved);
        }
        let bytes = word(0) as usize;
        if bytes > kind.bytes_max() {
            return Err(FrameError::TooLong(word(0)));
        }
        let Some(frame) = frame.get(..HEADER_BYTES + bytes) else { return Ok(None) };
        if checksum(frame) != word(4) {
            return Err(FrameError::Checksum);
        }
        let request = u64::from(word(12)) | u64::from(word(16)) << 32;
        Ok(Some(Received { request, payload: frame[HEADER_BYTES..].to_vec() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_wherever_the_bytes_are_cut() {
        let one = frame(Kind::Request, 7, b"payload").unwrap();
        let both = [one.clone(), frame(Kind::Request, u64::MAX, b"").unwrap()].concat();
        for cut in 0..=both.len() {
            let (mut decoder, mut found) = (Decoder::default(), Vec::new());
            for piece in [&both[..cut], &both[cut..]] {
                decoder.push(piece);
                while let Some(received) = decoder.take(Kind::Request).unwrap() {
                    found.push((received.request, received.payload));
                }
            }
            assert_eq!(found, [(7, b"payload".to_vec()), (u64::MAX, Vec::new())]);
            assert_eq!(decoder.end(), Ok(()));
        }
    }

    #[test]
    fn every_changed_byte_is_an_error() {
        let good = frame(Kind::Answer, 3, b"some payload").unwrap();
        for at in 0..good.len() {
            for flip in [1u8, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= flip;
                let mut decoder = Decoder::default();
                decoder.push(&bad);
                let taken = decoder.take(Kind::Answer);
                // A length that grew waits for bytes that do not come.
                let error = taken.and_then(|received| {
                    assert_eq!(received, None, "byte {at}");
                    decoder.end()
                });
                assert!(error.is_err(), "byte {at}");
                if at >= 4 {
                    assert_eq!(decoder.take(Kind::Answer), Err(FrameError::Broken));
                }
            }
        }
    }

    #[test]
    fn a_length_is_refused_before_anything_is_kept_for_it() {
        let mut long = frame(Kind::Handshake, 0, &[0; 8]).unwrap();
        long[..4].copy_from_slice(&(HANDSHAKE_BYTES_MAX as u32 + 1).to_le_bytes());
        let mut decoder = Decoder::default();
        decoder.push(&long[..HEADER_BYTES]);
        assert_eq!(decoder.take(Kind::Handshake), Err(FrameError::TooLong(HANDSHAKE_BYTES_MAX as u32 + 1)));
        assert!(frame(Kind::Answer, 0, &[0; ANSWER_BYTES_MAX + 1]).is_err());
        let mut decoder = Decoder::default();
        decoder.push(&frame(Kind::Request, 0, &[]).unwrap());
        assert_eq!(decoder.take(Kind::Handshake), Err(FrameError::Kind(Kind::Request as u8)));
    }
}
