//! Reading a whole file.
//!
//! [`import`] goes over the file once and tells a [`Visitor`] of each key and of the statements that rebuild it. It needs
//! memory for one element, or one string of a packed value, at a time.
//!
//! Statements suppose that their key is not there. Keys that have expired are shown like any other: whether they are over is
//! for the caller to say, who knows the time ([`Visitor::key`]).

use std::io::BufRead;
use std::marker::PhantomData;

use super::source::Source;
use super::statements::{Gathered, Statements, Unwanted};
use super::value::Decoder;
use super::{Dialect, Error, STRING_BYTES_MAX, code, skip, value};
use crate::shard::{Kind, UnixMs};

/// Numbers of databases are below this.
const DATABASES_MAX: u64 = 1 << 31;

/// The version of the first files with a checksum.
const CHECKSUM_VERSION: u32 = 5;

/// Choices of whoever reads a file.
#[derive(Clone, Copy, Debug)]
pub struct ImportOptions {
    /// Go over streams and values of modules, with a note, rather than give up at the first.
    pub skip_unsupported: bool,
    /// Longest string, bytes.
    pub string_bytes_max: u64,
}

impl Default for ImportOptions {
    fn default() -> Self {
        ImportOptions { skip_unsupported: false, string_bytes_max: STRING_BYTES_MAX }
    }
}

/// A key, and what the file says of it besides its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyHeader<'a> {
    pub database: usize,
    pub key: &'a [u8],
    pub kind: Kind,
    /// Unix ms.
    pub expire_at: Option<UnixMs>,
    /// Seconds since the last use when the file was written.
    pub idle_s: Option<u64>,
    /// The count of an LFU policy.
    pub frequency: Option<u8>,
}

/// Something in a file that is no key, or is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note<'a> {
    /// Who wrote the file, and when: `redis-ver`, `ctime`, ...
    Aux { name: &'a [u8], value: &'a [u8] },
    /// Keys of a database, and those with an expiry. Nothing holds them to it.
    DatabaseSize { database: usize, keys: u64, expires: u64 },
    /// A slot, which has so many keys.
    Slot { slot: u64, keys: u64 },
    /// Left out: a library of functions.
    Functions { library: &'a [u8] },
    /// Left out: data of a module.
    ModuleData,
    /// Left out: a stream or a value of a module.
    Skipped { database: usize, key: &'a [u8], what: &'static str },
    /// A collection without elements, which no server keeps.
    Empty { database: usize, key: &'a [u8] },
}

/// Hears what is in a file. An error ends the reading.
pub trait Visitor {
    type Error: From<Error>;

    /// A key begins. False: its value is not wanted, and no statement of it follows.
    fn key(&mut self, header: &KeyHeader) -> Result<bool, Self::Error>;

    /// The next of the statements that rebuild the key: `SET`, or `RPUSH`, `SADD`, `ZADD`, `HSET` and `HPEXPIREAT` as often
    /// as it takes, and `PEXPIREAT` at the end if the key expires.
    fn statement(&mut self, header: &KeyHeader, statement: &[&[u8]]) -> Result<(), Self::Error>;

    fn note(&mut self, _note: Note) -> Result<(), Self::Error> {
        Ok(())
    }
}

/// What a file was, once it was read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    pub version: u32,
    /// Keys that were shown and not empty, wanted or not.
    pub keys: u64,
    /// Where the file ended. What is behind was not looked at, although `input` may have buffered it.
    pub bytes: u64,
    /// Whether there was a checksum, which was right then.
    pub checked: bool,
}

/// Reads a file.
pub fn import<V: Visitor>(input: impl BufRead, options: &ImportOptions, visitor: &mut V) -> Result<Summary, V::Error> {
    let mut source = Source::new(input, options.string_bytes_max);
    let (version, dialect) = magic(&mut source)?;
    let mut reader = Reader {
        source,
        options: *options,
        visitor,
        dialect,
        decoder: Decoder::default(),
        gathered: Gathered::default(),
        database: 0,
        next: NextKey::default(),
        keys: 0,
    };
    while reader.step()? {}
    let Reader { mut source, keys, .. } = reader;
    let computed = source.checksum();
    let stored = if version >= CHECKSUM_VERSION { source.u64_le()? } else { 0 };
    if stored != 0 && stored != computed {
        return Err(Error::Checksum { stored, computed }.into());
    }
    Ok(Summary { version, keys, bytes: source.offset(), checked: stored != 0 })
}

