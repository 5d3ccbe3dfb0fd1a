//! Reading requests: RESP arrays of bulk strings, and inline commands.
//!
//! Owned by the core of the connection. The parser is incremental: what it knows about an unfinished request it keeps
//! as offsets from the request's first byte, so the bytes may move between two calls, and arguments that were found are
//! never looked at again. A bulk string of at least [`LARGE_BYTES_MIN`] that has not arrived as a whole is gathered in a
//! vector of its own, from which a command can take it without a copy.
//!
//! Conditions and error texts are those of Redis 7.0 (`networking.c`), with one difference: the 64 KiB limit for a line
//! counts from the line's first byte to its end, however the bytes were cut into packets, so that a stream is judged the
//! same whatever pieces it arrives in. NUL bytes are bytes like others.
//!
//! Memory grows only with what a client has sent. The one exception is the vector of a large bulk string, whose exact
//! length is reserved at once; its pages stay untouched until the bytes come.

use std::sync::Arc;

use super::inline::split_line;
use super::number::parse_i64;

/// Bulk strings of at least this many bytes are gathered apart when they arrive in pieces.
pub const LARGE_BYTES_MIN: usize = 32 * 1024;

/// Bytes of a line (a length header, an inline command) without its end.
pub const LINE_BYTES_MAX: usize = 64 * 1024;

/// Arguments of one command: Redis' INT_MAX.
pub const ARGS_MAX: i64 = i32::MAX as i64;

/// Arguments of one command of a client that has not authenticated.
pub const UNAUTHENTICATED_ARGS_MAX: i64 = 10;

/// Bytes of one argument of a client that has not authenticated.
pub const UNAUTHENTICATED_BULK_BYTES_MAX: i64 = 16 * 1024;

/// Bytes of one request without its gathered arguments; offsets are 32 bits wide.
const REQUEST_BYTES_MAX: usize = u32::MAX as usize;

/// A vector of spans with more room than this is given back after its request.
const SPANS_KEPT_MAX: usize = 1024;

/// What a client may send.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Arguments of one command; [`ARGS_MAX`] in Redis.
    pub args_max: i64,
    /// Bytes of one argument: proto-max-bulk-len, also for a client that has not authenticated.
    pub bulk_bytes_max: i64,
    /// The client must authenticate and has not yet: [`UNAUTHENTICATED_ARGS_MAX`] and
    /// [`UNAUTHENTICATED_BULK_BYTES_MAX`] apply too.
    pub unauthenticated: bool,
}

/// A client that breaks the protocol gets this text and is disconnected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    #[error("ERR Protocol error: too big inline request")]
    InlineTooBig,
    #[error("ERR Protocol error: unbalanced quotes in request")]
    UnbalancedQuotes,
    #[error("ERR Protocol error: too big mbulk count string")]
    CountTooBig,
    #[error("ERR Protocol error: invalid multibulk length")]
    InvalidCount,
    #[error("ERR Protocol error: unauthenticated multibulk length")]
    UnauthenticatedCount,
    #[error("ERR Protocol error: too big bulk count string")]
    LengthTooBig,
    /// A byte that is not ASCII is shown as the character of that code point.
    #[error("ERR Protocol error: expected '$', got '{}'", char::from(*.0))]
    ExpectedBulk(u8),
    #[error("ERR Protocol error: invalid bulk length")]
    InvalidLength,
    #[error("ERR Protocol error: unauthenticated bulk length")]
    UnauthenticatedLength,
    /// Beyond Redis: a request of 4 GiB of small arguments.
    #[error("ERR Protocol error: too big request")]
    RequestTooBig,
    /// Beyond Redis, which aborts: the allocator refused the announced length.
    #[error("ERR Protocol error: not enough memory for the bulk string")]
    OutOfMemory,
}

/// What a call of [`Parser::parse`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// One whole request of so many bytes; its arguments are in [`Parser::args`]. No arguments (an empty line, `*0`):
    /// nothing to execute.
    Complete { consumed: usize },
    /// More bytes are needed. The first `keep` bytes must be presented again, followed by what arrives; the rest of the
    /// input has been taken over.
    Incomplete { keep: usize },
}

