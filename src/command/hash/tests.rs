//! Transcripts of the hash commands.

use std::collections::BTreeSet;

use crate::command::shard_transcript::{Transcript, shown};

const WRONG_TYPE: &str = "-WRONGTYPE Operation against a key holding the wrong kind of value";

#[test]
fn fields_come_and_go() {
    Transcript::check(
        r#"
        HSET h a 1 b 2 a 3        => :2
        HGET h a                  => $1|3
        HGET h z                  => $-1
        HGET none a               => $-1
        HSET h a 4 c 5            => :1
        HMGET h a z c             => *3|$1|4|$-1|$1|5
        HMGET none a              => *1|$-1
        HGETALL h                 => *6|$1|a|$1|4|$1|b|$1|2|$1|c|$1|5
        HKEYS h                   => *3|$1|a|$1|b|$1|c
        HVALS h                   => *3|$1|4|$1|2|$1|5
        HLEN h                    => :3
        HLEN none                 => :0
        HGETALL none              => *0
        HKEYS none                => *0
        HEXISTS h a               => :1
        HEXISTS h z               => :0
        HSTRLEN h a               => :1
        HSTRLEN h z               => :0
        HSETNX h a 9              => :0
        HSETNX h d "long value"   => :1
        HSTRLEN h d               => :10
        HMSET h e "" f ""         => +OK
        HGET h e                  => $0|
        EXPIRE h 10               => :1
        HSET h e x                => :0
        TTL h                     => :10
        HDEL h a a z              => :1
        HDEL h b c d e f          => :5
        EXISTS h                  => :0
        HDEL h a                  => :0
        HSET h a                  => -ERR wrong number of arguments for 'hset' command
        HSET h a 1 b              => -ERR wrong number of arguments for 'hset' command
        HMSET h a 1 b             => -ERR wrong number of arguments for 'hmset' command
        EXISTS h                  => :0
        HSET h a 1                => :1
        TYPE h                    => +hash
        OBJECT ENCODING h         => $8|listpack
        @resp 3
        HGETALL h                 => %1|$1|a|$1|1
        HGETALL none              => %0
        HKEYS h                   => *1|$1|a
        HMGET h z                 => *1|_
        HGET h z                  => _
        "#,
    );
}

#[test]
fn keys_of_other_types_are_refused() {
    let mut client = Transcript::default();
    client.run("SET str x => +OK");
    for line in [
        "HSET str a 1",
        "HMSET str a 1",
        "HSETNX str a 1",
        "HDEL str a",
        "HINCRBY str a 1",
        "HINCRBYFLOAT str a 1",
        "HGET str a",
        "HMGET str a",
        "HGETALL str",
        "HKEYS str",
        "HVALS str",
        "HLEN str",
        "HSTRLEN str a",
        "HEXISTS str a",
        "HRANDFIELD str",
        "HSCAN str 0",
    ] {
        client.run(&format!("{line} => {WRONG_TYPE}"));
    }
    client.run("GET str => $1|x");
}

#[test]
fn counters() {
    Transcript::check(
        r#"
        HINCRBY h n 5                       => :5
        HINCRBY h n -7                      => :-2
        HINCRBY h n x                       => -ERR value is not an integer or out of range
        HINCRBY h n -9223372036854775808    => -ERR increment or decrement would overflow
        HSET h text abc empty "" big 123456789012345678901 => :3
        HINCRBY h text 1                    => -ERR hash value is not an integer
        HINCRBY h empty 1                   => -ERR hash value is not an integer
        HINCRBY h big 1                     => -ERR hash value is not an integer
        HINCRBYFLOAT h f 0.1                => $3|0.1
        HINCRBYFLOAT h f 0.2                => $3|0.3
        HGET h f                            => $3|0.3
        HINCRBYFLOAT h n 2.0e2              => $3|198
        HINCRBYFLOAT h n x                  => -ERR value is not a valid float
        HINCRBYFLOAT h n nan                => -ERR value is not a valid float
        HINCRBYFLOAT h n inf                => -ERR value is NaN or Infinity
        HINCRBYFLOAT h n -inf               => -ERR value is NaN or Infinity
        HINCRBYFLOAT h text 1               => -ERR hash value is not a float
        HINCRBYFLOAT h empty 1              => -ERR hash value is not a float
        HINCRBYFLOAT none text x            => -ERR value is not a valid float
        HINCRBY none text x                 => -ERR value is not an integer or out of range
        EXISTS none                         => :0
        "#,
    );
}

#[test]
fn sums_are_logged_as_their_results() {
    let mut client = Transcript::default();
    client.shard.effects.enable(true);
    client.run(
        r#"
        HINCRBYFLOAT h f 1.5                => $3|1.5
        HINCRBYFLOAT h f 1.5                => $1|3
        HINCRBYFLOAT h f x                  => -ERR value is not a valid float
        HINCRBY h f 1                       => :4
        HSETNX h f 1                        => :0
        HDEL h z                            => :0
        "#,
    );
    assert_eq!(client.effects(), ["HSET h f 1.5", "HSET h f 3", "HINCRBY h f 1"]);
}

