//! Files of redis-server, read; and ours, loaded by redis-server.

use std::path::PathBuf;

use keyloom::collection::Thresholds;
use keyloom::config::Config;
use keyloom::engine::Engine;
use keyloom::rdb::{self, ExportOptions, File, ImportOptions, Restored, Saved, WriteError};
use keyloom::resp::read::{Value as Reply, parse_value};
use keyloom::shard::Now;

use crate::common::{Client, Random, Server, engine, ok, seed, wait_until};
use crate::fixtures::{self, LATER_MS};
use crate::model::{Keyspace, Value, of_server, read};

pub const DATABASES: [usize; 3] = [0, 3, 15];
/// For DEBUG DIGEST.
pub const DEBUG: &[&str] = &["--enable-debug-command", "yes"];
const START_MS: i64 = 1_700_000_000_000;

pub type Command = Vec<Vec<u8>>;

/// redis-server, if it is the one with which the format was compared.
pub fn redis() -> Server {
    let version = Server::redis_version();
    assert!(
        version.as_ref().is_some_and(|version| version.starts_with("7.0.")),
        "redis-server is {version:?}, not 7.0: run scripts/install-peers.sh, or name one in KEYLOOM_REDIS_SERVER"
    );
    Server::redis(DEBUG)
}

fn command(name: &str, key: &str, args: impl IntoIterator<Item = Vec<u8>>) -> Command {
    [name, key].map(|word| word.as_bytes().to_vec()).into_iter().chain(args).collect()
}

/// Commands that make values of every type, short and long, with every kind of element.
pub fn fill() -> Vec<Command> {
    let mut random = Random::new(seed());
    let text = |text: &str| text.as_bytes().to_vec();
    let mut noise = |len: usize| -> Vec<u8> { (0..len).map(|_| random.next() as u8).collect() };
    let numbers = ["0", "-1", "127", "-128", "128", "32767", "-32769", "2147483647", "-2147483649"];
    let longer =
        ["9223372036854775807", "-9223372036854775808", "007", "1.5", "", "12", "13", "4095", "4096", "8388608"];
    let mut commands = Vec::new();
    for (n, value) in numbers.iter().chain(&longer).enumerate() {
        commands.push(command("SET", &format!("number {n}"), [text(value)]));
    }
    for len in [0, 20, 63, 64, 16_383, 16_384, 100_000] {
        commands.push(command("SET", &format!("same {len}"), [vec![b's'; len]]));
        commands.push(command("SET", &format!("noise {len}"), [noise(len)]));
    }
    let words: Vec<Vec<u8>> = numbers.iter().chain(&longer).map(|word| text(word)).collect();
    let mut elements = words.clone();
    elements.extend([vec![b'm'; 64], vec![b'm'; 200], noise(300), vec![0, 255, 10, 13]]);
    let many: Vec<Vec<u8>> = (0..1500).map(|n| format!("element:{n}").into_bytes()).collect();
    let huge: Vec<Vec<u8>> = vec![vec![b'h'; 9000], noise(70_000), text("behind"), vec![b'i'; 5000]];
    for (name, items) in [("few", &elements), ("many", &many), ("huge", &huge)] {
        commands.push(command("RPUSH", &format!("list {name}"), items.iter().cloned()));
        commands.push(command("SADD", &format!("set {name}"), items.iter().cloned()));
        let pairs = items.iter().rev().zip(items).flat_map(|(field, value)| [field.clone(), value.clone()]);
        commands.push(command("HSET", &format!("hash {name}"), pairs));
        let scores = ["0", "-0.5", "1e300", "inf", "-inf", "0.1", "3", "-70000", "2147483648", "5e-324"];
        let scored = items.iter().enumerate().flat_map(|(n, item)| [text(scores[n % scores.len()]), item.clone()]);
        commands.push(command("ZADD", &format!("sorted {name}"), scored));
    }
    for (width, step) in [(16, 100), (32, 1 << 20), (64, 1 << 40)] {
        let integers = (-20i64..20).map(|n| (n * step).to_string().into_bytes());
        commands.push(command("SADD", &format!("integers {width}"), integers));
    }
    commands.push(command("SADD", "integers many", (0..2000).map(|n| n.to_string().into_bytes())));
    for key in ["number 3", "same 20", "list many", "set few", "hash huge", "sorted few", "integers 64"] {
        commands.push(command("PEXPIREAT", key, [LATER_MS.to_string().into_bytes()]));
    }
    commands
}

