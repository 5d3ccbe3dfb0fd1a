//! Tests of DUMP and RESTORE on one core.

use crate::command::shard_transcript::{Transcript, shown};
use crate::shard::{Classes, Event, Policy, Rule};

/// The value of a bulk reply.
fn payload(reply: &[u8]) -> Vec<u8> {
    let start = reply.iter().position(|&byte| byte == b'\n').expect("a whole reply") + 1;
    reply[start..reply.len() - 2].to_vec()
}

#[test]
fn values_are_dumped_and_restored() {
    let mut core = Transcript::default();
    core.run(
        r#"
        SET s 10                      => +OK
        RPUSH l a b c                 => :3
        SADD i 1 2 3                  => :3
        ZADD z 1.5 a inf b            => :2
        HSET h f v g w                => :2
        HPEXPIREAT h 1700000005000 FIELDS 1 f => *1|:1
        DUMP none                     => $-1
        "#,
    );
    assert_eq!(payload(&core.call(&[b"DUMP", b"s"])), DUMPED_TEN);
    for key in ["s", "l", "i", "z", "h"] {
        let payload = payload(&core.call(&[b"DUMP", key.as_bytes()]));
        let copy = format!("copy-{key}");
        assert_eq!(shown(&core.call(&[b"RESTORE", copy.as_bytes(), b"0", &payload])), "+OK");
        let busy = shown(&core.call(&[b"RESTORE", copy.as_bytes(), b"0", &payload]));
        assert_eq!(busy, "-BUSYKEY Target key name already exists.");
    }
    core.run(
        r#"
        GET copy-s                    => $2|10
        LRANGE copy-l 0 -1            => *3|$1|a|$1|b|$1|c
        OBJECT ENCODING copy-i        => $6|intset
        ZRANGE copy-z 0 -1 WITHSCORES => *4|$1|a|$3|1.5|$1|b|$3|inf
        HGETALL copy-h                => *4|$1|f|$1|v|$1|g|$1|w
        HPEXPIRETIME copy-h FIELDS 2 f g => *2|:1700000005000|:-1
        @time 5000
        HGETALL copy-h                => *2|$1|g|$1|w
        "#,
    );
}

/// The reply of redis-server 7.0.15 to `DUMP` of a string 10.
const DUMPED_TEN: &[u8] = b"\x00\xc0\n\n\x00n\x9fWE\x0e\xaec\xbb";

#[test]
fn restore_checks_what_redis_checks() {
    let mut core = Transcript::default();
    core.run("SET s v => +OK");
    let payload = payload(&core.call(&[b"DUMP", b"s"]));
    let mut changed = payload.clone();
    changed[1] ^= 1;
    let footer = "-ERR DUMP payload version or checksum are wrong";
    let cases: [(&str, &[u8], &str, &str); 18] = [
        ("k", &changed, "0", footer),
        ("k", b"", "0", footer),
        ("s", &payload, "0", "-BUSYKEY Target key name already exists."),
        ("s", &payload, "x", "-BUSYKEY Target key name already exists."),
        ("k", &payload, "-1", "-ERR Invalid TTL value, must be >= 0"),
        ("k", &changed, "x", "-ERR value is not an integer or out of range"),
        ("k", &payload, "0 NX", "-ERR syntax error"),
        ("k", &payload, "0 IDLETIME", "-ERR syntax error"),
        ("k", &payload, "0 IDLETIME -1", "-ERR Invalid IDLETIME value, must be >= 0"),
        ("k", &payload, "0 IDLETIME x", "-ERR value is not an integer or out of range"),
        ("k", &payload, "0 IDLETIME 1 FREQ 1", "-ERR syntax error"),
        ("k", &payload, "0 FREQ 256", "-ERR Invalid FREQ value, must be >= 0 and <= 255"),
        ("k", &payload, "0 FREQ -1", "-ERR Invalid FREQ value, must be >= 0 and <= 255"),
        ("k", &payload, "9223372036854775807", "-ERR invalid expire time in 'restore' command"),
        ("k", &payload, "9223372036854775807 absttl", "+OK"),
        ("k", &payload, "1000 REPLACE replace idletime 5 IDLETIME 7", "+OK"),
        ("k", &payload, "1700000000001 ABSTTL REPLACE", "+OK"),
        ("gone", &payload, "1700000000000 ABSTTL", "+OK"),
    ];
    for (key, payload, options, expected) in cases {
        let mut words = options.split(' ').map(str::as_bytes);
        let mut args = vec![b"RESTORE", key.as_bytes(), words.next().unwrap(), payload];
        args.extend(words);
        assert_eq!(shown(&core.call(&args)), expected, "{key} {options}");
    }
    core.run(
        r#"
        PEXPIRETIME k   => :1700000000001
        EXISTS gone     => :0
        "#,
    );
    // A value of a type that nobody knows.
    let mut unknown = payload.clone();
    unknown[0] = 8;
    let end = unknown.len() - 8;
    let checksum = crc::Crc::<u64>::new(&crc::CRC_64_REDIS).checksum(&unknown[..end]);
    unknown[end..].copy_from_slice(&checksum.to_le_bytes());
    assert_eq!(shown(&core.call(&[b"RESTORE", b"k2", b"0", &unknown])), "-ERR Bad data format");
    core.run("OBJECT IDLETIME k => :0");
    core.call(&[b"RESTORE", b"k", b"0", &payload, b"REPLACE", b"IDLETIME", b"1000"]);
    core.run("OBJECT IDLETIME k => :1000");
    core.shard.validate();
}

