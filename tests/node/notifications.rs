//! Commands record the events that redis-server 7.0 publishes, in its order, and subscribers are told of them.
//!
//! The same commands run on redis-server, with a client that is subscribed to all keyspace channels, and on an engine
//! in this process whose events are drained after each command. Keys that have expired are made by `PXAT 1`, and nothing
//! expires without being looked at: so the events do not depend on how fast the test runs.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use crate::common::engine::{engine, run};
use crate::common::{Client, Random, Server};
use keyloom::config::Config;
use keyloom::engine::Engine;
use keyloom::resp::read::Value;
use keyloom::shard::{Classes, Event};

/// Channel by which the test learns that all events of a command have arrived.
const END: &str = "end";
/// Sequences of random commands, and the length of each.
const SEQUENCES: u64 = 150;
const STEPS: usize = 60;

/// Channel and payload.
type Message = (String, String);

/// The two messages that make an event known.
fn messages(event: Event) -> [Message; 2] {
    let Event { name, db, key, .. } = event;
    let key = String::from_utf8(key).unwrap();
    [(format!("__keyspace@{db}__:{key}"), name.into()), (format!("__keyevent@{db}__:{name}"), key)]
}

struct Pair {
    client: Client,
    subscriber: Client,
    engine: Engine,
    db: usize,
    /// Names of all events so far.
    seen: BTreeSet<String>,
    // Ends with this value, after the clients.
    _server: Server,
}

impl Pair {
    fn new() -> Pair {
        let version = Server::redis_version();
        assert!(
            version.as_ref().is_some_and(|version| version.starts_with("7.0.")),
            "redis-server is {version:?}, not 7.0: run scripts/install-peers.sh, or name one in KEYLOOM_REDIS_SERVER"
        );
        let server = Server::redis(&["--enable-debug-command", "yes", "--notify-keyspace-events", "KEAmn"]);
        let (mut client, mut subscriber) = (server.client(), server.client());
        client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        subscriber.call(&["PSUBSCRIBE", "__key*@*__:*"]);
        subscriber.call(&["SUBSCRIBE", END]);
        subscriber.set_timeout(Duration::from_secs(20));
        let now_ms = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64;
        let notify_keyspace_events = Classes::parse("KEAmn").unwrap();
        let mut engine = engine(now_ms, Config { notify_keyspace_events, ..Config::default() });
        engine.shard.events.enable(true);
        Pair { client, subscriber, engine, db: 0, seen: BTreeSet::new(), _server: server }
    }

    fn fresh(&mut self) {
        self.client.call(&["FLUSHALL"]);
        run(&mut self.engine, 0, &[b"FLUSHALL"]);
        self.select(0);
    }

    fn select(&mut self, db: usize) {
        self.client.call(&["SELECT", &db.to_string()]);
        self.db = db;
    }

    /// Runs a command on both sides; what was told on each.
    fn run(&mut self, line: &str) -> [Vec<Message>; 2] {
        let args: Vec<&str> = line.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
        self.client.send(&args);
        self.client.send(&["PUBLISH", END, ""]);
        let theirs = self.client.read();
        self.client.read();
        let mut told = Vec::new();
        loop {
            let Value::Array(parts) = self.subscriber.read() else { panic!("a message is an array") };
            let text = |part: &Value| match part {
                Value::Bulk(bytes) => String::from_utf8(bytes.clone()).unwrap(),
                other => panic!("{other:?} in a message"),
            };
            match &parts[..] {
                [_, channel, payload] => break assert_eq!((text(channel).as_str(), text(payload).as_str()), (END, "")),
                [_, _, channel, payload] => told.push((text(channel), text(payload))),
                _ => panic!("{parts:?} is no message"),
            }
        }
        self.seen.extend(told.iter().filter(|(c, _)| c.starts_with("__keyspace")).map(|(_, name)| name.clone()));
        let args: Vec<&[u8]> = args.iter().map(|arg| arg.as_bytes()).collect();
        let ours = run(&mut self.engine, self.db, &args);
        assert_eq!(ours[0] == b'-', matches!(theirs, Value::Error(_)), "{line}: {theirs:?}");
        [told, self.engine.shard.events.drain().flat_map(messages).collect()]
    }
}