/// Where an argument lies: `start..end` of the input, or, with [`IN_OWNED`] as start, at index `end` of `owned`.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: u32,
    end: u32,
}

/// No argument starts here: its two last bytes would lie beyond [`REQUEST_BYTES_MAX`].
const IN_OWNED: u32 = u32::MAX;

/// Reads the requests of one connection.
///
/// ```
/// use keyloom::resp::{Limits, Parser, Step};
///
/// let limits = Limits { args_max: 1024, bulk_bytes_max: 1024, unauthenticated: false };
/// let mut parser = Parser::default();
/// let input = b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n";
/// assert_eq!(parser.parse(&input[..9], &limits), Ok(Step::Incomplete { keep: 9 }));
/// assert_eq!(parser.parse(input, &limits), Ok(Step::Complete { consumed: input.len() }));
/// let mut args = Vec::new();
/// parser.args(input, &mut args);
/// assert_eq!(args, [&b"GET"[..], b"k"]);
/// ```
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes of the large argument under way that have not come yet, its CRLF included; 0 if none is under way.
    missing: usize,
    /// Arguments that the request under way will have; 0 between requests. Invariant: while not 0, at least the number
    /// of spans.
    count: usize,
    /// Offset of the first byte of the request that is not understood yet. Invariant: at a header's first byte, or, while
    /// `missing` is not 0, right behind a header.
    at: usize,
    spans: Vec<Span>,
    /// Arguments in vectors of their own, in ascending order of their index.
    owned: Vec<(usize, Arc<Vec<u8>>)>,
    /// Sum of the lengths in `owned`.
    owned_bytes: usize,
    /// The large argument under way. Invariant: capacity is at least its length.
    gathering: Vec<u8>,
    /// Length of the large argument under way.
    gathering_len: usize,
}

/// What stands at the start of a header.
enum Header {
    /// The number, and the offset behind the line.
    Number(i64, usize),
    Incomplete,
}

impl Parser {
    /// Takes the part of `data`, newly arrived bytes, that belongs to a large argument under way; returns how many bytes
    /// it took, 0 if none is under way. To be called before bytes are presented to [`Parser::parse`].
    #[inline]
    pub fn feed(&mut self, data: &[u8]) -> usize {
        if self.missing == 0 { 0 } else { self.gather(data) }
    }

    fn gather(&mut self, data: &[u8]) -> usize {
        let taken = data.len().min(self.missing);
        let value = taken.min(self.gathering_len - self.gathering.len());
        self.gathering.extend_from_slice(&data[..value]);
        self.missing -= taken;
        if self.missing == 0 {
            let value = std::mem::take(&mut self.gathering);
            self.push_owned(value);
        }
        taken
    }

    /// Parses one request at the start of `input`. `input` starts with the first byte of a request; when the previous
    /// call returned `Incomplete { keep }`, it starts with those `keep` bytes (perhaps at another address), followed by
    /// new ones. After an error the connection is to be closed.
    #[inline]
    pub fn parse(&mut self, input: &[u8], limits: &Limits) -> Result<Step, ProtocolError> {
        if input.len() > REQUEST_BYTES_MAX {
            return self.parse_oversized(input, limits);
        }
        if self.count == 0 {
            self.reset();
            match input.first() {
                Some(b'*') => match header(input, 0, ProtocolError::CountTooBig, ProtocolError::InvalidCount)? {
                    Header::Incomplete => return Ok(Step::Incomplete { keep: input.len() }),
                    Header::Number(count, next) => {
                        check_count(count, limits)?;
                        if count <= 0 {
                            return Ok(Step::Complete { consumed: next });
                        }
                        self.count = count as usize;
                        self.at = next;
                    }
                },
                Some(_) => return self.parse_inline(input),
                None => return Ok(Step::Incomplete { keep: 0 }),
            }
        } else if self.missing != 0 {
            let taken = self.gather(input.get(self.at..).unwrap_or_default());
            if self.missing != 0 {
                return Ok(Step::Incomplete { keep: self.at });
            }
            self.at += taken;
        }
        self.parse_bulks(input, limits)
    }