/// Runs the commands in each of the databases.
pub fn fill_server(client: &mut Client, commands: &[Command]) {
    for database in DATABASES {
        client.call(&["SELECT", &database.to_string()]);
        for command in commands {
            let reply = client.call(command);
            assert!(!matches!(reply, Reply::Error(_)), "{reply:?}");
        }
    }
}

fn set(client: &mut Client, settings: &str) {
    let words: Vec<&str> = "CONFIG SET".split(' ').chain(settings.split(' ')).collect();
    assert_eq!(client.call(&words), ok(), "{settings}");
}

pub fn digest(client: &mut Client) -> Reply {
    match client.call(&["DEBUG", "DIGEST"]) {
        Reply::Error(error) => panic!("{}", error.escape_ascii()),
        digest => digest,
    }
}

/// What makes redis-server choose other forms.
const SETTINGS: &[&str] = &[
    "rdbcompression yes",
    "rdbcompression no",
    "list-max-listpack-size 3 list-compress-depth 1",
    "list-max-listpack-size -1 list-compress-depth 2 hash-max-listpack-entries 5000 hash-max-listpack-value 100000",
    "zset-max-listpack-entries 5000 zset-max-listpack-value 100000 set-max-intset-entries 5000",
    "hash-max-listpack-entries 0 zset-max-listpack-entries 0 set-max-intset-entries 0",
    "maxmemory 1gb maxmemory-policy allkeys-lru",
    "maxmemory 1gb maxmemory-policy allkeys-lfu",
];

#[test]
fn files_of_redis_are_read() {
    let server = redis();
    let mut client = server.client();
    let commands = fill();
    for settings in SETTINGS {
        client.call(&["FLUSHALL"]);
        set(&mut client, settings);
        fill_server(&mut client, &commands);
        assert_eq!(client.call(&["SAVE"]), ok());
        let file = std::fs::read(server.dir().join("dump.rdb")).unwrap();
        let expected = of_server(&mut client, &DATABASES, false);
        let (contents, summary) = read(&file, &ImportOptions::default()).unwrap();
        assert!(contents.keys == expected && expected.len() > 120, "{settings}: {} keys", expected.len());
        assert_eq!((summary.keys, summary.bytes), (expected.len() as u64, file.len() as u64));
        assert!(summary.checked && summary.version == 10);
        assert!(contents.notes.iter().any(|note| note.starts_with("redis-ver 7.0.")));
        let sized: Vec<&String> = contents.notes.iter().filter(|note| note.starts_with("database")).collect();
        assert_eq!(sized.len(), DATABASES.len());
        let used =
            |used: fn(&(Option<u64>, Option<u8>)) -> bool| contents.used.values().filter(|all| used(all)).count();
        let keys = commands.iter().filter(|command| command[0] != b"PEXPIREAT").count();
        assert_eq!(used(|(idle, _)| idle.is_some()), if settings.ends_with("lru") { keys } else { 0 });
        assert_eq!(used(|(_, count)| count.is_some()), if settings.ends_with("lfu") { keys } else { 0 });
    }
}

