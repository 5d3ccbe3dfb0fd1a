//! Where the bytes of an RDB file come from: a reader that knows how far it is and what the checksum is so far.
//!
//! Nothing that a length says is believed before the bytes are there: a string grows as it is read, so a damaged file
//! cannot make us reserve more than a small multiple of its size. Lengths above a limit are refused at once.
//!
//! ```text
//! length    00LLLLLL                                     up to 63
//!           01LLLLLL LLLLLLLL                            up to 16,383
//!           10000000 u32 | 10000001 u64                  big-endian
//! string    length | bytes
//!           11000000 i8 | 11000001 i16 | 11000010 i32    the digits of a number, little-endian
//!           11000011 length length | bytes               compressed length, length, LZF
//! ```
//!
//! Used by whoever reads a file; no core owns it.

use std::io::{self, BufRead};

use super::{CRC, Error, lzf};

/// By how much a string grows at once while its bytes have not arrived.
const GROWTH_BYTES_MAX: usize = 64 * 1024;

/// A length, or what stands in its place.
enum Length {
    Plain(u64),
    /// How a string is encoded.
    Encoding(u8),
}

/// See the module.
pub(super) struct Source<R> {
    input: R,
    offset: u64,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
    /// Longest string, bytes.
    string_bytes_max: u64,
    /// For compressed strings.
    scratch: Vec<u8>,
}

impl<R: BufRead> Source<R> {
    pub(super) fn new(input: R, string_bytes_max: u64) -> Self {
        Source { input, offset: 0, crc: CRC.digest(), string_bytes_max, scratch: Vec::new() }
    }

    /// Bytes read so far.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// The checksum of all bytes read so far.
    pub(super) fn checksum(&self) -> u64 {
        self.crc.clone().finalize()
    }

    pub(super) fn damaged(&self, what: &'static str) -> Error {
        Error::Damaged { offset: self.offset, what }
    }

    /// Shows up to `len` bytes that have arrived, at least one, to `take`, and goes behind them; their number.
    fn some(&mut self, len: u64, take: impl FnOnce(&[u8])) -> Result<usize, Error> {
        let arrived = loop {
            match self.input.fill_buf() {
                Ok([]) => return Err(Error::Truncated { offset: self.offset }),
                Ok(arrived) => break arrived,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Io { offset: self.offset, source }),
            }
        };
        let count = usize::try_from(len).unwrap_or(usize::MAX).min(arrived.len());
        self.crc.update(&arrived[..count]);
        take(&arrived[..count]);
        self.input.consume(count);
        self.offset += count as u64;
        Ok(count)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        let mut have = 0;
        while have < N {
            let place = &mut bytes[have..];
            have += self.some(place.len() as u64, |arrived| place[..arrived.len()].copy_from_slice(arrived))?;
        }
        Ok(bytes)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u64_le(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_le_bytes)
    }

    /// Appends `len` bytes to `bytes`.
    fn append(&mut self, bytes: &mut Vec<u8>, len: u64) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            if bytes.len() == bytes.capacity() {
                // Twofold at the most, and never more than is to come.
                let growth = bytes.len().max(GROWTH_BYTES_MAX) as u64;
                bytes.reserve_exact(growth.min(left) as usize);
            }
            let room = (bytes.capacity() - bytes.len()) as u64;
            left -= self.some(left.min(room), |arrived| bytes.extend_from_slice(arrived))? as u64;
        }
        Ok(())
    }

    pub(super) fn skip(&mut self, len: u64) -> Result<(), Error> {
        let mut left = len;
        while left > 0 {
            left -= self.some(left, |_| ())? as u64;
        }
        Ok(())
    }

    fn length_or_encoding(&mut self) -> Result<Length, Error> {
        let first = self.byte()?;
        Ok(match first >> 6 {
            0 => Length::Plain(u64::from(first)),
            1 => Length::Plain(u64::from(first & 0x3f) << 8 | u64::from(self.byte()?)),
            2 if first == 0x80 => Length::Plain(u64::from(u32::from_be_bytes(self.array()?))),
            2 if first == 0x81 => Length::Plain(u64::from_be_bytes(self.array()?)),
            2 => return Err(self.damaged("a length of no known form")),
            _ => Length::Encoding(first & 0x3f),
        })
    }

    /// A number that says how many of something follow, or any other number that is written in the form of a length.
    pub(super) fn length(&mut self) -> Result<u64, Error> {
        match self.length_or_encoding()? {
            Length::Plain(len) => Ok(len),
            Length::Encoding(_) => Err(self.damaged("an encoded string in the place of a length")),
        }
    }

    fn checked_len(&self, len: u64) -> Result<u64, Error> {
        if len > self.string_bytes_max {
            return Err(Error::TooLong { offset: self.offset, len, max: self.string_bytes_max });
        }
        Ok(len)
    }

    /// Puts the next string into `text`, whatever was there.
    pub(super) fn string(&mut self, text: &mut Vec<u8>) -> Result<(), Error> {
        text.clear();
        let number = match self.length_or_encoding()? {
            Length::Plain(len) => {
                let len = self.checked_len(len)?;
                return self.append(text, len);
            }
            Length::Encoding(0) => i32::from(i8::from_le_bytes(self.array()?)),
            Length::Encoding(1) => i32::from(i16::from_le_bytes(self.array()?)),
            Length::Encoding(2) => i32::from_le_bytes(self.array()?),
            Length::Encoding(3) => return self.compressed(text),
            Length::Encoding(_) => return Err(self.damaged("a string of no known encoding")),
        };
        text.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
        Ok(())
    }

    fn compressed(&mut self, text: &mut Vec<u8>) -> Result<(), Error> {
        let packed_len = self.length()?;
        let packed_len = self.checked_len(packed_len)?;
        let len = self.length()?;
        let len = self.checked_len(len)?;
        let offset = self.offset;
        let mut packed = std::mem::take(&mut self.scratch);
        packed.clear();
        self.append(&mut packed, packed_len)?;
        lzf::decompress(&packed, len as usize, text).map_err(|what| Error::Damaged { offset, what })?;
        if packed.capacity() <= GROWTH_BYTES_MAX {
            self.scratch = packed;
        }
        Ok(())
    }

    /// The next string, in a vector of its own.
    pub(super) fn owned_string(&mut self) -> Result<Vec<u8>, Error> {
        let mut text = Vec::new();
        self.string(&mut text)?;
        Ok(text)
    }

    pub(super) fn skip_string(&mut self) -> Result<(), Error> {
        match self.length_or_encoding()? {
            Length::Plain(len) => self.skip(len),
            Length::Encoding(encoding @ 0..=2) => self.skip(1 << encoding),
            Length::Encoding(3) => {
                let packed_len = self.length()?;
                self.length()?;
                self.skip(packed_len)
            }
            Length::Encoding(_) => Err(self.damaged("a string of no known encoding")),
        }
    }
}
