//! Transcripts of the sorted set commands.

use crate::command::shard_transcript::Transcript;

#[test]
fn adding_and_removing() {
    Transcript::check(
        r#"
        ZADD k 1 a 2 b 3 c                => :3
        ZADD k CH 1 a 5 b 4 d             => :2
        ZADD k NX 9 a 9 e                 => :1
        ZADD k XX 9 nosuch 8 e            => :0
        ZADD none XX 1 a                  => :0
        EXISTS none                       => :0
        ZADD k GT CH 7 e 9 e              => :1
        ZADD k LT CH 10 e                 => :0
        ZADD k INCR 1 a                   => $1|2
        ZADD k INCR XX 1 nosuch           => $-1
        ZADD k GT INCR -1 a               => $-1
        ZINCRBY k 0.5 a                   => $3|2.5
        ZADD k NX XX 1 a                  => -ERR XX and NX options at the same time are not compatible
        ZADD k NX GT 1 a                  => -ERR GT, LT, and/or NX options at the same time are not compatible
        ZADD k INCR 1 a 2 b               => -ERR INCR option supports a single increment-element pair
        ZADD k 1 a 2                      => -ERR syntax error
        ZADD k XX CH                      => -ERR syntax error
        ZADD k 1 a x b                    => -ERR value is not a valid float
        ZADD k nan a                      => -ERR value is not a valid float
        ZADD i inf a                      => :1
        ZINCRBY i -inf a                  => -ERR resulting score is not a number (NaN)
        ZSCORE i a                        => $3|inf
        ZADD i -0 z 0 z                   => :1
        ZSCORE i z                        => $1|0
        ZRANGE k 0 -1 WITHSCORES          => *10|$1|a|$3|2.5|$1|c|$1|3|$1|d|$1|4|$1|b|$1|5|$1|e|$1|9
        ZREM k a nosuch b                 => :2
        ZCARD k                           => :3
        ZREM k c d e x                    => :3
        EXISTS k                          => :0
        ZREM k a                          => :0
        SET s v                           => +OK
        ZADD s 1 a                        => -WRONGTYPE Operation against a key holding the wrong kind of value
        ZCARD s                           => -WRONGTYPE Operation against a key holding the wrong kind of value
        TYPE i                            => +zset
        "#,
    );
}

#[test]
fn scores_and_ranks() {
    Transcript::check(
        r#"
        ZADD k 1 a 2.5 b 2.5 c            => :3
        ZMSCORE k a nosuch b              => *3|$1|1|$-1|$3|2.5
        ZMSCORE none a                    => *1|$-1
        ZSCORE none a                     => $-1
        ZRANK k c                         => :2
        ZREVRANK k c                      => :0
        ZRANK k nosuch                    => $-1
        ZRANK k b WITHSCORE               => *2|:1|$3|2.5
        ZREVRANK k nosuch WITHSCORE       => *-1
        ZRANK none a withscore            => *-1
        ZRANK k b SCORE                   => -ERR syntax error
        ZRANK k b WITHSCORE x             => -ERR wrong number of arguments for 'zrank' command
        @resp 3
        ZRANK k b WITHSCORE               => *2|:1|,2.5
        ZMSCORE k a nosuch                => *2|,1|_
        ZINCRBY k 1 a                     => ,2
        "#,
    );
}

