//! Random commands on sorted sets; see `commands` for the words that begin with `$`.
//!
//! Here `$n` is a member, `$z` a score, `$r` an end of a range of scores and `$l` one of names. `$x` is a key of which all
//! members have the score 0: otherwise ranges of names depend on the random levels of Redis' skip list.

use std::collections::BTreeSet;

use keyloom::resp::read::Value;

use crate::collections::walk;
use crate::commands::Command;
use crate::common::{Client, Random, Server, seed, show};
use crate::compare::sorted;
use crate::sides;

pub const SORTED_SETS: &[&str] = &[
    "ZADD $k $z $n",
    "ZADD $k $z $n",
    "ZADD $k $z $n $z $n $z $n",
    "ZADD $k $z $n $z $n $z $n $z $n $z $n $z $n $z $n $z $n",
    "ZADD $x 0 $n 0 $n 0 $n 0 $n 0 $n",
    "ZADD $x 0 $n 0 $n 0 $n 0 $n 0 $n",
    "ZADD $k NX $z $n $z $n",
    "ZADD $k XX $z $n $z $n",
    "ZADD $k GT CH $z $n $z $n",
    "ZADD $k LT $z $n $z $n",
    "ZADD $k CH $z $n $z $n",
    "ZADD $k XX GT CH $z $n",
    "ZADD $k INCR $z $n",
    "ZADD $k XX INCR $z $n",
    "ZADD $k NX INCR $z $n",
    "ZADD $k GT INCR $z $n",
    "ZADD $k NX GT $z $n",
    "ZADD $k NX XX $z $n",
    "ZADD $k INCR $z $n $z $n",
    "ZINCRBY $k $z $n",
    "ZINCRBY $k $z $n",
    "ZREM $k $n",
    "ZREM $k $n $n $n",
    "ZSCORE $k $n",
    "ZMSCORE $k $n $n $n",
    "ZCARD $k",
    "ZRANK $k $n",
    "ZREVRANK $k $n",
    "ZCOUNT $k $r $r",
    "ZLEXCOUNT $x $l $l",
    "ZRANGE $k $o $o",
    "ZRANGE $k 0 -1 WITHSCORES",
    "ZRANGE $k 0 -1 WITHSCORES",
    "ZRANGE $k $o $o REV WITHSCORES",
    "ZRANGE $k $r $r BYSCORE",
    "ZRANGE $k $r $r BYSCORE REV LIMIT $o $o WITHSCORES",
    "ZRANGE $x $l $l BYLEX",
    "ZRANGE $x $l $l BYLEX REV LIMIT $o $o",
    "ZRANGE $k $o $o LIMIT $o $o",
    "ZRANGE $x $l $l BYLEX WITHSCORES",
    "ZRANGE $k $r $r BYSCORE BYLEX",
    "ZRANGESTORE $k $k $o $o",
    "ZRANGESTORE $k $k $o $o REV",
    "ZRANGESTORE $k $k $r $r BYSCORE LIMIT $o $o",
    "ZRANGESTORE $k $k $r $r BYSCORE REV LIMIT $o $o",
    "ZRANGESTORE $k $x $l $l BYLEX",
    "ZREVRANGE $k $o $o",
    "ZREVRANGE $k $o $o WITHSCORES",
    "ZRANGEBYSCORE $k $r $r",
    "ZRANGEBYSCORE $k $r $r WITHSCORES LIMIT $o $o",
    "ZREVRANGEBYSCORE $k $r $r LIMIT $o $o",
    "ZRANGEBYLEX $x $l $l",
    "ZRANGEBYLEX $x $l $l LIMIT $o $o",
    "ZREVRANGEBYLEX $x $l $l",
    "ZREMRANGEBYRANK $k $o $o",
    "ZREMRANGEBYSCORE $k $r $r",
    "ZREMRANGEBYLEX $x $l $l",
    "ZPOPMIN $k",
    "ZPOPMAX $k",
    "ZPOPMIN $k $o",
    "ZPOPMAX $k $o",
    "ZMPOP 1 $k MIN",
    "ZMPOP 2 $k $k MAX COUNT $o",
    "ZMPOP $o $k $k MIN COUNT 2",
    "ZMPOP 1 $k $v",
    "ZRANDMEMBER $k",
    "ZRANDMEMBER $k 3",
    "ZRANDMEMBER $k -3 WITHSCORES",
    "ZRANDMEMBER $k 1000 WITHSCORES",
    "ZSCAN $k 0",
    "ZSCAN $k 0 COUNT $o",
    "ZSCAN $k 0 MATCH $p COUNT 100",
    "ZSCAN $k 0 TYPE zset",
    "ZSCAN $k $i",
    "ZUNION 2 $k $k WITHSCORES",
    "ZUNION 3 $k $k $k WITHSCORES WEIGHTS $z $z $z AGGREGATE SUM",
    "ZUNION 2 $k $k AGGREGATE MIN WEIGHTS $z $z",
    "ZUNION $o $k $k",
    "ZINTER 2 $k $k WITHSCORES",
    "ZINTER 3 $k $k $k WEIGHTS $z $z $z WITHSCORES",
    "ZINTER 2 $k $k WITHSCORES AGGREGATE MAX",
    "ZINTER 1 $k WITHSCORES WEIGHTS $z",
    "ZDIFF 1 $k WITHSCORES",
    "ZDIFF 2 $k $k WITHSCORES",
    "ZDIFF 3 $k $k $k",
    "ZDIFF 2 $k $k WEIGHTS 1 1",
    "ZINTERCARD 2 $k $k",
    "ZINTERCARD 2 $k $k LIMIT $o",
    "ZUNIONSTORE $k 2 $k $k",
    "ZUNIONSTORE $k 2 $k $k WEIGHTS $z $z AGGREGATE MAX",
    "ZUNIONSTORE $k 1 $k",
    "ZINTERSTORE $k 2 $k $k",
    "ZINTERSTORE $k 2 $k $k AGGREGATE MIN",
    "ZDIFFSTORE $k 2 $k $k",
    "ZUNIONSTORE $k $o $k $k $v",
    "COMMAND GETKEYS ZUNIONSTORE $k 2 $k $k",
    "COMMAND GETKEYS ZINTER 2 $k $k",
    "COMMAND GETKEYS ZRANGESTORE $k $k 0 -1",
    "COMMAND GETKEYSANDFLAGS ZMPOP 2 $k $k MIN",
    "COMMAND GETKEYSANDFLAGS ZADD $k 1 a",
    "COMMAND GETKEYSANDFLAGS ZUNIONSTORE $k 1 $k",
];

