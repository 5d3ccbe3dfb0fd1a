//! Replaying the effects of a shard gives the same keyspace, whatever the clock of the replay says.
//!
//! Random commands run on one engine while its clock moves; what it recorded is replayed on a fresh engine whose clock
//! stands at another time. As on a replica, no key expires there by itself: expiries arrive as effects.

mod common;

use common::engine::run;
use keyloom::collection::hash::{self, Hash};
use keyloom::collection::set::Set;
use keyloom::collection::sorted::SortedSet;
use keyloom::command::table;
use keyloom::config::Config;
use keyloom::engine::Engine;
use keyloom::resp::read::{Value, parse_value};
use keyloom::shard::{Effect, EntryRef, Kind, Now, UnixMs};
use proptest::prelude::*;

const DATABASES: usize = 3;
const START_MS: UnixMs = 1_700_000_000_000;
/// Long before the start: a duration that was replayed as one would end elsewhere.
const REPLAY_MS: UnixMs = 1_000;
const KEYS: [&str; 5] = ["a", "b", "c", "{a}d", "e"];
const VALUES: [&str; 8] = ["", "v", "10", "-7", "3.25", "1e2", "9223372036854775807", "a longer text"];
/// An argument that begins so becomes the answer of DUMP to the rest of it.
const DUMP_OF: &str = "dump of ";
/// Seconds or milliseconds, from now or from 1970.
const TIMES: [&str; 6] = ["5", "3", "-1", "1700000003", "1700000000700", "1"];

/// `$k` and `$K` are keys, `$v` and `$V` values, `$t` a time, `$d` a database, `$p` what DUMP says of the other key.
const TEMPLATES: [&str; 119] = [
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
    "RESTORE $k 0 $p REPLACE",
    "RESTORE $k 2500 $p",
    "RESTORE $k $t $p ABSTTL REPLACE",
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
];

/// One step of a client: which command, in which database, after how much time.
#[derive(Clone, Debug)]
struct Step {
    db: usize,
    wait_ms: UnixMs,
    /// By how much the wall clock is set ahead, or back.
    set_ms: UnixMs,
    args: Vec<String>,
}

fn step() -> impl Strategy<Value = Step> {
    let pick = |n| 0..n;
    (
        (pick(DATABASES), prop_oneof![4 => Just(0i64), 1 => 1..2_500i64], pick(TEMPLATES.len())),
        (pick(KEYS.len()), pick(KEYS.len()), pick(VALUES.len()), pick(VALUES.len())),
        (pick(TIMES.len()), pick(DATABASES), prop_oneof![12 => Just(0i64), 1 => -9_000..9_000i64]),
    )
        .prop_map(|((db, wait_ms, template), (k, other, v, value), (time, to_db, set_ms))| {
            let word = |word: &str| match word {
                "$k" => KEYS[k].to_string(),
                "$K" => KEYS[other].to_string(),
                "$v" => VALUES[v].to_string(),
                "$V" => VALUES[value].to_string(),
                "$t" => TIMES[time].to_string(),
                "$d" => to_db.to_string(),
                "$p" => format!("{DUMP_OF}{}", KEYS[other]),
                word => word.to_string(),
            };
            Step { db, wait_ms, set_ms, args: TEMPLATES[template].split(' ').map(word).collect() }
        })
}

fn engine(now_ms: UnixMs) -> Engine {
    common::engine::engine(now_ms, Config { databases: DATABASES, ..Config::default() })
}

/// Runs the steps and returns everything they did.
fn record(engine: &mut Engine, steps: &[Step]) -> Vec<Effect> {
    engine.shard.effects.enable(true);
    for step in steps {
        let Now { wall_ms, steady_ms } = engine.shard.now();
        engine
            .shard
            .set_now(Now { wall_ms: wall_ms + step.wait_ms + step.set_ms, steady_ms: steady_ms + step.wait_ms });
        let args: Vec<Vec<u8>> = step
            .args
            .iter()
            .map(|arg| match arg.strip_prefix(DUMP_OF) {
                Some(key) => dumped(engine, step.db, key),
                None => arg.clone().into_bytes(),
            })
            .collect();
        let args: Vec<&[u8]> = args.iter().map(Vec::as_slice).collect();
        run(engine, step.db, &args);
    }
    // Looking at every key lets the expired ones go, which is an effect too.
    contents(engine);
    engine.shard.effects.drain().collect()
}