    /// Parses one request at the start of `input` and appends its arguments to `out`, if that is as simple as it nearly
    /// always is: a whole array of arguments below 1000 bytes, from a client that may send it, and no request under way.
    /// Returns its length, or None for everything else, which [`Parser::parse`] then has to judge: nothing has changed.
    #[inline]
    pub fn parse_simple<'a>(&self, input: &'a [u8], limits: &Limits, out: &mut Vec<&'a [u8]>) -> Option<usize> {
        // What the last request has left behind is removed by `parse`.
        if self.count != 0 || limits.unauthenticated || self.spans.capacity() > SPANS_KEPT_MAX {
            return None;
        }
        let (count, mut at) = short_number(input, 0, b'*')?;
        if count == 0 || i64::from(count) > limits.args_max {
            return None;
        }
        let args_before = out.len();
        for _ in 0..count {
            let arg = short_number(input, at, b'$').filter(|&(len, _)| i64::from(len) <= limits.bulk_bytes_max);
            let bytes = arg.and_then(|(len, start)| input.get(start..start + len as usize + 2));
            let Some((bytes, _crlf)) = bytes.and_then(|bytes| bytes.split_last_chunk::<2>()) else {
                out.truncate(args_before);
                return None;
            };
            out.push(bytes);
            at = arg.map_or(at, |(_, start)| start + bytes.len() + 2);
        }
        Some(at)
    }

    /// The loop over the arguments. Every argument costs one header and one span.
    #[inline]
    fn parse_bulks(&mut self, input: &[u8], limits: &Limits) -> Result<Step, ProtocolError> {
        let mut at = self.at;
        for _ in self.spans.len()..self.count {
            let step = header(input, at, ProtocolError::LengthTooBig, ProtocolError::InvalidLength);
            let (len, start) = match step {
                Ok(Header::Number(len, start)) => (len, start),
                Ok(Header::Incomplete) => {
                    self.at = at;
                    return Ok(Step::Incomplete { keep: input.len() });
                }
                Err(error) => return Err(self.fail(error)),
            };
            if len as u64 > limits.bulk_bytes_max as u64 || limits.unauthenticated {
                check_length(len, limits).map_err(|error| self.fail(error))?;
            }
            let len = len as usize;
            if input.len().saturating_sub(start) < len.saturating_add(2) {
                self.at = at;
                return self.wait_for_bulk(input, start, len);
            }
            self.spans.push(Span { start: start as u32, end: (start + len) as u32 });
            at = start + len + 2;
        }
        self.count = 0;
        Ok(Step::Complete { consumed: at })
    }

    /// A bulk string of `len` bytes at `start` that is not wholly there.
    #[cold]
    fn wait_for_bulk(&mut self, input: &[u8], start: usize, len: usize) -> Result<Step, ProtocolError> {
        if len < LARGE_BYTES_MIN || start > input.len() {
            return Ok(Step::Incomplete { keep: input.len() });
        }
        let mut value = Vec::new();
        if len.checked_add(2).is_none() || value.try_reserve_exact(len).is_err() {
            return Err(self.fail(ProtocolError::OutOfMemory));
        }
        self.gathering = value;
        self.gathering_len = len;
        self.missing = len + 2;
        self.at = start;
        self.gather(&input[start..]);
        Ok(Step::Incomplete { keep: start })
    }

    fn parse_inline(&mut self, input: &[u8]) -> Result<Step, ProtocolError> {
        let line_max = &input[..input.len().min(LINE_BYTES_MAX + 1)];
        let Some(end) = memchr::memchr(b'\n', line_max) else {
            return match line_max.len() > LINE_BYTES_MAX {
                true => Err(ProtocolError::InlineTooBig),
                false => Ok(Step::Incomplete { keep: input.len() }),
            };
        };
        let line = &input[..end];
        let args = split_line(line.strip_suffix(b"\r").unwrap_or(line)).ok_or(ProtocolError::UnbalancedQuotes)?;
        args.into_iter().for_each(|arg| self.push_owned(arg));
        Ok(Step::Complete { consumed: end + 1 })
    }

    /// Offsets reach to 4 GiB. A request that is whole within them is as good as any other.
    #[cold]
    fn parse_oversized(&mut self, input: &[u8], limits: &Limits) -> Result<Step, ProtocolError> {
        match self.parse(&input[..REQUEST_BYTES_MAX], limits)? {
            Step::Complete { consumed } => Ok(Step::Complete { consumed }),
            Step::Incomplete { .. } => Err(self.fail(ProtocolError::RequestTooBig)),
        }
    }

    fn push_owned(&mut self, value: Vec<u8>) {
        self.spans.push(Span { start: IN_OWNED, end: self.owned.len() as u32 });
        self.owned_bytes += value.len();
        self.owned.push((self.spans.len() - 1, Arc::new(value)));
    }

    #[cold]
    fn fail(&mut self, error: ProtocolError) -> ProtocolError {
        *self = Parser::default();
        error
    }

    #[inline]
    fn reset(&mut self) {
        self.spans.clear();
        if self.spans.capacity() > SPANS_KEPT_MAX {
            self.spans = Vec::new();
        }
        if !self.owned.is_empty() {
            self.owned = Vec::new();
        }
        self.owned_bytes = 0;
    }

    /// After `Complete`: appends the arguments to `out`, as slices of `input` or of the vectors of
    /// [`Parser::take_owned`]. `input` must be what [`Parser::parse`] was given.
    ///
    /// # Panics
    /// If `input` is shorter than what was parsed, or if [`Parser::take_owned`] has been called.
    #[inline]
    pub fn args<'a>(&'a self, input: &'a [u8], out: &mut Vec<&'a [u8]>) {
        if self.owned.is_empty() {
            out.extend(self.spans.iter().map(|span| &input[span.start as usize..span.end as usize]));
        } else {
            out.extend(self.spans.iter().map(|span| match span.start {
                IN_OWNED => &self.owned[span.end as usize].1[..],
                start => &input[start as usize..span.end as usize],
            }));
        }
    }

    /// After `Complete`: the number of arguments; 0 is nothing to execute.
    #[inline]
    pub fn argc(&self) -> usize {
        self.spans.len()
    }

    /// After `Complete`: the arguments that lie in vectors of their own, with their index, ascending; usually none. The
    /// caller owns them now.
    ///
    /// The bytes stay where they are: a pointer into them from [`Parser::args`] is good for as long as the caller keeps
    /// the vectors unchanged. The borrow checker cannot see that; code that relies on it says why it holds.
    #[inline]
    pub fn take_owned(&mut self) -> Vec<(usize, Arc<Vec<u8>>)> {
        self.owned_bytes = 0;
        std::mem::take(&mut self.owned)
    }

    /// Bytes held for the request under way, beyond those that the caller keeps.
    pub fn memory(&self) -> usize {
        self.gathering.len()
            + self.owned_bytes
            + self.owned.capacity() * size_of::<(usize, Arc<Vec<u8>>)>()
            + self.owned.len() * (size_of::<Vec<u8>>() + 2 * size_of::<usize>())
            + self.spans.capacity() * size_of::<Span>()
    }
}

