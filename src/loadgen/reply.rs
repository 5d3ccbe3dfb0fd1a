//! Counting replies: finds where each RESP2 or RESP3 reply ends and whether it was an error or a miss.
//!
//! The counter keeps no bytes: input may be cut anywhere and is read in place. All it remembers between two inputs is
//! a few numbers, plus the text of the first error reply (bounded).
//!
//! Push messages (`>`) and attributes (`|`) of RESP3 are not replies; they are skipped.

/// Deepest nesting of arrays, maps and sets in a reply.
pub const DEPTH_MAX: usize = 32;
/// Most bytes kept of an error's text.
pub const ERROR_BYTES_MAX: usize = 256;
/// Longest line that carries no payload the counter cares about: a number, a double, a big number, a status.
const LINE_BYTES_MAX: u32 = 64 * 1024;
/// Largest length or element count a reply may announce.
const LENGTH_MAX: i64 = 1 << 40;

/// What one reply was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A value.
    Value,
    /// The absent value: `$-1`, `*-1` or `_`.
    Miss,
    /// `-text`, or `!` in RESP3.
    Error,
}

/// The server sent something that is not RESP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplyError {
    #[error("the server's reply starts with byte 0x{0:02x}, which is no RESP type")]
    Type(u8),
    #[error("the server's reply has a malformed length")]
    Length,
    #[error("the server's reply has a line longer than {LINE_BYTES_MAX} bytes")]
    Line,
    #[error("the server's reply is nested deeper than {DEPTH_MAX}")]
    Depth,
    #[error("the server's reply has no line end where one belongs")]
    LineEnd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Before a type byte.
    Start,
    /// In a line whose text does not matter, except that an error's is kept.
    Text { kind: u8, length: u32 },
    /// In a line that is a decimal number.
    Number { kind: u8, value: i64, negative: bool, digits: bool },
    /// After the CR of a number's line.
    NumberEnd { kind: u8, value: i64 },
    /// In a payload: bytes left before its CR LF.
    Payload { left: u64, error: bool },
    /// Before the CR (2) or the LF (1) behind a payload.
    PayloadEnd { left: u8 },
}

/// Reads the replies of one connection.
#[derive(Debug)]
pub struct ReplyReader {
    state: State,
    /// Values still missing in each open aggregate. Invariant: all at least 1 in `..depth`.
    left: [u64; DEPTH_MAX],
    depth: usize,
    /// What the reply now being read will be reported as.
    outcome: Outcome,
    /// Bit d is set if the aggregate at depth d is not (part of) a reply: a push message or an attribute.
    aside: u32,
    error: Vec<u8>,
}

impl Default for ReplyReader {
    fn default() -> Self {
        ReplyReader {
            state: State::Start,
            left: [0; DEPTH_MAX],
            depth: 0,
            outcome: Outcome::Value,
            aside: 0,
            error: Vec::new(),
        }
    }
}

