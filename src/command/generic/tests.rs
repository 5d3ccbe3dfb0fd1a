//! Transcripts of the generic commands.

use std::collections::BTreeMap;

use super::object::memory_usage;
use super::scan::scan_partition;
use crate::command::shard_transcript::{Transcript, shown};
use crate::command::{Ctx, Owned};
use crate::pubsub::PubSub;
use crate::resp::{Error, Output, Reply, Version};

#[test]
fn keys_as_a_whole() {
    Transcript::check(
        r#"
        MSET a 1 b 2 c 3         => +OK
        EXISTS a b a none        => :3
        TOUCH a none             => :1
        TYPE a                   => +string
        TYPE none                => +none
        DBSIZE                   => :3
        DEL a a none             => :1
        UNLINK b c               => :2
        DBSIZE                   => :0
        "#,
    );
}

#[test]
fn expiries() {
    Transcript::check(
        r#"
        EXPIRE k 10                          => :0
        TTL k                                => :-2
        SET k v                              => +OK
        TTL k                                => :-1
        EXPIRETIME k                         => :-1
        EXPIRE k 10 XX                       => :0
        EXPIRE k 10 GT                       => :0
        EXPIRE k 10 LT                       => :1
        EXPIRE k 10 NX                       => :0
        EXPIRE k 9 GT                        => :0
        EXPIRE k 11 LT                       => :0
        EXPIRE k 11 XX GT                    => :1
        PTTL k                               => :11000
        PEXPIRE k 1499                       => :1
        TTL k                                => :1
        PEXPIRE k 1500                       => :1
        TTL k                                => :2
        EXPIREAT k 1700000020                => :1
        PEXPIRETIME k                        => :1700000020000
        PEXPIREAT k 1700000020500            => :1
        EXPIRETIME k                         => :1700000021
        PERSIST k                            => :1
        PERSIST k                            => :0
        PERSIST none                         => :0
        EXPIRE k 9223372036854775            => -ERR invalid expire time in 'expire' command
        EXPIRE k -9223372036854776           => -ERR invalid expire time in 'expire' command
        PEXPIRE k 9223372036854775807        => -ERR invalid expire time in 'pexpire' command
        EXPIREAT k 9223372036854776          => -ERR invalid expire time in 'expireat' command
        PEXPIREAT k 9223372036854775807      => :1
        EXPIRE k x                           => -ERR value is not an integer or out of range
        EXPIRE k 1 FOO                       => -ERR Unsupported option FOO
        EXPIRE k 1 NX XX                     => -ERR NX and XX, GT or LT options at the same time are not compatible
        EXPIRE k 1 GT LT                     => -ERR GT and LT options at the same time are not compatible
        EXPIRE k -1                          => :1
        EXISTS k                             => :0
        SET k v PX 100                       => +OK
        @time 99
        PTTL k                               => :1
        @time 1
        PTTL k                               => :-2
        "#,
    );
}

/// One hour is 3,600 s; a transcript begins at 1,700,000,000 s.
#[test]
fn durations_follow_the_steady_clock_and_moments_the_wall_clock() {
    Transcript::check(
        r#"
        SET ex v EX 100                      => +OK
        SETEX setex 100 v                    => +OK
        MSET expire v getex v at v both v    => +OK
        EXPIRE expire 100                    => :1
        GETEX getex PX 100000                => $1|v
        EXPIREAT at 1700007200               => :1
        SET exat v EXAT 1700007200           => +OK
        # An hour ahead: what was to last 100 s does, and what was to end in two hours ends in one.
        @step 3600000
        TTL ex                               => :100
        PTTL setex                           => :100000
        PTTL expire                          => :100000
        PTTL getex                           => :100000
        EXPIRETIME ex                        => :1700003700
        TTL at                               => :3600
        EXPIRETIME exat                      => :1700007200
        # Conditions compare what is shown.
        EXPIREAT ex 1700003700 GT            => :0
        EXPIREAT at 1700007201 GT            => :1
        PEXPIRE at 3600999 LT                => :1
        PTTL at                              => :3600999
        EXPIREAT at 1700007200 LT            => :1
        # What keeps an expiry keeps its clock.
        SET ex w KEEPTTL                     => +OK
        APPEND ex w                          => :2
        RENAME setex moved                   => +OK
        COPY exat copied                     => :1
        MOVE expire 1                        => :1
        @time 99999
        @step -3600000
        PTTL ex                              => :1
        PTTL moved                           => :1
        TTL copied                           => :7100
        PEXPIRETIME ex                       => :1700000100000
        EXPIRE both 200                      => :1
        @step 7100001
        EXISTS at copied exat                => :0
        EXISTS ex getex moved both           => :4
        @time 1
        EXISTS ex getex moved both           => :1
        EXPIREAT both 1700009000             => :1
        @time 200000
        TTL both                             => :1600
        @step 1600000
        TTL both                             => :-2
        @db 1
        TTL expire                           => :-2
        "#,
    );
}

