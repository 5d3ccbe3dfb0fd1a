//! RESP, the Redis serialization protocol (<https://redis.io/docs/latest/develop/reference/protocol-spec/>):
//! reading requests, writing replies, and the one place where error texts are made.

pub mod error;
mod inline;
pub mod number;
pub mod parse;
pub mod read;
pub mod reply;

pub use error::{Error, shown};
pub use number::{format_double, parse_i64, parse_u64};
pub use parse::{Limits, Parser, ProtocolError, Step};
pub use reply::{Output, Reply};

/// Protocol version that a connection has chosen with HELLO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    #[default]
    V2,
    V3,
}