/// Streams with groups and consumers, and a library of functions, stand between keys that are read all the same.
#[test]
fn streams_and_functions_of_redis_are_gone_over() {
    let server = redis();
    let mut client = server.client();
    let mut run = |line: &str| {
        let reply = client.call(&line.split(' ').collect::<Vec<_>>());
        assert!(!matches!(reply, Reply::Error(_)), "{line}: {reply:?}");
        reply
    };
    for n in 0..300 {
        run(&format!("XADD stream {}-1 field {n} number:{n} value", n + 1));
        run(&format!("SET key:{n} {n}"));
    }
    run("XDEL stream 7-1");
    for group in ["first", "second"] {
        run(&format!("XGROUP CREATE stream {group} 0"));
        for consumer in ["alice", "bob"] {
            run(&format!("XREADGROUP GROUP {group} {consumer} COUNT 40 STREAMS stream >"));
        }
    }
    run("XACK stream first 1-1 2-1");
    run("XADD empty 1-1 a b");
    run("XDEL empty 1-1");
    run("FUNCTION LOAD #!lua\u{a0}name=lib\nredis.register_function('f',function()return\u{a0}1\u{a0}end)"
        .replace('\u{a0}', "\t")
        .as_str());
    run("SAVE");
    let Reply::Bulk(payload) = run("DUMP stream") else { panic!("a payload is a string") };
    let file = std::fs::read(server.dir().join("dump.rdb")).unwrap();
    let skip = ImportOptions { skip_unsupported: true, ..ImportOptions::default() };
    let (contents, summary) = read(&file, &skip).unwrap();
    assert_eq!((summary.keys, contents.keys.len(), summary.checked), (300, 300, true));
    let with = |start: &str| contents.notes.iter().filter(|note| note.starts_with(start)).count();
    assert_eq!([with("a stream"), with("functions #!lua")], [2, 1]);
    let error = read(&file, &ImportOptions::default()).unwrap_err();
    assert!(matches!(error, rdb::Error::Unsupported { what: "a stream", .. }), "{error}");
    let restored = rdb::restore(&payload, &Thresholds::default(), 0.into(), 1 << 20);
    assert!(matches!(restored, Err(rdb::PayloadError::Value(rdb::Error::UnknownCode { code: 19, .. }))));
}

/// Gives fields of the hashes in one database deadlines.
fn set_deadlines(client: &mut Client) {
    client.call(&["SELECT", "3"]);
    for key in HASHES {
        let Reply::Array(fields) = client.call(&["HKEYS", key]) else { panic!("fields are an array") };
        for (n, field) in fields.into_iter().step_by(3).enumerate() {
            let Reply::Bulk(field) = field else { panic!("a field is a string") };
            let at = (LATER_MS + 7 * n as i64).to_string();
            client.call(&[b"HPEXPIREAT", key.as_bytes(), at.as_bytes(), b"FIELDS", b"1", &field]);
        }
    }
}

/// A server that knows deadlines of fields: what it saves is read, and what it dumps is restored.
fn check_deadlines_of(server: &Server, client: &mut Client, version: u32) -> Engine {
    set_deadlines(client);
    assert_eq!(client.call(&["SAVE"]), ok());
    let file = std::fs::read(server.dir().join("dump.rdb")).unwrap();
    let expected = of_server(client, &DATABASES, true);
    let (contents, summary) = read(&file, &ImportOptions::default()).unwrap();
    assert!(contents.keys == expected);
    assert_eq!((summary.version, summary.checked), (version, true));
    let timed = |value: &Value| matches!(value, Value::Hash(fields) if fields.values().any(|(_, at)| at.is_some()));
    assert_eq!(contents.keys.values().filter(|(value, _)| timed(value)).count(), HASHES.len());
    // And its payloads, by way of our values.
    let mut engine = engine::engine(START_MS, Config::default());
    client.call(&["SELECT", "3"]);
    for key in HASHES {
        let Reply::Bulk(payload) = client.call(&["DUMP", key]) else { panic!("a payload is a string") };
        let args = [&b"RESTORE"[..], key.as_bytes(), b"0", &payload];
        assert_eq!(engine::run(&mut engine, 3, &args), b"+OK\r\n");
    }
    let options = ExportOptions { field_deadlines: true, ..ExportOptions::default() };
    let (again, _) = read(&file_of_shard(&mut engine, &options).unwrap(), &ImportOptions::default()).unwrap();
    assert_eq!(again.keys.len(), HASHES.len());
    assert!(again.keys.iter().all(|(key, (value, _))| expected[key].0 == *value));
    engine
}

const HASHES: [&str; 3] = ["hash few", "hash many", "hash huge"];

/// Files of Valkey 9, which has a version of its own, and hashes some fields of which have deadlines in another form than
/// Redis; and ours, which it loads.
#[test]
fn files_of_valkey_are_read_and_it_loads_ours() {
    let server = Server::valkey(DEBUG);
    let mut client = server.client();
    for settings in SETTINGS {
        client.call(&["FLUSHALL"]);
        set(&mut client, settings);
        fill_server(&mut client, &fill());
        let ours = file_of_dumps(&mut client, &Thresholds::default());
        let (_loaded, mut other) = load_with(Server::valkey, &server, "ours", &ours);
        assert_eq!(digest(&mut other), digest(&mut client), "{settings}");
        check_deadlines_of(&server, &mut client, rdb::VALKEY_VERSION.into());
    }
}