#[test]
fn the_farthest_futures_that_redis_accepts() {
    Transcript::check(
        r#"
        SET wall v PXAT 9223372036854775807  => +OK
        PEXPIRETIME wall                     => :9223372036854775807
        SET steady v PX 9223370336854775807  => +OK
        PEXPIRETIME steady                   => :9223372036854775807
        SET steady v PX 9223370336854775808  => -ERR invalid expire time in 'set' command
        @step -1000
        PTTL steady                          => :9223370336854775807
        @step 2000
        PTTL steady                          => :9223370336854774807
        EXISTS wall steady                   => :2
        EXPIRE wall 9223372036854775         => -ERR invalid expire time in 'expire' command
        EXPIREAT wall 9223372036854775       => :1
        PEXPIREAT wall -9223372036854775808  => :1
        PEXPIRE steady -9223372036854775808  => :1
        EXISTS wall steady                   => :0
        "#,
    );
}

#[test]
fn moving_and_copying() {
    Transcript::check(
        r#"
        RENAME a b                => -ERR no such key
        SET a 1 EX 10             => +OK
        SET b 2                   => +OK
        RENAME a a                => +OK
        RENAMENX a a              => :0
        RENAMENX a b              => :0
        RENAME a b                => +OK
        EXISTS a                  => :0
        TTL b                     => :10
        RENAMENX b c              => :1

        COPY c d                  => :1
        TTL d                     => :10
        COPY c d                  => :0
        SET c new                 => +OK
        COPY c d REPLACE          => :1
        GET d                     => $3|new
        TTL d                     => :-1
        COPY none d               => :0
        COPY c c                  => -ERR source and destination objects are the same
        COPY c c DB 1             => :1
        COPY c x DB 16            => -ERR DB index is out of range
        COPY c x DB -1            => -ERR DB index is out of range
        COPY c x DB y             => -ERR value is not an integer or out of range
        COPY c x DB               => -ERR syntax error
        COPY c x FOO              => -ERR syntax error

        MOVE c 1                  => :0
        MOVE d 1                  => :1
        MOVE d 1                  => :0
        MOVE c 0                  => -ERR source and destination objects are the same
        MOVE c 16                 => -ERR DB index is out of range
        MOVE c 4294967296         => -ERR value is out of range, value must between -2147483648 and 2147483647
        @db 1
        MGET c d                  => *2|$3|new|$3|new
        "#,
    );
}

#[test]
fn databases() {
    Transcript::check(
        r#"
        SET a 1               => +OK
        @db 1
        SET b 2               => +OK
        SWAPDB 0 1            => +OK
        GET a                 => $1|1
        SWAPDB 1 1            => +OK
        SWAPDB x 1            => -ERR invalid first DB index
        SWAPDB 1 99999999999  => -ERR invalid second DB index
        SWAPDB 1 16           => -ERR DB index is out of range
        FLUSHDB ASYNC         => +OK
        DBSIZE                => :0
        FLUSHDB FOO           => -ERR syntax error
        @db 0
        DBSIZE                => :1
        FLUSHALL sync         => +OK
        FLUSHALL SYNC ASYNC   => -ERR syntax error
        DBSIZE                => :0
        "#,
    );
}

#[test]
fn how_values_are_stored() {
    let t44 = "x".repeat(44);
    Transcript::check(&format!(
        r#"
        OBJECT ENCODING none      => $-1
        SET k 12345               => +OK
        OBJECT ENCODING k         => $3|int
        SET k 0123                => +OK
        OBJECT ENCODING k         => $6|embstr
        SET k -9223372036854775808 => +OK
        OBJECT ENCODING k         => $3|int
        SET k 9223372036854775808 => +OK
        OBJECT ENCODING k         => $6|embstr
        SET k {t44}               => +OK
        OBJECT ENCODING k         => $6|embstr
        SET k {t44}y              => +OK
        OBJECT ENCODING k         => $3|raw
        SET k 1                   => +OK
        APPEND k 2                => :2
        OBJECT ENCODING k         => $3|raw
        INCR k                    => :13
        OBJECT ENCODING k         => $3|int
        SETRANGE k 0 2            => :2
        OBJECT ENCODING k         => $3|raw
        COPY k c                  => :1
        OBJECT ENCODING c         => $3|raw
        APPEND new 5              => :1
        OBJECT ENCODING new       => $3|int
        OBJECT REFCOUNT k         => :1
        @time 5000
        OBJECT IDLETIME k         => :5
        TOUCH k                   => :1
        OBJECT IDLETIME k         => :0
        OBJECT FREQ none          => $-1
        OBJECT FREQ k             => -ERR An LFU maxmemory policy is not selected, access frequency not tracked. Please note that when switching between policies at runtime LRU and LFU data will take some time to adjust.
        OBJECT ENCODING           => -ERR wrong number of arguments for 'object|encoding' command
        "#
    ));
}

