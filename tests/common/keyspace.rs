//! Random commands on few keys, what they leave behind, and their statements run elsewhere.

use keyloom::collection::Thresholds;
use keyloom::collection::hash::{self, Hash};
use keyloom::collection::list::List;
use keyloom::collection::set::Set;
use keyloom::collection::sorted::SortedSet;
use keyloom::command::table;
use keyloom::engine::Engine;
use keyloom::route::slot_of;
use keyloom::shard::{Effect, EntryRef, Kind, Now, UnixMs};

use super::engine::run;

pub const DATABASES: usize = 3;
pub const START_MS: UnixMs = 1_700_000_000_000;
/// Long before the start: a duration that was replayed as one would end elsewhere, and nothing expires.
pub const REPLAY_MS: UnixMs = 1_000;
pub const KEYS: [&str; 5] = ["a", "b", "c", "{a}d", "e"];
pub const VALUES: [&str; 8] = ["", "v", "10", "-7", "3.25", "1e2", "9223372036854775807", "a longer text"];
/// Seconds or milliseconds, from now or from 1970.
pub const TIMES: [&str; 6] = ["5", "3", "-1", "1700000003", "1700000000700", "1"];

/// `$k` and `$K` are keys, `$v` and `$V` values, `$t` a time, `$d` a database.
pub const TEMPLATES: [&str; 137] = [
    "GET $k",
    "SET $k $v",
    "SET $k $v EX $t",
    "SET $k $v PX $t NX",
    "SET $k $v PXAT $t XX GET",
    "SET $k $v EXAT $t",
    "SET $k $v KEEPTTL",
    "SET $k $v NX",
    "SET $k $v XX KEEPTTL GET",
    "SETNX $k $v",
    "SETEX $k $t $v",
    "PSETEX $k $t $v",
    "GETSET $k $v",
    "GETEX $k EX $t",
    "GETEX $k PX $t",
    "GETEX $k EXAT $t",
    "GETEX $k PXAT $t",
    "GETEX $k PERSIST",
    "GETEX $k",
    "GETDEL $k",
    "MGET $k $K",
    "MSET $k $v $K $V",
    "MSETNX $k $v $K $V",
    "INCR $k",
    "DECR $k",
    "INCRBY $k $v",
    "DECRBY $k $v",
    "INCRBYFLOAT $k $v",
    "APPEND $k $v",
    "STRLEN $k",
    "GETRANGE $k 0 -1",
    "SETRANGE $k 3 $v",
    "LCS $k $K",
    "DEL $k $K",
    "UNLINK $k",
    "EXISTS $k",
    "TOUCH $k",
    "EXPIRE $k $t",
    "EXPIRE $k $t NX",
    "PEXPIRE $k $t GT",
    "PEXPIRE $k $t LT",
    "PEXPIRE $k $t",
    "EXPIREAT $k $t",
    "PEXPIREAT $k $t XX",
    "TTL $k",
    "PERSIST $k",
    "KEYS *",
    "SCAN 0",
    "RANDOMKEY",
    "SORT $k ALPHA STORE $K",
    "SORT $k BY nosort GET # GET * STORE $K",
    "SORT $k BY * ALPHA DESC LIMIT 1 2 STORE $k",
    "SORT_RO $k",
    "RENAME $k $K",
    "RENAMENX $k $K",
    "COPY $k $K REPLACE",
    "COPY $k $K DB $d",
    "MOVE $k $d",
    "FLUSHDB",
    "SWAPDB $d 1",
    "DBSIZE",
    "SADD $k $v $V",
    "SADD $k $v x y z",
    "SADD $k $v",
    "SREM $k $v x",
    "SREM $k $v",
    "SMOVE $k $K $v",
    "SPOP $k",
    "SPOP $k",
    "SPOP $k 2",
    "SPOP $k 9",
    "SRANDMEMBER $k 3",
    "SMEMBERS $k",
    "SINTERSTORE $k $K $k",
    "SUNIONSTORE $k $K $k",
    "SDIFFSTORE $k $K $k",
    "HSET $k $v $V",
    "HSET $k $v $V x 5 y 1.5",
    "HSETNX $k $v $V",
    "HDEL $k $v x",
    "HINCRBY $k x $v",
    "HINCRBYFLOAT $k y $v",
    "HRANDFIELD $k 2 WITHVALUES",
    "HGETALL $k",
    "HEXPIRE $k $t FIELDS 2 x $v",
    "HEXPIRE $k $t NX FIELDS 1 y",
    "HPEXPIRE $k $t GT FIELDS 2 x y",
    "HPEXPIRE $k 1500 FIELDS 2 x y",
    "HEXPIREAT $k $t FIELDS 2 x $v",
    "HPEXPIREAT $k $t LT FIELDS 2 x y",
    "HPERSIST $k FIELDS 2 x $v",
    "HTTL $k FIELDS 2 x $v",
    "HINCRBYFLOAT $k x 0.5",
    "ZADD $k 1 $v 2.5 $V",
    "ZADD $k 3 $v",
    "ZADD $k $v x",
    "ZADD $k NX CH -0 $v",
    "ZADD $k XX GT 5 $v",
    "ZADD $k INCR $v $V",
    "ZINCRBY $k $v $V",
    "ZREM $k $v",
    "ZREM $k $v $V x",
    "ZPOPMIN $k",
    "ZPOPMAX $k 2",
    "ZMPOP 2 $k $K MIN COUNT 2",
    "ZREMRANGEBYRANK $k 1 1",
    "ZREMRANGEBYSCORE $k 2 (3",
    "ZREMRANGEBYLEX $k - [a",
    "ZRANGESTORE $k $K 0 -2",
    "ZRANGESTORE $k $K 0 3 BYSCORE",
    "ZUNIONSTORE $k 2 $K $k WEIGHTS 2 $v",
    "ZINTERSTORE $k 2 $K $k AGGREGATE MIN",
    "ZDIFFSTORE $k 2 $K $k",
    "ZRANDMEMBER $k 2",
    "ZRANGE $k 0 -1 WITHSCORES",
    "ZSCAN $k 0",
    "FLUSHALL",
    "UNLINK $k $K e",
    "MSET $k $v {a}d $V $k $V",
    "RENAME $k {a}d",
    "COPY $k $k DB $d REPLACE",
    "COPY $k $K DB $d REPLACE",
    "RPUSH $k $v $V x",
    "LPUSH $k $v",
    "RPUSHX $k $V",
    "LPOP $k",
    "RPOP $k 2",
    "LSET $k 0 $v",
    "LINSERT $k BEFORE x $v",
    "LREM $k -1 $v",
    "LTRIM $k 1 -2",
    "LMOVE $k $K LEFT RIGHT",
    "RPOPLPUSH $k $K",
    "BLMOVE $k $K RIGHT LEFT 1",
    "BRPOPLPUSH $k $K 1",
    "LMPOP 2 $k $K LEFT COUNT 2",
    "BLPOP $k $K 1",
];