#[test]
fn drawing_fields() {
    let mut client = Transcript::default();
    client.run(
        r#"
        HRANDFIELD none                     => $-1
        HRANDFIELD none 3                   => *0
        HRANDFIELD none -3 WITHVALUES       => *0
        HSET h f v                          => :1
        HRANDFIELD h                        => $1|f
        HRANDFIELD h 5                      => *1|$1|f
        HRANDFIELD h 5 WITHVALUES           => *2|$1|f|$1|v
        HRANDFIELD h -2                     => *2|$1|f|$1|f
        HRANDFIELD h -2 WITHVALUES          => *4|$1|f|$1|v|$1|f|$1|v
        HRANDFIELD h 0                      => *0
        HRANDFIELD h x                      => -ERR value is not an integer or out of range
        HRANDFIELD h 1 FOO                  => -ERR syntax error
        HRANDFIELD h 1 WITHVALUES x         => -ERR syntax error
        HRANDFIELD h x WITHVALUES x         => -ERR value is not an integer or out of range
        HRANDFIELD h -9223372036854775808   => -ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807
        HRANDFIELD h -9223372036854775807   => -ERR reply exceeds maximum allowed size (proto-max-bulk-len)
        HRANDFIELD h -4611686018427387903 WITHVALUES => -ERR reply exceeds maximum allowed size (proto-max-bulk-len)
        HRANDFIELD h 4611686018427387904 WITHVALUES  => -ERR value is out of range
        HRANDFIELD none -4611686018427387904 WITHVALUES => -ERR value is out of range
        @resp 3
        HRANDFIELD h 5 WITHVALUES           => *1|*2|$1|f|$1|v
        HRANDFIELD h -2 WITHVALUES          => *2|*2|$1|f|$1|v|*2|$1|f|$1|v
        HRANDFIELD none                     => _
        @resp 2
        "#,
    );
    for len in [20, 1000] {
        (0..len).for_each(|n: u32| {
            client.call(&[b"HSET", b"many", format!("f{n}").as_bytes(), format!("v{n}").as_bytes()]);
        });
        let reply = shown(&client.call(&[b"HRANDFIELD", b"many", b"9", b"WITHVALUES"]));
        let words: Vec<&str> = reply.split('|').skip(2).step_by(2).collect();
        let fields: BTreeSet<&str> = words.iter().step_by(2).copied().collect();
        assert_eq!((words.len(), fields.len()), (18, 9));
        assert!(words.chunks(2).all(|pair| pair[0][1..] == pair[1][1..]), "{reply}");
    }
}

#[test]
fn walks() {
    let mut client = Transcript::default();
    client.run(
        r#"
        HSET h a 1 b 2                      => :2
        HSCAN h 0                           => *2|$1|0|*4|$1|a|$1|1|$1|b|$1|2
        HSCAN h 0 NOVALUES                  => *2|$1|0|*2|$1|a|$1|b
        HSCAN h 0 NOVALUES MATCH b          => *2|$1|0|*1|$1|b
        HSCAN h 0 COUNT 5 MATCH 1           => *2|$1|0|*0
        HSCAN none 0 FOO                    => *2|$1|0|*0
        HSCAN h x                           => -ERR invalid cursor
        HSCAN h 0 TYPE hash                 => -ERR syntax error
        "#,
    );
    for n in 0..1000 {
        client.call(&[b"HSET", b"large", format!("f{n}").as_bytes(), b"v"]);
    }
    client.run("OBJECT ENCODING large => $9|hashtable");
    let reply = shown(&client.call(&[b"HSCAN", b"large", b"0", b"COUNT", b"100000"]));
    assert!(reply.starts_with("*2|$1|0|*2000|"));
    let part = shown(&client.call(&[b"HSCAN", b"large", b"0", b"COUNT", b"10", b"NOVALUES"]));
    assert!(!part.starts_with("*2|$1|0|"), "{part}");
}

#[test]
fn a_long_value_makes_a_hash_large() {
    let mut client = Transcript::default();
    client.call(&[b"HSET", b"h", b"f", &[b'x'; 64]]);
    client.run("OBJECT ENCODING h => $8|listpack");
    client.call(&[b"HSET", b"h", b"f", &[b'x'; 65]]);
    client.run(
        r#"
        OBJECT ENCODING h                   => $9|hashtable
        HSTRLEN h f                         => :65
        HSET h f v                          => :0
        HGETALL h                           => *2|$1|f|$1|v
        OBJECT ENCODING h                   => $9|hashtable
        COPY h copy                         => :1
        HSET copy g w                       => :1
        HGETALL h                           => *2|$1|f|$1|v
        HDEL h f                            => :1
        EXISTS h copy                       => :1
        "#,
    );
}