#[test]
fn listing_keys() {
    Transcript::check(
        r#"
        KEYS *                      => *0
        SET key:1 v                 => +OK
        KEYS *                      => *1|$5|key:1
        KEYS key:[0-9]              => *1|$5|key:1
        KEYS key                    => *0
        RANDOMKEY                   => *2|:1|$5|key:1
        PEXPIRE key:1 10            => :1
        @time 10
        KEYS *                      => *0
        RANDOMKEY                   => *2|:0|$-1
        SET key:1 v                 => +OK
        SCAN 0                      => *2|$1|0|*1|$5|key:1
        SCAN 0 MATCH k* COUNT 5     => *2|$1|0|*1|$5|key:1
        SCAN 0 MATCH x*             => *2|$1|0|*0
        SCAN 0 TYPE STRING          => *2|$1|0|*1|$5|key:1
        SCAN 0 TYPE list            => *2|$1|0|*0
        SCAN 0 TYPE nonsense        => *2|$1|0|*0
        SCAN 18446744073709551615   => *2|$1|0|*0
        SCAN 18446744073709551616   => -ERR invalid cursor
        SCAN -1                     => *2|$1|0|*0
        SCAN -                      => -ERR invalid cursor
        SCAN 1x                     => -ERR invalid cursor
        SCAN ""                     => *2|$1|0|*1|$5|key:1
        SCAN +0                     => *2|$1|0|*1|$5|key:1
        SCAN x                      => -ERR invalid cursor
        SCAN 0 COUNT 0              => -ERR syntax error
        SCAN 0 COUNT x              => -ERR value is not an integer or out of range
        SCAN 0 COUNT                => -ERR syntax error
        SCAN 0 FOO 1                => -ERR syntax error
        "#,
    );
}

/// The next cursor and the keys of a SCAN's reply.
fn parse_scan(reply: &[u8]) -> (String, Vec<String>) {
    let text = String::from_utf8(reply.to_vec()).expect("ASCII");
    let bulks: Vec<&str> =
        text.split("\r\n").filter(|line| !line.starts_with(['*', '$']) && !line.is_empty()).collect();
    (bulks[0].to_string(), bulks[1..].iter().map(|s| s.to_string()).collect())
}

#[test]
fn scan_visits_every_key_of_every_core() {
    for partitions in [4u16, 64, 16384] {
        let half = partitions / 4;
        let mut cores = [
            Transcript::with_partitions(partitions, 0..half),
            Transcript::with_partitions(partitions, half..partitions),
        ];
        let mut left = BTreeMap::new();
        for i in 0..500 {
            let name = format!("key:{i}");
            let owner = cores[0].hasher.key(name.as_bytes()).partition >= half;
            cores[owner as usize].call(&[b"SET", name.as_bytes(), b"v"]);
            left.insert(name, 0);
        }
        for count in ["1", "7", "10000"] {
            left.values_mut().for_each(|n| *n = 0);
            let (mut cursor, mut calls) = ("0".to_string(), 0);
            loop {
                let args: [&[u8]; 4] = [b"SCAN", cursor.as_bytes(), b"COUNT", count.as_bytes()];
                let owner = scan_partition(&args).expect("a partition") >= half;
                let (next, found) = parse_scan(&cores[owner as usize].call(&args));
                found.into_iter().for_each(|key| *left.get_mut(&key).expect("a key that was set") += 1);
                calls += 1;
                assert!(calls < 2_000, "the iteration does not end");
                cursor = next;
                if cursor == "0" {
                    break;
                }
            }
            assert!(left.values().all(|&n| n == 1), "each key once, as nothing changed");
        }
    }
}

#[test]
fn scan_of_empty_cores_is_short() {
    let mut core = Transcript::with_partitions(16384, 0..16384);
    let (mut cursor, mut calls) = ("0".to_string(), 0);
    while calls == 0 || cursor != "0" {
        cursor = parse_scan(&core.call(&[b"SCAN", cursor.as_bytes()])).0;
        calls += 1;
    }
    assert_eq!(calls, 16);
}

#[test]
fn partition_of_a_cursor() {
    let of = |cursor: &str| scan_partition(&[b"SCAN", cursor.as_bytes()]);
    assert_eq!(of("0"), Some(0));
    assert_eq!(of(&(5u64 << 32 | 77).to_string()), Some(5));
    assert_eq!(of("18446744073709551615"), None);
    assert_eq!(of("x"), None);
    assert_eq!(scan_partition(&[b"SCAN"]), None);
}

