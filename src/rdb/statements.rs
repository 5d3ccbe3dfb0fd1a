//! From the elements of a value to statements that rebuild it.
//!
//! Elements gather until there are [`STATEMENT_ELEMENTS_MAX`] of them or [`STATEMENT_BYTES_MAX`] bytes, and become one
//! statement then, followed by one for each deadline that their fields have. An element that is larger than that is not
//! copied: it makes a statement of its own.
//!
//! Invariant: `ends` has one entry for each argument in `bytes`, ascending, the last one the length of `bytes`.

use super::read::{KeyHeader, Visitor};
use super::value::Sink;
use super::{STATEMENT_BYTES_MAX, STATEMENT_ELEMENTS_MAX};
use crate::resp::number::DoubleText;
use crate::shard::{Kind, UnixMs};

/// What serves again for the next key.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    elements: usize,
    /// Deadlines, with the argument that is their field.
    deadlines: Vec<(UnixMs, usize)>,
}

impl Gathered {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.elements = 0;
        self.deadlines.clear();
    }

    fn arg(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start..self.ends[index]]
    }
}

/// Makes the statements of one key.
pub(super) struct Statements<'a, V> {
    pub(super) visitor: &'a mut V,
    pub(super) header: KeyHeader<'a>,
    pub(super) gathered: &'a mut Gathered,
}

impl<V: Visitor> Statements<'_, V> {
    fn verb(&self) -> &'static [u8] {
        match self.header.kind {
            Kind::String => b"SET",
            Kind::List => b"RPUSH",
            Kind::Set => b"SADD",
            Kind::SortedSet => b"ZADD",
            Kind::Hash => b"HSET",
        }
    }

    /// Adds one element, which is so many arguments. The first of them is the field that has the deadline.
    fn add(&mut self, args: &[&[u8]], deadline: Option<UnixMs>) -> Result<(), V::Error> {
        let bytes: usize = args.iter().map(|arg| arg.len()).sum();
        if self.gathered.bytes.len() + bytes > STATEMENT_BYTES_MAX {
            self.flush()?;
        }
        if bytes > STATEMENT_BYTES_MAX {
            return self.single(args, deadline);
        }
        let gathered = &mut *self.gathered;
        if let Some(ms) = deadline {
            gathered.deadlines.push((ms, gathered.ends.len()));
        }
        for arg in args {
            gathered.bytes.extend_from_slice(arg);
            gathered.ends.push(gathered.bytes.len());
        }
        gathered.elements += 1;
        if gathered.elements == STATEMENT_ELEMENTS_MAX { self.flush() } else { Ok(()) }
    }

    fn single(&mut self, args: &[&[u8]], deadline: Option<UnixMs>) -> Result<(), V::Error> {
        let mut statement = vec![self.verb(), self.header.key];
        statement.extend_from_slice(args);
        self.visitor.statement(&self.header, &statement)?;
        match deadline {
            Some(ms) => self.expire_fields(ms, &[args[0]]),
            None => Ok(()),
        }
    }

    fn expire_fields(&mut self, ms: UnixMs, fields: &[&[u8]]) -> Result<(), V::Error> {
        let (mut moment, mut count) = (itoa::Buffer::new(), itoa::Buffer::new());
        let mut statement: Vec<&[u8]> = vec![b"HPEXPIREAT", self.header.key, moment.format(ms).as_bytes(), b"FIELDS"];
        statement.push(count.format(fields.len()).as_bytes());
        statement.extend_from_slice(fields);
        self.visitor.statement(&self.header, &statement)
    }

    /// Makes statements of what has gathered.
    fn flush(&mut self) -> Result<(), V::Error> {
        if self.gathered.elements == 0 {
            return Ok(());
        }
        let mut gathered = std::mem::take(self.gathered);
        let mut statement = vec![self.verb(), self.header.key];
        statement.extend((0..gathered.ends.len()).map(|index| gathered.arg(index)));
        self.visitor.statement(&self.header, &statement)?;
        drop(statement);
        gathered.deadlines.sort_unstable();
        for together in gathered.deadlines.chunk_by(|a, b| a.0 == b.0) {
            let fields: Vec<&[u8]> = together.iter().map(|&(_, index)| gathered.arg(index)).collect();
            self.expire_fields(together[0].0, &fields)?;
        }
        gathered.clear();
        *self.gathered = gathered;
        Ok(())
    }

    /// The value has ended, and was not empty.
    pub(super) fn finish(mut self) -> Result<(), V::Error> {
        self.flush()?;
        match self.header.expire_at {
            Some(ms) => {
                let mut moment = itoa::Buffer::new();
                let statement = [&b"PEXPIREAT"[..], self.header.key, moment.format(ms).as_bytes()];
                self.visitor.statement(&self.header, &statement)
            }
            None => Ok(()),
        }
    }
}

impl<V: Visitor> Sink for Statements<'_, V> {
    type Error = V::Error;

    fn start(&mut self, _kind: Kind, _len: Option<u64>) -> Result<(), V::Error> {
        self.gathered.clear();
        Ok(())
    }

    fn string(&mut self, value: Vec<u8>) -> Result<(), V::Error> {
        self.visitor.statement(&self.header, &[b"SET", self.header.key, &value])
    }

    fn element(&mut self, element: &[u8]) -> Result<(), V::Error> {
        self.add(&[element], None)
    }

    fn field(&mut self, field: &[u8], text: &[u8], deadline: Option<UnixMs>) -> Result<(), V::Error> {
        self.add(&[field, text], deadline)
    }

    fn scored(&mut self, member: &[u8], score: f64) -> Result<(), V::Error> {
        self.add(&[DoubleText::new(score).as_bytes(), member], None)
    }
}

/// Lets a value pass without looking at it.
pub(super) struct Unwanted<E>(pub(super) std::marker::PhantomData<E>);

impl<E: From<super::Error>> Sink for Unwanted<E> {
    type Error = E;

    fn start(&mut self, _kind: Kind, _len: Option<u64>) -> Result<(), E> {
        Ok(())
    }

    fn string(&mut self, _value: Vec<u8>) -> Result<(), E> {
        Ok(())
    }

    fn element(&mut self, _element: &[u8]) -> Result<(), E> {
        Ok(())
    }

    fn field(&mut self, _field: &[u8], _text: &[u8], _deadline: Option<UnixMs>) -> Result<(), E> {
        Ok(())
    }

    fn scored(&mut self, _member: &[u8], _score: f64) -> Result<(), E> {
        Ok(())
    }
}
