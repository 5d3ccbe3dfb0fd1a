//! Backups of a cluster under load while its roles move, and what is made of them: each partition is as it was at one moment,
//! and everything is there again in a cluster of another number of nodes. In [`single`], whatever is wrong is refused.

mod single;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use keyloom::resp::read::Value;

use crate::client::{Answer, Router};
use crate::common::{Server, ok, wait_until};
use crate::nodes::{CORE_ENDPOINTS, Cluster, HEALTHY_MAX};

/// Keys that nobody writes during a backup.
const KEYS: usize = 400;
/// Writers, each of its own keys.
const WRITERS: usize = 4;
/// How often all roles move to one node during a backup.
const MOVES: usize = 3;
/// Far in the future, Unix ms.
const LATER_MS: &str = "4000000000123";

/// A directory of its own, removed with this.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("backup-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().into()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn keyloom(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    command.arg("cluster").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

#[track_caller]
fn done(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Runs `keyloom cluster` to its end; what it says.
#[track_caller]
fn run(args: &[&str]) -> String {
    done(&keyloom(args).output().unwrap())
}

/// The same, which must fail, with a single line.
#[track_caller]
fn refused(args: &[&str]) -> String {
    let output = keyloom(args).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.starts_with("keyloom: ") && said.lines().count() == 1, "{args:?}: {said}");
    said
}

#[track_caller]
fn call(router: &mut Router, key: &str, command: &[&str]) -> Value {
    match router.call(key, command, HEALTHY_MAX) {
        Answer::Done(value) => value,
        other => panic!("{command:?}: {other:?}"),
    }
}

fn key(n: usize) -> String {
    format!("key:{n}")
}

/// Keys of all types, with expiries of both clocks.
fn fill(router: &mut Router) {
    for n in 0..KEYS {
        let (name, text) = (key(n), n.to_string());
        let many: Vec<String> = (0..n % 150).map(|m| format!("{m}-{n}")).collect();
        let mut commands: Vec<Vec<&str>> = match n % 6 {
            0 => vec![vec!["SET", &name, &text], vec!["APPEND", &name, "more"]],
            1 => vec![vec!["RPUSH", &name, &text, "b"], [&["RPUSH", &name, "c"][..], &texts(&many)].concat()],
            2 => vec![vec!["SADD", &name, &text, "-7"], [&["SADD", &name, "12"][..], &texts(&many)].concat()],
            3 => vec![
                vec!["HSET", &name, "f", &text, "g", "2"],
                vec!["HPEXPIREAT", &name, LATER_MS, "FIELDS", "1", "g"],
                many.iter().fold(vec!["HSET", &name, "h", "x"], |words, m| [words, vec![m, "value"]].concat()),
            ],
            4 => vec![
                vec!["ZADD", &name, "1.5", &text, "-inf", "least"],
                many.iter().fold(vec!["ZADD", &name, "7", "x"], |words, m| [words, vec!["0.1", m]].concat()),
            ],
            _ => vec![vec!["SET", &name, &text, "EX", "100000"]],
        };
        if n % 4 == 1 {
            commands.push(vec!["PEXPIREAT", &name, LATER_MS]);
        }
        for command in commands {
            assert!(!matches!(call(router, &name, &command), Value::Error(_)), "{command:?}");
        }
    }
    // They are over before anything is restored.
    for n in 0..20 {
        let name = format!("over:{n}");
        assert_eq!(call(router, &name, &["SET", &name, "x", "PX", "1"]), ok());
    }
}

fn texts(many: &[String]) -> Vec<&str> {
    many.iter().map(String::as_str).collect()
}

/// What is at a key, in an order that does not depend on how it came there.
fn content(router: &mut Router, name: &str, n: usize) -> Vec<Value> {
    let commands: [&[&str]; 6] = [
        &["GET", name],
        &["LRANGE", name, "0", "-1"],
        &["SMEMBERS", name],
        &["HGETALL", name],
        &["ZRANGE", name, "0", "-1", "WITHSCORES"],
        &["GET", name],
    ];
    let mut value = call(router, name, commands[n % 6]);
    if let (2 | 3, Value::Array(items)) = (n % 6, &mut value) {
        let mut pairs: Vec<String> = items.chunks(1 + n % 6 % 2).map(|pair| format!("{pair:?}")).collect();
        pairs.sort();
        *items = pairs.into_iter().map(|pair| Value::Bulk(pair.into())).collect();
    }
    let fields: &[&[&str]] = if n % 6 == 3 { &[&["HPEXPIRETIME", name, "FIELDS", "2", "f", "g"]] } else { &[] };
    // The end of a duration may be shown a little differently each time.
    let moment: &[&[&str]] = if n % 6 == 5 && n % 4 != 1 { &[] } else { &[&["PEXPIRETIME", name]] };
    let more = fields.iter().chain(moment).map(|command| call(router, name, command)).collect::<Vec<_>>();
    [vec![value], more].concat()
}

