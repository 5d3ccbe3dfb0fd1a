//! Writing replies.
//!
//! [`Output`] is what waits to be sent on one connection (or to travel back over the mesh): one contiguous buffer into
//! which small replies are written, plus *splices*, large values that are sent from where they lie instead of being
//! copied. [`Reply`] writes typed values into an [`Output`] in the protocol version of the connection.

use std::sync::Arc;

use super::number::DoubleText;
use super::{Error, Version};

/// Values of at least this many bytes are spliced instead of copied.
pub const SPLICE_BYTES_MIN: usize = 16 * 1024;

/// Bytes on their way to a client.
#[derive(Debug, Default)]
pub struct Output {
    /// Everything except the spliced values.
    buf: Vec<u8>,
    /// Invariant: offsets ascend; the value at offset `o` belongs in front of `buf[o]`.
    splices: Vec<(usize, Arc<Vec<u8>>)>,
    /// Sum of the lengths of the spliced values.
    spliced_bytes: usize,
}

impl Output {
    pub const fn new() -> Self {
        Output { buf: Vec::new(), splices: Vec::new(), spliced_bytes: 0 }
    }

    /// Bytes that will go over the wire.
    #[inline]
    pub fn len(&self) -> usize {
        self.buf.len() + self.spliced_bytes
    }

    #[inline]
    pub fn is_empty(&self) -> bool {
        self.buf.is_empty() && self.splices.is_empty()
    }

    /// A mark for [`Output::copy_range`]: where the next reply will start in the buffer.
    #[inline]
    pub fn mark(&self) -> u32 {
        self.buf.len() as u32
    }

    /// The contiguous part; the whole output when [`Output::splices`] is empty.
    #[inline]
    pub fn buf(&self) -> &[u8] {
        &self.buf
    }

    pub fn splices(&self) -> &[(usize, Arc<Vec<u8>>)] {
        &self.splices
    }

    #[inline]
    pub fn push(&mut self, bytes: &[u8]) {
        self.buf.extend_from_slice(bytes);
    }

    /// Appends a value without copying it.
    pub fn splice(&mut self, value: Arc<Vec<u8>>) {
        self.spliced_bytes += value.len();
        self.splices.push((self.buf.len(), value));
    }

    /// Appends what lies between two marks of `from`, splices included. A reply starts and ends with bytes of its own,
    /// so no splice can lie on a mark.
    #[inline]
    pub fn copy_range(&mut self, from: &Output, start: u32, end: u32) {
        let (start, end) = (start as usize, end as usize);
        if !from.splices.is_empty() {
            let first = from.splices.partition_point(|s| s.0 <= start);
            for (at, value) in from.splices[first..].iter().take_while(|s| s.0 < end) {
                self.spliced_bytes += value.len();
                self.splices.push((self.buf.len() + (at - start), Arc::clone(value)));
            }
        }
        self.buf.extend_from_slice(&from.buf[start..end]);
    }

    /// Drops everything that was appended after `mark`.
    pub fn truncate(&mut self, mark: u32) {
        self.buf.truncate(mark as usize);
        while self.splices.last().is_some_and(|s| s.0 >= mark as usize) {
            self.spliced_bytes -= self.splices.pop().map_or(0, |s| s.1.len());
        }
    }

    /// Empties the output; buffers larger than `keep_bytes_max` are given back to the allocator.
    pub fn clear(&mut self, keep_bytes_max: usize) {
        self.splices.clear();
        self.spliced_bytes = 0;
        if self.buf.capacity() > keep_bytes_max {
            self.buf = Vec::new();
        } else {
            self.buf.clear();
        }
    }

    /// Allocated bytes, without the spliced values (those belong to the keyspace).
    pub fn capacity(&self) -> usize {
        self.buf.capacity() + self.splices.capacity() * size_of::<(usize, Arc<Vec<u8>>)>()
    }

    /// The whole output as one vector; for tests and cold paths.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        let mut at = 0;
        for (offset, value) in &self.splices {
            all.extend_from_slice(&self.buf[at..*offset]);
            all.extend_from_slice(value);
            at = *offset;
        }
        all.extend_from_slice(&self.buf[at..]);
        all
    }
}

/// Writes one reply. Every command writes exactly one RESP value.
#[derive(Debug)]
pub struct Reply<'a> {
    out: &'a mut Output,
    version: Version,
}

impl<'a> Reply<'a> {
    #[inline]
    pub fn new(out: &'a mut Output, version: Version) -> Self {
        Reply { out, version }
    }

    pub fn version(&self) -> Version {
        self.version
    }

    pub fn is_resp3(&self) -> bool {
        self.version == Version::V3
    }

    /// For HELLO, whose own reply is already in the version it selects.
    pub fn set_version(&mut self, version: Version) {
        self.version = version;
    }