/// Commands of each script run in turn on an empty server; `@n` selects a database.
const SCRIPTS: &[&str] = &[
    "SET a 1|SET a 2|SET a 3 EX 100|SET a 4 PX 100000 GET|SET a 5 KEEPTTL|SET a 6 NX|SET b 7 NX|SET c 8 XX|SET a 9 XX",
    "SET a 1 GET|SET a 2 NX GET|SET b 2 NX GET|SET c 2 XX GET|SET a 3 EXAT 99999999999|SET a 4 PXAT 99999999999999",
    "SET a 1 EX 0|SET a 1 EX x|SET a 1 NX XX|SET a 1 PXAT 1|GET a|GET a|SET a 1 PXAT 1|SET a 2|SET a 1 PXAT 1 GET",
    "SETNX a 1|SETNX a 2|SETEX a 100 3|PSETEX a 100000 4|SETEX b 100 5|GETSET a 6|GETSET c 7",
    "SET a 1 PXAT 1|SETNX a 2|SET b 1 PXAT 1|GETSET b 2|SET c 1 PXAT 1|SET c 2 XX|SET d 1 PXAT 1|SET d 2 NX GET",
    "MSET a 1 b 2 a 3|MSETNX c 1 d 2|MSETNX e 1 a 2|MSETNX x 1 x 2|MGET a nil b nil|SET e 1 PXAT 1|MSETNX e 1 f 2",
    "INCR a|DECR a|INCRBY a 5|DECRBY a 3|INCRBYFLOAT a 1.5|INCR a|INCRBYFLOAT b 2|SET c x|INCR c|INCRBYFLOAT c 1",
    "SET a 5 EX 100|INCR a|SET b 5 PXAT 1|DECR b|SET c 5 PXAT 1|INCRBYFLOAT c 1|SET d 9223372036854775807|INCR d",
    "APPEND a x|APPEND a y|APPEND a ''|APPEND b ''|SET c x PXAT 1|APPEND c y|SET d x EX 100|APPEND d y",
    "SETRANGE a 3 x|SETRANGE a 0 y|SETRANGE a 0 ''|SETRANGE b 0 ''|SETRANGE b -1 x|SET c x PXAT 1|SETRANGE c 1 y",
    "GET a|STRLEN a|GETRANGE a 0 -1|SUBSTR a 0 -1|GETRANGE a x y|LCS a b|LCS a a|EXISTS a b a|TOUCH a b|TYPE a",
    "TTL a|PTTL a|EXPIRETIME a|PEXPIRETIME a|OBJECT ENCODING a|OBJECT REFCOUNT a|OBJECT IDLETIME a|MEMORY USAGE a",
    "SET a 1|GET a|STRLEN a|GETRANGE a 0 -1|LCS a a|LCS a b|LCS b a|EXISTS a b|TOUCH a b|TYPE a|TTL a|OBJECT ENCODING a",
    "SET a 1 PXAT 1|TTL a|SET a 1 PXAT 1|TYPE a|SET a 1 PXAT 1|EXISTS a a|SET a 1 PXAT 1|TOUCH a|SET a 1 PXAT 1|MGET a a",
    "SET a 1 PXAT 1|OBJECT ENCODING a|SET a 1 PXAT 1|STRLEN a|SET a 1 PXAT 1|LCS a b|SET b 1 PXAT 1|LCS a b",
    "GETEX a|GETEX a EX 5|SET a 1|GETEX a|GETEX a EX 100|GETEX a PX 100000|GETEX a PERSIST|GETEX a PERSIST",
    "SET a 1|GETEX a EXAT 99999999999|GETEX a PXAT 99999999999999|GETEX a EXAT 1|GETEX a|SET b 1|GETEX b PXAT 1|GETEX b",
    "GETDEL a|SET a 1|GETDEL a|GETDEL a|SET b 1 PXAT 1|GETDEL b|SET c 1 EX 100|GETDEL c",
    "DEL a|SET a 1|DEL a|MSET a 1 b 2 c 3|DEL a nil b a|UNLINK c nil|SET d 1 PXAT 1|DEL d|SET e 1 PXAT 1|UNLINK e e",
    "EXPIRE a 100|SET a 1|EXPIRE a 100|PEXPIRE a 100000|EXPIREAT a 99999999999|PEXPIREAT a 99999999999999|PERSIST a",
    "SET a 1|EXPIRE a 100 XX|EXPIRE a 100 NX|EXPIRE a 100 NX|EXPIRE a 50 GT|EXPIRE a 50 LT|EXPIRE a 200 GT|EXPIRE a 0 GT",
    "SET a 1|EXPIRE a -1|SET a 1|EXPIRE a 0|SET a 1|PEXPIRE a -5|SET a 1|EXPIREAT a 1|SET a 1|PEXPIREAT a -9|EXPIRE a -1",
    "SET a 1 PXAT 1|EXPIRE a 100|SET a 1 PXAT 1|PERSIST a|PERSIST a|SET a 1|PERSIST a|SET a 1 EX 100|PERSIST a|PERSIST a",
    "RENAME a b|SET a 1|RENAME a b|RENAME b b|SET a 2|RENAME a b|RENAMENX b c|SET d 4|RENAMENX c d|RENAMENX d d",
    "SET a 1 PXAT 1|RENAME a b|SET a 1|SET b 2 PXAT 1|RENAME a b|SET a 1|SET c 2 PXAT 1|RENAMENX a c|SET a 1 EX 9|RENAME a z",
    "COPY a b|SET a 1|COPY a b|COPY a b|COPY a b REPLACE|COPY a a|COPY a a DB 1|COPY a c DB 2|COPY a c DB 2|COPY a b DB 99",
    "SET a 1 PXAT 1|COPY a b|SET a 1|SET b 2 PXAT 1|COPY a b|SET c 3 PXAT 1|COPY a c REPLACE|SET d 4 PXAT 1|COPY nil d",
    "SET a 1 EX 100|COPY a b|SET c 1 PXAT 1|SET d 1 PXAT 1|COPY c d|COPY c d REPLACE",
    "MOVE a 1|SET a 1|MOVE a 1|MOVE a 1|SET a 1|MOVE a 1|MOVE a 0|@1|GET a|MOVE a 0|MOVE a 0|@0|GET a",
    "SET a 1 PXAT 1|MOVE a 1|@1|SET a 1 PXAT 1|@0|SET a 1 EX 100|MOVE a 1|SET b 1 PXAT 1|@1|SET b 1 PXAT 1|@0|MOVE b 1",
    "SET a 1|@3|SET a 2|SWAPDB 0 3|GET a|DEL a|FLUSHDB|@0|FLUSHALL|DBSIZE|KEYS *|SCAN 0|RANDOMKEY",
    "SET a 1 PXAT 1|RANDOMKEY|SET a 1 PXAT 1|SCAN 0|SET a 1 PXAT 1|FLUSHALL|GET a",
    "SADD s a b|SADD s a|SADD s c|SREM s z|SREM s a z|SREM s b c|SREM s a|SET x 1|SADD x a|SREM x a",
    "SADD s a b c|SPOP s|SPOP s 0|SPOP s 1|SPOP s|SPOP s|SPOP s 3|SADD s a b|SPOP s 5|SADD s a|SPOP s 1|SRANDMEMBER s",
    "SMOVE s t a|SADD s a b|SMOVE s t z|SMOVE s s a|SMOVE s t a|SADD s a|SMOVE s t a|SMOVE s t b|SET x 1|SMOVE t x a",
    "SADD s 3 1 2|SORT s STORE d|SORT s|SORT_RO s|SORT s LIMIT 5 1 STORE d|SORT nil STORE d|SET d x|SORT s BY w_* STORE d",
    "SADD s a b|SADD t b c|SINTERSTORE d s t|SINTERSTORE d s nil|SINTERSTORE d s nil|SUNIONSTORE d s t|SDIFFSTORE d s t",
    "SADD s a|SDIFFSTORE d s s|SUNIONSTORE d nil nil|SET d 1|SDIFFSTORE d s s|SET d 1|SUNIONSTORE d s|SUNIONSTORE s s",
    "SADD s a|SINTER s nil|SUNION nil s|SDIFF nil s|SINTERCARD 2 s nil|SMEMBERS nil|SCARD nil|SISMEMBER nil a|SSCAN nil 0",
    "SMISMEMBER nil a|SRANDMEMBER nil|SRANDMEMBER nil 2|SPOP nil|SPOP nil 2|SREM nil a|SMOVE nil nil a|SADD s 1|EXPIRE s 0",
    "HSET h a 1|HSET h a 1|HSET h b 2 c 3|HMSET h a 1|HSETNX h a 1|HSETNX h d 1|HDEL h z|HDEL h a b|HDEL h c d|HDEL h a",
    "HINCRBY h n 5|HINCRBY h n x|HINCRBYFLOAT h n 1.5|HINCRBYFLOAT h n x|HSET h t x|HINCRBY h t 1|HINCRBYFLOAT h t 1",
    "HGET nil a|HMGET nil a b|HGETALL nil|HKEYS nil|HVALS nil|HLEN nil|HSTRLEN nil a|HEXISTS nil a|HRANDFIELD nil|HSCAN nil 0",
    "HRANDFIELD nil 3|HDEL nil a|HSET h a 1|RENAME h g|COPY g h|DEL g h|HINCRBY n f x|HINCRBYFLOAT n f x|SET x 1|HSET x a 1",
    "ZADD z 1 a|ZADD z 1 a|ZADD z 2 a 3 b|ZADD z NX 1 a|ZADD z XX 1 x|ZADD n XX 1 x|ZADD z INCR 1 a|ZADD z INCR 0 a|ZINCRBY z 1 c|ZINCRBY z 0 c",
    "ZADD z GT 0 a|ZADD z GT 9 a|ZADD z GT INCR -1 a|ZADD z CH 9 a|ZADD z x a|ZADD z 1 q x r|SET x 1|ZADD x 1 a|ZINCRBY z x a|ZCARD z|ZSCORE z a",
    "ZADD z 1 a 2 b 3 c|ZREM z x|ZREM z a x|ZREM z b c|ZREM z a|ZADD z 1 a 2 b 3 c 4 d|ZPOPMIN z|ZPOPMAX z 2|ZPOPMIN z 0|ZPOPMAX z 9|ZPOPMIN z",
    "ZADD z 1 a 2 b|ZMPOP 2 n z MIN|ZMPOP 2 n z MAX COUNT 5|ZMPOP 2 n z MAX|ZADD z 1 a|SET x 1|ZMPOP 2 x z MIN|ZPOPMIN x|ZPOPMIN z x",
    "ZADD z 1 a 1 b 1 c|ZREMRANGEBYRANK z 5 6|ZREMRANGEBYRANK z 0 0|ZREMRANGEBYSCORE z 5 6|ZREMRANGEBYSCORE z 1 1|ZADD z 1 a 1 b|ZREMRANGEBYLEX z [x +",
    "ZADD z 1 a 1 b|ZREMRANGEBYLEX z - [a|ZREMRANGEBYLEX z - +|ZREMRANGEBYRANK z 0 -1|ZADD z 1 a|ZREMRANGEBYRANK z 0 -1|ZADD z 1 a|EXPIRE z 0",
    "ZADD z 1 a 2 b|ZRANGESTORE d z 0 -1|ZRANGESTORE d z 5 6|ZRANGESTORE d z 5 6|SET d 1|ZRANGESTORE d n 0 1|SET d 1|ZRANGESTORE d z 0 0|ZRANGESTORE z z 0 0",
    "ZADD z 1 a 2 b|SADD s b|ZUNIONSTORE d 2 z s|ZINTERSTORE d 2 z s|ZDIFFSTORE d 2 z s|ZINTERSTORE d 2 z n|ZDIFFSTORE d 1 n|SET d 1|ZUNIONSTORE d 1 n",
    "ZUNION 2 n m|ZINTER 2 n m|ZDIFF 2 n m|ZINTERCARD 2 n m|ZRANGE n 0 1|ZRANGEBYSCORE n 0 1|ZCOUNT n 0 1|ZRANK n a|ZRANDMEMBER n|ZSCAN n 0|ZMSCORE n a",
    "ZCARD n|ZSCORE n a|ZREM n a|ZLEXCOUNT n - +|ZREVRANK n a|ZRANDMEMBER n 2|ZREMRANGEBYRANK n 0 1|ZADD z 1 a|RENAME z y|COPY y z|DEL z y",
];

