//! RDB: the format of Redis' dump files and of what DUMP answers, both ways.
//!
//! ```text
//! file      "REDIS" and four digits, or "VALKEY" and three | (opcode ... | key) ... | 255 | checksum u64
//! opcodes   250 name value       something about the file: who wrote it, and when
//!           254 n                the keys that follow are of database n
//!           251 n n              it has so many keys, so many of them with an expiry
//!           252 i64 | 253 i32    the key that follows expires, Unix ms or s
//!           248 n | 249 u8       its idle seconds, its LFU count
//!           244 n n n            Valkey and Redis 8: a slot, its keys, those with an expiry
//!           245 string           a library of functions
//!           247 ...              data of a module
//! key       type | name, a string | value
//! payload   type | value | version u16 | checksum u64                    of DUMP
//! ```
//!
//! Strings and lengths: [`source`]. Values: [`value`], and in packed forms [`packed`]. The checksum is CRC-64 with the
//! polynomial of Jones, of all that is before it.
//!
//! [`import`] reads a file and shows what it holds as *statements*, commands that rebuild it piece by piece, so that a value
//! of any size passes through bounded memory. [`export`] writes a file; [`dump`] and [`restore`] are about one value.
//!
//! All of it is pure: bytes in, values out, or the other way. It knows no sockets, no cores and no log. What it reads is
//! foreign, so every length and every code is checked, and what is wrong is an [`Error`] that says where.

mod error;
mod lzf;
mod packed;
mod payload;
mod read;
mod skip;
mod source;
mod statements;
mod value;
mod whole;
mod write;

pub use error::{Error, WriteError};
pub use payload::{PayloadError, Restored, dump, restore};
pub use read::{ImportOptions, KeyHeader, Note, Summary, Visitor, import};
pub use write::{ExportOptions, File, Saved, export};

/// Latest version of Redis' files that can be read: Redis 7.4 and 8.0 write it.
pub const REDIS_VERSION_MAX: u16 = 12;
/// The version of Valkey 9's files. What is between is kept free by Valkey for those of Redis.
pub const VALKEY_VERSION: u16 = 80;
/// The version of files and payloads that are written: Redis 7.0 and everything after it reads it.
pub const VERSION: u16 = 10;
/// The version of those in which fields of hashes have deadlines: Redis 7.4 and later read it.
pub const FIELD_DEADLINES_VERSION: u16 = 12;
/// Longest string that is read, bytes: the default of `proto-max-bulk-len`.
pub const STRING_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// Elements of one statement at the most.
pub const STATEMENT_ELEMENTS_MAX: usize = 512;
/// Bytes of the elements of one statement at the most, unless it is a single larger one.
pub const STATEMENT_BYTES_MAX: usize = 64 * 1024;

/// The checksum of files and payloads.
static CRC: crc::Crc<u64, crc::Table<16>> = crc::Crc::<u64, crc::Table<16>>::new(&crc::CRC_64_REDIS);

/// Who wrote a file: type 22 is one thing to Redis 7.4 and another to Valkey 9.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Redis,
    Valkey,
}

impl Dialect {
    /// None: a version that is not known.
    fn of_version(version: u32) -> Option<Dialect> {
        match version {
            version if (1..=u32::from(REDIS_VERSION_MAX)).contains(&version) => Some(Dialect::Redis),
            version if version == u32::from(VALKEY_VERSION) => Some(Dialect::Valkey),
            _ => None,
        }
    }
}

/// Numbers of the format, after `rdb.h` of Redis and Valkey.
mod code {
    pub const STRING: u8 = 0;
    pub const LIST: u8 = 1;
    pub const SET: u8 = 2;
    pub const ZSET: u8 = 3;
    pub const HASH: u8 = 4;
    pub const ZSET_2: u8 = 5;
    pub const MODULE_PRE_GA: u8 = 6;
    pub const MODULE_2: u8 = 7;
    pub const HASH_ZIPMAP: u8 = 9;
    pub const LIST_ZIPLIST: u8 = 10;
    pub const SET_INTSET: u8 = 11;
    pub const ZSET_ZIPLIST: u8 = 12;
    pub const HASH_ZIPLIST: u8 = 13;
    pub const LIST_QUICKLIST: u8 = 14;
    pub const STREAM_LISTPACKS: u8 = 15;
    pub const HASH_LISTPACK: u8 = 16;
    pub const ZSET_LISTPACK: u8 = 17;
    pub const LIST_QUICKLIST_2: u8 = 18;
    pub const STREAM_LISTPACKS_2: u8 = 19;
    pub const SET_LISTPACK: u8 = 20;
    pub const STREAM_LISTPACKS_3: u8 = 21;
    /// To Valkey: a hash with deadlines of fields.
    pub const HASH_METADATA_PRE_GA: u8 = 22;
    pub const HASH_LISTPACK_EX_PRE_GA: u8 = 23;
    pub const HASH_METADATA: u8 = 24;
    pub const HASH_LISTPACK_EX: u8 = 25;

    pub const SLOT_INFO: u8 = 244;
    pub const FUNCTION2: u8 = 245;
    pub const MODULE_AUX: u8 = 247;
    pub const IDLE: u8 = 248;
    pub const FREQ: u8 = 249;
    pub const AUX: u8 = 250;
    pub const RESIZEDB: u8 = 251;
    pub const EXPIRETIME_MS: u8 = 252;
    pub const EXPIRETIME: u8 = 253;
    pub const SELECTDB: u8 = 254;
    pub const EOF: u8 = 255;

    /// Nodes of a quicklist: a single large element, or a listpack.
    pub const NODE_PLAIN: u64 = 1;
    pub const NODE_PACKED: u64 = 2;
}

#[cfg(test)]
mod tests;
