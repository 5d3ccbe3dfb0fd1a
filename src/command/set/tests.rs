//! Transcripts of the set commands.

use std::collections::BTreeSet;

use crate::command::shard_transcript::{Transcript, shown};

/// Integers and packs answer in a known order.
#[test]
fn members_come_and_go() {
    Transcript::check(
        r#"
        SADD s a b a              => :2
        SADD s b                  => :0
        SADD s c                  => :1
        SCARD s                   => :3
        SISMEMBER s a             => :1
        SISMEMBER s z             => :0
        SMISMEMBER s z a a        => *3|:0|:1|:1
        SMEMBERS s                => *3|$1|a|$1|b|$1|c
        SREM s a z a              => :1
        SREM s z                  => :0
        SMEMBERS s                => *2|$1|b|$1|c
        EXPIRE s 10               => :1
        SADD s d                  => :1
        TTL s                     => :10
        SREM s b c d              => :3
        EXISTS s                  => :0
        TYPE s                    => +none
        SADD n 10 -5 300000 7     => :4
        SMEMBERS n                => *4|$2|-5|$1|7|$2|10|$6|300000
        SISMEMBER n 07            => :0
        SADD n 07                 => :1
        SCARD n                   => :5
        TYPE n                    => +set
        SCARD none                => :0
        SMEMBERS none             => *0
        SISMEMBER none a          => :0
        SMISMEMBER none a b       => *2|:0|:0
        SREM none a               => :0
        SET str x                 => +OK
        SADD str a                => -WRONGTYPE Operation against a key holding the wrong kind of value
        SREM str a                => -WRONGTYPE Operation against a key holding the wrong kind of value
        SCARD str                 => -WRONGTYPE Operation against a key holding the wrong kind of value
        GET n                     => -WRONGTYPE Operation against a key holding the wrong kind of value
        SADD s                    => -ERR wrong number of arguments for 'sadd' command
        @resp 3
        SADD s a                  => :1
        SMEMBERS s                => ~1|$1|a
        SMEMBERS none             => ~0
        SISMEMBER s a             => :1
        "#,
    );
}

#[test]
fn encodings_are_those_of_redis() {
    let mut client = Transcript::default();
    client.run(
        r#"
        SADD n 1 2 3              => :3
        OBJECT ENCODING n         => $6|intset
        SADD n x                  => :1
        OBJECT ENCODING n         => $8|listpack
        SREM n x                  => :1
        OBJECT ENCODING n         => $8|listpack
        SADD long aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffgggg  => :1
        OBJECT ENCODING long      => $8|listpack
        SADD long aaaaaaaaaabbbbbbbbbbccccccccccddddddddddeeeeeeeeeeffffffffffggggg => :1
        OBJECT ENCODING long      => $9|hashtable
        "#,
    );
    for n in 0..513 {
        client.call(&[b"SADD", b"ints", n.to_string().as_bytes()]);
        let encoding = shown(&client.call(&[b"OBJECT", b"ENCODING", b"ints"]));
        assert_eq!(encoding, if n < 512 { "$6|intset" } else { "$9|hashtable" });
    }
    for n in 0..129 {
        client.call(&[b"SADD", b"words", format!("w{n}").as_bytes()]);
        let encoding = shown(&client.call(&[b"OBJECT", b"ENCODING", b"words"]));
        assert_eq!(encoding, if n < 128 { "$8|listpack" } else { "$9|hashtable" });
    }
    // The same members at once.
    let members: Vec<Vec<u8>> = (0..513).map(|n| n.to_string().into_bytes()).collect();
    let args: Vec<&[u8]> =
        [b"SADD".as_slice(), b"at once"].into_iter().chain(members.iter().map(Vec::as_slice)).collect();
    assert_eq!(shown(&client.call(&args)), ":513");
    assert_eq!(shown(&client.call(&[b"OBJECT", b"ENCODING", b"at once"])), "$9|hashtable");
    let usage = |client: &mut Transcript, key: &[u8]| {
        let reply = shown(&client.call(&[b"MEMORY", b"USAGE", key]));
        reply[1..].parse::<usize>().expect("a number")
    };
    assert!(usage(&mut client, b"n") < 120);
    let large = usage(&mut client, b"ints");
    assert!((513 * 8..513 * 25).contains(&large), "{large}");
}

#[test]
fn moving_a_member() {
    Transcript::check(
        r#"
        SADD a x y                => :2
        SMOVE a b x               => :1
        SMEMBERS b                => *1|$1|x
        SMOVE a b x               => :0
        SMOVE none b x            => :0
        SMOVE a a y               => :1
        SMOVE a a z               => :0
        SADD b y                  => :1
        SMOVE a b y               => :1
        EXISTS a                  => :0
        SCARD b                   => :2
        SET str x                 => +OK
        SMOVE none str x          => :0
        SMOVE b str x             => -WRONGTYPE Operation against a key holding the wrong kind of value
        SMOVE str b x             => -WRONGTYPE Operation against a key holding the wrong kind of value
        SCARD b                   => :2
        "#,
    );
}