impl ReplyReader {
    /// Reads on at `bytes[*at..]` and moves `at` behind what was read. Returns the next complete reply, or `None` when
    /// all input is used up.
    #[inline]
    pub fn next(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Outcome>, ReplyError> {
        if self.state == State::Start
            && self.depth == 0
            && let Some((outcome, length)) = whole(&bytes[*at..])
        {
            *at += length;
            return Ok(Some(outcome));
        }
        while *at < bytes.len() {
            if let Some(outcome) = self.step(bytes, at)? {
                return Ok(Some(outcome));
            }
        }
        Ok(None)
    }

    /// The text of the last error reply, at most [`ERROR_BYTES_MAX`] bytes.
    pub fn error_text(&self) -> &[u8] {
        &self.error
    }

    /// Uses at least one byte.
    fn step(&mut self, bytes: &[u8], at: &mut usize) -> Result<Option<Outcome>, ReplyError> {
        let rest = &bytes[*at..];
        match self.state {
            State::Start => {
                *at += 1;
                self.start(rest[0])?;
                Ok(None)
            }
            State::Text { kind, length } => {
                let end = memchr::memchr(b'\n', rest);
                let taken = end.map_or(rest.len(), |end| end + 1);
                *at += taken;
                if kind == b'-' {
                    self.keep_error(&rest[..taken]);
                }
                let length = length.saturating_add(taken.min(u32::MAX as usize) as u32);
                if length > LINE_BYTES_MAX {
                    return Err(ReplyError::Line);
                }
                if end.is_some() {
                    return Ok(self.value_done());
                }
                self.state = State::Text { kind, length };
                Ok(None)
            }
            State::Number { kind, value, negative, digits } => {
                *at += 1;
                self.state = number_byte(rest[0], kind, value, negative, digits)?;
                Ok(None)
            }
            State::NumberEnd { kind, value } => {
                *at += 1;
                if rest[0] != b'\n' {
                    return Err(ReplyError::LineEnd);
                }
                self.length_known(kind, value)
            }
            State::Payload { left, error } => {
                let taken = left.min(rest.len() as u64) as usize;
                *at += taken;
                if error {
                    self.keep_error(&rest[..taken]);
                }
                let left = left - taken as u64;
                self.state = if left == 0 { State::PayloadEnd { left: 2 } } else { State::Payload { left, error } };
                Ok(None)
            }
            State::PayloadEnd { left } => {
                *at += 1;
                if rest[0] != if left == 2 { b'\r' } else { b'\n' } {
                    return Err(ReplyError::LineEnd);
                }
                if left == 1 {
                    return Ok(self.value_done());
                }
                self.state = State::PayloadEnd { left: 1 };
                Ok(None)
            }
        }
    }

    fn start(&mut self, kind: u8) -> Result<(), ReplyError> {
        if self.depth == 0 {
            self.outcome = match kind {
                b'_' => Outcome::Miss,
                b'-' | b'!' => Outcome::Error,
                _ => Outcome::Value,
            };
        }
        self.state = match kind {
            b'$' | b'*' | b'%' | b'~' | b'>' | b'|' | b'=' | b'!' => {
                State::Number { kind, value: 0, negative: false, digits: false }
            }
            b'+' | b'-' | b':' | b'_' | b'#' | b',' | b'(' => State::Text { kind, length: 0 },
            other => return Err(ReplyError::Type(other)),
        };
        if matches!(kind, b'-' | b'!') {
            self.error.clear();
        }
        Ok(())
    }

    fn keep_error(&mut self, bytes: &[u8]) {
        let room = ERROR_BYTES_MAX - self.error.len();
        let text = bytes.iter().copied().filter(|&b| b != b'\r' && b != b'\n').take(room);
        self.error.extend(text);
    }

    /// The number line of a bulk string or an aggregate has been read.
    fn length_known(&mut self, kind: u8, value: i64) -> Result<Option<Outcome>, ReplyError> {
        if value < 0 {
            if value != -1 || !matches!(kind, b'$' | b'*') {
                return Err(ReplyError::Length);
            }
            if self.depth == 0 {
                self.outcome = Outcome::Miss;
            }
            return Ok(self.value_done());
        }
        let value = value as u64;
        match kind {
            b'$' | b'=' | b'!' => {
                let error = kind == b'!';
                self.state =
                    if value == 0 { State::PayloadEnd { left: 2 } } else { State::Payload { left: value, error } };
                Ok(None)
            }
            _ => {
                let values = if matches!(kind, b'%' | b'|') { 2 * value } else { value };
                let aside = matches!(kind, b'>' | b'|');
                if values == 0 {
                    return Ok(if aside { self.aside_done() } else { self.value_done() });
                }
                if self.depth == DEPTH_MAX {
                    return Err(ReplyError::Depth);
                }
                self.left[self.depth] = values;
                let bit = 1u32 << self.depth;
                self.aside = if aside { self.aside | bit } else { self.aside & !bit };
                self.depth += 1;
                self.state = State::Start;
                Ok(None)
            }
        }
    }

    /// A push message or an attribute ended: the value it stood in front of is still to come.
    fn aside_done(&mut self) -> Option<Outcome> {
        self.state = State::Start;
        None
    }

    /// A value ended; closes every aggregate whose last value it was.
    fn value_done(&mut self) -> Option<Outcome> {
        self.state = State::Start;
        while self.depth > 0 {
            let top = self.depth - 1;
            self.left[top] -= 1;
            if self.left[top] > 0 {
                return None;
            }
            self.depth = top;
            if self.aside & (1 << top) != 0 {
                return self.aside_done();
            }
        }
        Some(self.outcome)
    }
}

/// The next state after one byte of a number's line.
fn number_byte(byte: u8, kind: u8, value: i64, negative: bool, digits: bool) -> Result<State, ReplyError> {
    match byte {
        b'-' if !digits && !negative => Ok(State::Number { kind, value, negative: true, digits }),
        b'0'..=b'9' => {
            let value = value * 10 + i64::from(byte - b'0');
            if value > LENGTH_MAX {
                return Err(ReplyError::Length);
            }
            Ok(State::Number { kind, value, negative, digits: true })
        }
        b'\r' if digits => Ok(State::NumberEnd { kind, value: if negative { -value } else { value } }),
        _ => Err(ReplyError::Length),
    }
}

/// The commonest replies when they lie whole in the input: a short status or integer, a bulk string, its absence.
/// Anything else, also anything malformed, is left to the state machine.
#[inline]
fn whole(bytes: &[u8]) -> Option<(Outcome, usize)> {
    match *bytes.first()? {
        b'+' | b':' => {
            let end = bytes.iter().take(32).position(|&b| b == b'\n')?;
            Some((Outcome::Value, end + 1))
        }
        b'$' => {
            let mut length = 0usize;
            for (i, &byte) in bytes.iter().enumerate().skip(1).take(8) {
                match byte {
                    b'0'..=b'9' => length = length * 10 + usize::from(byte - b'0'),
                    b'\r' if i > 1 => {
                        let end = i + 2 + length;
                        let whole = bytes.get(i + 1) == Some(&b'\n') && bytes.get(end..end + 2) == Some(b"\r\n");
                        return whole.then_some((Outcome::Value, end + 2));
                    }
                    b'-' if bytes.starts_with(b"$-1\r\n") => return Some((Outcome::Miss, 5)),
                    _ => return None,
                }
            }
            None
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::Outcome::{Error, Miss, Value};
    use super::*;

    fn read_all(reader: &mut ReplyReader, pieces: &[&[u8]]) -> Result<Vec<Outcome>, ReplyError> {
        let mut found = Vec::new();
        for piece in pieces {
            let mut at = 0;
            while let Some(outcome) = reader.next(piece, &mut at)? {
                found.push(outcome);
            }
            assert_eq!(at, piece.len());
        }
        Ok(found)
    }

    fn samples() -> Vec<(&'static [u8], Vec<Outcome>)> {
        vec![
            (b"+OK\r\n", vec![Value]),
            (b":-17\r\n:5\r\n", vec![Value, Value]),
            (b"-ERR no such thing\r\n+OK\r\n", vec![Error, Value]),
            (b"$5\r\nab\r\nc\r\n$0\r\n\r\n", vec![Value, Value]),
            (b"$-1\r\n*-1\r\n_\r\n", vec![Miss, Miss, Miss]),
            (b"*0\r\n*2\r\n$1\r\na\r\n$-1\r\n", vec![Value, Value]),
            (b"*2\r\n*1\r\n*0\r\n*3\r\n:1\r\n-ERR in\r\n_\r\n+x\r\n", vec![Value, Value]),
            (b"%2\r\n+a\r\n:1\r\n+b\r\n%1\r\n+c\r\n#t\r\n,1.5\r\n", vec![Value, Value]),
            (b"~1\r\n(12345678901234567890\r\n=7\r\ntxt:a\r\n\r\n", vec![Value, Value]),
            (b"!9\r\nERR a\r\nbc\r\n", vec![Error]),
            (b">2\r\n+invalidate\r\n*1\r\n+k\r\n$1\r\nv\r\n>0\r\n+OK\r\n", vec![Value, Value]),
            (b"|1\r\n+ttl\r\n:5\r\n$-1\r\n*2\r\n|1\r\n+a\r\n*1\r\n:1\r\n:1\r\n:2\r\n", vec![Miss, Value]),
        ]
    }

    #[test]
    fn every_split_gives_the_same_replies() {
        for (bytes, expected) in samples() {
            assert_eq!(read_all(&mut ReplyReader::default(), &[bytes]).unwrap(), expected, "{bytes:?}");
            for cut in 0..=bytes.len() {
                let (a, b) = bytes.split_at(cut);
                assert_eq!(read_all(&mut ReplyReader::default(), &[a, b]).unwrap(), expected, "{bytes:?} at {cut}");
            }
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read_all(&mut ReplyReader::default(), &single).unwrap(), expected);
        }
    }

    #[test]
    fn all_samples_in_a_row_at_every_split() {
        let (mut all, mut expected) = (Vec::new(), Vec::new());
        for (bytes, outcomes) in samples() {
            all.extend_from_slice(bytes);
            expected.extend(outcomes);
        }
        for cut in 0..=all.len() {
            let (a, b) = all.split_at(cut);
            assert_eq!(read_all(&mut ReplyReader::default(), &[a, b]).unwrap(), expected);
        }
    }

    #[test]
    fn keeps_the_text_of_errors() {
        for bytes in [&b"-WRONGTYPE bad\r\n"[..], b"!13\r\nWRONGTYPE bad\r\n"] {
            for cut in 0..=bytes.len() {
                let mut reader = ReplyReader::default();
                let (a, b) = bytes.split_at(cut);
                read_all(&mut reader, &[a, b]).unwrap();
                assert_eq!(reader.error_text(), b"WRONGTYPE bad");
            }
        }
        let long = [b"-".to_vec(), vec![b'x'; 5000], b"\r\n".to_vec()].concat();
        let mut reader = ReplyReader::default();
        assert_eq!(read_all(&mut reader, &[&long]).unwrap(), [Error]);
        assert_eq!(reader.error_text().len(), ERROR_BYTES_MAX);
    }

    #[test]
    fn refuses_what_is_not_resp() {
        let bad = |bytes: &[u8]| {
            let whole = read_all(&mut ReplyReader::default(), &[bytes]).unwrap_err();
            let single: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read_all(&mut ReplyReader::default(), &single).unwrap_err(), whole);
            whole
        };
        assert_eq!(bad(b"HTTP/1.1 400\r\n"), ReplyError::Type(b'H'));
        assert_eq!(bad(b"$-2\r\n"), ReplyError::Length);
        assert_eq!(bad(b"%-1\r\n"), ReplyError::Length);
        assert_eq!(bad(b"$1x\r\n"), ReplyError::Length);
        assert_eq!(bad(b"*\r\n"), ReplyError::Length);
        assert_eq!(bad(b"$99999999999999999999\r\n"), ReplyError::Length);
        assert_eq!(bad(b"$1\r\nabc"), ReplyError::LineEnd);
        assert_eq!(bad(&b"*1\r\n".repeat(DEPTH_MAX + 1)), ReplyError::Depth);
        assert_eq!(bad(&[b"+".to_vec(), vec![b'x'; LINE_BYTES_MAX as usize + 1]].concat()), ReplyError::Line);
    }
}