#[test]
fn each_command_records_the_events_of_redis() {
    let mut pair = Pair::new();
    for script in SCRIPTS {
        pair.fresh();
        for line in script.split('|') {
            if let Some(db) = line.strip_prefix('@') {
                pair.select(db.parse().unwrap());
                continue;
            }
            let [theirs, ours] = pair.run(line);
            assert_eq!(ours, theirs, "{line} in {script}");
        }
    }
    let names = "append copy_to del expire expired hdel hincrby hincrbyfloat hset incrby incrbyfloat keymiss move_from \
                 move_to new persist rename_from rename_to sadd sdiffstore set setrange sinterstore sortstore spop srem sunionstore \
                 zadd zdiffstore zincr zinterstore zpopmax zpopmin zrangestore zrem zremrangebylex zremrangebyrank \
                 zremrangebyscore zunionstore";
    assert_eq!(pair.seen.iter().map(String::as_str).collect::<Vec<_>>().join(" "), names);
}

/// A node under test: a client that writes and one that is subscribed to all events.
struct Told {
    client: Client,
    subscriber: Client,
    _server: Server,
}

impl Told {
    fn new(server: Server) -> Told {
        let (client, mut subscriber) = (server.client(), server.client());
        subscriber.call(&["PSUBSCRIBE", "__key*@*__:*"]);
        subscriber.call(&["SUBSCRIBE", END]);
        Told { client, subscriber, _server: server }
    }

