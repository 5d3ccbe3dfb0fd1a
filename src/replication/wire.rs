//! How messages between nodes lie in bytes, whatever they say.
//!
//! ```text
//!     length u32 | crc u32 | version u8 | kind u8 | 0 u16 | payload of `length` bytes         little endian
//! ```
//!
//! The CRC-32 covers everything but itself. Messages with few fields are rkyv values; the bytes of the log and of a copy are
//! carried as they are, behind fixed fields, so that nothing walks through them.
//!
//! What arrives is not believed: length and kind are checked as soon as they are there, before anything is buffered for them;
//! then the CRC, then the form (rkyv's bytecheck), then whether it makes sense by itself ([`Wire::check`]). Whether it makes
//! sense *now* is what the state machines judge. A decoder that has met an error stays broken, because nothing behind it can
//! be trusted.
//!
//! Pure. Owned by the control core. [`super::message`] and [`crate::streams::message`] say what is said.

use thiserror::Error;

use super::history::ChainError;

/// The version of the framing. What the messages mean has a version of its own in [`Hello`], which can be answered.
pub const FRAMING_VERSION: u8 = 1;
/// Bytes before the payload.
pub const HEADER_LEN: usize = 12;
/// Payload of a message that carries nothing of the log.
pub const CONTROL_LEN_MAX: usize = 64 << 10;
/// Payload of a message with parts of the log or of a copy: the largest frame that there can be, with room for others. Its
/// bytes are kept as they arrive, so that nobody can have memory reserved by naming a length.
pub const CARRIED_LEN_MAX: usize = 3 << 30;

/// Why bytes are no message. The connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DecodeError {
    #[error("framing version {0} is not known")]
    Version(u8),
    #[error("kind {0} is not expected")]
    Kind(u8),
    #[error("a message of {0} bytes is longer than its kind may be")]
    TooLong(u32),
    #[error("the checksum does not match")]
    Checksum,
    #[error("the payload has not the form of its kind")]
    Form,
    #[error("a chain of histories is none: {0}")]
    Chain(#[from] ChainError),
    #[error("the message makes no sense: {0}")]
    Sense(&'static str),
    #[error("an earlier message was broken")]
    Broken,
}

/// A direction of the protocol.
pub trait Wire: Sized {
    /// Appends the message to `out`.
    fn encode(&self, out: &mut Vec<u8>);
    /// The longest payload of this kind, if it may come in this direction.
    fn len_max(kind: u8) -> Option<usize>;
    /// Form, then sense.
    fn decode(kind: u8, payload: &[u8]) -> Result<Self, DecodeError>;
    /// Whether it makes sense by itself.
    fn check(&self) -> Result<(), DecodeError>;
}

/// Begins a message at the end of `out`; returns where it lies. The next thing there is its payload, then [`seal`].
pub(crate) fn header(out: &mut Vec<u8>, kind: u8) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    out.extend_from_slice(&[FRAMING_VERSION, kind, 0, 0]);
    start
}

/// Fills in length and checksum of the message that starts at `start`.
pub(crate) fn seal(out: &mut [u8], start: usize) {
    let message = &mut out[start..];
    let len = message.len() - HEADER_LEN;
    assert!(len <= CARRIED_LEN_MAX, "what the log writes into one frame fits into one message");
    message[..4].copy_from_slice(&(len as u32).to_le_bytes());
    let crc = checksum(message);
    message[4..8].copy_from_slice(&crc.to_le_bytes());
}

fn checksum(message: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&message[..4]);
    hasher.update(&message[8..]);
    hasher.finalize()
}

/// Encodes an rkyv value. There is nothing in the types of messages that cannot be.
macro_rules! archive {
    ($value:expr, $out:expr) => {{
        let bytes = rkyv::to_bytes::<rkyv::rancor::Failure>($value).expect("plain fields are always encoded");
        $out.extend_from_slice(&bytes);
    }};
}
pub(crate) use archive;

/// What a check of a message says.
pub(crate) fn sense(holds: bool, otherwise: &'static str) -> Result<(), DecodeError> {
    if holds { Ok(()) } else { Err(DecodeError::Sense(otherwise)) }
}

/// Finds the messages in bytes that arrive in pieces. It holds at most one message and what came with it; the caller hands
/// over what one read has brought and takes all messages before the next.
#[derive(Debug, Default)]
pub struct Decoder {
    pub(super) buffer: Vec<u8>,
    /// What lies before it is consumed.
    start: usize,
    broken: bool,
}

impl Decoder {
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start > self.buffer.len() / 2 {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        if !self.broken {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next message, if it is there whole.
    pub fn decode<M: Wire>(&mut self) -> Result<Option<M>, DecodeError> {
        if self.broken {
            return Err(DecodeError::Broken);
        }
        let result = self.take();
        if result.is_err() {
            self.broken = true;
            self.buffer = Vec::new();
            self.start = 0;
        }
        result
    }

    fn take<M: Wire>(&mut self) -> Result<Option<M>, DecodeError> {
        let message = &self.buffer[self.start..];
        let Some(head) = message.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let len = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let crc = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
        let (version, kind) = (head[8], head[9]);
        if version != FRAMING_VERSION {
            return Err(DecodeError::Version(version));
        }
        let len_max = M::len_max(kind).ok_or(DecodeError::Kind(kind))?;
        if len as usize > len_max {
            return Err(DecodeError::TooLong(len));
        }
        let Some(message) = message.get(..HEADER_LEN + len as usize) else { return Ok(None) };
        if checksum(message) != crc {
            return Err(DecodeError::Checksum);
        }
        if head[10..] != [0, 0] {
            return Err(DecodeError::Sense("reserved bytes are in use"));
        }
        let decoded = M::decode(kind, &message[HEADER_LEN..])?;
        decoded.check()?;
        self.start += HEADER_LEN + len as usize;
        Ok(Some(decoded))
    }
}
