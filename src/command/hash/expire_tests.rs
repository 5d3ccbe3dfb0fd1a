//! Transcripts of fields that expire. `@time` passes without the shard doing anything by itself: what has gone is gone
//! because somebody looked.

use crate::command::shard_transcript::{START_MS, Transcript, shown};
use crate::shard::Classes;

const NO_FIELDS: &str = "-ERR Mandatory argument FIELDS is missing or not at the right position";
const MISMATCH: &str = "-ERR The `numfields` parameter must match the number of arguments";

#[test]
fn deadlines_are_set_shown_and_taken_away() {
    Transcript::check(
        r#"
        HSET h a 1 b 2 c 3                      => :3
        OBJECT ENCODING h                       => $8|listpack
        HTTL h FIELDS 2 a z                     => *2|:-1|:-2
        HTTL none FIELDS 2 a z                  => *2|:-2|:-2
        HEXPIRE none 10 FIELDS 1 a              => *1|:-2
        HPERSIST none FIELDS 1 a                => *1|:-2
        EXISTS none                             => :0
        HEXPIRE h 10 FIELDS 3 a z a             => *3|:1|:-2|:1
        OBJECT ENCODING h                       => $10|listpackex
        HTTL h FIELDS 2 a b                     => *2|:10|:-1
        @time 1
        HTTL h FIELDS 1 a                       => *1|:10
        HPTTL h FIELDS 1 a                      => *1|:9999
        HEXPIRETIME h FIELDS 1 a                => *1|:1700000010
        HPEXPIRETIME h FIELDS 2 a b             => *2|:1700000010000|:-1
        HPEXPIRE h 1500 FIELDS 1 b              => *1|:1
        HTTL h FIELDS 1 b                       => *1|:2
        HEXPIRETIME h FIELDS 1 b                => *1|:1700000002
        HEXPIREAT h 1700000020 FIELDS 1 b       => *1|:1
        HPTTL h FIELDS 1 b                      => *1|:19999
        HPEXPIREAT h 1700000000500 FIELDS 1 b   => *1|:1
        HPTTL h FIELDS 1 b                      => *1|:499
        hpersist h fields 3 b b z               => *3|:1|:-1|:-2
        HTTL h FIELDS 1 b                       => *1|:-1
        HEXPIRE h 0 FIELDS 2 b b                => *2|:2|:-2
        HPEXPIREAT h 1 FIELDS 1 c               => *1|:2
        HGETALL h                               => *2|$1|a|$1|1
        HPEXPIREAT h 1 FIELDS 2 a a             => *2|:2|:-2
        EXISTS h                                => :0
        TTL h                                   => :-2
        "#,
    );
}

#[test]
fn conditions() {
    Transcript::check(
        r#"
        HSET h a 1 b 2                          => :2
        HEXPIRE h 10 XX FIELDS 1 a              => *1|:0
        HEXPIRE h 10 GT FIELDS 1 a              => *1|:0
        HEXPIRE h 10 LT FIELDS 1 a              => *1|:1
        HEXPIRE h 20 NX FIELDS 2 a b            => *2|:0|:1
        HEXPIRE h 10 gt FIELDS 1 a              => *1|:0
        HEXPIRE h 11 GT FIELDS 1 a              => *1|:1
        HEXPIRE h 11 LT FIELDS 1 a              => *1|:0
        HEXPIRE h 9 lt FIELDS 1 a               => *1|:1
        HEXPIRE h 30 XX FIELDS 2 a b            => *2|:1|:1
        HTTL h FIELDS 2 a b                     => *2|:30|:30
        HEXPIRE h 0 NX FIELDS 1 a               => *1|:0
        HEXPIRE h 0 GT FIELDS 1 a               => *1|:0
        HEXPIRE h 0 LT FIELDS 1 a               => *1|:2
        # A moment is compared with a duration as both stand now.
        HEXPIREAT h 1700000029 GT FIELDS 1 b    => *1|:0
        HEXPIREAT h 1700000031 GT FIELDS 1 b    => *1|:1
        "#,
    );
}