#[test]
fn effects_are_absolute_and_unconditional() {
    let mut core = Transcript::default();
    core.shard.effects.enable(true);
    for (command, effects) in [
        ("SET k v EX 10 NX => +OK", vec!["SET k v PXAT 1700000010000"]),
        ("SET k v EX 10 NX => $-1", vec![]),
        ("SET k w KEEPTTL GET => $1|v", vec!["SET k w KEEPTTL"]),
        ("SETEX k 1 v => +OK", vec!["SET k v PXAT 1700000001000"]),
        ("PSETEX k 1 v => +OK", vec!["SET k v PXAT 1700000000001"]),
        ("GETEX k => $1|v", vec![]),
        ("GETEX k PX 5 => $1|v", vec!["PEXPIREAT k 1700000000005"]),
        ("GETEX k PERSIST => $1|v", vec!["PERSIST k"]),
        ("GETEX k PERSIST => $1|v", vec![]),
        ("GETDEL k => $1|v", vec!["DEL k"]),
        ("GETDEL k => $-1", vec![]),
        ("SET k 1.5 EX 3 => +OK", vec!["SET k 1.5 PXAT 1700000003000"]),
        ("INCRBYFLOAT k 1 => $3|2.5", vec!["SET k 2.5 KEEPTTL"]),
        ("EXPIRE k 7 => :1", vec!["PEXPIREAT k 1700000007000"]),
        ("EXPIRE k 7 NX => :0", vec![]),
        ("EXPIREAT k 5 => :1", vec!["DEL k"]),
        ("MSETNX a 1 b 2 => :1", vec!["SET a 1", "SET b 2"]),
        ("MSET a 1 a 2 => +OK", vec!["SET a 1", "SET a 2"]),
        ("SET a 1 => +OK", vec!["SET a 1"]),
        ("INCR a => :2", vec!["INCR a"]),
        ("APPEND a 2 => :2", vec!["APPEND a 2"]),
        ("SETNX a 1 => :0", vec![]),
        ("DEL none => :0", vec![]),
        ("DEL a none => :1", vec!["DEL a"]),
        ("PEXPIRE b 5 => :1", vec!["PEXPIREAT b 1700000000005"]),
    ] {
        core.run(command);
        assert_eq!(core.effects(), effects, "{command}");
    }
    core.run("@time 5\nGET b => $-1");
    assert_eq!(core.effects(), ["DEL b"]);
}

#[test]
fn memory_of_a_key() {
    let mut core = Transcript::default();
    core.run("MSET small v large xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx => +OK");
    let mut usage = |args: &[&[u8]]| {
        let mut out = Output::new();
        let mut ctx = Ctx {
            shard: &mut core.shard,
            hasher: &core.hasher,
            pubsub: &mut PubSub::new(0, 1, core.hasher.clone()),
            db: 0,
            no_touch: false,
            first: None,
            owned: &Owned::default(),
            random: 0,
            thresholds: &Default::default(),
            string_bytes_max: 0,
            changes: 0,
            logged: false,
        };
        memory_usage(&mut ctx, args, &mut Reply::new(&mut out, Version::V2))?;
        Ok(shown(&out.to_vec()))
    };
    let bytes =
        |reply: Result<String, Error>| reply.expect("a number").strip_prefix(':').expect("a number").parse::<u64>();
    let small = bytes(usage(&[b"MEMORY", b"USAGE", b"small"])).expect("a number");
    let large = bytes(usage(&[b"MEMORY", b"USAGE", b"large", b"SAMPLES", b"5"])).expect("a number");
    assert!(small > 6 && large >= small + 60, "{small} {large}");
    assert_eq!(usage(&[b"MEMORY", b"USAGE", b"none"]).as_deref(), Ok("$-1"));
    for options in [[b"SAMPLES".as_slice(), b"-1"], [b"FOO", b"1"]] {
        assert_eq!(usage(&[b"MEMORY", b"USAGE", b"small", options[0], options[1]]), Err(Error::Syntax));
    }
    assert_eq!(usage(&[b"MEMORY", b"USAGE", b"small", b"SAMPLES"]), Err(Error::Syntax));
}

/// Offsets and counts are checked before anything is allocated or walked.
#[test]
fn large_numbers_are_refused_before_they_cost() {
    let mut core = Transcript { string_bytes_max: 512 << 20, ..Transcript::default() };
    core.run(
        r#"
        SETRANGE k 536870912 x          => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        SET k v                         => +OK
        SETRANGE k 9223372036854775806 xyz => -ERR string exceeds maximum allowed size (proto-max-bulk-len)
        GETRANGE k 0 9223372036854775807 => $1|v
        SCAN 0 COUNT 9223372036854775807 => *2|$1|0|*1|$1|k
        "#,
    );
}
