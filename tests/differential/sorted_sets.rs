//! Random commands on sorted sets; see `commands` for the words that begin with `$`.
//!
//! Here `$n` is a member, `$z` a score, `$r` an end of a range of scores and `$l` one of names. `$x` is a key of which all
//! members have the score 0: otherwise ranges of names depend on the random levels of Redis' skip list.

use crate::commands::Command;
use crate::common::Random;

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
