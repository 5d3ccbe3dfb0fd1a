//! `keyloom bench --cluster` goes on while a primary is killed, and tells whose failover it has seen.

use std::process::{Command, Stdio};

use keyloom::resp::read::Value;
use keyloom::route::slot_of;
use serde_json::Value as Json;

use crate::client::{Answer, Router};
use crate::common::wait_until;
use crate::nodes::{Cluster, HEALTHY_MAX};

/// Keys of the load: `key-1` to this.
const KEYS: usize = 300;

/// Runs a load with these options on three nodes. When it has written everywhere, one of them, which does not lead raft,
/// gets SIGKILL; when what that one led is written again elsewhere, the load is told to end. Returns what it reports.
fn killed_under(options: &str) -> (Json, String) {
    let mut cluster = Cluster::local(3, &["--cluster-copies", "3", "--write-durability", "quorum"]);
    let victim = (cluster.raft_leader().expect("a healthy cluster has a leader of raft") + 1) % 3;
    let killed = cluster.nodes[victim].addr();
    let report = cluster.nodes[victim].dir().join("report.json");
    let child = Command::new(env!("CARGO_BIN_EXE_keyloom"))
        // Whom it is told of is who will be killed: it has to know the others.
        .args(["bench", "--cluster", "--port", &killed.port().to_string(), "--json", report.to_str().unwrap()])
        .args(["--test-time", "1000", "--ratio", "1:1", "--quiet", "--key-maximum", &KEYS.to_string()])
        .args(options.split(' '))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let count = |cluster: &Cluster, node| matches!(cluster.ask(node, &["DBSIZE"]), Some(Value::Int(keys)) if keys > 0);
    wait_until("it has written on all nodes", || (0..3).all(|node| count(&cluster, node)));
    let leaders = cluster.slots_of(0).unwrap();
    let led = |n: &usize| leaders[slot_of(format!("key-{n}").as_bytes()) as usize] == Some(victim);
    let key = format!("key-{}", (1..=KEYS).find(led).expect("keys are everywhere"));
    cluster.kill(victim);
    // Somebody else has taken over, and the load has found it.
    let mut router = Router::new(&cluster.addresses(), "quorum");
    let removed = router.call(&key, &["DEL", &key], HEALTHY_MAX);
    assert!(matches!(removed, Answer::Done(Value::Int(_))), "{removed:?}");
    wait_until("the load writes it again", || {
        router.call(&key, &["EXISTS", &key], HEALTHY_MAX) == Answer::Done(Value::Int(1))
    });
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text} {}", String::from_utf8_lossy(&output.stderr));
    let json: Json = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    let cluster_json = &json["run"]["cluster"];
    // Interruptions of others may have been seen as well; taken over was what was killed, once.
    let gaps = cluster_json["gaps"].as_array().unwrap().iter();
    let failovers: Vec<&Json> = gaps.filter(|gap| gap["failover"] == true).collect();
    assert_eq!(failovers.len(), 1, "{json:#}");
    assert_eq!(failovers[0]["primary"], killed.to_string(), "{json:#}");
    assert!(failovers[0]["ms"].as_f64().unwrap() > 0.0, "{json:#}");
    assert_ne!(failovers[0]["by"], killed.to_string());
    assert_eq!(cluster_json["primaries"], 3);
    assert!(cluster_json["refreshes"].as_u64().unwrap() > 0, "{json:#}");
    for node in cluster.addresses() {
        assert!(cluster_json["answers"][node.to_string()].as_u64().unwrap() > 0, "{json:#}");
    }
    // What got no answer was lost with connections, and nothing else was.
    let failed = |kind: &str| cluster_json["failed"][kind].as_u64().unwrap();
    assert_eq!(json["run"]["unanswered"], failed("connection_lost") + failed("no_answer"), "{json:#}");
    assert_eq!(json["run"]["totals"]["errors"], 0, "{json:#}");
    assert!(json["run"]["lost_connections"].as_u64().unwrap() >= 1, "{json:#}");
    let told = format!("Failover of {killed} after ");
    assert!(text.contains(&told) && text.contains(" took over"), "{text}");
    (json, text)
}

#[test]
fn an_open_loop_sees_whose_failover_it_was() {
    let (json, text) = killed_under("-c 4 -t 2 -P 10 --rate 2000");
    println!("{text}");
    // Requests that fell due in the first half of the gap have waited for the second half of it.
    let run = &json["run"];
    let gaps = run["cluster"]["gaps"].as_array().unwrap();
    let failover = gaps.iter().find(|gap| gap["failover"] == true).unwrap();
    let waited_ms = run["totals"]["response_us"]["max"].as_f64().unwrap() / 1000.0;
    assert!(waited_ms >= failover["ms"].as_f64().unwrap() / 2.0, "{json:#}");
    assert_eq!(json["config"]["cluster"], true);
}

#[test]
fn a_closed_loop_goes_on_after_a_failover() {
    let (_, text) = killed_under("-c 2 -t 1 -P 4");
    println!("{text}");
}