#[test]
fn operations_on_several_sets() {
    Transcript::check(
        r#"
        SADD a 1 2 3 4            => :4
        SADD b 3 4 5              => :3
        SADD c 4 x                => :2
        SINTER a b                => *2|$1|3|$1|4
        SINTER a b c              => *1|$1|4
        SINTER a none             => *0
        SINTER none               => *0
        SINTER a                  => *4|$1|1|$1|2|$1|3|$1|4
        SINTER c c                => *2|$1|4|$1|x
        SUNION a b                => *5|$1|1|$1|2|$1|3|$1|4|$1|5
        SUNION c none             => *2|$1|4|$1|x
        SUNION none               => *0
        SDIFF a b                 => *2|$1|1|$1|2
        SDIFF a b none c          => *2|$1|1|$1|2
        SDIFF c a                 => *1|$1|x
        SDIFF none a              => *0
        SDIFF a a                 => *0
        SINTERCARD 2 a b          => :2
        SINTERCARD 2 a b LIMIT 1  => :1
        SINTERCARD 2 a b LIMIT 0  => :2
        SINTERCARD 2 a b LIMIT 1 LIMIT 5 => :2
        SINTERCARD 2 a none       => :0
        SINTERCARD 0 a            => -ERR numkeys should be greater than 0
        SINTERCARD x a            => -ERR numkeys should be greater than 0
        SINTERCARD 2 a            => -ERR Number of keys can't be greater than number of args
        SINTERCARD 1 a LIMIT -1   => -ERR LIMIT can't be negative
        SINTERCARD 1 a LIMIT      => -ERR syntax error
        SINTERCARD 1 a MAX 1      => -ERR syntax error
        SET str x                 => +OK
        SINTER none str           => -WRONGTYPE Operation against a key holding the wrong kind of value
        SUNION a str              => -WRONGTYPE Operation against a key holding the wrong kind of value
        SDIFF none str            => -WRONGTYPE Operation against a key holding the wrong kind of value
        SINTERCARD 2 none str     => -WRONGTYPE Operation against a key holding the wrong kind of value

        EXPIRE a 10               => :1
        SINTERSTORE d a b         => :2
        SMEMBERS d                => *2|$1|3|$1|4
        OBJECT ENCODING d         => $6|intset
        SUNIONSTORE d c d         => :3
        OBJECT ENCODING d         => $8|listpack
        SDIFFSTORE a a b          => :2
        TTL a                     => :-1
        SMEMBERS a                => *2|$1|1|$1|2
        SINTERSTORE str a none    => :0
        EXISTS str                => :0
        SUNIONSTORE none none     => :0
        SET str x                 => +OK
        SINTERSTORE d str         => -WRONGTYPE Operation against a key holding the wrong kind of value
        SCARD d                   => :3
        SUNIONSTORE str d         => :3
        TYPE str                  => +set
        @resp 3
        SINTER a b                => ~0
        SUNION a                  => ~2|$1|1|$1|2
        SDIFF a                   => ~2|$1|1|$1|2
        "#,
    );
}

/// The words of an array or set of bulk strings.
fn words(reply: &[u8]) -> Vec<String> {
    let text = shown(reply);
    let mut words = text.split('|');
    let len: usize = words.next().expect("a header")[1..].parse().expect("a length");
    let words: Vec<String> = words.skip(1).step_by(2).map(String::from).collect();
    assert_eq!(words.len(), len);
    words
}

fn fill(client: &mut Transcript, key: &[u8], members: impl Iterator<Item = String>) {
    members.for_each(|member| assert_eq!(client.call(&[b"SADD", key, member.as_bytes()]), b":1\r\n"));
}