/// Redis 7.4 or 8, in the same way; it also loads and restores our hashes with deadlines.
#[test]
#[ignore = "KEYLOOM_LATER_REDIS_SERVER has to name a redis-server of version 7.4 to 8.2"]
fn files_of_later_redis_are_read_and_it_loads_ours() {
    let server = Server::later_redis(DEBUG);
    let mut client = server.client();
    for settings in SETTINGS {
        client.call(&["FLUSHALL"]);
        set(&mut client, settings);
        fill_server(&mut client, &fill());
        let mut engine = check_deadlines_of(&server, &mut client, rdb::REDIS_VERSION_MAX.into());
        let options = ExportOptions { field_deadlines: true, ..ExportOptions::default() };
        let file = file_of_shard(&mut engine, &options).unwrap();
        let (_loaded, mut other) = load_with(Server::later_redis, &server, "timed", &file);
        let all = of_server(&mut client, &[3], true);
        let hashes = of_server(&mut other, &[3], true);
        assert_eq!(hashes.len(), HASHES.len());
        assert!(hashes.iter().all(|(key, (value, _))| all[key].0 == *value), "{settings}");
        for key in HASHES {
            let payload = engine::run(&mut engine, 3, &[b"DUMP", key.as_bytes()]);
            let Ok(Some((Reply::Bulk(payload), _))) = parse_value(&payload) else { panic!("a payload is a string") };
            assert_eq!(other.call(&[b"RESTORE", key.as_bytes(), b"0", &payload, b"REPLACE"]), ok());
        }
        assert!(of_server(&mut other, &[3], true) == hashes, "{settings}");
        // Everything, without deadlines of fields.
        client.call(&["SELECT", "3"]);
        HASHES.iter().for_each(|key| {
            client.call(&["DEL", key]);
        });
        let ours = file_of_dumps(&mut client, &Thresholds::default());
        let (_loaded, mut other) = load_with(Server::later_redis, &server, "ours", &ours);
        assert_eq!(digest(&mut other), digest(&mut client), "{settings}");
    }
}

/// A file of everything that a server dumps, by way of our own values.
fn file_of_dumps(client: &mut Client, thresholds: &Thresholds) -> Vec<u8> {
    let mut entries = Vec::new();
    for database in DATABASES {
        client.call(&["SELECT", &database.to_string()]);
        let Reply::Array(keys) = client.call(&["KEYS", "*"]) else { panic!("KEYS is an array") };
        for key in keys {
            let Reply::Bulk(key) = key else { panic!("a key is a string") };
            let Reply::Bulk(payload) = client.call(&[b"DUMP", &key[..]]) else { panic!("a payload is a string") };
            let Reply::Int(expire_at) = client.call(&[b"PEXPIRETIME", &key[..]]) else {
                panic!("a moment is a number")
            };
            let value = rdb::restore(&payload, thresholds, 0.into(), 1 << 20).unwrap();
            entries.push((database, key, value, Some(expire_at).filter(|&ms| ms >= 0)));
        }
    }
    write(|file| {
        let mut current = None;
        for (database, key, value, expire_at) in &entries {
            if current != Some(database) {
                let keys = entries.iter().filter(|entry| entry.0 == *database).count();
                file.database(*database, keys as u64, 0)?;
                current = Some(database);
            }
            file.key(key, &saved(value), *expire_at, 0.into())?;
        }
        Ok(())
    })
}

fn saved(value: &Restored) -> Saved<'_> {
    match value {
        Restored::String(text) => Saved::String(text),
        Restored::Collection { kind, value, .. } => Saved::of_collection(*kind, value),
    }
}

fn write(fill: impl FnOnce(&mut File<Vec<u8>>) -> Result<(), WriteError>) -> Vec<u8> {
    let options =
        ExportOptions { aux: &[("redis-ver", "7.0.15"), ("ctime", "1700000000")], ..ExportOptions::default() };
    rdb::export(Vec::new(), &options, fill).unwrap()
}