/// Reads the header line at `at`: a byte, which for a bulk string must be `$`, and a number. Redis looks for the CR, waits
/// for one more byte whatever it is, and only then judges what came before it.
#[inline(always)]
fn header(input: &[u8], at: usize, too_big: ProtocolError, invalid: ProtocolError) -> Result<Header, ProtocolError> {
    match short_number(input, at, if at == 0 { b'*' } else { b'$' }) {
        Some((number, next)) => Ok(Header::Number(i64::from(number), next)),
        None => long_header(input, at, too_big, invalid),
    }
}

/// Reads a header line of this kind with up to three digits by hand: these are nearly all. Gives the number and the offset
/// behind the line. A whole bulk string has at least six bytes.
#[inline(always)]
fn short_number(input: &[u8], at: usize, kind: u8) -> Option<(u32, usize)> {
    let &[first, a, b, c, d, _] = input.get(at..)?.first_chunk::<6>()?;
    let (a, x) = (a.wrapping_sub(b'0'), b.wrapping_sub(b'0'));
    if first != kind || a > 9 {
        return None;
    }
    if b == b'\r' {
        return Some((u32::from(a), at + 4));
    }
    if a == 0 || x > 9 {
        return None;
    }
    let n = u32::from(a) * 10 + u32::from(x);
    if c == b'\r' {
        return Some((n, at + 5));
    }
    let y = c.wrapping_sub(b'0');
    (y <= 9 && d == b'\r').then_some((n * 10 + u32::from(y), at + 6))
}

