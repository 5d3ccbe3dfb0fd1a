//! Transcripts of the string commands.

use crate::command::shard_transcript::Transcript;

#[test]
fn set_and_its_options() {
    Transcript::check(
        r#"
        GET k                           => $-1
        SET k v                         => +OK
        GET k                           => $1|v
        SET k w NX                      => $-1
        SET k w XX GET                  => $1|v
        SET other w XX                  => $-1
        SET other w XX GET              => $-1
        SET other w NX GET              => $-1
        GET other                       => $1|w
        SET other x get nx              => $1|w
        GET other                       => $1|w

        SET k v EX 10                   => +OK
        PTTL k                          => :10000
        SET k v KEEPTTL                 => +OK
        TTL k                           => :10
        SET k v                         => +OK
        TTL k                           => :-1
        SET k v px 1500 NX              => $-1
        SET k v XX px 1500              => +OK
        PTTL k                          => :1500
        SET k v EXAT 1700000100         => +OK
        PEXPIRETIME k                   => :1700000100000
        SET k v PXAT 1700000100001      => +OK
        PEXPIRETIME k                   => :1700000100001
        @time 100000
        GET k                           => $1|v
        @time 1
        GET k                           => $-1

        # The same twice is fine; the last one counts.
        SET k v EX 1 EX 20              => +OK
        TTL k                           => :20
        SET k v NX XX                   => -ERR syntax error
        SET k v EX 1 PX 1               => -ERR syntax error
        SET k v EX 1 KEEPTTL            => -ERR syntax error
        SET k v KEEPTTL PXAT 1          => -ERR syntax error
        SET k v EX                      => -ERR syntax error
        SET k v PERSIST                 => -ERR syntax error
        SET k v FOO                     => -ERR syntax error
        SET k v EX x                    => -ERR value is not an integer or out of range
        SET k v EX 0                    => -ERR invalid expire time in 'set' command
        SET k v PX -1                   => -ERR invalid expire time in 'set' command
        SET k v EX 9223372036854775807  => -ERR invalid expire time in 'set' command
        SET k v PX 9223372036854775807  => -ERR invalid expire time in 'set' command
        SET k                           => -ERR wrong number of arguments for 'set' command
        GET k                           => $1|v
        "#,
    );
}

#[test]
fn absent_values_in_resp3() {
    Transcript::check(
        r#"
        @resp 3
        GET k          => _
        MGET k k       => *2|_|_
        SET k v XX     => _
        GETDEL k       => _
        "#,
    );
}

#[test]
fn older_ways_to_set() {
    Transcript::check(
        r#"
        SETNX k v             => :1
        SETNX k w             => :0
        GETSET k x            => $1|v
        GETSET new y          => $-1
        SETEX k 10 v          => +OK
        TTL k                 => :10
        PSETEX k 1234 v       => +OK
        PTTL k                => :1234
        GETSET k z            => $1|v
        TTL k                 => :-1
        SETEX k 0 v           => -ERR invalid expire time in 'setex' command
        PSETEX k -5 v         => -ERR invalid expire time in 'psetex' command
        SETEX k 1.5 v         => -ERR value is not an integer or out of range
        "#,
    );
}

#[test]
fn getex_and_getdel() {
    Transcript::check(
        r#"
        GETEX k EX 0                  => $-1
        SET k v                       => +OK
        GETEX k                       => $1|v
        TTL k                         => :-1
        GETEX k EX 100                => $1|v
        TTL k                         => :100
        GETEX k PERSIST               => $1|v
        TTL k                         => :-1
        GETEX k PXAT 1700000000500    => $1|v
        PTTL k                        => :500
        GETEX k PERSIST EX 1          => -ERR syntax error
        GETEX k EX 1 PX 1             => -ERR syntax error
        GETEX k NX                    => -ERR syntax error
        GETEX k EX                    => -ERR syntax error
        GETEX k EX 0                  => -ERR invalid expire time in 'getex' command
        GETEX k EXAT 1                => $1|v
        EXISTS k                      => :0
        SET k v                       => +OK
        GETDEL k                      => $1|v
        GETDEL k                      => $-1
        "#,
    );
}

#[test]
fn several_keys() {
    Transcript::check(
        r#"
        MSET a 1 b 2 a 3       => +OK
        MGET a b c             => *3|$1|3|$1|2|$-1
        MSETNX c 1 a 2         => :0
        EXISTS c               => :0
        MSETNX c 1 d 2 c 3     => :1
        MGET c d               => *2|$1|3|$1|2
        MSET a                 => -ERR wrong number of arguments for 'mset' command
        MSET a b c             => -ERR wrong number of arguments for 'mset' command
        MSETNX a b c           => -ERR wrong number of arguments for 'msetnx' command
        "#,
    );
}