const SCORES: &[&str] = &[
    "0",
    "0",
    "0",
    "1",
    "1",
    "2",
    "3",
    "-1",
    "-0",
    "0.1",
    "2.5",
    "-3.25",
    "1e3",
    "1e17",
    "123456789012345678",
    "1e-7",
    "inf",
    "-inf",
    "+inf",
    "Infinity",
    "1e400",
    "1e-400",
    "5e-324",
    "0x10",
    "0x1p-3",
    "nan",
    "",
    " 1",
    "1 ",
    "abc",
    "3.",
    ".5",
    "1e",
    "+2",
    "17976931348623157e292",
];

const MEMBERS: &[&str] = &[
    "a",
    "b",
    "c",
    "d",
    "e",
    "aa",
    "ab",
    "b1",
    "b2",
    "",
    "0",
    "1",
    "-1",
    "01",
    "z",
    "B",
    "\u{e9}",
    "a\0b",
    "a-member-that-is-longer-than-the-sixty-four-bytes-which-a-compact-sorted-set-takes",
    "a-member-of-exactly-sixty-four-bytes-which-a-compact-set-takes-.",
];

/// Keys of sorted sets with one score.
const LEX_KEYS: &[&str] = &["lex", "lex{a}"];

/// A word of one of the kinds above.
pub fn word(kind: &str, random: &mut Random) -> Vec<u8> {
    let score = |random: &mut Random| match random.below(4) {
        0 => format!("{}", random.below(20) as f64 / 4.0 - 2.0),
        1 => format!("{}", random.next() as i64 >> random.below(64)),
        // What is no score makes the whole command fail: rarely.
        _ if random.one_in(4) => random.pick(SCORES).to_string(),
        _ => random.below(5).to_string(),
    };
    let text = match kind {
        "$x" => random.pick(LEX_KEYS).to_string(),
        "$z" => score(random),
        "$r" if random.one_in(3) => random.pick(&["-inf", "+inf", "(inf", "(-inf", "", "(", "( 1", "1\0x"]).to_string(),
        "$r" => format!("{}{}", random.pick(&["", "", "("]), score(random)),
        "$l" if random.one_in(3) => random.pick(&["-", "+", "-", "+", "a", "", "+x", "-\0x"]).to_string(),
        "$l" => format!("{}{}", random.pick(&["[", "("]), random.pick(MEMBERS)),
        _ if random.one_in(3) => format!("m{}", random.below(40)),
        _ => random.pick(MEMBERS).to_string(),
    };
    text.into_bytes()
}