#[test]
fn ranges() {
    Transcript::check(
        r#"
        ZADD k 1 a 2 b 3 c 4 d            => :4
        ZRANGE k 1 -2                     => *2|$1|b|$1|c
        ZRANGE k 0 0 REV                  => *1|$1|d
        ZREVRANGE k 0 1 WITHSCORES        => *4|$1|d|$1|4|$1|c|$1|3
        ZRANGE k 3 1                      => *0
        ZRANGE k -9223372036854775808 9223372036854775807 => *4|$1|a|$1|b|$1|c|$1|d
        ZRANGE k (1 3 BYSCORE             => *2|$1|b|$1|c
        ZRANGE k 3 (1 BYSCORE REV         => *2|$1|c|$1|b
        ZRANGEBYSCORE k -inf +inf LIMIT 1 2 => *2|$1|b|$1|c
        ZREVRANGEBYSCORE k inf -inf LIMIT 1 2 => *2|$1|c|$1|b
        ZRANGEBYSCORE k 0 10 LIMIT 1 -1   => *3|$1|b|$1|c|$1|d
        ZRANGEBYSCORE k 0 10 LIMIT -1 2   => *0
        ZRANGEBYSCORE k 0 10 LIMIT 9223372036854775807 9223372036854775807 => *0
        ZRANGEBYSCORE k 1 x               => -ERR min or max is not a float
        ZRANGE k 0 1 LIMIT 0 1            => -ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX
        ZRANGE k - + BYLEX WITHSCORES     => -ERR syntax error, WITHSCORES not supported in combination with BYLEX
        ZRANGEBYSCORE k 1 2 BYLEX         => -ERR syntax error
        ZRANGE k 0 1 LIMIT 0              => -ERR syntax error
        ZRANGE k 0 x                      => -ERR value is not an integer or out of range
        ZRANGE none 0 1                   => *0
        ZCOUNT k (1 +inf                  => :3
        ZADD l 0 a 0 b 0 bb 0 c           => :4
        ZRANGEBYLEX l [b (c               => *2|$1|b|$2|bb
        ZREVRANGEBYLEX l + (a LIMIT 1 1   => *1|$2|bb
        ZRANGE l + - BYLEX REV            => *4|$1|c|$2|bb|$1|b|$1|a
        ZLEXCOUNT l - +                   => :4
        ZLEXCOUNT l + -                   => :0
        ZLEXCOUNT l b c                   => -ERR min or max not valid string range item
        ZRANGESTORE t k 0 -2              => :3
        ZRANGESTORE t k 1 2 REV           => :2
        ZRANGE t 0 -1 WITHSCORES          => *4|$1|b|$1|2|$1|c|$1|3
        ZRANGESTORE t none 0 -1           => :0
        EXISTS t                          => :0
        ZREMRANGEBYLEX l [b [bb           => :2
        ZREMRANGEBYSCORE k (3 inf         => :1
        ZREMRANGEBYRANK k 0 0             => :1
        ZREMRANGEBYRANK k 5 9             => :0
        ZREMRANGEBYRANK k 0 -1            => :2
        EXISTS k                          => :0
        @resp 3
        ZRANGE l 0 -1 WITHSCORES          => *2|*2|$1|a|,0|*2|$1|c|,0
        "#,
    );
}

#[test]
fn popping() {
    Transcript::check(
        r#"
        ZADD k 1 a 2 b 3 c 4 d 5 e 6 f    => :6
        ZPOPMIN k                         => *2|$1|a|$1|1
        ZPOPMAX k 2                       => *4|$1|f|$1|6|$1|e|$1|5
        ZPOPMIN k 0                       => *0
        ZPOPMIN none                      => *0
        ZPOPMIN k -1                      => -ERR value is out of range, must be positive
        ZPOPMIN k 1 2                     => -ERR syntax error
        ZMPOP 2 none k MIN                => *2|$1|k|*1|*2|$1|b|$1|2
        @resp 3
        ZPOPMAX k                         => *2|$1|d|,4
        ZPOPMAX k 9223372036854775807     => *1|*2|$1|c|,3
        EXISTS k                          => :0
        ZMPOP 1 k MAX COUNT 5             => _
        @resp 2
        ZMPOP 1 k MAX COUNT 5             => *-1
        ZMPOP 0 k MIN                     => -ERR numkeys should be greater than 0
        ZMPOP 1 k MIDDLE                  => -ERR syntax error
        ZMPOP 2 k MIN                     => -ERR syntax error
        ZMPOP 1 k MIN COUNT 0             => -ERR count should be greater than 0
        "#,
    );
}

#[test]
fn algebra() {
    Transcript::check(
        r#"
        ZADD a 1 x 2 y 3 z                => :3
        ZADD b 10 y 20 z 30 w             => :3
        SADD s x w 7                      => :3
        ZUNION 2 a b WITHSCORES           => *8|$1|x|$1|1|$1|y|$2|12|$1|z|$2|23|$1|w|$2|30
        ZUNION 3 a s none                 => *5|$1|7|$1|w|$1|x|$1|y|$1|z
        ZINTER 2 a b WITHSCORES WEIGHTS 2 1 AGGREGATE MAX => *4|$1|y|$2|10|$1|z|$2|20
        ZINTER 2 a s WITHSCORES           => *2|$1|x|$1|2
        ZINTER 2 a none                   => *0
        ZDIFF 2 a b WITHSCORES            => *2|$1|x|$1|1
        ZDIFF 1 none                      => *0
        ZINTERCARD 2 a b                  => :2
        ZINTERCARD 2 a b LIMIT 1          => :1
        ZINTERCARD 2 a b LIMIT -1         => -ERR LIMIT can't be negative
        ZUNIONSTORE t 2 a b AGGREGATE MIN => :4
        ZRANGE t 0 -1 WITHSCORES          => *8|$1|x|$1|1|$1|y|$1|2|$1|z|$1|3|$1|w|$2|30
        ZINTERSTORE t 2 t a WEIGHTS 1 inf => :3
        ZRANGE t 0 -1 WITHSCORES          => *6|$1|x|$3|inf|$1|y|$3|inf|$1|z|$3|inf
        ZDIFFSTORE t 2 a a                => :0
        EXISTS t                          => :0
        ZUNION 0 a                        => -ERR at least 1 input key is needed for 'zunion' command
        ZUNION 3 a b                      => -ERR syntax error
        ZUNION 2 a b WEIGHTS 1            => -ERR syntax error
        ZUNION 2 a b WEIGHTS 1 x          => -ERR weight value is not a float
        ZDIFF 2 a b WEIGHTS 1 1           => -ERR syntax error
        ZUNIONSTORE t 2 a b WITHSCORES    => -ERR syntax error
        SET str v                         => +OK
        ZUNION 2 a str                    => -WRONGTYPE Operation against a key holding the wrong kind of value
        "#,
    );
}

#[test]
fn random_members_and_walks() {
    let mut t = Transcript::default();
    t.run(
        r#"
        ZADD k 1 a 2 b                    => :2
        ZRANDMEMBER none                  => $-1
        ZRANDMEMBER none 2                => *0
        ZRANDMEMBER k 5 WITHSCORES        => *4|$1|a|$1|1|$1|b|$1|2
        ZRANDMEMBER k 0                   => *0
        ZRANDMEMBER k x                   => -ERR value is not an integer or out of range
        ZRANDMEMBER k 1 SCORES            => -ERR syntax error
        ZSCAN k 0                         => *2|$1|0|*4|$1|a|$1|1|$1|b|$1|2
        ZSCAN k 0 MATCH b* COUNT 1        => *2|$1|0|*2|$1|b|$1|2
        ZSCAN k x                         => -ERR invalid cursor
        ZADD w 1e18 a                     => :1
        ZSCAN w 0                         => *2|$1|0|*2|$1|a|$19|1000000000000000000
        ZSCORE w a                        => $5|1e+18
        ZSCAN none 0                      => *2|$1|0|*0
        ZSCAN k 0 TYPE zset               => -ERR syntax error
        @resp 3
        ZSCAN k 0 MATCH a                 => *2|$1|0|*2|$1|a|$1|1
        "#,
    );
    assert!(t.call(&[b"ZRANDMEMBER", b"k", b"-9223372036854775807"]).starts_with(b"-ERR reply exceeds"));
    assert!(t.call(&[b"ZRANDMEMBER", b"k", b"-50", b"WITHSCORES"]).starts_with(b"*50\r\n*2\r\n$1\r\n"));
}

#[test]
fn what_was_popped_is_logged() {
    let mut t = Transcript::default();
    t.shard.effects.enable(true);
    t.run(
        r#"
        ZADD k NX CH 1 a 2 b 3 c 4 d 5 e  => :5
        ZADD k GT 0 a                     => :0
        ZINCRBY k 1 a                     => $1|2
        ZPOPMIN k 0                       => *0
        ZPOPMIN k                         => *2|$1|a|$1|2
        ZMPOP 1 k MAX COUNT 2             => *2|$1|k|*2|*2|$1|e|$1|5|*2|$1|d|$1|4
        ZREMRANGEBYRANK k 7 9             => :0
        ZPOPMAX k 5                       => *4|$1|c|$1|3|$1|b|$1|2
        "#,
    );
    assert_eq!(t.effects(), ["ZADD k NX CH 1 a 2 b 3 c 4 d 5 e", "ZINCRBY k 1 a", "ZREM k a", "ZREM k e d", "DEL k"]);
}

/// A set of more members than a compact one has, through all commands that treat the two forms differently.
#[test]
fn large_sets() {
    let mut t = Transcript::default();
    for n in 0..1000 {
        t.call(&[b"ZADD", b"k", (n % 10).to_string().as_bytes(), format!("m{n:04}").as_bytes()]);
    }
    t.run(
        r#"
        OBJECT ENCODING k                 => $8|skiplist
        ZCARD k                           => :1000
        ZADD k -0 z                       => :1
        ZSCORE k z                        => $2|-0
        ZREM k z                          => :1
        ZCOUNT k 3 (5                     => :200
        ZRANK k m0001                     => :100
        ZRANGE k -1 -1 WITHSCORES         => *2|$5|m0999|$1|9
        ZRANGE k 9 9 BYSCORE REV LIMIT 98 5 => *2|$5|m0019|$5|m0009
        ZREMRANGEBYSCORE k 1 9            => :900
        OBJECT ENCODING k                 => $8|skiplist
        ZLEXCOUNT k [m0100 +              => :90
        ZPOPMAX k                         => *2|$5|m0990|$1|0
        ZRANGESTORE t k 0 -1              => :99
        OBJECT ENCODING t                 => $8|listpack
        COPY k copy                       => :1
        ZREMRANGEBYRANK k 0 -1            => :99
        EXISTS k                          => :0
        ZCARD copy                        => :99
        ZMSCORE copy m0000 m0001          => *2|$1|0|$-1
        "#,
    );
    for count in [1, 12, 50, 99, 200] {
        let reply = t.call(&[b"ZRANDMEMBER", b"copy", count.to_string().as_bytes()]);
        let mut members: Vec<&[u8]> =
            reply.split(|&byte| byte == b'\n').filter(|line| line.starts_with(b"m")).collect();
        members.sort();
        members.dedup();
        assert_eq!(members.len(), count.min(99));
    }
}