    /// Runs a command; what the subscriber is told until END.
    fn run(&mut self, line: &str) -> Vec<Message> {
        let args: Vec<&str> = line.split(' ').map(|word| if word == "''" { "" } else { word }).collect();
        self.client.call(&args);
        self.client.call(&["PUBLISH", END, ""]);
        let mut told = Vec::new();
        loop {
            let Value::Array(parts) = self.subscriber.read() else { panic!("a message is an array") };
            let texts: Vec<String> = parts
                .into_iter()
                .map(|part| match part {
                    Value::Bulk(bytes) => String::from_utf8(bytes).unwrap(),
                    other => panic!("{other:?} in a message"),
                })
                .collect();
            match &texts[..] {
                [_, channel, _] if channel == END => return told,
                [_, _, channel, payload] => told.push((channel.clone(), payload.clone())),
                _ => panic!("{texts:?} is no message"),
            }
        }
    }
}

#[test]
fn subscribers_are_told_what_redis_tells() {
    let debug = ["--enable-debug-command", "yes", "--notify-keyspace-events", "KEAmn"];
    for cpus in ["0", "0-1"] {
        let mut redis = Told::new(Server::redis(&debug));
        let mut ours = Told::new(Server::keyloom(&[&["--cpus", cpus], &debug[..]].concat()));
        redis.client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        ours.client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]);
        for script in SCRIPTS {
            let lines = ["FLUSHALL", "SELECT 0"].into_iter().chain(script.split('|'));
            for line in lines {
                let line = line.strip_prefix('@').map_or_else(|| line.to_string(), |db| format!("SELECT {db}"));
                let (mut theirs, mut told) = (redis.run(&line), ours.run(&line));
                // A command over several cores is told by each of them on its own. All its keys are looked at before it
                // runs, also those that it might not need: so what has expired may be told earlier.
                if cpus != "0" {
                    for messages in [&mut theirs, &mut told] {
                        messages.retain(|(channel, payload)| payload != "expired" && !channel.ends_with(":expired"));
                        messages.sort();
                    }
                }
                assert_eq!(told, theirs, "CPUs {cpus}: {line} in {script}");
            }
        }
    }
}