/// Commands that deliberately have other replies than in Redis 7.0, or would spoil the keys with one score.
pub fn differs(name: &[u8], words: &Command) -> bool {
    let is = |names: &[&str]| names.iter().any(|other| name.eq_ignore_ascii_case(other.as_bytes()));
    let is_lex = |at: usize| words.get(at).is_some_and(|word| word.starts_with(b"lex"));
    let stores = is(&["zrangestore"]);
    let by_name = is(&["zlexcount", "zrangebylex", "zrevrangebylex", "zremrangebylex"])
        || words.iter().any(|word| word.eq_ignore_ascii_case(b"bylex"));
    if by_name && (!is_lex(1 + stores as usize) || (stores && is_lex(1))) {
        return true;
    }
    if !by_name && (1..words.len()).any(is_lex) {
        return !is(&["zadd"]) || words[2..].iter().step_by(2).any(|score| score != b"0");
    }
    // WITHSCORE came with 7.2.
    (is(&["zrank", "zrevrank"]) && words.len() > 3)
        // A reply without end is refused.
        || (is(&["zrandmember"]) && words.iter().any(|word| word.starts_with(b"-") && word.len() > 5))
}

/// Commands of a run on large sorted sets.
const ROUNDS: usize = 6000;
/// Different members: enough that sets have several levels.
const DIFFERENT: usize = 8000;
/// Members of one command, at the most.
const AT_ONCE: usize = 150;

/// A command on large sorted sets, whose keys lie on both cores. Those with `names` have one score.
fn large(random: &mut Random) -> Vec<Vec<u8>> {
    let names = random.one_in(3);
    let key = |random: &mut Random| {
        if names { format!("names:{}", random.below(3)) } else { format!("scores:{}", random.below(4)) }
    };
    let member = |random: &mut Random| {
        let n = random.below(DIFFERENT);
        if n.is_multiple_of(9) { format!("{n:0300}") } else { format!("member:{n}") }
    };
    let score = |random: &mut Random| match random.below(30) {
        _ if names => "0".to_string(),
        0 => random.pick(&["inf", "-inf", "-0"]).to_string(),
        1..10 => format!("{}", random.next() as i32 as f64 / 1024.0),
        _ => random.below(100).to_string(),
    };
    let rank = |random: &mut Random| (random.below(DIFFERENT) as i64 - DIFFERENT as i64 / 2).to_string();
    let end = |random: &mut Random| match names {
        true if random.one_in(4) => random.pick(&["-", "+"]).to_string(),
        true => format!("{}{}", random.pick(&["[", "("]), member(random)),
        false => format!("{}{}", random.pick(&["", "("]), score(random)),
    };
    let by = if names { "BYLEX" } else { "BYSCORE" };
    let mut words: Vec<String> = Vec::new();
    let mut say = |parts: &[&str]| words.extend(parts.iter().map(|part| part.to_string()));
    match random.below(40) {
        0..14 => {
            say(&["ZADD", &key(random), "CH"]);
            (0..1 + random.below(AT_ONCE)).for_each(|_| say(&[&score(random), &member(random)]));
        }
        14..18 => {
            say(&["ZREM", &key(random)]);
            (0..1 + random.below(AT_ONCE)).for_each(|_| say(&[&member(random)]));
        }
        18..20 => {
            say(&["ZMSCORE", &key(random)]);
            (0..1 + random.below(AT_ONCE)).for_each(|_| say(&[&member(random)]));
        }
        20..22 if !names => say(&["ZINCRBY", &key(random), &score(random), &member(random)]),
        22 => say(&["ZRANK", &key(random), &member(random)]),
        23 => say(&["ZREVRANK", &key(random), &member(random)]),
        24 => say(&["ZRANGE", &key(random), &rank(random), &rank(random), "WITHSCORES"]),
        25 => say(&["ZRANGE", &key(random), &rank(random), &rank(random), "REV", "WITHSCORES"]),
        26 => say(&["ZRANGE", &key(random), &end(random), &end(random), by]),
        27 => say(&["ZRANGE", &key(random), &end(random), &end(random), by, "REV", "LIMIT", "3", "200"]),
        28 if names => say(&["ZLEXCOUNT", &key(random), &end(random), &end(random)]),
        28 => say(&["ZCOUNT", &key(random), &end(random), &end(random)]),
        29 => say(&["ZPOPMIN", &key(random), &random.below(AT_ONCE).to_string()]),
        30 => say(&["ZPOPMAX", &key(random), &random.below(AT_ONCE).to_string()]),
        31 => {
            let first = random.below(DIFFERENT / 4);
            let last = first + random.below(2 * AT_ONCE);
            say(&["ZREMRANGEBYRANK", &key(random), &first.to_string(), &last.to_string()]);
        }
        32 => say(&["ZRANGESTORE", &key(random), &key(random), &rank(random), &rank(random)]),
        33 if !names => say(&["ZUNIONSTORE", &key(random), "2", &key(random), &key(random), "WEIGHTS", "1", "0.5"]),
        34 => say(&["ZINTERSTORE", &key(random), "2", &key(random), &key(random), "AGGREGATE", "MAX"]),
        35 => say(&["ZDIFF", "2", &key(random), &key(random), "WITHSCORES"]),
        36 => say(&["ZINTERCARD", "2", &key(random), &key(random), "LIMIT", "500"]),
        37 => say(&["COPY", &key(random), &key(random), "REPLACE"]),
        38 if random.one_in(8) => say(&["DEL", &key(random)]),
        _ => say(&["ZCARD", &key(random)]),
    }
    words.into_iter().map(String::into_bytes).collect()
}