    pub fn output(&mut self) -> &mut Output {
        self.out
    }

    /// `+OK`
    #[inline]
    pub fn ok(&mut self) {
        self.out.push(b"+OK\r\n");
    }

    /// `+text`; `text` must not contain CR or LF.
    pub fn simple(&mut self, text: &str) {
        debug_assert!(!text.bytes().any(|b| b == b'\r' || b == b'\n'));
        self.out.push(b"+");
        self.out.push(text.as_bytes());
        self.out.push(b"\r\n");
    }

    /// `-CODE text`
    pub fn error(&mut self, error: &Error) {
        error.write(&mut self.out.buf);
    }

    /// `:n`
    #[inline]
    pub fn int(&mut self, n: i64) {
        match n {
            0 => self.out.push(b":0\r\n"),
            1 => self.out.push(b":1\r\n"),
            n => self.header(b':', n),
        }
    }

    /// A bulk string, copied.
    #[inline]
    pub fn bulk(&mut self, bytes: &[u8]) {
        // One reservation, so that the pieces cannot grow the buffer one by one.
        self.out.buf.reserve(HEADER_BYTES_MAX + bytes.len() + 2);
        self.header(b'$', bytes.len() as i64);
        self.out.push(bytes);
        self.out.push(b"\r\n");
    }

    /// A bulk string that is sent from where it lies if it is large.
    pub fn bulk_shared(&mut self, value: &Arc<Vec<u8>>) {
        if value.len() < SPLICE_BYTES_MIN {
            return self.bulk(value);
        }
        self.header(b'$', value.len() as i64);
        self.out.splice(Arc::clone(value));
        self.out.push(b"\r\n");
    }

    /// The decimal text of `n` as a bulk string.
    pub fn bulk_int(&mut self, n: i64) {
        self.bulk(itoa::Buffer::new().format(n).as_bytes());
    }

    /// The absent value: `$-1` or, in RESP3, `_`.
    #[inline]
    pub fn null(&mut self) {
        self.out.push(if self.is_resp3() { b"_\r\n" } else { b"$-1\r\n" });
    }

    /// The absent array: `*-1` or, in RESP3, `_`.
    pub fn null_array(&mut self) {
        self.out.push(if self.is_resp3() { b"_\r\n" } else { b"*-1\r\n" });
    }

    /// Header of an array of `len` values, which the caller writes next.
    #[inline]
    pub fn array(&mut self, len: usize) {
        self.header(b'*', len as i64);
    }

    /// Header of a map of `pairs` key-value pairs; an array of twice as many values in RESP2.
    pub fn map(&mut self, pairs: usize) {
        match self.version {
            Version::V2 => self.header(b'*', 2 * pairs as i64),
            Version::V3 => self.header(b'%', pairs as i64),
        }
    }

    /// Header of a set of `len` values; an array in RESP2.
    pub fn set(&mut self, len: usize) {
        self.header(if self.is_resp3() { b'~' } else { b'*' }, len as i64);
    }

    /// Header of an out-of-band message of `len` values; an array in RESP2.
    pub fn push(&mut self, len: usize) {
        self.header(if self.is_resp3() { b'>' } else { b'*' }, len as i64);
    }

    /// Header of an attribute of `pairs` key-value pairs, which describes the value behind them. Only RESP3 has it.
    pub fn attribute(&mut self, pairs: usize) {
        debug_assert!(self.is_resp3());
        self.header(b'|', pairs as i64);
    }

    /// A truth value; 1 or 0 in RESP2.
    pub fn bool(&mut self, value: bool) {
        match self.version {
            Version::V2 => self.int(value as i64),
            Version::V3 => self.out.push(if value { b"#t\r\n" } else { b"#f\r\n" }),
        }
    }

    /// A double; in RESP2 its text as a bulk string.
    #[inline]
    pub fn double(&mut self, value: f64) {
        // Most are whole numbers, which print as integers up to seventeen digits.
        let whole = value as i64;
        if whole.unsigned_abs() < 100_000_000_000_000_000 && (whole as f64).to_bits() == value.to_bits() {
            return match self.version {
                Version::V2 => self.bulk_int(whole),
                Version::V3 => self.header(b',', whole),
            };
        }
        self.fraction(value);
    }

    /// A double of any kind.
    fn fraction(&mut self, value: f64) {
        let text = DoubleText::new(value);
        match self.version {
            Version::V2 => self.bulk(text.as_bytes()),
            Version::V3 => self.line(b',', text.as_bytes()),
        }
    }

    /// A number of any size, given as decimal text; a bulk string in RESP2.
    pub fn big_number(&mut self, digits: &str) {
        match self.version {
            Version::V2 => self.bulk(digits.as_bytes()),
            Version::V3 => self.line(b'(', digits.as_bytes()),
        }
    }