#[test]
fn wrong_arguments() {
    let mut client = Transcript::default();
    client.run("SET str x => +OK");
    client.run("HSET h a 1 => :1");
    let wrong_type = "-WRONGTYPE Operation against a key holding the wrong kind of value";
    for name in ["HEXPIRE", "HPEXPIRE", "HEXPIREAT", "HPEXPIREAT"] {
        let lower = name.to_lowercase();
        for (args, error) in [
            ("str x y z w", wrong_type.to_string()),
            ("h x FIELDS 1 a", "-ERR value is not an integer or out of range".into()),
            ("h -1 FIELDS 1 a", "-ERR invalid expire time, must be >= 0".into()),
            ("h 9223372036854775807 FIELDS 1 a", format!("-ERR invalid expire time in '{lower}' command")),
            ("h 70368744177664 FIELDS 1 a", format!("-ERR invalid expire time in '{lower}' command")),
            ("h 10 FOO FIELDS 1 a", NO_FIELDS.into()),
            ("h 10 NX XX FIELDS 1 a", NO_FIELDS.into()),
            ("h 10 1 FIELDS a", NO_FIELDS.into()),
            ("h 10 FIELDS 0 a", "-ERR Parameter `numFields` should be greater than 0".into()),
            ("h 10 FIELDS x a", "-ERR Parameter `numFields` should be greater than 0".into()),
            ("h 10 FIELDS 2 a", MISMATCH.into()),
            ("h 10 NX FIELDS 1 a b", MISMATCH.into()),
            ("none 10 FIELDS 2 a", MISMATCH.into()),
            ("h 10 FIELDS 1", format!("-ERR wrong number of arguments for '{lower}' command")),
        ] {
            client.run(&format!("{name} {args} => {error}"));
        }
    }
    for name in ["HTTL", "HPTTL", "HEXPIRETIME", "HPEXPIRETIME", "HPERSIST"] {
        for (args, error) in [
            ("str x y z", wrong_type.to_string()),
            ("h FIELD 1 a", NO_FIELDS.into()),
            ("h FIELDS 0 a", "-ERR Number of fields must be a positive integer".into()),
            ("h FIELDS x a", "-ERR Number of fields must be a positive integer".into()),
            ("h FIELDS 1 a b", MISMATCH.into()),
            ("none FIELDS 2 a", MISMATCH.into()),
            ("h FIELDS 1", format!("-ERR wrong number of arguments for '{}' command", name.to_lowercase())),
        ] {
            client.run(&format!("{name} {args} => {error}"));
        }
    }
    client.run(
        r#"
        HTTL h FIELDS 1 a                       => *1|:-1
        HPEXPIREAT h 70368744177663 FIELDS 1 a  => *1|:1
        HPEXPIRETIME h FIELDS 1 a               => *1|:70368744177663
        HPEXPIRE h 68668744177663 FIELDS 1 a    => *1|:1
        HPEXPIRE h 68668744177664 FIELDS 1 a    => -ERR invalid expire time in 'hpexpire' command
        "#,
    );
}

/// A small hash and a large one, each with two fields of which one expires after 100 ms.
fn two_hashes() -> Transcript {
    let mut client = Transcript::default();
    let long = "x".repeat(100);
    client.run("HSET small gone 1 stays 2 => :2");
    client.run(&format!("HSET large gone 1 stays {long} => :2"));
    client.run("OBJECT ENCODING large => $9|hashtable");
    for key in ["small", "large"] {
        client.run(&format!("HPEXPIRE {key} 100 FIELDS 1 gone => *1|:1"));
    }
    client
}

#[test]
fn a_field_that_is_over_is_not_there() {
    for key in ["small", "large"] {
        for (command, reply) in [
            ("HGET $ gone", "$-1"),
            ("HMGET $ gone z", "*2|$-1|$-1"),
            ("HEXISTS $ gone", ":0"),
            ("HSTRLEN $ gone", ":0"),
            ("HLEN $", ":1"),
            ("HKEYS $", "*1|$5|stays"),
            ("HRANDFIELD $", "$5|stays"),
            ("HRANDFIELD $ 5", "*1|$5|stays"),
            ("HRANDFIELD $ -2", "*2|$5|stays|$5|stays"),
            ("HSCAN $ 0 NOVALUES", "*2|$1|0|*1|$5|stays"),
            ("HTTL $ FIELDS 1 gone", "*1|:-2"),
            ("HPEXPIRETIME $ FIELDS 1 gone", "*1|:-2"),
            ("HEXPIRE $ 5 FIELDS 1 gone", "*1|:-2"),
            ("HPERSIST $ FIELDS 1 gone", "*1|:-2"),
            ("HDEL $ gone", ":0"),
            ("HSETNX $ gone 5", ":1"),
            ("HSET $ gone 5", ":1"),
            ("HINCRBY $ gone 5", ":5"),
            ("HINCRBYFLOAT $ gone 5", "$1|5"),
        ] {
            for steps in ["@time 100", "@time 99"] {
                let mut client = two_hashes();
                client.run(steps);
                let before = shown(&client.call(&[b"HLEN", key.as_bytes()]));
                assert_eq!(before == ":2", steps == "@time 99");
                let mut client = two_hashes();
                client.run(steps);
                let got =
                    shown(&client.call(&command.replace('$', key).split(' ').map(str::as_bytes).collect::<Vec<_>>()));
                if steps == "@time 100" {
                    assert_eq!(got, reply, "{command} {key}");
                } else {
                    // What the test would see if nothing ever expired.
                    assert!(got != reply || command.contains("HRANDFIELD"), "{command} {key}");
                }
                client.shard.expire_due(|_| ());
            }
        }
    }
}

