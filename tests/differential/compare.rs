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
    /// An array or a set whose order nobody promises.
    Unordered,
    /// A map, or an array of keys and values, whose order nobody promises.
    UnorderedPairs,
    /// A cursor, and an array whose order nobody promises; compared if both are at the end.
    Walk,
    /// As many elements of the same kind; which ones is a matter of chance.
    Drawn,
    /// Milliseconds that differ by no more than it took to run the commands on both servers.
    NearMs,
    /// Seconds, likewise.
    NearS,
    /// The name of an encoding; ours may be `int` where it is `embstr`, and those of short lists and sets are those of
    /// Redis 7.2.
    Encoding,
    /// Replies of one type; what is in them is the server's own.
    Kind,
    /// Not compared: a deliberate difference.
    Own,
}
use Rule::{Drawn, Encoding, Exact, Kind, NearMs, NearS, Own, Unordered, UnorderedPairs, Walk};

/// First words of a command, the rule, and why it is not `Exact`. The first line that fits counts.
const RULES: &[(&str, Rule, &str)] = &[
    ("KEYS", Unordered, "Redis lists in the order of its hash table"),
    ("SCAN", Kind, "cursors and the order are the server's own; whole iterations are compared elsewhere"),
    ("RANDOMKEY", Kind, "random"),
    ("DUMP", Kind, "there are several forms for one value; that all are understood is tested elsewhere"),
    ("SMEMBERS", Unordered, "Redis lists in the order of its hash table"),
    ("SINTER", Unordered, "Redis lists in the order of its hash table"),
    ("SUNION", Unordered, "Redis lists in the order of its hash table"),
    ("SDIFF", Unordered, "Redis lists in the order of its hash table"),
    ("SPOP", Unordered, "only all members at once are popped, see `commands`"),
    ("SRANDMEMBER", Drawn, "random"),
    ("SSCAN", Walk, "cursors and the order are the server's own"),
    ("HKEYS", Unordered, "Redis lists in the order of its hash table"),
    ("HVALS", Unordered, "Redis lists in the order of its hash table"),
    ("HGETALL", UnorderedPairs, "Redis lists in the order of its hash table"),
    ("HRANDFIELD", Drawn, "random"),
    ("HSCAN", Walk, "cursors and the order are the server's own"),
    ("ZRANDMEMBER", Drawn, "random"),
    ("ZSCAN", Walk, "cursors and the order are the server's own"),
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
    match RULES.iter().find(|(words, ..)| fits(words)).map_or(Exact, |(_, rule, _)| *rule) {
        // From anywhere else, Redis might be at the end with a part of what there is.
        Walk if command.get(2).is_none_or(|cursor| cursor != b"0") => Kind,
        rule => rule,
    }
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
        (Unordered, Value::Array(redis), Value::Array(ours)) | (Unordered, Value::Set(redis), Value::Set(ours)) => {
            sorted(redis) == sorted(ours)
        }
        (UnorderedPairs, Value::Array(redis), Value::Array(ours)) => pairs(redis) == pairs(ours),
        (UnorderedPairs, Value::Map(redis), Value::Map(ours)) => {
            let flat = |map: Vec<(Value, Value)>| map.into_iter().flat_map(<[Value; 2]>::from).collect();
            pairs(flat(redis)) == pairs(flat(ours))
        }
        (Walk, Value::Array(redis), Value::Array(ours)) => same_walk(redis, ours),
        (Drawn, Value::Array(redis), Value::Array(ours)) => {
            redis.len() == ours.len() && redis.iter().zip(&ours).all(|(redis, ours)| same_kind(redis, ours))
        }
        (Drawn, redis, ours) => same_kind(&redis, &ours),
        (NearMs, Value::Int(redis), Value::Int(ours)) => near(redis, ours, span_ms),
        (NearS, Value::Int(redis), Value::Int(ours)) => near(redis, ours, 1 + span_ms / 1000),
        (Encoding, Value::Bulk(redis), Value::Bulk(ours)) => match &ours[..] {
            b"int" => redis == b"embstr",
            b"listpack" => redis == b"quicklist" || redis == b"hashtable",
            _ => false,
        },
        (Kind, redis, ours) => same_kind(&redis, &ours),
        _ => false,
    }
}

fn same_kind(redis: &Value, ours: &Value) -> bool {
    std::mem::discriminant(redis) == std::mem::discriminant(ours)
}

/// The keys and values of an array, in order.
fn pairs(array: Vec<Value>) -> Vec<Vec<Vec<u8>>> {
    assert!(array.len().is_multiple_of(2));
    let text = |value: &Value| match value {
        Value::Bulk(text) => text.clone(),
        other => panic!("not a bulk string: {other:?}"),
    };
    let mut pairs: Vec<Vec<Vec<u8>>> = array.chunks(2).map(|pair| pair.iter().map(text).collect()).collect();
    pairs.sort();
    pairs
}

/// Both are one call of a walk; at the end they are compared, as walks begin at the start, see [`rule`].
fn same_walk(redis: Vec<Value>, ours: Vec<Value>) -> bool {
    let parts = |reply| <[Value; 2]>::try_from(reply).ok();
    match (parts(redis), parts(ours)) {
        (Some([redis_next, Value::Array(redis)]), Some([next, Value::Array(ours)])) => {
            let both_end = [redis_next, next].iter().all(|next| *next == Value::Bulk(b"0".to_vec()));
            !both_end || sorted(redis) == sorted(ours)
        }
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