#[test]
fn drawing_members() {
    let mut client = Transcript::default();
    client.run(
        r#"
        SRANDMEMBER none          => $-1
        SRANDMEMBER none 5        => *0
        SRANDMEMBER none -5       => *0
        SADD s a                  => :1
        SRANDMEMBER s             => $1|a
        SRANDMEMBER s 3           => *1|$1|a
        SRANDMEMBER s -3          => *3|$1|a|$1|a|$1|a
        SRANDMEMBER s 0           => *0
        SRANDMEMBER s x           => -ERR value is not an integer or out of range
        SRANDMEMBER s 1 2         => -ERR syntax error
        SRANDMEMBER s -9223372036854775808 => -ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807
        SRANDMEMBER s 9223372036854775807  => *1|$1|a
        SRANDMEMBER s -4611686018427387904 => -ERR reply exceeds maximum allowed size (proto-max-bulk-len)
        SPOP none                 => $-1
        SPOP none 2               => *0
        SPOP s 0                  => *0
        SPOP s -1                 => -ERR value is out of range, must be positive
        SPOP s x                  => -ERR value is out of range, must be positive
        SPOP s 1 1                => -ERR syntax error
        SPOP s                    => $1|a
        EXISTS s                  => :0
        SADD s a b                => :2
        SPOP s 9223372036854775807 => *2|$1|a|$1|b
        EXISTS s                  => :0
        SET str x                 => +OK
        SPOP str                  => -WRONGTYPE Operation against a key holding the wrong kind of value
        SPOP str 0                => -WRONGTYPE Operation against a key holding the wrong kind of value
        SRANDMEMBER str           => -WRONGTYPE Operation against a key holding the wrong kind of value
        @resp 3
        SADD s a                  => :1
        SRANDMEMBER none          => _
        SRANDMEMBER s 1           => *1|$1|a
        SPOP none                 => _
        SPOP none 1               => ~0
        SPOP s 1                  => ~1|$1|a
        @resp 2
        "#,
    );
    for len in [10, 100, 1000] {
        for word in ["", "w"] {
            let all: BTreeSet<String> = (0..len).map(|n| format!("{word}{n}")).collect();
            fill(&mut client, b"s", all.iter().cloned());
            client.random += 1;
            let sample = words(&client.call(&[b"SRANDMEMBER", b"s", b"7"]));
            let distinct: BTreeSet<String> = sample.iter().cloned().collect();
            assert!(sample.len() == 7 && distinct.len() == 7 && distinct.is_subset(&all));
            assert_eq!(words(&client.call(&[b"SRANDMEMBER", b"s", b"-30"])).len(), 30);
            let mut popped = BTreeSet::new();
            for count in ["3", "1", "5"] {
                client.random += 1;
                popped.extend(words(&client.call(&[b"SPOP", b"s", count.as_bytes()])));
            }
            assert_eq!((popped.len(), shown(&client.call(&[b"SCARD", b"s"]))), (9, format!(":{}", len - 9)));
            assert!(popped.iter().all(|word| client.call(&[b"SISMEMBER", b"s", word.as_bytes()]) == b":0\r\n"));
            popped.extend(words(&client.call(&[b"SPOP", b"s", b"100000"])));
            assert_eq!(popped, all);
        }
    }
}

#[test]
fn what_was_drawn_is_logged() {
    let mut client = Transcript::default();
    client.shard.effects.enable(true);
    client.run("SADD s a b c d => :4");
    let popped = shown(&client.call(&[b"SPOP", b"s"]));
    let two = words(&client.call(&[b"SPOP", b"s", b"2"]));
    client.run("SPOP s 0 => *0");
    let rest = words(&client.call(&[b"SPOP", b"s", b"2"]));
    assert_eq!(rest.len(), 1);
    let expected = [
        "SADD s a b c d".to_string(),
        format!("SREM s {}", &popped[3..]),
        format!("SREM s {}", two.join(" ")),
        "DEL s".to_string(),
    ];
    assert_eq!(client.effects(), expected);
}

#[test]
fn walks() {
    let mut client = Transcript::default();
    client.run(
        r#"
        SADD s a b 1              => :3
        SSCAN s 0                 => *2|$1|0|*3|$1|a|$1|b|$1|1
        SSCAN s 0 MATCH [ab]      => *2|$1|0|*2|$1|a|$1|b
        SSCAN s 77 COUNT 1        => *2|$1|0|*3|$1|a|$1|b|$1|1
        SSCAN none 0              => *2|$1|0|*0
        SSCAN none 0 FOO          => *2|$1|0|*0
        SSCAN none x              => -ERR invalid cursor
        SSCAN s x                 => -ERR invalid cursor
        SSCAN s 0 COUNT           => -ERR syntax error
        SSCAN s 0 COUNT 0         => -ERR syntax error
        SSCAN s 0 COUNT x         => -ERR value is not an integer or out of range
        SSCAN s 0 TYPE set        => -ERR syntax error
        SSCAN s 0 NOVALUES        => -ERR NOVALUES option can only be used in HSCAN
        SET str x                 => +OK
        SSCAN str 0               => -WRONGTYPE Operation against a key holding the wrong kind of value
        "#,
    );
    let all: BTreeSet<String> = (0..2000).map(|n| format!("w{n}")).collect();
    fill(&mut client, b"large", all.iter().cloned());
    let (mut cursor, mut found, mut calls) = ("0".to_string(), Vec::new(), 0);
    loop {
        let reply = client.call(&[b"SSCAN", b"large", cursor.as_bytes(), b"COUNT", b"50"]);
        let end = reply.iter().enumerate().filter(|(_, b)| **b == b'\n').nth(2).expect("a cursor").0;
        cursor = shown(&reply[..=end]).split('|').nth(2).expect("a cursor").to_string();
        found.extend(words(&reply[end + 1..]));
        calls += 1;
        if cursor == "0" {
            break;
        }
    }
    assert!((10..=40).contains(&calls) && found.len() == 2000);
    assert_eq!(found.into_iter().collect::<BTreeSet<String>>(), all);
}