#[test]
fn writes_clear_or_keep_a_deadline() {
    for key in ["small", "large"] {
        let mut client = two_hashes();
        client.run(
            &r#"
            HINCRBY KEY gone 1                    => :2
            HPTTL KEY FIELDS 1 gone               => *1|:100
            HINCRBYFLOAT KEY gone 0.5             => $3|2.5
            HPTTL KEY FIELDS 1 gone               => *1|:100
            HSETNX KEY gone 7                     => :0
            HPTTL KEY FIELDS 1 gone               => *1|:100
            HSET KEY new 7                        => :1
            COPY KEY copy                         => :1
            HPTTL copy FIELDS 2 gone stays      => *2|:100|:-1
            RENAME copy moved                   => +OK
            MOVE moved 1                        => :1
            @db 1
            HPTTL moved FIELDS 2 gone stays     => *2|:100|:-1
            @time 100
            HLEN moved                          => :2
            HMGET moved gone new                => *2|$-1|$1|7
            @db 0
            HGET KEY gone                         => $-1
            HSET KEY gone 1                       => :1
            HPEXPIRE KEY 100 FIELDS 1 gone        => *1|:1
            HSET KEY gone 2                       => :0
            HPTTL KEY FIELDS 1 gone               => *1|:-1
            HPEXPIRE KEY 100 FIELDS 1 gone        => *1|:1
            HMSET KEY gone 3                      => +OK
            @time 1000
            HGET KEY gone                         => $1|3
            HPEXPIRE KEY 100 FIELDS 1 gone        => *1|:1
            HDEL KEY gone                         => :1
            HSET KEY gone 4                       => :1
            HPTTL KEY FIELDS 1 gone               => *1|:-1
            HPEXPIRE KEY 100 FIELDS 1 gone        => *1|:1
            DEL KEY                               => :1
            HSET KEY gone 5                       => :1
            @time 1000
            HGET KEY gone                         => $1|5
            HPEXPIRE KEY 100 FIELDS 1 gone        => *1|:1
            SET KEY string                        => +OK
            @time 1000
            GET KEY                               => $6|string
            "#
            .replace("KEY", key),
        );
    }
}

#[test]
fn a_hash_whose_fields_are_all_over_is_gone() {
    let mut client = two_hashes();
    client.run(
        r#"
        HPEXPIRE small 200 FIELDS 1 stays       => *1|:1
        HPEXPIRE large 200 FIELDS 1 stays       => *1|:1
        @time 200
        KEYS *                                  => *0
        EXISTS small large                      => :0
        TYPE small                              => +none
        RENAME small x                          => -ERR no such key
        COPY large x                            => :0
        HSET large new 1                        => :1
        HGETALL large                           => *2|$3|new|$1|1
        "#,
    );
}

#[test]
fn durations_and_moments_follow_their_clocks() {
    let mut client = two_hashes();
    client.run(
        r#"
        HPEXPIREAT small 1700000000100 FIELDS 1 stays   => *1|:1
        @step 5000
        HKEYS small                             => *1|$4|gone
        HPTTL small FIELDS 1 gone               => *1|:100
        HPEXPIRETIME small FIELDS 1 gone        => *1|:1700000005100
        @step -50000
        @time 100
        EXISTS small                            => :0
        "#,
    );
}