/// Starts redis-server with a file; waits until it has loaded it.
fn load(owner: &Server, name: &str, file: &[u8]) -> (Server, Client) {
    load_with(Server::redis, owner, name, file)
}

fn load_with(start: fn(&[&str]) -> Server, owner: &Server, name: &str, file: &[u8]) -> (Server, Client) {
    let dir: PathBuf = owner.dir().join(name);
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("dump.rdb"), file).unwrap();
    let server = start(&[DEBUG, &["--dir", dir.to_str().unwrap()]].concat());
    let mut client = server.client();
    wait_until("the file is loaded", || client.call(&["PING"]) == Reply::Simple(b"PONG".to_vec()));
    (server, client)
}

#[test]
fn redis_loads_what_we_write_of_what_it_dumps() {
    let server = redis();
    let mut client = server.client();
    let none = Thresholds {
        hash_max_listpack_entries: 0,
        set_max_intset_entries: 0,
        set_max_listpack_entries: 0,
        zset_max_listpack_entries: 0,
        list_max_listpack_size: 3,
        ..Thresholds::default()
    };
    for (n, settings) in SETTINGS.iter().enumerate() {
        client.call(&["FLUSHALL"]);
        set(&mut client, settings);
        fill_server(&mut client, &fill());
        let thresholds = if n % 2 == 0 { Thresholds::default() } else { none };
        let file = file_of_dumps(&mut client, &thresholds);
        let expected = of_server(&mut client, &DATABASES, false);
        let (contents, _) = read(&file, &ImportOptions::default()).unwrap();
        assert!(contents.keys == expected, "{settings}");
        let (_loaded, mut other) = load(&server, &format!("loaded-{n}"), &file);
        assert!(of_server(&mut other, &DATABASES, false) == expected, "{settings}");
        assert_eq!(digest(&mut other), digest(&mut client), "{settings}");
    }
}

/// What lies in a shard, whose clock stands at [`START_MS`].
fn file_of_shard(engine: &mut Engine, options: &ExportOptions) -> Result<Vec<u8>, WriteError> {
    let now = engine.shard.now();
    rdb::export(Vec::new(), options, |file| {
        for database in DATABASES {
            let size = engine.shard.size(database);
            file.database(database, size.keys as u64, size.expires as u64)?;
            let mut keys = Vec::new();
            for partition in engine.shard.partitions() {
                let mut from = Some(0);
                while let Some(position) = from {
                    from = engine.shard.scan(database, partition, position, 10, |key, _| keys.push(key.to_vec()));
                }
            }
            for key in keys {
                let entry = engine.shard.peek(database, &engine.hasher.key(&key)).expect("it was just seen");
                file.key(&key, &Saved::of(&entry), entry.expire_at, now)?;
            }
        }
        Ok(())
    })
}

#[test]
fn redis_loads_the_file_of_a_shard() {
    let server = redis();
    let mut client = server.client();
    fill_server(&mut client, &fill());
    let mut engine = engine::engine(START_MS, Config::default());
    for database in DATABASES {
        for command in fill() {
            let args: Vec<&[u8]> = command.iter().map(Vec::as_slice).collect();
            let reply = engine::run(&mut engine, database, &args);
            assert_ne!(reply[0], b'-', "{}", reply.escape_ascii());
        }
    }
    let file = file_of_shard(&mut engine, &ExportOptions::default()).unwrap();
    let (_loaded, mut other) = load(&server, "shard", &file);
    assert!(of_server(&mut other, &DATABASES, false) == of_server(&mut client, &DATABASES, false));
    assert_eq!(digest(&mut other), digest(&mut client));
}

