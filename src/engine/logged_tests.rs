//! Who decides what is over, and in which order the log hears of it.

use std::sync::Arc;

use crate::command::transcript::{Client, NOW_MS};
use crate::config::{Config, MaxmemoryPolicy};
use crate::log::durability::Standing;
use crate::resp::Output;
use crate::shard::{Effects, FOLLOWED, LED, NEVER_MS};

fn recording(config: Config) -> Client {
    let mut client = Client::with(config);
    client.engine.switch_feed(true);
    client
}

/// Statements that were recorded since this was last asked.
fn recorded(effects: &mut Effects) -> Vec<String> {
    effects.drain().map(|effect| text(&effect.args)).collect()
}

fn text(args: &[Vec<u8>]) -> String {
    args.iter().map(|arg| String::from_utf8_lossy(arg)).collect::<Vec<_>>().join(" ")
}

/// Runs statements of a log.
fn replay(client: &mut Client, lines: &[&str]) {
    for line in lines {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        client.engine.replay(0, &args, &mut Output::new()).unwrap();
    }
}

/// On a replica what is over is not shown, and stays until the log of the primary says so.
#[test]
fn a_replica_hides_what_is_over_and_removes_nothing() {
    let mut client = recording(Config::default());
    let soon = NOW_MS + 10;
    let end = format!("SET k v PXAT {soon}");
    let field = format!("HPEXPIREAT h {soon} FIELDS 1 f");
    let only = format!("HPEXPIREAT only {soon} FIELDS 1 f");
    client.engine.stand(Arc::new(Standing { replica: true, ..Standing::default() }));
    replay(&mut client, &[&end, "SET stays v", "HSET h f 1 g 2", &field, "HSET only f 1", &only]);
    assert_eq!(client.run("GET k"), "$1|v");
    client.engine.shard.set_now(soon);
    assert_eq!(client.engine.next_expiry_ms(), NEVER_MS);
    for (command, reply) in [
        ("GET k", "$-1"),
        ("EXISTS k only stays", ":1"),
        ("TTL k", ":-2"),
        ("TYPE only", "+none"),
        ("HGET h f", "$-1"),
        ("HGETALL h", "*2|$1|g|$1|2"),
        ("HTTL h FIELDS 1 f", "*1|:-2"),
        ("HGETALL only", "*0"),
    ] {
        assert_eq!(client.run(command), reply, "{command}");
    }
    assert_eq!(client.engine.shard.size(0).keys, 4, "nothing is removed");
    assert_eq!(recorded(&mut client.engine.shard.effects), Vec::<String>::new());
    // The primary has removed one of them, and changed another before its time came there.
    replay(&mut client, &["DEL k", "HDEL h f", "HINCRBY only f 1", "HPERSIST only FIELDS 1 f"]);
    assert_eq!(client.run("HGETALL only"), "*2|$1|f|$1|2");
    assert_eq!(client.engine.shard.size(0).keys, 3);
    // After a promotion it decides itself.
    replay(&mut client, &[&end, &field]);
    client.engine.stand(Arc::new(Standing::default()));
    assert_eq!(client.run("GET k"), "$-1");
    assert_eq!(recorded(&mut client.engine.shard.effects), ["DEL k"]);
}

/// In a replay no time has come: every statement finds what it found when it was first run.
#[test]
fn a_replay_lets_nothing_expire() {
    let mut client = recording(Config::default());
    let past = NOW_MS - 1000;
    replay(
        &mut client,
        &[
            &format!("SET k 5 PXAT {past}"),
            "INCR k",
            "HSET h f 5 g 1",
            &format!("HPEXPIREAT h {past} FIELDS 2 f g"),
            "HINCRBY h f 1",
            "HPERSIST h FIELDS 1 f",
            &format!("SET gone v PXAT {past}"),
            "RPUSH l a",
            &format!("PEXPIREAT l {past}"),
            "RPUSH l b",
            "PERSIST l",
        ],
    );
    assert_eq!(client.engine.shard.size(0).keys, 4);
    assert_eq!(recorded(&mut client.engine.shard.effects), Vec::<String>::new());
    // It is the same as ever afterwards.
    assert_eq!(client.run("LRANGE l 0 -1"), "*2|$1|a|$1|b");
    assert_eq!(client.run("HGETALL h"), "*2|$1|f|$1|6");
    assert_eq!(client.run("GET k"), "$-1");
    client.engine.expire_due();
    let mut effects = recorded(&mut client.engine.shard.effects);
    effects.sort();
    assert_eq!(effects, ["DEL gone", "DEL k", "HDEL h g"]);
}

