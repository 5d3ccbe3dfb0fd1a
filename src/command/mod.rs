//! Commands: what they are called, what they need, what they do.
//!
//! One table ([`table`]) names every command; each family has a file with its rows and functions. A command is a
//! synchronous function from its arguments to one reply. It never sees a socket. There are two kinds:
//!
//! - *keyspace* commands ([`Handler::Keyspace`]) run on the core that owns their keys, with a [`Ctx`];
//! - *session* commands ([`Handler::Session`]) run on the core that owns the connection, with a [`session::Home`].

pub mod acl;
pub mod ask;
pub mod backup;
pub mod blocking;
pub mod client;
pub mod cluster;
pub mod config;
pub mod connection;
pub mod ctx;
pub mod debug;
pub mod elements;
pub mod flags;
pub mod generic;
pub mod glob;
pub mod hash;
pub mod help;
pub mod info;
pub mod introspect;
pub mod latency;
pub mod list;
pub mod log;
pub mod member;
pub mod membership;
pub mod memory;
pub mod merge;
pub mod monitor;
pub mod number;
pub mod pubsub;
pub mod replication;
pub mod server;
pub mod session;
pub mod set;
#[cfg(test)]
pub mod shard_transcript;
pub mod slowlog;
pub mod sorted;
pub mod statement;
pub mod string;
pub mod table;
pub mod transaction;
#[cfg(test)]
pub mod transcript;

pub use ask::{Answer, Ask, Finish, Flow};
pub use ctx::{Ctx, Owned};
pub use session::{Home, Session};
pub use table::{Command, CommandId, Flags, Handler, KeySpec, Merge, Patterns, Reach, lookup, table};

use crate::resp::{Error, Reply};

/// The arguments of one command; `args[0]` is its name.
pub type Args<'a> = &'a [&'a [u8]];

/// A command that runs on the core that owns its keys.
pub type KeyspaceFn = fn(&mut Ctx, Args, &mut Reply) -> Result<(), Error>;
