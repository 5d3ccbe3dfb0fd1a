//! From the bytes of a value to its elements, whatever form it was written in.
//!
//! ```text
//! string                string
//! list                  n | string ...
//! list, ziplist         string with a ziplist
//! quicklist             n | string with a ziplist ...
//! quicklist 2           n | (1 | string) or (2 | string with a listpack) ...
//! set, intset, listpack                                          as lists
//! sorted set            n | (string | score as text) ...         u8: bytes of the text; 253 NaN, 254 inf, 255 -inf
//! sorted set 2          n | (string | score f64) ...
//! hash                  n | (string | string) ...
//! hash with deadlines   first deadline i64 | n | (deadline - first + 1, or 0, in the form of a length | string | string) ...
//!   before 7.4.0        n | (deadline, or 0 | string | string) ...
//!   of Valkey           n | (string | string | deadline i64, or -1) ...
//! hash, listpack        string with a listpack of field, value, ...
//!   with deadlines      first deadline i64 | string with a listpack of field, value, deadline or 0, ...
//!   before 7.4.0        string with a listpack of field, value, deadline or 0, ...
//! ```
//!
//! How deep a value is nested is fixed by its type, so nothing here recurses. Of a plain form one element is in memory at
//! a time, of a packed form the string.

use std::io::BufRead;

use super::packed::{Damage, Item, Items, Zipmap, integers};
use super::source::Source;
use super::{Dialect, Error, code};
use crate::shard::{Kind, UnixMs};

/// Buffers above this are not kept for the next value, bytes.
const KEPT_BYTES_MAX: usize = 1024 * 1024;

/// Latest deadline of a field, ms: what HPEXPIREAT takes. Valkey allows later ones, which become this: the year 4199.
const FIELD_DEADLINE_MS_MAX: u64 = 0xFFFF_FFFF_FFFF >> 2;

/// Takes in a value, element by element.
pub(super) trait Sink {
    type Error: From<Error>;

    /// First of all. `len` is how many elements are announced, as far as that is said; it may be any number.
    fn start(&mut self, kind: Kind, len: Option<u64>) -> Result<(), Self::Error>;
    /// The whole value.
    fn string(&mut self, value: Vec<u8>) -> Result<(), Self::Error>;
    /// Of a list or a set.
    fn element(&mut self, element: &[u8]) -> Result<(), Self::Error>;
    fn field(&mut self, field: &[u8], text: &[u8], deadline: Option<UnixMs>) -> Result<(), Self::Error>;
    /// The score is a number.
    fn scored(&mut self, member: &[u8], score: f64) -> Result<(), Self::Error>;
}

/// The type of a value that can be read. To Valkey the last codes are nothing, or something that nobody else knows.
pub(super) fn kind(code: u8, dialect: Dialect) -> Option<Kind> {
    Some(match code {
        code::STRING => Kind::String,
        code::LIST | code::LIST_ZIPLIST | code::LIST_QUICKLIST | code::LIST_QUICKLIST_2 => Kind::List,
        code::SET | code::SET_INTSET | code::SET_LISTPACK => Kind::Set,
        code::ZSET | code::ZSET_2 | code::ZSET_ZIPLIST | code::ZSET_LISTPACK => Kind::SortedSet,
        code::HASH | code::HASH_ZIPMAP | code::HASH_ZIPLIST | code::HASH_LISTPACK => Kind::Hash,
        code::HASH_METADATA_PRE_GA => Kind::Hash,
        code::HASH_LISTPACK_EX_PRE_GA..=code::HASH_LISTPACK_EX if dialect == Dialect::Redis => Kind::Hash,
        _ => return None,
    })
}

/// Reads values; its buffers serve again and again.
#[derive(Default)]
pub(super) struct Decoder {
    first: Vec<u8>,
    second: Vec<u8>,
}