#[test]
fn counters() {
    Transcript::check(
        r#"
        INCR n                              => :1
        INCRBY n 41                         => :42
        DECR n                              => :41
        DECRBY n 50                         => :-9
        DECRBY n -9                         => :0
        SET n 9223372036854775807 EX 10     => +OK
        INCR n                              => -ERR increment or decrement would overflow
        DECRBY n -9223372036854775808       => -ERR decrement would overflow
        DECR n                              => :9223372036854775806
        TTL n                               => :10
        SET s " 1"                          => +OK
        INCR s                              => -ERR value is not an integer or out of range
        INCRBY s 1.0                        => -ERR value is not an integer or out of range
        SET s ""                            => +OK
        INCR s                              => -ERR value is not an integer or out of range

        INCRBYFLOAT f 0.1                   => $3|0.1
        INCRBYFLOAT f 0.2                   => $3|0.3
        INCRBYFLOAT f -0.3                  => $1|0
        SET f 5.0e3 EX 10                   => +OK
        INCRBYFLOAT f 2.0e2                 => $4|5200
        TTL f                               => :10
        INCRBYFLOAT f nan                   => -ERR value is not a valid float
        INCRBYFLOAT f inf                   => -ERR increment would produce NaN or Infinity
        INCRBYFLOAT f 1e5000                => -ERR value is not a valid float
        SET f "1 "                          => +OK
        INCRBYFLOAT f 1                     => -ERR value is not a valid float
        "#,
    );
}

#[test]
fn parts() {
    Transcript::check(
        r#"
        APPEND k Hello                        => :5
        APPEND k " World"                     => :11
        STRLEN k                              => :11
        STRLEN none                           => :0
        GETRANGE k 0 4                        => $5|Hello
        GETRANGE k -5 -1                      => $5|World
        GETRANGE k -1 -5                      => $0|
        GETRANGE k 6 9223372036854775807      => $5|World
        GETRANGE k -9223372036854775808 0     => $1|H
        GETRANGE k 11 20                      => $0|
        GETRANGE none 0 -1                    => $0|
        SUBSTR k 0 0                          => $1|H
        GETRANGE k a 1                        => -ERR value is not an integer or out of range
        SETRANGE k 6 Redis                    => :11
        GET k                                 => $11|Hello Redis
        SETRANGE k 12 !                       => :13
        GET k                                 => $13|Hello Redis\x00!
        SETRANGE none 3 ""                    => :0
        EXISTS none                           => :0
        SETRANGE pad 2 x                      => :3
        GET pad                               => $3|\x00\x00x
        SETRANGE k -1 x                       => -ERR offset is out of range
        SETRANGE k 9223372036854775807 x      => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        SETRANGE k 1048576 x                  => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        SETRANGE k 1048575 x                  => :1048576
        APPEND k y                            => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        EXPIRE pad 10                         => :1
        APPEND pad y                          => :4
        TTL pad                               => :10
        "#,
    );
}

#[test]
fn longest_common_subsequence() {
    Transcript::check(
        r#"
        MSET a ohmytext b mynewtext                => +OK
        LCS a b                                    => $6|mytext
        LCS a b LEN                                => :6
        LCS a b IDX                                => *4|$7|matches|*2|*2|*2|:4|:7|*2|:5|:8|*2|*2|:2|:3|*2|:0|:1|$3|len|:6
        LCS a b IDX MINMATCHLEN 4 WITHMATCHLEN     => *4|$7|matches|*1|*3|*2|:4|:7|*2|:5|:8|:4|$3|len|:6
        LCS a b IDX MINMATCHLEN -1                 => *4|$7|matches|*2|*2|*2|:4|:7|*2|:5|:8|*2|*2|:2|:3|*2|:0|:1|$3|len|:6
        LCS a none                                 => $0|
        LCS none a LEN                             => :0
        LCS none none IDX                          => *4|$7|matches|*0|$3|len|:0
        LCS a b LEN IDX                            => -ERR If you want both the length and indexes, please just use IDX.
        LCS a b MINMATCHLEN                        => -ERR syntax error
        LCS a b FOO                                => -ERR syntax error
        SETRANGE a 5000 x                          => :5001
        LCS a a                                    => -ERR Insufficient memory, transient memory for LCS exceeds proto-max-bulk-len
        @resp 3
        LCS b b IDX                                => %2|$7|matches|*1|*2|*2|:0|:8|*2|:0|:8|$3|len|:9
        "#,
    );
}