fn contents(router: &mut Router) -> Vec<Vec<Value>> {
    (0..KEYS).map(|n| content(router, &key(n), n)).collect()
}

/// What writers have written, of keys of one slot each: step *n* writes *n* to one after the other.
struct Writers {
    stop: AtomicBool,
    /// By writer: steps that are complete.
    steps: [AtomicU64; WRITERS],
    /// Names of which nobody knows any more what was written.
    unknown: Mutex<Vec<usize>>,
}

fn tag(writer: usize) -> String {
    format!("{{w{writer}}}")
}

fn write(writers: &Writers, writer: usize, mut router: Router) {
    let tag = tag(writer);
    let name = |part: &str| format!("{tag}{part}");
    for step in 1u64.. {
        let n = step.to_string();
        let commands: [Vec<String>; 7] = [
            ["MSET", &name("a"), &n, &name("b"), &n].map(String::from).to_vec(),
            ["RPUSH", &name("list"), &n].map(String::from).to_vec(),
            ["INCR", &name("count")].map(String::from).to_vec(),
            ["APPEND", &name("text"), "."].map(String::from).to_vec(),
            ["HSET", &name("hash"), &format!("f{}", step % 50), &n, "last", &n].map(String::from).to_vec(),
            ["SADD", &name("set"), &n].map(String::from).to_vec(),
            ["ZADD", &name("sorted"), &n, &n].map(String::from).to_vec(),
        ];
        for command in commands {
            if writers.stop.load(Ordering::Relaxed) {
                return;
            }
            let command: Vec<&str> = command.iter().map(String::as_str).collect();
            let answer = router.call(&tag, &command, HEALTHY_MAX);
            if !matches!(&answer, Answer::Done(reply) if !matches!(reply, Value::Error(_))) {
                println!("writer {writer} ends: {answer:?}");
                return writers.unknown.lock().unwrap().push(writer);
            }
        }
        writers.steps[writer].store(step, Ordering::Relaxed);
    }
}

/// What was restored of a writer's keys is what there was at one moment; the step of that moment.
fn check_moment(router: &mut Router, writer: usize) -> u64 {
    let tag = tag(writer);
    let name = |part: &str| format!("{tag}{part}");
    let text = |value: Value| match value {
        Value::Bulk(text) => String::from_utf8(text).unwrap(),
        Value::Null => "0".into(),
        other => panic!("{other:?}"),
    };
    let mut get = |part: &str| text(call(router, &tag, &["GET", &name(part)]));
    let (a, b) = (get("a"), get("b"));
    assert_eq!(a, b, "what one command has written");
    let step: u64 = a.parse().unwrap();
    let mut counts = vec![step];
    let Value::Array(list) = call(router, &tag, &["LRANGE", &name("list"), "0", "-1"]) else { panic!() };
    for (at, item) in list.iter().enumerate() {
        assert_eq!(*item, Value::Bulk((at + 1).to_string().into()));
    }
    counts.push(list.len() as u64);
    counts.push(text(call(router, &tag, &["GET", &name("count")])).parse().unwrap());
    let [Value::Int(appended), Value::Int(set), Value::Int(sorted)] =
        [["STRLEN", "text"], ["SCARD", "set"], ["ZCARD", "sorted"]]
            .map(|[command, part]| call(router, &tag, &[command, &name(part)]))
    else {
        panic!()
    };
    counts.push(appended as u64);
    counts.push(text(call(router, &tag, &["HGET", &name("hash"), "last"])).parse().unwrap());
    counts.extend([set as u64, sorted as u64]);
    assert!(
        counts.is_sorted_by(|one, next| one >= next) && counts[6] + 1 >= step,
        "no moment was like that: {counts:?}"
    );
    step
}

/// What is known of a partition: keys, and the digest.
type Digests = BTreeMap<u64, (i64, String)>;

/// What a manifest says of partitions with keys.
fn listed(backup: &str) -> Digests {
    let json: serde_json::Value = serde_json::from_slice(&fs::read(manifest(backup)).unwrap()).unwrap();
    let parts = json["files"].as_array().unwrap().iter().flat_map(|file| file["partitions"].as_array().unwrap());
    let parts: Vec<_> = parts.collect();
    let mut numbers: Vec<u64> = parts.iter().map(|part| part["partition"].as_u64().unwrap()).collect();
    numbers.sort();
    assert!(numbers.into_iter().eq(0..json["partitions"].as_u64().unwrap()), "each partition once");
    let digest = |part: &&serde_json::Value| {
        let digest = (part["keys"].as_i64().unwrap(), part["digest"].as_str().unwrap().to_string());
        (part["partition"].as_u64().unwrap(), digest)
    };
    parts.iter().map(digest).filter(|(_, (keys, _))| *keys > 0).collect()
}