#[test]
fn large_sorted_sets_get_the_replies_of_redis() {
    let Some(mut sides) = sides() else { return };
    let seed = seed();
    println!("KEYLOOM_SEED={seed}");
    let mut random = Random::new(seed);
    let mut most = 0;
    for round in 0..ROUNDS {
        let command = large(&mut random);
        let mut replies = Vec::new();
        for side in &mut sides {
            side.client.send(&command);
            replies.push(side.client.read_raw());
        }
        for (side, ours) in sides.iter().zip(&replies).skip(1) {
            let shown: Vec<_> = command.iter().map(|arg| String::from_utf8_lossy(arg)).collect();
            assert_eq!(show(ours), show(&replies[0]), "{}, round {round}: {}", side.name, shown.join(" "));
        }
        most = most.max(replies[0].len());
    }
    assert!(most > 50_000, "no sorted set became large");
    for key in ["scores:0", "scores:1", "scores:2", "scores:3", "names:0", "names:1", "names:2"] {
        let all: Vec<Value> =
            sides.iter_mut().map(|side| side.client.call(&["ZRANGE", key, "0", "-1", "WITHSCORES"])).collect();
        assert!(all.iter().all(|items| *items == all[0]), "{key}");
        let Value::Array(items) = &all[0] else { panic!("ZRANGE is no array") };
        for side in sides.iter_mut().skip(1) {
            let mut walked = walk(&mut side.client, "ZSCAN", key);
            walked.sort();
            assert_eq!(walked, sorted(items.clone()), "{}: {key}", side.name);
        }
    }
}

/// Members that are there from the start of a walk to its end are found, and once, though others come and go and all
/// scores change.
#[test]
fn walks_of_sorted_sets_find_what_stays() {
    const STAY: usize = 3000;
    let server = Server::keyloom(&["--cpus", "0"]);
    let mut client = server.client();
    let mut random = Random::new(seed());
    for equal in [true, false] {
        client.call(&["DEL", "walked"]);
        let add = |client: &mut Client, name: String, random: &mut Random| {
            let score = if equal { "1".to_string() } else { random.below(1_000_000).to_string() };
            client.call(&["ZADD", "walked", &score, &name]);
        };
        (0..STAY).for_each(|n| add(&mut client, format!("stays:{n}"), &mut random));
        let (mut cursor, mut found, mut calls) = ("0".to_string(), Vec::new(), 0);
        loop {
            let Value::Array(reply) = client.call(&["ZSCAN", "walked", &cursor, "COUNT", "50", "MATCH", "stays:*"])
            else {
                panic!("ZSCAN is no array")
            };
            let [Value::Bulk(next), Value::Array(items)] = <[Value; 2]>::try_from(reply).unwrap() else {
                panic!("no pair")
            };
            found.extend(items.into_iter().step_by(2).map(|member| match member {
                Value::Bulk(member) => member,
                other => panic!("{other:?} is no member"),
            }));
            calls += 1;
            for _ in 0..60 {
                let n = random.below(STAY);
                add(&mut client, format!("stays:{n}"), &mut random);
                add(&mut client, format!("goes:{n}"), &mut random);
                client.call(&["ZREM", "walked", &format!("goes:{}", random.below(STAY))]);
            }
            if next == b"0" {
                break;
            }
            cursor = String::from_utf8(next).unwrap();
        }
        assert!(calls > 20);
        let all: BTreeSet<Vec<u8>> = (0..STAY).map(|n| format!("stays:{n}").into_bytes()).collect();
        assert_eq!(found.len(), STAY, "a member came twice");
        assert_eq!(BTreeSet::from_iter(found), all);
    }
}