impl Decoder {
    /// Reads the value of type `code`, for which [`kind`] knows a name. Returns the number of its elements.
    pub(super) fn decode<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        code: u8,
        dialect: Dialect,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let result = match code {
            code::STRING => {
                sink.start(Kind::String, None)?;
                sink.string(source.owned_string()?)?;
                Ok(1)
            }
            code::LIST => self.plain(source, Kind::List, sink),
            code::SET => self.plain(source, Kind::Set, sink),
            code::LIST_ZIPLIST | code::SET_LISTPACK => {
                sink.start(if code == code::SET_LISTPACK { Kind::Set } else { Kind::List }, None)?;
                self.packed(source, code == code::SET_LISTPACK, sink)
            }
            code::LIST_QUICKLIST | code::LIST_QUICKLIST_2 => {
                self.quicklist(source, code == code::LIST_QUICKLIST_2, sink)
            }
            code::SET_INTSET => self.intset(source, sink),
            code::ZSET | code::ZSET_2 => self.scored(source, code == code::ZSET_2, sink),
            code::ZSET_ZIPLIST | code::ZSET_LISTPACK => self.packed_scores(source, code == code::ZSET_LISTPACK, sink),
            code::HASH => self.fields(source, Deadlines::None, sink),
            code::HASH_ZIPMAP => self.zipmap(source, sink),
            code::HASH_ZIPLIST | code::HASH_LISTPACK => self.packed_fields(source, code == code::HASH_LISTPACK, sink),
            code::HASH_METADATA_PRE_GA if dialect == Dialect::Valkey => self.fields(source, Deadlines::Behind, sink),
            code::HASH_METADATA_PRE_GA => self.fields(source, Deadlines::Absolute, sink),
            code::HASH_METADATA => self.fields(source, Deadlines::FromFirst, sink),
            code::HASH_LISTPACK_EX_PRE_GA => self.packed_timed_fields(source, sink),
            code::HASH_LISTPACK_EX => {
                source.u64_le()?;
                self.packed_timed_fields(source, sink)
            }
            code => Err(Error::UnknownCode { offset: source.offset(), code }.into()),
        };
        for buffer in [&mut self.first, &mut self.second] {
            buffer.clear();
            buffer.shrink_to(KEPT_BYTES_MAX);
        }
        result
    }

    fn plain<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        kind: Kind,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let len = source.length()?;
        sink.start(kind, Some(len))?;
        for _ in 0..len {
            source.string(&mut self.first)?;
            sink.element(&self.first)?;
        }
        Ok(len)
    }

    /// A string with the elements of a list or a set.
    fn packed<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        listpack: bool,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let offset = source.offset();
        let mut items = self.items(source, listpack)?;
        let mut len = 0;
        while let Some([item]) = items.group().map_err(at(offset))? {
            sink.element(item.text(&mut itoa::Buffer::new()))?;
            len += 1;
        }
        Ok(len)
    }

    fn items<R: BufRead>(&mut self, source: &mut Source<R>, listpack: bool) -> Result<Items<'_>, Error> {
        let offset = source.offset();
        source.string(&mut self.first)?;
        let items = if listpack { Items::of_listpack(&self.first) } else { Items::of_ziplist(&self.first) };
        items.map_err(at(offset))
    }

    fn quicklist<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        second: bool,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        sink.start(Kind::List, None)?;
        let nodes = source.length()?;
        let mut len = 0u64;
        for _ in 0..nodes {
            let container = if second { source.length()? } else { code::NODE_PACKED };
            len = len.saturating_add(match container {
                code::NODE_PLAIN => {
                    source.string(&mut self.first)?;
                    sink.element(&self.first)?;
                    1
                }
                code::NODE_PACKED => self.packed(source, second, sink)?,
                _ => return Err(source.damaged("a node of a list has no known form").into()),
            });
        }
        Ok(len)
    }

    fn intset<R: BufRead, S: Sink>(&mut self, source: &mut Source<R>, sink: &mut S) -> Result<u64, S::Error> {
        let offset = source.offset();
        source.string(&mut self.first)?;
        let integers = integers(&self.first).map_err(at(offset))?;
        sink.start(Kind::Set, None)?;
        let mut len = 0;
        for number in integers {
            sink.element(itoa::Buffer::new().format(number).as_bytes())?;
            len += 1;
        }
        Ok(len)
    }

    fn scored<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        binary: bool,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let len = source.length()?;
        sink.start(Kind::SortedSet, Some(len))?;
        for _ in 0..len {
            source.string(&mut self.first)?;
            let score = if binary { f64::from_le_bytes(source.array()?) } else { text_score(source)? };
            if score.is_nan() {
                return Err(source.damaged("a score is not a number").into());
            }
            sink.scored(&self.first, score)?;
        }
        Ok(len)
    }

    fn packed_scores<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        listpack: bool,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let offset = source.offset();
        let mut items = self.items(source, listpack)?;
        sink.start(Kind::SortedSet, None)?;
        let mut len = 0;
        while let Some([member, score]) = items.group().map_err(at(offset))? {
            let score = match score {
                Item::Int(number) => Some(number as f64),
                Item::Bytes(text) => parse_score(text),
            };
            let score = score.ok_or(at(offset)("a score is not a number"))?;
            sink.scored(member.text(&mut itoa::Buffer::new()), score)?;
            len += 1;
        }
        Ok(len)
    }

    fn fields<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        deadlines: Deadlines,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let first = if deadlines == Deadlines::FromFirst { source.u64_le()? } else { 0 };
        let len = source.length()?;
        sink.start(Kind::Hash, Some(len))?;
        for _ in 0..len {
            let mut deadline = match deadlines {
                Deadlines::FromFirst | Deadlines::Absolute => Some(source.length()?).filter(|&ms| ms > 0),
                Deadlines::None | Deadlines::Behind => None,
            };
            if let (Some(ms), Deadlines::FromFirst) = (deadline, deadlines) {
                deadline = Some(first.checked_add(ms - 1).ok_or(source.damaged(LATE))?);
            }
            source.string(&mut self.first)?;
            source.string(&mut self.second)?;
            if deadlines == Deadlines::Behind {
                // -1 and other moments before 1970 are none.
                deadline = u64::try_from(source.u64_le()? as i64).ok().map(|ms| ms.min(FIELD_DEADLINE_MS_MAX));
            }
            let deadline = deadline.map(checked).transpose().map_err(|what| source.damaged(what))?;
            sink.field(&self.first, &self.second, deadline)?;
        }
        Ok(len)
    }

    fn packed_fields<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        listpack: bool,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let offset = source.offset();
        let mut items = self.items(source, listpack)?;
        sink.start(Kind::Hash, None)?;
        let mut len = 0;
        while let Some([field, text]) = items.group().map_err(at(offset))? {
            sink.field(field.text(&mut itoa::Buffer::new()), text.text(&mut itoa::Buffer::new()), None)?;
            len += 1;
        }
        Ok(len)
    }

    fn packed_timed_fields<R: BufRead, S: Sink>(
        &mut self,
        source: &mut Source<R>,
        sink: &mut S,
    ) -> Result<u64, S::Error> {
        let offset = source.offset();
        let mut items = self.items(source, true)?;
        sink.start(Kind::Hash, None)?;
        let mut len = 0;
        while let Some([field, text, deadline]) = items.group().map_err(at(offset))? {
            let deadline = match deadline {
                Item::Int(0) => None,
                Item::Int(ms) => Some(u64::try_from(ms).map_err(|_| LATE).and_then(checked).map_err(at(offset))?),
                Item::Bytes(_) => return Err(at(offset)("the deadline of a field is not a number").into()),
            };
            sink.field(field.text(&mut itoa::Buffer::new()), text.text(&mut itoa::Buffer::new()), deadline)?;
            len += 1;
        }
        Ok(len)
    }

    fn zipmap<R: BufRead, S: Sink>(&mut self, source: &mut Source<R>, sink: &mut S) -> Result<u64, S::Error> {
        let offset = source.offset();
        source.string(&mut self.first)?;
        let mut pairs = Zipmap::new(&self.first).map_err(at(offset))?;
        sink.start(Kind::Hash, None)?;
        let mut len = 0;
        while let Some((field, text)) = pairs.pair().map_err(at(offset))? {
            sink.field(field, text, None)?;
            len += 1;
        }
        Ok(len)
    }
}