/// Every collection is large from its first element on, but for lists, whose chunks have one each.
pub const NONE_COMPACT: Thresholds = Thresholds {
    hash_max_listpack_entries: 0,
    hash_max_listpack_value: 0,
    set_max_intset_entries: 0,
    set_max_listpack_entries: 0,
    set_max_listpack_value: 0,
    zset_max_listpack_entries: 0,
    zset_max_listpack_value: 0,
    list_max_listpack_size: 1,
};

/// What a template's words stand for.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    pub keys: [&'a str; 2],
    pub values: [&'a str; 2],
    pub time: &'a str,
    pub db: usize,
}

impl Words<'_> {
    /// The arguments of a command of this form.
    pub fn fill(&self, template: &str) -> Vec<String> {
        let word = |word: &str| match word {
            "$k" => self.keys[0].to_string(),
            "$K" => self.keys[1].to_string(),
            "$v" => self.values[0].to_string(),
            "$V" => self.values[1].to_string(),
            "$t" => self.time.to_string(),
            "$d" => self.db.to_string(),
            word => word.to_string(),
        };
        template.split(' ').map(word).collect()
    }
}

/// A part of a value, and when it expires if it is a field.
pub type Part = (Vec<u8>, Option<UnixMs>);
/// Database, key, value, expiry.
pub type Content = (usize, Vec<u8>, Vec<Part>, Option<UnixMs>);