fn dumped(engine: &mut Engine, db: usize, key: &str) -> Vec<u8> {
    let reply = run(engine, db, &[b"DUMP", key.as_bytes()]);
    match parse_value(&reply) {
        Ok(Some((Value::Bulk(payload), _))) => payload,
        _ => Vec::new(),
    }
}

fn replay(engine: &mut Engine, effects: &[Effect]) {
    for effect in effects {
        let args: Vec<&[u8]> = effect.args.iter().map(|a| a.as_slice()).collect();
        let reply = run(engine, effect.db as usize, &args);
        assert_ne!(reply.first(), Some(&b'-'), "{effect:?}: {}", reply.escape_ascii());
    }
}

/// A part of a value, and when it expires if it is a field.
type Part = (Vec<u8>, Option<UnixMs>);
/// Database, key, value, expiry.
type Content = (usize, &'static str, Vec<Part>, Option<UnixMs>);

/// The parts of a value, in an order that does not depend on how it came about.
fn parts(entry: EntryRef, now: Now) -> Vec<Part> {
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

fn contents(engine: &mut Engine) -> Vec<Content> {
    let mut all = Vec::new();
    for db in 0..DATABASES {
        for name in KEYS {
            let key = engine.hasher.key(name.as_bytes());
            let now = engine.shard.now();
            if let Some(entry) = engine.shard.peek(db, &key) {
                all.push((db, name, parts(entry, now), entry.expire_at));
            }
        }
        assert_eq!(engine.shard.size(db).keys, all.iter().filter(|c| c.0 == db).count());
    }
    all
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn replayed_effects_give_the_same_keyspace(mut steps in prop::collection::vec(step(), 1..80)) {
        steps.iter_mut().for_each(|step| step.set_ms = 0);
        let mut original = engine(START_MS);
        let effects = record(&mut original, &steps);
        let mut copy = engine(REPLAY_MS);
        replay(&mut copy, &effects);
        prop_assert_eq!(contents(&mut copy), contents(&mut original), "{:?}", effects);
    }

    /// The effects name the moments at which keys were to expire; a wall clock that is set changes those of durations.
    #[test]
    fn a_wall_clock_that_is_set_changes_nothing_else(steps in prop::collection::vec(step(), 1..80)) {
        let mut original = engine(START_MS);
        let effects = record(&mut original, &steps);
        let mut copy = engine(REPLAY_MS);
        replay(&mut copy, &effects);
        let expires = |(db, key, value, at): Content| {
            let value: Vec<(Vec<u8>, bool)> = value.into_iter().map(|(part, at)| (part, at.is_some())).collect();
            (db, key, value, at.is_some())
        };
        let [copy, original] = [&mut copy, &mut original].map(|e| contents(e).into_iter().map(expires).collect::<Vec<_>>());
        prop_assert_eq!(copy, original, "{:?}", effects);
    }

    #[test]
    fn reads_and_failed_commands_have_no_effect(steps in prop::collection::vec(step(), 1..40)) {
        let mut engine = engine(START_MS);
        engine.shard.effects.enable(true);
        for step in &steps {
            let before = contents(&mut engine);
            let _ = engine.shard.effects.drain();
            let args: Vec<&[u8]> = step.args.iter().map(|a| a.as_bytes()).collect();
            let reply = run(&mut engine, step.db, &args);
            let effects: Vec<Effect> = engine.shard.effects.drain().collect();
            let changed = contents(&mut engine) != before;
            let read_only = table().resolve(&args).is_ok_and(|row| row.command.flags.has(keyloom::command::Flags::READONLY));
            prop_assert!(!changed || !effects.is_empty(), "{:?} changed the keyspace in silence", step);
            if read_only || reply.first() == Some(&b'-') {
                prop_assert!(effects.is_empty(), "{:?} -> {:?}", step, effects);
            }
        }
    }
}