/// What makes way for others while a transaction is suspended is removed in the transaction's unit, too, at its place.
#[test]
fn what_was_evicted_under_a_suspended_transaction_is_told_again() {
    let maxmemory_policy = MaxmemoryPolicy::AllkeysLru;
    let mut client = recording(Config { maxmemory_bytes: 1 << 30, maxmemory_policy, ..Config::default() });
    client.engine.begin_transaction();
    client.run("RPUSH l a");
    client.run("SET k v");
    client.run("SET other v");
    client.run("DEL other");
    let mut statements = client.engine.leave_transaction();
    let said = |statements: &[u8]| {
        let mut effects = Effects::default();
        effects.push_unit(statements);
        recorded(&mut effects)
    };
    // Everything makes way.
    client.engine.shard.set_limit(Some(1));
    client.engine.work(true);
    client.engine.shard.set_limit(None);
    assert_eq!(client.engine.shard.size(0).keys, 0);
    let mut evicted = recorded(&mut client.engine.shard.effects);
    evicted.sort();
    assert_eq!(evicted, ["DEL k", "DEL l"]);
    client.engine.resume_transaction(&mut statements);
    client.engine.begin_transaction();
    client.run("RPUSH l b");
    statements.extend(client.engine.leave_transaction());
    let whole = ["RPUSH l a", "SET k v", "SET other v", "DEL other", "DEL l", "DEL k", "DEL other", "RPUSH l b"];
    assert_eq!(said(&statements), whole);
    client.engine.shard.effects.push_unit(&statements);
    assert_eq!(recorded(&mut client.engine.shard.effects), whole);
}

fn in_cluster() -> Client {
    let mut client = recording(Config { cluster_enabled: true, databases: 1, ..Config::default() });
    client.engine.lead_recovered();
    client
}

/// What a log says is a copy at first; a node that is alone leads it then.
#[test]
fn what_is_recovered_is_followed_until_the_roles_are_known() {
    let mut client = in_cluster();
    replay(&mut client, &["SET a 1", "SET b 2", "RPUSH l x"]);
    let args: [&[u8]; 3] = [b"SET", b"c", b"3"];
    client.engine.replay(1, &args, &mut Output::new()).unwrap();
    assert_eq!((client.run("DBSIZE"), client.engine.shard.size(FOLLOWED).keys), (":0".into(), 4));
    let slot = crate::route::slot_of(b"a");
    assert_eq!(client.run(&format!("CLUSTER COUNTKEYSINSLOT {slot}")), ":1");
    assert_eq!(client.run(&format!("CLUSTER GETKEYSINSLOT {slot} 9")), "*1|$1|a");
    assert!(!client.run("INFO keyspace").contains("db"), "copies are no keys");
    client.engine.lead_recovered();
    assert_eq!((client.run("DBSIZE"), client.engine.shard.size(FOLLOWED).keys), (":4".into(), 0));
    assert_eq!(client.run("GET c"), "$1|3");
    assert_eq!(client.run(&format!("CLUSTER COUNTKEYSINSLOT {slot}")), ":1");
    let info = client.run("INFO keyspace");
    assert!(info.contains("db0:keys=4") && !info.contains("db1"), "{info}");
    assert_eq!(recorded(&mut client.engine.shard.effects), Vec::<String>::new());
}

/// A flush in a cluster is a statement for each partition that had keys, and leaves alone what is followed.
#[test]
fn a_flush_in_a_cluster_names_partitions() {
    for flush in ["FLUSHALL", "FLUSHDB ASYNC"] {
        let mut client = in_cluster();
        replay(&mut client, &["SET copy v"]);
        for key in ["a", "b", "{a}c"] {
            client.run(&format!("SET {key} v"));
        }
        client.engine.shard.effects.drain();
        assert_eq!(client.run(flush), "+OK");
        let effects: Vec<_> = client.engine.shard.effects.drain().collect();
        assert_eq!(effects.len(), 2);
        assert!(effects.iter().all(|effect| effect.args[0] == b"FLUSHPARTITION" && effect.unit == 0));
        let partition = |key: &[u8]| client.engine.hasher.key(key).partition;
        let mut partitions: Vec<u16> = effects.iter().map(|effect| partition(&effect.args[1])).collect();
        let mut expected = [partition(b"a"), partition(b"b")];
        partitions.sort_unstable();
        expected.sort_unstable();
        assert_eq!(partitions, expected);
        assert_eq!((client.engine.shard.size(LED).keys, client.engine.shard.size(FOLLOWED).keys), (0, 1));
        // Nothing is left to be said.
        assert_eq!(client.run(flush), "+OK");
        assert_eq!(recorded(&mut client.engine.shard.effects), Vec::<String>::new());
        // Who follows does the same.
        let mut follower = in_cluster();
        replay(&mut follower, &["SET a v", "SET b v", "SET {a}c v", "SET far v"]);
        for effect in &effects {
            let args: Vec<&[u8]> = effect.args.iter().map(Vec::as_slice).collect();
            follower.engine.replay(effect.db, &args, &mut Output::new()).unwrap();
        }
        assert_eq!(follower.engine.shard.size(FOLLOWED).keys, 1);
    }
}

#[test]
fn clients_have_no_flush_of_partitions() {
    for mut client in [in_cluster(), recording(Config::default())] {
        assert!(client.run("FLUSHPARTITION k").starts_with("-ERR unknown command 'FLUSHPARTITION'"));
        assert_eq!(client.run("COMMAND INFO flushpartition"), "*1|$-1");
        assert!(!client.run("COMMAND LIST FILTERBY PATTERN flush*").contains("partition"));
        assert!(!client.run("ACL CAT write").contains("partition"));
    }
}