/// Deadlines of fields need a later version; what is over is not written.
#[test]
fn deadlines_of_fields_in_a_file() {
    let mut engine = engine::engine(START_MS, Config::default());
    let run = |engine: &mut Engine, line: &str| {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let reply = engine::run(engine, 0, &args);
        assert_ne!(reply[0], b'-', "{line}: {}", reply.escape_ascii());
    };
    run(&mut engine, "HSET small a 1 b 2 c 3 d 4");
    let later = LATER_MS.to_string();
    run(&mut engine, &format!("HPEXPIREAT small {later} FIELDS 2 a c"));
    run(&mut engine, "HPEXPIRE small 5000 FIELDS 1 b");
    let fields: Vec<String> = (0..600).map(|n| format!("f{n} {n}")).collect();
    run(&mut engine, &format!("HSET large {}", fields.join(" ")));
    run(&mut engine, "HPEXPIRE large 70000 FIELDS 3 f1 f2 f3");
    run(&mut engine, "HPEXPIRE large 10 FIELDS 1 f4");
    run(&mut engine, "HSET plain a 1");
    // What was 10 ms from the start is over; the wall clock has been set back by an hour since.
    engine.shard.set_now(Now { wall_ms: START_MS + 1000 - 3_600_000, steady_ms: START_MS + 1000 });
    let error = file_of_shard(&mut engine, &ExportOptions::default()).unwrap_err().to_string();
    assert!(error.contains("takes version 12"), "{error}");
    let options = ExportOptions { field_deadlines: engine.shard.has_field_deadlines(), ..ExportOptions::default() };
    let file = file_of_shard(&mut engine, &options).unwrap();
    let (contents, summary) = read(&file, &ImportOptions::default()).unwrap();
    assert_eq!((summary.version, summary.keys), (12, 3));
    let fields = |key: &str| match &contents.keys[&(0, key.as_bytes().to_vec())].0 {
        Value::Hash(fields) => fields.clone(),
        other => panic!("{other:?}"),
    };
    let deadline = |key: &str, field: &str| fields(key)[field.as_bytes()].1;
    assert_eq!(
        [deadline("small", "a"), deadline("small", "c"), deadline("small", "d")],
        [Some(LATER_MS); 2].map(|ms| ms).into_iter().chain([None]).collect::<Vec<_>>()[..]
    );
    assert_eq!(deadline("small", "b"), Some(START_MS - 3_600_000 + 5000));
    assert_eq!((fields("large").len(), deadline("large", "f2")), (599, Some(START_MS - 3_600_000 + 70_000)));
    assert_eq!(deadline("large", "f5"), None);
    assert_eq!(deadline("plain", "a"), None);
}

/// Every fixture, made into our values and written again.
#[test]
fn what_was_restored_is_written_as_it_was() {
    for fixture in fixtures::all() {
        let (contents, _) = read(&fixture.file, &ImportOptions::default()).unwrap();
        let mut engine = engine::engine(START_MS, Config::default());
        rdb::import(&fixture.file[..], &ImportOptions::default(), &mut Replay(&mut engine)).unwrap();
        let options = ExportOptions { field_deadlines: engine.shard.has_field_deadlines(), ..ExportOptions::default() };
        let file = file_of_shard(&mut engine, &options).unwrap();
        let (again, _) = read(&file, &ImportOptions::default()).unwrap();
        let shown = |keys: Keyspace| -> Keyspace {
            // A sorted set in a shard knows no negative zero if it is compact.
            keys.into_iter().map(|(key, (value, at))| (key, (without_negative_zero(value), at))).collect()
        };
        let mut expected = shown(contents.keys);
        expected.retain(|_, (_, at)| at.is_none_or(|ms| ms > START_MS));
        assert_eq!(shown(again.keys), expected, "{}", fixture.name);
    }
}

fn without_negative_zero(value: Value) -> Value {
    match value {
        Value::SortedSet(members) => {
            let zero = |score: u64| (f64::from_bits(score) + 0.0).to_bits();
            Value::SortedSet(members.into_iter().map(|(m, score)| (m, zero(score))).collect())
        }
        other => other,
    }
}

/// Runs the statements of a file.
struct Replay<'a>(&'a mut Engine);

impl rdb::Visitor for Replay<'_> {
    type Error = rdb::Error;

    fn key(&mut self, _header: &rdb::KeyHeader) -> Result<bool, rdb::Error> {
        Ok(true)
    }

    fn statement(&mut self, header: &rdb::KeyHeader, statement: &[&[u8]]) -> Result<(), rdb::Error> {
        let reply = engine::run(self.0, header.database, statement);
        assert_ne!(reply[0], b'-', "{}", reply.escape_ascii());
        Ok(())
    }
}