fn manifest(backup: &str) -> PathBuf {
    Path::new(backup).join("manifest.json")
}

/// What the nodes of a cluster say of all partitions with keys.
fn told(nodes: &[Server]) -> Digests {
    let mut told = BTreeMap::new();
    for node in nodes {
        let Value::Array(rows) = node.client().call(&["CLUSTER", "DIGEST", "0-1023"]) else { panic!() };
        for row in rows {
            let Value::Array(row) = row else { panic!() };
            let [Value::Int(partition), Value::Int(keys), Value::Bulk(digest)] = &row[..] else { panic!("{row:?}") };
            let digest = (*keys, String::from_utf8(digest.clone()).unwrap());
            assert!(told.insert(*partition as u64, digest).is_none(), "partition {partition} is led twice");
        }
    }
    told
}

/// Waits until all roles are where an operator wants them, or there is no need any more.
fn move_roles(cluster: &Cluster, node: usize, is_over: &mut impl FnMut() -> bool) {
    wait_until("all roles have moved", || {
        let Some(status) = cluster.status_of(node) else { return false };
        let all = status.nodes[&node][0] == status.partitions;
        if !all {
            cluster.ask(node, &["CLUSTER", "FAILOVER"]);
        }
        all || is_over()
    });
}

#[test]
fn a_backup_under_load_has_each_partition_as_it_was_at_one_moment() {
    let scratch = Scratch::new();
    let cluster = Cluster::local(3, &["--cluster-copies", "3"]);
    let mut router = Router::new(&cluster.addresses(), "quorum");
    fill(&mut router);
    let expected = contents(&mut router);
    let writers =
        Arc::new(Writers { stop: AtomicBool::new(false), steps: Default::default(), unknown: Mutex::default() });
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (writers, router) = (Arc::clone(&writers), Router::new(&cluster.addresses(), "quorum"));
            std::thread::spawn(move || write(&writers, writer, router))
        })
        .collect();
    let step = |writer: usize| writers.steps[writer].load(Ordering::Relaxed);
    wait_until("all have written", || (0..WRITERS).all(|writer| step(writer) > 0));
    let calm = scratch.path("calm");
    let said = run(&["backup", &cluster.addresses()[1].to_string(), "--to", &calm]);
    assert!(said.starts_with("3 files, ") && said.contains(", 1024 partitions, "), "{said}");
    // Now roles move all the time, for a while.
    let (to, before) = (scratch.path("moving"), [0, 1, 2, 3].map(step));
    let mut child = keyloom(&["backup", &cluster.addresses()[0].to_string(), "--to", &to]).spawn().unwrap();
    for nth in 0..MOVES {
        move_roles(&cluster, nth % 3, &mut || child.try_wait().unwrap().is_some());
    }
    println!("{}", done(&child.wait_with_output().unwrap()));
    let after = [0, 1, 2, 3].map(step);
    writers.stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    for node in &cluster.nodes {
        let left = fs::read_dir(node.dir().join("cluster/backup")).unwrap().count();
        assert_eq!(left, 0, "every node has dropped its backup");
    }
    assert_eq!(contents(&mut router), expected);
    drop(cluster);
    assert!(run(&["verify", &calm]).ends_with("is whole\n"));
    // Into a node that is alone.
    let cluster = Cluster::alone(&[]);
    let said = run(&["restore", &to, &cluster.addresses()[0].to_string()]);
    assert!(said.starts_with("OK: ") && said.contains("the digests of all 1024 partitions are those"), "{said}");
    assert_eq!(told(&cluster.nodes), listed(&to));
    let mut router = Router::new(&cluster.addresses(), "memory");
    assert_eq!(contents(&mut router), expected);
    let unknown = writers.unknown.lock().unwrap();
    for writer in (0..WRITERS).filter(|writer| !unknown.contains(writer)) {
        let step = check_moment(&mut router, writer);
        let during = before[writer]..=after[writer] + 1;
        assert!(during.contains(&step), "step {step} of writer {writer} is not of {during:?}");
    }
    assert!(unknown.len() < WRITERS, "nothing was checked");
    drop((router, cluster));
    // Clusters of other numbers of nodes, one of them with a port for each core.
    for (nodes, args) in [(2, &CORE_ENDPOINTS[..]), (4, &["--cluster-copies", "2"])] {
        let cluster = Cluster::local(nodes, args);
        let said = run(&["restore", &to, &cluster.addresses()[nodes - 1].to_string()]);
        assert!(said.starts_with("OK: "), "{said}");
        assert_eq!(told(&cluster.nodes), listed(&to));
        let mut router = Router::new(&cluster.addresses(), "quorum");
        assert_eq!(contents(&mut router), expected);
        for writer in (0..WRITERS).filter(|writer| !unknown.contains(writer)) {
            check_moment(&mut router, writer);
        }
        cluster.assert_sound();
    }
}