#[inline(never)]
fn long_header(
    input: &[u8],
    at: usize,
    too_big: ProtocolError,
    invalid: ProtocolError,
) -> Result<Header, ProtocolError> {
    let rest = input.get(at..).unwrap_or_default();
    let line_max = &rest[..rest.len().min(LINE_BYTES_MAX + 1)];
    let Some(end) = memchr::memchr(b'\r', line_max) else {
        return if line_max.len() > LINE_BYTES_MAX { Err(too_big) } else { Ok(Header::Incomplete) };
    };
    if end + 2 > rest.len() {
        return Ok(Header::Incomplete);
    }
    if at != 0 && rest[0] != b'$' {
        return Err(ProtocolError::ExpectedBulk(rest[0]));
    }
    match parse_i64(rest.get(1..end).unwrap_or_default()) {
        Some(n) => Ok(Header::Number(n, at + end + 2)),
        None => Err(invalid),
    }
}

#[inline]
fn check_count(count: i64, limits: &Limits) -> Result<(), ProtocolError> {
    if count > limits.args_max.min(ARGS_MAX) {
        return Err(ProtocolError::InvalidCount);
    }
    if limits.unauthenticated && count > UNAUTHENTICATED_ARGS_MAX {
        return Err(ProtocolError::UnauthenticatedCount);
    }
    Ok(())
}

fn check_length(len: i64, limits: &Limits) -> Result<(), ProtocolError> {
    if len < 0 || len > limits.bulk_bytes_max {
        return Err(ProtocolError::InvalidLength);
    }
    if limits.unauthenticated && len > UNAUTHENTICATED_BULK_BYTES_MAX {
        return Err(ProtocolError::UnauthenticatedLength);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_last_argument_is_taken_over() {
        let limits = Limits { args_max: ARGS_MAX, bulk_bytes_max: 1 << 29, unauthenticated: false };
        let value = vec![b'v'; LARGE_BYTES_MIN];
        let head = format!("*2\r\n$3\r\nSET\r\n${}\r\n", value.len());
        let mut parser = Parser::default();
        let input = [head.as_bytes(), b"vv"].concat();
        assert_eq!(parser.parse(&input, &limits), Ok(Step::Incomplete { keep: head.len() }));
        assert_eq!(parser.feed(&value[2..]), value.len() - 2);
        assert_eq!(parser.parse(head.as_bytes(), &limits), Ok(Step::Incomplete { keep: head.len() }));
        assert_eq!(parser.feed(b"\r\n*1\r\n"), 2);
        assert_eq!(parser.parse(head.as_bytes(), &limits), Ok(Step::Complete { consumed: head.len() }));
        assert_eq!(parser.argc(), 2);
        let mut args = Vec::new();
        parser.args(head.as_bytes(), &mut args);
        assert_eq!(args, [&b"SET"[..], &value]);
        let owned = parser.take_owned();
        assert_eq!((owned.len(), owned[0].0, owned[0].1.capacity()), (1, 1, value.len()));
    }
}