/// `$k` and `$K` are keys, `$v` a value, `$t` a time, `$d` a database.
const TEMPLATES: &[&str] = &[
    "GET $k",
    "SET $k $v",
    "SET $k $v EX $t",
    "SET $k $v PX $t NX",
    "SET $k $v PXAT $t XX GET",
    "SET $k $v EXAT $t",
    "SET $k $v KEEPTTL GET",
    "SET $k $v PXAT 1",
    "SETNX $k $v",
    "SETEX $k $t $v",
    "GETSET $k $v",
    "GETEX $k PX $t",
    "GETEX $k EXAT $t",
    "GETEX $k PERSIST",
    "GETDEL $k",
    "MGET $k $K",
    "MSET $k $v $K $v",
    "MSETNX $k $v $K $v",
    "INCR $k",
    "DECRBY $k $v",
    "INCRBYFLOAT $k $v",
    "APPEND $k $v",
    "STRLEN $k",
    "SETRANGE $k 3 $v",
    "LCS $k $K",
    "DEL $k $K",
    "UNLINK $k",
    "EXISTS $k $K",
    "TOUCH $k",
    "EXPIRE $k $t",
    "PEXPIRE $k $t NX",
    "EXPIRE $k $t XX",
    // The moments of other conditions would have to be the same on both sides, to the millisecond.
    "EXPIREAT $k $t GT",
    "PEXPIREAT $k $t LT",
    "TTL $k",
    "PERSIST $k",
    "RENAME $k $K",
    "RENAMENX $k $K",
    "COPY $k $K REPLACE",
    "COPY $k $K DB $d",
    "MOVE $k $d",
    "OBJECT ENCODING $k",
    "SWAPDB $d 1",
    "SADD $k $v text",
    "SADD $k $v",
    "SREM $k $v",
    "SREM $k $v text 5 -7",
    "SMOVE $k $K $v",
    "SPOP $k 9",
    "SRANDMEMBER $k 2",
    // Into a key that does not expire: Redis says `del` of one that has expired, and was not looked at, when there is nothing
    // to store.
    "SINTERSTORE stored $K $k",
    "SUNIONSTORE stored $K",
    "SDIFFSTORE stored $K stored",
    "SDIFF $k $K",
    "HSET $k $v 1",
    "HSETNX $k $v 1",
    "HDEL $k $v 5",
    "HINCRBY $k $v 3",
    "HINCRBYFLOAT $k $v 3",
    "HGET $k $v",
    "HGETALL $k",
    "ZADD $k 1 $v 2 text",
    "ZADD $k 5 $v",
    "ZINCRBY $k 2 $v",
    "ZREM $k $v text",
    "ZPOPMIN $k",
    "ZPOPMAX $k 2",
    "ZREMRANGEBYSCORE $k 2 4",
    "ZREMRANGEBYRANK $k 0 0",
    "ZRANGESTORE stored $k 0 -2",
    "ZUNIONSTORE stored 2 $K $k",
    "ZINTERSTORE stored 2 $K $k",
    "ZDIFFSTORE stored 2 $K stored",
    "ZRANGE $k 0 -1",
    "ZUNION 2 $k $K",
];

#[test]
fn random_commands_record_the_events_of_redis() {
    let mut pair = Pair::new();
    let first_seed = crate::common::seed();
    for seed in (0..SEQUENCES).map(|n| first_seed.wrapping_add(n)) {
        let mut random = Random::new(seed);
        pair.fresh();
        let mut history = Vec::new();
        for _ in 0..STEPS {
            if random.one_in(6) {
                pair.select(random.below(3));
            }
            let template = random.pick(TEMPLATES);
            let word = |word| match word {
                "$k" | "$K" => random.pick(&["a", "b", "c"]),
                "$v" => random.pick(&["''", "5", "-7", "text"]),
                // Seconds or milliseconds, a duration or a moment: none ends while the test runs.
                "$t" => random.pick(&["-1", "0", "900000", "4000000000", "4000000000000"]),
                "$d" => random.pick(&["0", "1", "2"]),
                word => word,
            };
            let line = template.split(' ').map(word).collect::<Vec<_>>().join(" ");
            history.push(format!("@{} {line}", pair.db));
            let [theirs, ours] = pair.run(&line);
            assert_eq!(ours, theirs, "KEYLOOM_SEED={seed}: {}", history.join("\n"));
        }
    }
}