    /// Text for people, with its format (`txt` or `mkd`); a bulk string in RESP2.
    pub fn verbatim(&mut self, format: &[u8; 3], text: &[u8]) {
        match self.version {
            Version::V2 => self.bulk(text),
            Version::V3 => {
                self.header(b'=', text.len() as i64 + 4);
                self.out.push(format);
                self.out.push(b":");
                self.out.push(text);
                self.out.push(b"\r\n");
            }
        }
    }

    fn line(&mut self, kind: u8, text: &[u8]) {
        self.out.buf.push(kind);
        self.out.push(text);
        self.out.push(b"\r\n");
    }

    #[inline]
    fn header(&mut self, kind: u8, n: i64) {
        let buf = &mut self.out.buf;
        if let 0..1000 = n {
            // Nearly all numbers are as short as this: the whole line is written as one word, and what is too much of it
            // taken back.
            let (word, len) = short_header(kind, n as u64);
            let end = buf.len() + len;
            buf.extend_from_slice(&word.to_le_bytes());
            return buf.truncate(end);
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(n).as_bytes();
        buf.reserve(digits.len() + 3);
        buf.push(kind);
        buf.extend_from_slice(digits);
        buf.extend_from_slice(b"\r\n");
    }
}

/// Bytes of the longest header: its kind, a number of 64 bits with its sign, and the end of the line.
const HEADER_BYTES_MAX: usize = 1 + 20 + 2;

/// A header with a number below 1000, first byte lowest, and its length.
#[inline]
fn short_header(kind: u8, n: u64) -> (u64, usize) {
    const END: u64 = u16::from_le_bytes(*b"\r\n") as u64;
    let digit = |n: u64| n % 10 + b'0' as u64;
    let (digits, len) = match n {
        0..10 => (digit(n) | (END << 8), 1),
        10..100 => (digit(n / 10) | (digit(n) << 8) | (END << 16), 2),
        _ => (digit(n / 100) | (digit(n / 10) << 8) | (digit(n) << 16) | (END << 24), 3),
    };
    (kind as u64 | digits << 8, len + 3)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resp::read::{Value, parse_value};

    fn large(byte: u8) -> Arc<Vec<u8>> {
        Arc::new(vec![byte; SPLICE_BYTES_MIN])
    }

    /// The wire form of what `write` writes.
    fn wire(version: Version, write: impl Fn(&mut Reply)) -> String {
        let mut out = Output::new();
        write(&mut Reply::new(&mut out, version));
        assert_eq!(out.len(), out.to_vec().len());
        String::from_utf8(out.to_vec()).expect("text")
    }

    #[test]
    fn every_type_in_both_versions() {
        type Write = fn(&mut Reply);
        let cases: [(Write, &str, &str); 30] = [
            (|r| r.ok(), "+OK\r\n", "+OK\r\n"),
            (|r| r.simple("PONG"), "+PONG\r\n", "+PONG\r\n"),
            (|r| r.error(&Error::Syntax), "-ERR syntax error\r\n", "-ERR syntax error\r\n"),
            (|r| r.int(0), ":0\r\n", ":0\r\n"),
            (|r| r.int(1), ":1\r\n", ":1\r\n"),
            (|r| (8..12).for_each(|n| r.int(n)), ":8\r\n:9\r\n:10\r\n:11\r\n", ":8\r\n:9\r\n:10\r\n:11\r\n"),
            (|r| (98..101).for_each(|n| r.int(n)), ":98\r\n:99\r\n:100\r\n", ":98\r\n:99\r\n:100\r\n"),
            (|r| (998..1001).for_each(|n| r.int(n)), ":998\r\n:999\r\n:1000\r\n", ":998\r\n:999\r\n:1000\r\n"),
            (|r| r.int(i64::MIN), ":-9223372036854775808\r\n", ":-9223372036854775808\r\n"),
            (|r| r.bulk(b""), "$0\r\n\r\n", "$0\r\n\r\n"),
            (|r| r.bulk(b"a\r\n"), "$3\r\na\r\n\r\n", "$3\r\na\r\n\r\n"),
            (|r| r.bulk_shared(&Arc::new(b"small".to_vec())), "$5\r\nsmall\r\n", "$5\r\nsmall\r\n"),
            (|r| r.bulk_int(-12), "$3\r\n-12\r\n", "$3\r\n-12\r\n"),
            (|r| r.null(), "$-1\r\n", "_\r\n"),
            (|r| r.null_array(), "*-1\r\n", "_\r\n"),
            (|r| r.array(10), "*10\r\n", "*10\r\n"),
            (|r| r.map(2), "*4\r\n", "%2\r\n"),
            (|r| r.set(2), "*2\r\n", "~2\r\n"),
            (|r| r.push(2), "*2\r\n", ">2\r\n"),
            (|r| r.bool(true), ":1\r\n", "#t\r\n"),
            (|r| r.bool(false), ":0\r\n", "#f\r\n"),
            (|r| r.double(0.1), "$19\r\n0.10000000000000001\r\n", ",0.10000000000000001\r\n"),
            (|r| r.double(f64::INFINITY), "$3\r\ninf\r\n", ",inf\r\n"),
            (|r| r.double(f64::NEG_INFINITY), "$4\r\n-inf\r\n", ",-inf\r\n"),
            (|r| r.double(3.0), "$1\r\n3\r\n", ",3\r\n"),
            (|r| r.double(-0.0), "$2\r\n-0\r\n", ",-0\r\n"),
            (|r| r.double(-1e16), "$18\r\n-10000000000000000\r\n", ",-10000000000000000\r\n"),
            (|r| r.double(1e17), "$5\r\n1e+17\r\n", ",1e+17\r\n"),
            (|r| r.big_number("123"), "$3\r\n123\r\n", "(123\r\n"),
            (|r| r.verbatim(b"txt", b"hi"), "$2\r\nhi\r\n", "=6\r\ntxt:hi\r\n"),
        ];
        for (write, v2, v3) in cases {
            assert_eq!(wire(Version::V2, write), v2);
            assert_eq!(wire(Version::V3, write), v3);
        }
    }

    #[test]
    fn large_values_are_spliced_not_copied() {
        let value = large(b'a');
        let mut out = Output::new();
        assert!(out.is_empty());
        let mut reply = Reply::new(&mut out, Version::V2);
        reply.array(2);
        reply.bulk_shared(&value);
        reply.bulk_shared(&value);
        assert_eq!(Arc::strong_count(&value), 3);
        assert_eq!((out.splices().len(), out.buf().len()), (2, 4 + 2 * (8 + 2)));
        let bytes = out.to_vec();
        assert_eq!(out.len(), bytes.len());
        let bulk = Value::Bulk(value.to_vec());
        assert_eq!(parse_value(&bytes), Ok(Some((Value::Array(vec![bulk.clone(), bulk]), bytes.len()))));
        out.clear(usize::MAX);
        assert_eq!((out.len(), out.is_empty(), Arc::strong_count(&value)), (0, true, 1));
        out.splice(value);
        assert!(!out.is_empty());
    }

    #[test]
    fn clear_gives_large_buffers_back() {
        let mut out = Output::new();
        out.push(&[0; 100]);
        out.clear(1000);
        assert!(out.capacity() >= 100);
        out.push(&[0; 2000]);
        out.clear(1000);
        assert_eq!(out.capacity(), 0);
    }

    /// Replies, some of them spliced, one after the other; the marks between them and each one's bytes.
    fn many(kinds: &[u8]) -> (Output, Vec<u32>, Vec<Vec<u8>>) {
        let mut out = Output::new();
        let (mut marks, mut replies) = (vec![0], Vec::new());
        for (i, kind) in kinds.iter().enumerate() {
            let before = out.to_vec().len();
            let mut reply = Reply::new(&mut out, Version::V3);
            match kind % 4 {
                0 => reply.int(i as i64),
                1 => reply.bulk(&vec![*kind; i]),
                2 => reply.bulk_shared(&large(*kind)),
                _ => {
                    reply.array(2);
                    reply.bulk_shared(&large(*kind));
                    reply.bulk_shared(&large(i as u8));
                }
            }
            replies.push(out.to_vec()[before..].to_vec());
            marks.push(out.mark());
        }
        (out, marks, replies)
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

        #[test]
        fn ranges_are_copied_whole(kinds: [u8; 6], order: [u8; 8], own in 0usize..3) {
            let (from, marks, replies) = many(&kinds);
            let (mut to, _, before) = many(&kinds[..own]);
            let mut want = before.concat();
            for pick in order {
                let start = usize::from(pick) % replies.len();
                let end = (start + usize::from(pick >> 6)).min(replies.len());
                to.copy_range(&from, marks[start], marks[end]);
                want.extend(replies[start..end].concat());
            }
            proptest::prop_assert!(to.to_vec() == want);
            proptest::prop_assert_eq!(to.len(), want.len());
        }

        #[test]
        fn truncate_drops_whole_replies(kinds: [u8; 6], kept in 0usize..7) {
            let (mut out, marks, replies) = many(&kinds);
            out.truncate(marks[kept]);
            let mut want = replies[..kept].concat();
            proptest::prop_assert!(out.to_vec() == want);
            proptest::prop_assert_eq!(out.len(), want.len());
            Reply::new(&mut out, Version::V2).ok();
            want.extend_from_slice(b"+OK\r\n");
            proptest::prop_assert!(out.to_vec() == want);
        }
    }
}
