//! A client of a cache: it asks for a key, and if the key is missing, makes the value and sets it.
//!
//! Requests are pipelined: the GETs of [`BATCH`] requests travel together, and the SETs of their misses with the GETs
//! of the next batch. A key that is missing and asked for twice within a batch is two misses, as it is with clients
//! that do not know of each other.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Requests that travel together.
pub const BATCH: usize = 64;
/// A value's size is a function of its key, uniform in this range.
pub const VALUE_BYTES_MIN: usize = 64;
pub const VALUE_BYTES_MAX: usize = 500;
/// Replies to one batch of GETs fit.
const RECEIVE_BYTES: usize = 64 << 10;

/// The last arguments of a SET that expires: in eleven days.
const EXPIRY: &str = "$2\r\nEX\r\n$6\r\n999999\r\n";

/// The size of the value of `key`.
pub fn value_bytes(key: u64) -> usize {
    // The finalizer of MurmurHash3: neighbouring keys have unrelated sizes.
    let mut mix = key;
    for factor in [0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53] {
        mix = (mix ^ (mix >> 33)).wrapping_mul(factor);
    }
    VALUE_BYTES_MIN + ((mix ^ (mix >> 33)) % (VALUE_BYTES_MAX - VALUE_BYTES_MIN + 1) as u64) as usize
}

/// How values are set.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mode {
    /// With an expiry far in the future: policies named volatile-* look at no other keys.
    pub expiring: bool,
    /// A SET may be refused because memory is full.
    pub refusable: bool,
}

pub struct Client {
    replies: BufReader<TcpStream>,
    requests: Vec<u8>,
    /// Of the last reply.
    line: Vec<u8>,
    value: Vec<u8>,
    /// SETs whose replies are not read yet; they come before those of any GETs.
    sets_pending: usize,
}

impl Client {
    pub fn new(stream: TcpStream) -> Self {
        Client {
            replies: BufReader::with_capacity(RECEIVE_BYTES, stream),
            requests: Vec::new(),
            line: Vec::new(),
            value: Vec::new(),
            sets_pending: 0,
        }
    }

    /// A number of INFO.
    pub fn info(&mut self, field: &str) -> io::Result<u64> {
        self.requests.extend_from_slice(b"*1\r\n$4\r\nINFO\r\n");
        self.send()?;
        self.read_bulk()?;
        let text = String::from_utf8_lossy(&self.value);
        let value = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.and_then(|value| value.trim().parse().ok()).ok_or_else(|| bad(format!("INFO has no {field}")))
    }

    pub fn dbsize(&mut self) -> io::Result<u64> {
        self.requests.extend_from_slice(b"*1\r\n$6\r\nDBSIZE\r\n");
        self.send()?;
        self.read_line()?;
        self.number(b':').and_then(|number| number.try_into().ok()).ok_or_else(|| self.unexpected("DBSIZE"))
    }

    /// Sets each of `keys`.
    pub fn fill(&mut self, keys: impl Iterator<Item = u64>, mode: Mode) -> io::Result<()> {
        for key in keys {
            self.push_set(key, mode);
            if self.sets_pending == BATCH {
                self.settle(mode)?;
            }
        }
        self.settle(mode)
    }

    /// Asks for `keys`, after what an earlier call left to be set. Tells how many were there.
    pub fn ask(&mut self, keys: &[u64], mode: Mode) -> io::Result<u64> {
        for &key in keys {
            self.push_get(key);
        }
        self.settle(mode)?;
        let mut hits = 0;
        for &key in keys {
            if self.read_bulk()? {
                hits += 1;
                if self.value.len() != value_bytes(key) {
                    return Err(bad(format!("key:{key} has a value of {} bytes", self.value.len())));
                }
            } else {
                self.push_set(key, mode);
            }
        }
        Ok(hits)
    }

    /// Sends what is gathered, and reads the replies to the SETs in it.
    pub fn settle(&mut self, mode: Mode) -> io::Result<()> {
        self.send()?;
        for _ in 0..std::mem::take(&mut self.sets_pending) {
            self.read_line()?;
            let refused = mode.refusable && self.line.starts_with(b"-OOM");
            if !refused && self.line != b"+OK" {
                return Err(self.unexpected("SET"));
            }
        }
        Ok(())
    }

    fn push_get(&mut self, key: u64) {
        // Writing to a vector does not fail.
        let _ = write!(self.requests, "*2\r\n$3\r\nGET\r\n$16\r\nkey:{key:012}\r\n");
    }

    fn push_set(&mut self, key: u64, mode: Mode) {
        let (count, expiry) = if mode.expiring { (5, EXPIRY) } else { (3, "") };
        let bytes = value_bytes(key);
        let _ = write!(self.requests, "*{count}\r\n$3\r\nSET\r\n$16\r\nkey:{key:012}\r\n${bytes}\r\n");
        self.requests.extend(std::iter::repeat_n(b'v', bytes));
        let _ = write!(self.requests, "\r\n{expiry}");
        self.sets_pending += 1;
    }

    fn send(&mut self) -> io::Result<()> {
        self.replies.get_mut().write_all(&self.requests)?;
        self.requests.clear();
        Ok(())
    }

    /// Reads a line into `line`, without its end.
    fn read_line(&mut self) -> io::Result<()> {
        self.line.clear();
        self.replies.read_until(b'\n', &mut self.line)?;
        if !self.line.ends_with(b"\r\n") {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.line.truncate(self.line.len() - 2);
        Ok(())
    }

    /// Reads a value into `value`, or tells that there is none.
    fn read_bulk(&mut self) -> io::Result<bool> {
        self.read_line()?;
        match self.number(b'$') {
            Some(-1) => Ok(false),
            Some(length @ 0..) => {
                self.value.resize(length as usize + 2, 0);
                self.replies.read_exact(&mut self.value)?;
                self.value.truncate(length as usize);
                Ok(true)
            }
            _ => Err(self.unexpected("GET")),
        }
    }

    /// The number in `line`, after `mark`.
    fn number(&self, mark: u8) -> Option<i64> {
        let digits = self.line.strip_prefix(&[mark])?;
        std::str::from_utf8(digits).ok()?.parse().ok()
    }

    fn unexpected(&self, command: &str) -> io::Error {
        bad(format!("{command} was answered {:?}", String::from_utf8_lossy(&self.line)))
    }
}

fn bad(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