fn magic<R: BufRead>(source: &mut Source<R>) -> Result<(u32, Dialect), Error> {
    let magic: [u8; 9] = source.array().map_err(|error| match error {
        Error::Truncated { .. } => Error::NotRdb,
        error => error,
    })?;
    let digits = magic.strip_prefix(b"REDIS").or(magic.strip_prefix(b"VALKEY")).ok_or(Error::NotRdb)?;
    if !digits.iter().all(u8::is_ascii_digit) {
        return Err(Error::NotRdb);
    }
    let version = digits.iter().fold(0, |version, digit| version * 10 + u32::from(digit - b'0'));
    let dialect = Dialect::of_version(version).ok_or(Error::Version { version })?;
    Ok((version, dialect))
}

/// What opcodes have said of the key that is to come.
#[derive(Clone, Copy, Default)]
struct NextKey {
    expire_at: Option<UnixMs>,
    idle_s: Option<u64>,
    frequency: Option<u8>,
}

struct Reader<'a, R, V> {
    source: Source<R>,
    options: ImportOptions,
    visitor: &'a mut V,
    dialect: Dialect,
    decoder: Decoder,
    gathered: Gathered,
    database: usize,
    next: NextKey,
    keys: u64,
}

impl<R: BufRead, V: Visitor> Reader<'_, R, V> {
    /// Reads an opcode with what belongs to it, or a key; false at the end.
    fn step(&mut self) -> Result<bool, V::Error> {
        let source = &mut self.source;
        match source.byte()? {
            code::EOF => return Ok(false),
            code::SELECTDB => {
                let database = source.length()?;
                if database >= DATABASES_MAX {
                    return Err(source.damaged("the number of a database is too large").into());
                }
                self.database = database as usize;
            }
            code::EXPIRETIME => {
                let seconds = i32::from_le_bytes(source.array()?);
                self.next.expire_at = Some(i64::from(seconds) * 1000);
            }
            code::EXPIRETIME_MS => self.next.expire_at = Some(i64::from_le_bytes(source.array()?)),
            code::FREQ => self.next.frequency = Some(source.byte()?),
            code::IDLE => self.next.idle_s = Some(source.length()?),
            opcode @ code::SLOT_INFO.. => self.note(opcode)?,
            code => self.key(code)?,
        }
        Ok(true)
    }

    /// Opcodes that concern no key.
    fn note(&mut self, opcode: u8) -> Result<(), V::Error> {
        let source = &mut self.source;
        match opcode {
            code::AUX => {
                let (name, value) = (source.owned_string()?, source.owned_string()?);
                self.visitor.note(Note::Aux { name: &name, value: &value })
            }
            code::RESIZEDB => {
                let (keys, expires) = (source.length()?, source.length()?);
                self.visitor.note(Note::DatabaseSize { database: self.database, keys, expires })
            }
            code::SLOT_INFO => {
                let (slot, keys) = (source.length()?, source.length()?);
                source.length()?;
                self.visitor.note(Note::Slot { slot, keys })
            }
            code::FUNCTION2 => {
                let library = source.owned_string()?;
                self.visitor.note(Note::Functions { library: &library })
            }
            code::MODULE_AUX => {
                skip::module_aux(source)?;
                self.visitor.note(Note::ModuleData)
            }
            code => Err(Error::UnknownCode { offset: source.offset() - 1, code }.into()),
        }
    }

    fn key(&mut self, code: u8) -> Result<(), V::Error> {
        let offset = self.source.offset() - 1;
        let next = std::mem::take(&mut self.next);
        let known = value::kind(code, self.dialect);
        if known.is_none() && skip::name(code).is_none() {
            return Err(Error::UnknownCode { offset, code }.into());
        }
        let key = self.source.owned_string()?;
        let Some(kind) = known else { return self.unsupported(code, offset, key) };
        let NextKey { expire_at, idle_s, frequency } = next;
        let header = KeyHeader { database: self.database, key: &key, kind, expire_at, idle_s, frequency };
        let (source, dialect) = (&mut self.source, self.dialect);
        let elements = if self.visitor.key(&header)? {
            let mut statements = Statements { visitor: self.visitor, header, gathered: &mut self.gathered };
            let elements = self.decoder.decode(source, code, dialect, &mut statements)?;
            if elements > 0 {
                statements.finish()?;
            }
            elements
        } else {
            self.decoder.decode(source, code, dialect, &mut Unwanted::<V::Error>(PhantomData))?
        };
        if elements == 0 {
            return self.visitor.note(Note::Empty { database: self.database, key: &key });
        }
        self.keys += 1;
        Ok(())
    }

    fn unsupported(&mut self, code: u8, offset: u64, key: Vec<u8>) -> Result<(), V::Error> {
        let what = skip::name(code).unwrap_or("nothing that is known");
        if !self.options.skip_unsupported || !skip::skip(&mut self.source, code)? {
            return Err(Error::Unsupported { offset, key, what }.into());
        }
        self.visitor.note(Note::Skipped { database: self.database, key: &key, what })
    }
}
