//! What can be wrong with an RDB file or a payload of DUMP.
//!
//! No state. An offset counts bytes from the start of the file or payload. What is wrong inside of a packed value (a ziplist,
//! a listpack, ...) is reported with the offset at which that value begins.

use std::io;

/// See the module.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot read on at byte {offset}: {source}")]
    Io { offset: u64, source: io::Error },
    #[error("this is no RDB file")]
    NotRdb,
    #[error(
        "RDB version {version} is not known: versions 1 to {max} of Redis and 80 of Valkey are",
        max = super::REDIS_VERSION_MAX
    )]
    Version { version: u32 },
    #[error("the data ends at byte {offset}, in the middle")]
    Truncated { offset: u64 },
    #[error("damaged at byte {offset}: {what}")]
    Damaged { offset: u64, what: &'static str },
    #[error("a string of {len} bytes at byte {offset}: more than {max}")]
    TooLong { offset: u64, len: u64, max: u64 },
    #[error("opcode or type {code} at byte {offset} is not known")]
    UnknownCode { offset: u64, code: u8 },
    #[error("the key \"{}\" at byte {offset} holds {what}, which cannot be read", key.escape_ascii())]
    Unsupported { offset: u64, key: Vec<u8>, what: &'static str },
    #[error("the checksum is {computed:016x} and should be {stored:016x}")]
    Checksum { stored: u64, computed: u64 },
    #[error("an element is there twice")]
    Duplicate,
}

/// Why a file or a payload was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(
        "the hash \"{}\" has fields with deadlines, which RDB version {version} cannot say: it takes version {needed}",
        key.escape_ascii(),
        needed = super::FIELD_DEADLINES_VERSION
    )]
    FieldDeadlines { key: Vec<u8>, version: u16 },
}
