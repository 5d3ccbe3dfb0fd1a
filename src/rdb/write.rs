//! Writing: whole files, and the values in them.
//!
//! Every value is written in its plainest form, which all versions of Redis since 4.0 read and pack as their own thresholds
//! say: lists, sets, sorted sets (with binary scores) and hashes element by element. Nothing is copied but what lies in
//! a buffer of [`BUFFER_BYTES`]. Only hashes some fields of which have deadlines need a newer form and a newer version of the
//! format, [`FIELD_DEADLINES_VERSION`]: a file names its version first, so who writes one says beforehand
//! ([`ExportOptions`]).
//!
//! Strings that are small integers are written in binary, others as they are; nothing is compressed.

use std::io::{self, BufWriter, Write};

use super::{CRC, FIELD_DEADLINES_VERSION, VERSION, WriteError, code};
use crate::collection::hash::{self, Hash};
use crate::collection::list::List;
use crate::collection::set::Set;
use crate::collection::sorted::SortedSet;
use crate::collection::{Value, ValueRef};
use crate::resp::parse_i64;
use crate::shard::{EntryRef, Kind, Now, UnixMs};

/// Bytes that gather before they are written.
const BUFFER_BYTES: usize = 64 * 1024;

/// Digits of the longest integer that is written in binary, with its sign.
const INTEGER_BYTES_MAX: usize = 11;