/// The parts of a value, in an order that does not depend on how it came about.
pub fn parts(entry: EntryRef, now: Now) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut expiring = Vec::new();
    match entry.kind {
        Kind::Set => {
            Set::new(entry.collection()).visit(|member| parts.push(member.text(&mut itoa::Buffer::new()).to_vec()))
        }
        Kind::Hash => Hash::new(entry.collection()).visit(|(field, text)| {
            let at = hash::deadline(entry.collection(), field).flatten().map(|deadline| now.wall_of(deadline));
            let [field, text] = [field, text].map(|part| part.escape_ascii().to_string());
            expiring.push((format!("{field:?} = {text:?}").into_bytes(), at));
        }),
        Kind::List => List::new(entry.collection()).iter_from(0).enumerate().for_each(|(at, item)| {
            parts.push(format!("{at:06} {}", item.escape_ascii()).into_bytes());
        }),
        Kind::SortedSet => SortedSet::new(entry.collection()).iter().for_each(|(member, score)| {
            parts.push(format!("{score:?} {}", member.escape_ascii()).into_bytes());
        }),
        _ => parts.push(entry.value.bytes().to_vec()),
    }
    let mut parts: Vec<Part> = parts.into_iter().map(|part| (part, None)).chain(expiring).collect();
    parts.sort();
    parts.push((entry.kind.name().into(), None));
    parts
}

/// What is at these keys, as far as the engine owns them: they must be all that is there. What is over goes.
pub fn contents_of(engine: &mut Engine, keys: &[Vec<u8>]) -> Vec<Content> {
    let mut all = Vec::new();
    for db in 0..DATABASES {
        let before = all.len();
        for name in keys {
            let key = engine.hasher.key(name);
            if engine.router.owner(key.partition) != engine.router.me() {
                continue;
            }
            let now = engine.shard.now();
            if let Some(entry) = engine.shard.peek(db, &key) {
                all.push((db, name.clone(), parts(entry, now), entry.expire_at));
            }
        }
        assert_eq!(engine.shard.size(db).keys, all.len() - before);
    }
    all
}

/// What is at [`KEYS`].
pub fn contents(engine: &mut Engine) -> Vec<Content> {
    contents_of(engine, &KEYS.map(|key| key.as_bytes().to_vec()))
}

/// Runs a statement, which must not fail.
pub fn replay_one(engine: &mut Engine, effect: &Effect) {
    let args: Vec<&[u8]> = effect.args.iter().map(|a| a.as_slice()).collect();
    let reply = run(engine, effect.db as usize, &args);
    assert_ne!(reply.first(), Some(&b'-'), "{effect:?}: {}", reply.escape_ascii());
}

/// The key of a statement, which says of itself where that belongs; None: it concerns everything.
pub fn key_of(effect: &Effect) -> Option<&[u8]> {
    let args: Vec<&[u8]> = effect.args.iter().map(|a| a.as_slice()).collect();
    let row = table().resolve(&args).ok().or_else(|| table().internal(args[0])).expect("a command");
    let mut keys = row.command.keys.positions(&effect.args).map(|at| &effect.args[at][..]);
    let Some(key) = keys.next() else {
        assert_eq!(effect.slot, None, "{effect:?}");
        return None;
    };
    assert!(keys.all(|other| slot_of(other) == slot_of(key) && other == key), "{effect:?}");
    assert_eq!(effect.slot, Some(slot_of(key)), "{effect:?}");
    Some(key)
}