/// How the deadlines of fields stand in a plain hash.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Deadlines {
    None,
    /// Before each field, counted from the first of all, which stands before the hash.
    FromFirst,
    /// Before each field.
    Absolute,
    /// Behind each value.
    Behind,
}

const LATE: Damage = "the deadline of a field is no moment that a field can have";

fn checked(ms: u64) -> Result<UnixMs, Damage> {
    if ms > FIELD_DEADLINE_MS_MAX { Err(LATE) } else { Ok(ms as UnixMs) }
}

/// Damage in a packed value that begins at `offset`.
fn at(offset: u64) -> impl Fn(Damage) -> Error + Copy {
    move |what| Error::Damaged { offset, what }
}

fn text_score<R: BufRead>(source: &mut Source<R>) -> Result<f64, Error> {
    let mut text = [0; u8::MAX as usize];
    let len = match source.byte()? {
        253 => return Ok(f64::NAN),
        254 => return Ok(f64::INFINITY),
        255 => return Ok(f64::NEG_INFINITY),
        len => usize::from(len),
    };
    for place in &mut text[..len] {
        *place = source.byte()?;
    }
    parse_score(&text[..len]).ok_or(source.damaged("a score is not a number"))
}

fn parse_score(text: &[u8]) -> Option<f64> {
    std::str::from_utf8(text).ok()?.parse().ok().filter(|score: &f64| !score.is_nan())
}