/// A value to be written.
#[derive(Clone, Copy, Debug)]
pub enum Saved<'a> {
    String(&'a [u8]),
    /// Of this type, not empty.
    Collection(Kind, ValueRef<'a>),
}

impl<'a> Saved<'a> {
    /// The value of an entry.
    pub fn of(entry: &EntryRef<'a>) -> Saved<'a> {
        match entry.kind {
            Kind::String => Saved::String(entry.value.bytes()),
            kind => Saved::Collection(kind, entry.collection()),
        }
    }

    /// A collection outside of a shard.
    pub fn of_collection(kind: Kind, value: &'a Value) -> Saved<'a> {
        Saved::Collection(kind, value.view())
    }
}

/// Whether a value is a hash of which some fields have deadlines.
fn has_deadlines(value: &Saved) -> bool {
    match value {
        Saved::Collection(Kind::Hash, value) => hash::next_deadlines(*value).iter().any(Option::is_some),
        _ => false,
    }
}

/// The first version of the format that has a form for the value, as far as we write any.
pub(super) fn version_of(value: &Saved) -> u16 {
    if has_deadlines(value) { FIELD_DEADLINES_VERSION } else { VERSION }
}

/// The type that [`Encoder::value`] writes.
pub(super) fn code_of(value: &Saved) -> u8 {
    match value {
        Saved::String(_) | Saved::Collection(Kind::String, _) => code::STRING,
        Saved::Collection(Kind::List, _) => code::LIST,
        Saved::Collection(Kind::Set, _) => code::SET,
        Saved::Collection(Kind::SortedSet, _) => code::ZSET_2,
        Saved::Collection(Kind::Hash, _) if has_deadlines(value) => code::HASH_METADATA,
        Saved::Collection(Kind::Hash, _) => code::HASH,
    }
}

/// Writes the parts of the format, and computes the checksum.
pub(super) struct Encoder<W> {
    output: W,
    crc: crc::Digest<'static, u64, crc::Table<16>>,
}

impl<W: Write> Encoder<W> {
    pub(super) fn new(output: W) -> Self {
        Encoder { output, crc: CRC.digest() }
    }

    /// Of all bytes so far.
    pub(super) fn checksum(&self) -> u64 {
        self.crc.clone().finalize()
    }

    pub(super) fn into_output(self) -> W {
        self.output
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.output.write_all(bytes)
    }

    pub(super) fn byte(&mut self, byte: u8) -> io::Result<()> {
        self.bytes(&[byte])
    }

    pub(super) fn length(&mut self, len: u64) -> io::Result<()> {
        match len {
            0..0x40 => self.byte(len as u8),
            0x40..0x4000 => self.bytes(&(0x4000 | len as u16).to_be_bytes()),
            0x4000..=0xffff_ffff => {
                self.byte(0x80)?;
                self.bytes(&(len as u32).to_be_bytes())
            }
            _ => {
                self.byte(0x81)?;
                self.bytes(&len.to_be_bytes())
            }
        }
    }

    pub(super) fn string(&mut self, text: &[u8]) -> io::Result<()> {
        let number = if text.len() <= INTEGER_BYTES_MAX { parse_i64(text) } else { None };
        if let Some(number) = number {
            if let Ok(small) = i8::try_from(number) {
                return self.bytes(&[0xc0, small as u8]);
            }
            if let Ok(middle) = i16::try_from(number) {
                let [low, high] = middle.to_le_bytes();
                return self.bytes(&[0xc1, low, high]);
            }
            if let Ok(large) = i32::try_from(number) {
                self.byte(0xc2)?;
                return self.bytes(&large.to_le_bytes());
            }
        }
        self.length(text.len() as u64)?;
        self.bytes(text)
    }

    /// The value without its type. Fields of hashes that are over are left out.
    pub(super) fn value(&mut self, value: &Saved, now: Now) -> io::Result<()> {
        let (kind, collection) = match *value {
            Saved::String(text) => return self.string(text),
            Saved::Collection(kind, collection) => (kind, collection),
        };
        match kind {
            Kind::List => {
                let list = List::new(collection);
                self.length(list.len() as u64)?;
                list.iter_from(0).try_for_each(|item| self.string(item))
            }
            Kind::Set => {
                let set = Set::new(collection);
                self.length(set.len() as u64)?;
                set.iter().try_for_each(|member| self.string(member.text(&mut itoa::Buffer::new())))
            }
            Kind::SortedSet => {
                let set = SortedSet::new(collection);
                self.length(set.len() as u64)?;
                set.iter().try_for_each(|(member, score)| {
                    self.string(member)?;
                    self.bytes(&score.to_le_bytes())
                })
            }
            Kind::Hash if has_deadlines(value) => self.timed_hash(collection, now),
            Kind::Hash => {
                let hash = Hash::at(collection, now);
                self.length(hash.len() as u64)?;
                let mut result = Ok(());
                hash.visit(|(field, text)| {
                    if result.is_ok() {
                        result = self.string(field).and_then(|()| self.string(text));
                    }
                });
                result
            }
            Kind::String => unreachable!("a string is no collection"),
        }
    }

    fn timed_hash(&mut self, collection: ValueRef, now: Now) -> io::Result<()> {
        let first = hash::first_deadline(collection, now).unwrap_or(0).max(0);
        self.bytes(&first.to_le_bytes())?;
        self.length(Hash::at(collection, now).len() as u64)?;
        let mut result = Ok(());
        hash::visit_with_deadlines(collection, now, |(field, text), deadline| {
            // A clock that is set while the fields wait could put one before the first, which was computed for the same now.
            let after = deadline.map_or(0, |deadline| (now.wall_of(deadline) - first).max(0) as u64 + 1);
            if result.is_ok() {
                result = self.length(after).and_then(|()| self.string(field)).and_then(|()| self.string(text));
            }
        });
        result
    }
}

/// Choices of whoever writes a file.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExportOptions<'a> {
    /// Whether there may be hashes whose fields have deadlines: the version is [`FIELD_DEADLINES_VERSION`] then, which older
    /// servers refuse, and [`VERSION`] if not.
    pub field_deadlines: bool,
    /// What the file says of itself: `redis-ver`, `ctime`, `used-mem`, ...
    pub aux: &'a [(&'a str, &'a str)],
}

/// Writes a file: `fill` adds databases and keys, the rest comes by itself. Returns the output, to be synced or renamed.
pub fn export<W: Write, E: From<WriteError>>(
    output: W,
    options: &ExportOptions,
    fill: impl FnOnce(&mut File<W>) -> Result<(), E>,
) -> Result<W, E> {
    let mut file = File::start(output, options).map_err(WriteError::Io)?;
    fill(&mut file)?;
    Ok(file.end().map_err(WriteError::Io)?)
}

/// A file that is being written; see [`export`].
pub struct File<W: Write> {
    encoder: Encoder<BufWriter<W>>,
    version: u16,
    keys: u64,
}

impl<W: Write> File<W> {
    fn start(output: W, options: &ExportOptions) -> io::Result<Self> {
        let mut encoder = Encoder::new(BufWriter::with_capacity(BUFFER_BYTES, output));
        let version = if options.field_deadlines { FIELD_DEADLINES_VERSION } else { VERSION };
        encoder.bytes(format!("REDIS{version:04}").as_bytes())?;
        for (name, value) in options.aux {
            encoder.byte(code::AUX)?;
            encoder.string(name.as_bytes())?;
            encoder.string(value.as_bytes())?;
        }
        Ok(File { encoder, version, keys: 0 })
    }

    /// Keys so far.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The keys that follow are of this database, which has about so many, so many of them with an expiry. Each database once;
    /// without it they are of database 0.
    pub fn database(&mut self, database: usize, keys: u64, expires: u64) -> Result<(), WriteError> {
        self.encoder.byte(code::SELECTDB)?;
        self.encoder.length(database as u64)?;
        self.encoder.byte(code::RESIZEDB)?;
        self.encoder.length(keys)?;
        Ok(self.encoder.length(expires)?)
    }

    /// Writes a key. `expire_at` is Unix ms; `now` tells which moment the deadlines of fields are.
    pub fn key(&mut self, key: &[u8], value: &Saved, expire_at: Option<UnixMs>, now: Now) -> Result<(), WriteError> {
        if version_of(value) > self.version {
            return Err(WriteError::FieldDeadlines { key: key.to_vec(), version: self.version });
        }
        if let Some(ms) = expire_at {
            self.encoder.byte(code::EXPIRETIME_MS)?;
            self.encoder.bytes(&ms.to_le_bytes())?;
        }
        self.encoder.byte(code_of(value))?;
        self.encoder.string(key)?;
        self.encoder.value(value, now)?;
        self.keys += 1;
        Ok(())
    }

    fn end(mut self) -> io::Result<W> {
        self.encoder.byte(code::EOF)?;
        let checksum = self.encoder.checksum();
        self.encoder.bytes(&checksum.to_le_bytes())?;
        self.encoder.into_output().into_inner().map_err(io::IntoInnerError::into_error)
    }
}