/// A replay, at whatever time, ends in the same keyspace.
#[test]
fn the_effect_of_restore() {
    let mut core = Transcript::default();
    core.run("SET s v => +OK\nHSET h f v g w => :2\nHPEXPIREAT h 1700000000100 FIELDS 1 f => *1|:1");
    let (text, hash) = (payload(&core.call(&[b"DUMP", b"s"])), payload(&core.call(&[b"DUMP", b"h"])));
    core.run("HDEL h f => :1");
    let without = payload(&core.call(&[b"DUMP", b"h"]));
    core.run("DEL h => :1\n@time 100");
    core.shard.effects.enable(true);
    let shown_args = |bytes: &[u8]| bytes.escape_ascii().to_string();
    let restore = |core: &mut Transcript, args: &[&[u8]]| {
        core.call(&[&[&b"RESTORE"[..]], args].concat());
        core.effects()
    };
    let effect = |key: &str, at: &str, payload: &[u8]| {
        vec![format!("RESTORE {key} {at} {} ABSTTL REPLACE", shown_args(payload))]
    };
    assert_eq!(restore(&mut core, &[b"k", b"0", &text]), effect("k", "0", &text));
    assert_eq!(restore(&mut core, &[b"k", b"0", &text]), [""; 0]);
    assert_eq!(restore(&mut core, &[b"k", b"500", &text, b"REPLACE"]), effect("k", "1700000000600", &text));
    let moment = [b"k", &b"1700000000700"[..], &text, b"ABSTTL", b"REPLACE", b"FREQ", b"3"];
    assert_eq!(restore(&mut core, &moment), effect("k", "1700000000700", &text));
    // Fields that are over do not come back, wherever it is replayed.
    assert_eq!(restore(&mut core, &[b"h", b"0", &hash]), effect("h", "0", &without));
    assert_eq!(restore(&mut core, &[b"k", b"1", &text, b"ABSTTL", b"REPLACE"]), ["DEL k"]);
    assert_eq!(restore(&mut core, &[b"k", b"1", &text, b"ABSTTL", b"REPLACE"]), [""; 0]);
    core.shard.validate();
}

#[test]
fn restore_tells_of_new_keys() {
    let mut core = Transcript::default();
    core.run("SET s v => +OK");
    let payload = payload(&core.call(&[b"DUMP", b"s"]));
    core.shard.events.enable(true);
    core.shard.events.set_mask(Classes::parse("KEAn").unwrap());
    core.call(&[b"RESTORE", b"s", b"0", &payload, b"REPLACE"]);
    core.call(&[b"RESTORE", b"s", b"1", &payload, b"REPLACE", b"ABSTTL"]);
    let names: Vec<&str> = core.shard.events.drain().map(|event: Event| event.name).collect();
    assert_eq!(names, ["new", "restore", "del"]);
}

/// Under LFU it is the count that RESTORE sets.
#[test]
fn restored_use_under_every_policy() {
    for rule in [Rule::None, Rule::Lru, Rule::Lfu, Rule::S3Fifo, Rule::Random, Rule::Ttl] {
        let mut core = Transcript::default();
        core.shard.set_policy(Policy { rule, volatile: false });
        core.run("SET s v => +OK");
        (0..10).for_each(|_| core.shard.work(false));
        let payload = payload(&core.call(&[b"DUMP", b"s"]));
        let idle = |core: &mut Transcript| shown(&core.call(&[b"OBJECT", b"IDLETIME", b"k"]));
        let count = |core: &mut Transcript| shown(&core.call(&[b"OBJECT", b"FREQ", b"k"]));
        let mut restore = |option: &[u8], n: &[u8]| {
            core.call(&[b"RESTORE", b"k", b"0", &payload, b"REPLACE", option, n]);
            core.shard.validate();
            if rule == Rule::Lfu { count(&mut core) } else { idle(&mut core) }
        };
        let expected = if rule == Rule::Lfu { [":5", ":200"] } else { [":77", ":0"] };
        assert_eq!([restore(b"IDLETIME", b"77"), restore(b"FREQ", b"200")], expected, "{rule:?}");
    }
}
