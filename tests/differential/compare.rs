//! What "the same reply" means for each command.
//!
//! Byte for byte, unless [`RULES`] has a line for the command. Errors are always compared byte for byte, but for
//! [`Rule::Own`].

use keyloom::resp::read::{Value, parse_value};

/// How two replies are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Byte for byte.
    Exact,
    /// An array whose order nobody promises.
    Unordered,
    /// Milliseconds that differ by no more than it took to run the commands on both servers.
    NearMs,
    /// Seconds, likewise.
    NearS,
    /// The name of an encoding; ours may be `int` where it is `embstr`, and that of short lists is that of Redis 7.2.
    Encoding,
    /// Replies of one type; what is in them is the server's own.
    Kind,
    /// Not compared: a deliberate difference.
    Own,
}
use Rule::{Encoding, Exact, Kind, NearMs, NearS, Own, Unordered};

/// First words of a command, the rule, and why it is not `Exact`. The first line that fits counts.
const RULES: &[(&str, Rule, &str)] = &[
    ("KEYS", Unordered, "Redis lists in the order of its hash table"),
    ("SCAN", Kind, "cursors and the order are the server's own; whole iterations are compared elsewhere"),
    ("RANDOMKEY", Kind, "random"),
    ("ZRANDMEMBER", Kind, "random"),
    ("ZSCAN", Kind, "cursors and the order are the server's own; whole iterations are compared elsewhere"),
    ("TTL", NearS, "the time that remains goes on while the other server works"),
    ("EXPIRETIME", NearS, "a relative expiry counts from the moment of execution"),
    ("PTTL", NearMs, "the time that remains goes on while the other server works"),
    ("PEXPIRETIME", NearMs, "a relative expiry counts from the moment of execution"),
    ("OBJECT IDLETIME", Kind, "time; and small integers that Redis shares were used by others"),
    ("OBJECT REFCOUNT", Kind, "Redis shares small integers among keys"),
    ("OBJECT ENCODING", Encoding, "Redis does not look for an integer in what INCRBYFLOAT wrote"),
    ("TIME", Kind, "time"),
    ("HELLO", Kind, "the id of the connection"),
    ("CLIENT ID", Kind, "ids are the server's own"),
    ("CLIENT INFO", Kind, "ports, descriptors and memory are the server's own"),
    ("CLIENT LIST", Kind, "ports, descriptors and memory are the server's own"),
    ("COMMAND COUNT", Kind, "Redis has more commands"),
    ("COMMAND DOCS", Kind, "the descriptions are in words of our own"),
    ("COMMAND LIST", Kind, "Redis has more commands"),
    ("COMMAND INFO", Kind, "compared elsewhere"),
    ("MEMORY USAGE", Kind, "an entry takes less memory"),
];

/// How much of a long error text is compared, characters.
const ERROR_TEXT_COMPARED: usize = 120;

/// The rule for a command.
pub fn rule(command: &[Vec<u8>]) -> Rule {
    let fits = |words: &str| {
        let mut command = command.iter();
        words.split(' ').all(|word| command.next().is_some_and(|arg| arg.eq_ignore_ascii_case(word.as_bytes())))
    };
    RULES.iter().find(|(words, ..)| fits(words)).map_or(Exact, |(_, rule, _)| *rule)
}

/// Whether `ours` is the same reply as `redis`. The commands of both ran within `span_ms`.
pub fn same(rule: Rule, redis: &[u8], ours: &[u8], span_ms: i64) -> bool {
    if redis == ours || rule == Own {
        return true;
    }
    let is_error = |reply: &[u8]| matches!(reply.first(), Some(b'-' | b'!'));
    if is_error(redis) || is_error(ours) {
        // Error texts are UTF-8 here, and repeat no more than the start of an argument; Redis repeats what it was sent.
        let redis_utf8 = String::from_utf8_lossy(redis);
        let start = redis_utf8.char_indices().nth(ERROR_TEXT_COMPARED).map_or(redis_utf8.len(), |(at, _)| at);
        let whole = start == redis_utf8.len() && redis_utf8.as_bytes() == ours;
        let long = start < redis_utf8.len() && ours.starts_with(redis_utf8[..start].as_bytes());
        return is_error(redis) && (whole || long);
    }
    let (Ok(Some((redis, _))), Ok(Some((ours, _)))) = (parse_value(redis), parse_value(ours)) else { return false };
    match (rule, redis, ours) {
        (Unordered, Value::Array(redis), Value::Array(ours)) => sorted(redis) == sorted(ours),
        (NearMs, Value::Int(redis), Value::Int(ours)) => near(redis, ours, span_ms),
        (NearS, Value::Int(redis), Value::Int(ours)) => near(redis, ours, 1 + span_ms / 1000),
        (Encoding, Value::Bulk(redis), Value::Bulk(ours)) => match &ours[..] {
            b"int" => redis == b"embstr",
            b"listpack" => redis == b"quicklist",
            _ => false,
        },
        (Kind, redis, ours) => std::mem::discriminant(&redis) == std::mem::discriminant(&ours),
        _ => false,
    }
}

/// Negative numbers have a meaning of their own.
fn near(redis: i64, ours: i64, distance_max: i64) -> bool {
    redis >= 0 && ours >= 0 && (redis - ours).abs() <= distance_max
}

/// The bulk strings of an array, in order.
pub fn sorted(array: Vec<Value>) -> Vec<Vec<u8>> {
    let mut texts: Vec<Vec<u8>> = array
        .into_iter()
        .map(|value| match value {
            Value::Bulk(text) => text,
            other => panic!("not a bulk string: {other:?}"),
        })
        .collect();
    texts.sort();
    texts
}