#[test]
fn effects_and_events_tell_what_happened() {
    for active in [false, true] {
        for key in ["small", "large"] {
            let mut client = two_hashes();
            client.shard.effects.enable(true);
            client.shard.events.enable(true);
            client.shard.events.set_mask(Classes::parse("KEA").unwrap());
            let story = |client: &mut Transcript| {
                let events: Vec<&str> = client.shard.events.drain().map(|event| event.name).collect();
                (client.effects().join(", "), events.join(" "))
            };
            let told = |client: &mut Transcript, line: &str, effects: &str, events: &str| {
                client.run(&line.replace('@', key));
                assert_eq!(story(client), (effects.replace('@', key), events.to_string()), "{line}");
            };
            let at = START_MS + 300;
            let line = "HPEXPIRE @ 300 FIELDS 3 z stays stays => *3|:-2|:1|:1";
            told(&mut client, line, &format!("HPEXPIREAT @ {at} FIELDS 2 stays stays"), "hexpire");
            told(&mut client, "HEXPIRE @ 5 NX FIELDS 2 stays z => *2|:0|:-2", "", "");
            told(&mut client, "HSET @ n 1 m 2 => :2", "HSET @ n 1 m 2", "hset");
            told(
                &mut client,
                "HEXPIRE @ 5 FIELDS 1 n => *1|:1",
                &format!("HPEXPIREAT @ {} FIELDS 1 n", START_MS + 5000),
                "hexpire",
            );
            let line = "HINCRBYFLOAT @ n 1 => $1|2";
            let kept = format!("HSET @ n 2, HPEXPIREAT @ {} FIELDS 1 n", START_MS + 5000);
            told(&mut client, line, &kept, "hincrbyfloat");
            told(&mut client, "HPERSIST @ FIELDS 2 n z => *2|:1|:-2", "HPERSIST @ FIELDS 2 n z", "hpersist");
            told(&mut client, "HPERSIST @ FIELDS 1 n => *1|:-1", "", "");
            told(&mut client, "HEXPIRE @ 0 FIELDS 2 n z => *2|:2|:-2", "HDEL @ n", "hdel");
            client.run("@time 100");
            let look = |client: &mut Transcript| match active {
                true => client.shard.expire_due(|late| assert_eq!(late, 0)),
                false => drop(client.call(&[b"HLEN", key.as_bytes()])),
            };
            look(&mut client);
            let (effects, events) = story(&mut client);
            assert!(effects.contains(&format!("HDEL {key} gone")), "{effects}");
            assert!(events.starts_with("hexpired") && !events.contains("del"), "{events}");
            let line = &format!("HPEXPIREAT @ {at} FIELDS 1 m => *1|:1");
            told(&mut client, line, &format!("HPEXPIREAT @ {at} FIELDS 1 m"), "hexpire");
            client.run("@time 200");
            look(&mut client);
            let (effects, events) = story(&mut client);
            assert_eq!(effects, format!("DEL {key}"));
            assert!(events.starts_with("hexpired del"), "{events}");
            assert_eq!(client.shard.counters.expired, 0);
            client.run(&format!("HSET {key} last 1 => :1"));
            story(&mut client);
            told(&mut client, "HEXPIREAT @ 1 FIELDS 1 last => *1|:2", "HDEL @ last", "hdel del");
        }
    }
}

/// Many fields that are over together are removed in pieces; nobody sees those that are left.
#[test]
fn a_backlog_is_not_seen() {
    let mut client = Transcript::default();
    client.shard.effects.enable(true);
    let fields: Vec<String> = (0..5000).map(|n| format!("f{n}")).collect();
    for field in &fields {
        client.call(&[b"HSET", b"h", field.as_bytes(), b"1"]);
        client.call(&[b"HPEXPIRE", b"h", b"100", b"FIELDS", b"1", field.as_bytes()]);
    }
    client.run(
        r#"
        HSET h last v                           => :1
        HPERSIST h FIELDS 1 f500                => *1|:1
        @time 100
        HLEN h                                  => :2
        HRANDFIELD h 5 WITHVALUES               => *4|$4|f500|$1|1|$4|last|$1|v
        HSET h f4998 2                           => :1
        HINCRBY h f4999 5                        => :5
        HDEL h f4997 f4996 f500                   => :1
        HTTL h FIELDS 3 f4998 f4996 last          => *3|:-1|:-2|:-1
        HLEN h                                  => :3
        "#,
    );
    let removed: Vec<String> = client.effects().into_iter().filter(|effect| effect.starts_with("HDEL h f")).collect();
    let words: usize = removed.iter().map(|effect| effect.split(' ').count() - 2).sum();
    assert_eq!(words as u64, client.shard.counters.expired_fields + 3, "and what HDEL named itself");
    assert!(client.shard.counters.expired_fields < 4999, "a look does not remove all of them");
    client.run("HDEL h f4998 f4999 last => :3");
    client.run("EXISTS h => :0");
    assert_eq!(client.shard.counters.expired_fields, 4999);
    assert!(client.effects().ends_with(&["DEL h".into()]));
    client.shard.expire_due(|_| ());
    assert_eq!(client.shard.next_expiry_ms(), crate::shard::NEVER_MS);
}

#[test]
fn a_field_that_expires_changes_a_watched_key() {
    for key in ["small", "large"] {
        let mut client = two_hashes();
        let hasher = client.hasher.clone();
        let watched = hasher.key(key.as_bytes());
        let version = client.shard.watch(0, &watched);
        client.run("@time 99");
        assert_eq!(client.shard.version(0, &watched), version);
        client.run("@time 1");
        assert_ne!(client.shard.version(0, &watched), version);
        // What was over when it was watched does not change by being removed.
        client.run(&format!("HPEXPIRE {key} 100 FIELDS 1 stays => *1|:1"));
        client.run("@time 100");
        let version = client.shard.watch(0, &watched);
        client.shard.expire_due(|_| ());
        assert_eq!(client.shard.version(0, &watched), version);
    }
}
