//! Transcripts of the list commands.

use crate::command::shard_transcript::Transcript;

#[test]
fn both_ends() {
    Transcript::check(
        r#"
        LPUSHX k a                      => :0
        RPUSH k a b c                   => :3
        LPUSH k z y                     => :5
        LRANGE k 0 -1                   => *5|$1|y|$1|z|$1|a|$1|b|$1|c
        LRANGE k -2 100                 => *2|$1|b|$1|c
        LRANGE k 3 1                    => *0
        LRANGE k -9223372036854775808 9223372036854775807 => *5|$1|y|$1|z|$1|a|$1|b|$1|c
        LRANGE none 0 -1                => *0
        LLEN k                          => :5
        TYPE k                          => +list
        LINDEX k 0                      => $1|y
        LINDEX k -1                     => $1|c
        LINDEX k 5                      => $-1
        LINDEX k -9223372036854775808   => $-1
        LINDEX k x                      => -ERR value is not an integer or out of range
        LPOP k                          => $1|y
        RPOP k 2                        => *2|$1|c|$1|b
        RPOP k 0                        => *0
        RPOP none 0                     => *-1
        LPOP none                       => $-1
        LPOP k -1                       => -ERR value is out of range, must be positive
        LPOP k x                        => -ERR value is out of range, must be positive
        LPOP k 1 2                      => -ERR wrong number of arguments for 'lpop' command
        LPOP k 9223372036854775807      => *2|$1|z|$1|a
        EXISTS k                        => :0
        SET s v                         => +OK
        LPUSH s a                       => -WRONGTYPE Operation against a key holding the wrong kind of value
        LLEN s                          => -WRONGTYPE Operation against a key holding the wrong kind of value
        RPUSH k a                       => :1
        GET k                           => -WRONGTYPE Operation against a key holding the wrong kind of value
        APPEND k a                      => -WRONGTYPE Operation against a key holding the wrong kind of value
        INCR k                          => -WRONGTYPE Operation against a key holding the wrong kind of value
        MGET k s                        => *2|$-1|$1|v
        SET k v                         => +OK
        GET k                           => $1|v
        "#,
    );
}

#[test]
fn changes_in_the_middle() {
    Transcript::check(
        r#"
        RPUSH k a b a c a               => :5
        LSET k 1 B                      => +OK
        LSET k -1 z                     => +OK
        LSET k 5 x                      => -ERR index out of range
        LSET none 0 x                   => -ERR no such key
        LINSERT k BEFORE B x            => :6
        LINSERT k after z end           => :7
        LINSERT k after nosuch x        => :-1
        LINSERT none after a x          => :0
        LINSERT k beside a x            => -ERR syntax error
        LRANGE k 0 -1                   => *7|$1|a|$1|x|$1|B|$1|a|$1|c|$1|z|$3|end
        LREM k -1 a                     => :1
        LREM k 0 nosuch                 => :0
        LREM none 0 a                   => :0
        LRANGE k 0 -1                   => *6|$1|a|$1|x|$1|B|$1|c|$1|z|$3|end
        LTRIM k 1 -2                    => +OK
        LRANGE k 0 -1                   => *4|$1|x|$1|B|$1|c|$1|z
        LTRIM k 2 1                     => +OK
        EXISTS k                        => :0
        LTRIM none 0 0                  => +OK
        "#,
    );
}

#[test]
fn positions() {
    Transcript::check(
        r#"
        RPUSH k a b c 1 2 3 c c         => :8
        LPOS k c                        => :2
        LPOS k c RANK 2                 => :6
        LPOS k c RANK -1                => :7
        LPOS k c COUNT 2                => *2|:2|:6
        LPOS k c RANK -1 COUNT 0        => *3|:7|:6|:2
        LPOS k c COUNT 0 MAXLEN 3       => *1|:2
        LPOS k nosuch                   => $-1
        LPOS k nosuch COUNT 1           => *0
        LPOS none c                     => $-1
        LPOS none c COUNT 2             => *0
        LPOS k c RANK 0                 => -ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start from the end of the list
        LPOS k c RANK -9223372036854775808 => -ERR value is out of range, value must between -9223372036854775807 and 9223372036854775807
        LPOS k c COUNT -1               => -ERR COUNT can't be negative
        LPOS k c MAXLEN -1              => -ERR MAXLEN can't be negative
        LPOS k c COUNT                  => -ERR syntax error
        "#,
    );
}

#[test]
fn from_list_to_list() {
    Transcript::check(
        r#"
        RPUSH a 1 2 3                   => :3
        LMOVE a b LEFT RIGHT            => $1|1
        RPOPLPUSH a b                   => $1|3
        LRANGE b 0 -1                   => *2|$1|3|$1|1
        RPOPLPUSH b b                   => $1|1
        LRANGE b 0 -1                   => *2|$1|1|$1|3
        LMOVE none b LEFT LEFT          => $-1
        LMOVE a b LEFT UP               => -ERR syntax error
        LMOVE a a LEFT LEFT             => $1|2
        LMOVE a b right left            => $1|2
        EXISTS a                        => :0
        SET s v                         => +OK
        LMOVE b s LEFT LEFT             => -WRONGTYPE Operation against a key holding the wrong kind of value
        LMOVE none s LEFT LEFT          => $-1
        LRANGE b 0 -1                   => *3|$1|2|$1|1|$1|3
        LMPOP 2 none b LEFT COUNT 2     => *2|$1|b|*2|$1|2|$1|1
        LMPOP 2 none b RIGHT COUNT 9223372036854775807 => *2|$1|b|*1|$1|3
        LMPOP 2 none b LEFT             => *-1
        LMPOP 0 b LEFT                  => -ERR numkeys should be greater than 0
        LMPOP x b LEFT                  => -ERR numkeys should be greater than 0
        LMPOP 3 b LEFT                  => -ERR syntax error
        LMPOP 1 b LEFT COUNT 0          => -ERR count should be greater than 0
        LMPOP 1 b LEFT COUNT 1 COUNT 1  => -ERR syntax error
        "#,
    );
}

/// Those who watch the list that has got the element see a change, too, also if it was there before.
#[test]
fn a_move_changes_both_lists() {
    let mut core = Transcript::default();
    core.run("RPUSH a 1 2 3 4 => :4");
    core.run("RPUSH b 1 => :1");
    for line in ["LMOVE a b LEFT RIGHT => $1|1", "RPOPLPUSH a b => $1|4", "BLMOVE a b LEFT LEFT 0 => $1|2"] {
        let hasher = core.hasher.clone();
        let keys = [hasher.key(b"a"), hasher.key(b"b")];
        let before = keys.each_ref().map(|key| core.shard.watch(0, key));
        core.run(line);
        for (key, before) in keys.iter().zip(before) {
            assert_ne!(core.shard.version(0, key), before, "{line}");
        }
    }
}
