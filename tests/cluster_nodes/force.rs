//! All that had everything of some partitions are lost. An operator gives up what only they had: the cluster serves all slots again,
//! with what a copy has that was left behind, or with nothing.

use std::process::{Command, Output};
use std::time::Instant;

use keyloom::resp::read::Value;
use keyloom::route::{SLOTS, slot_of};

use crate::client::{Answer, Router};
use crate::common::{bulk, ok, wait_until};
use crate::handovers::take_over;
use crate::nodes::{Cluster, HEALTHY_MAX};

const KEYS: usize = 300;

/// The one that goes on, the one that is lost, and the one whose copies are left behind.
const STAYS: usize = 0;
const LOST: usize = 1;
const STALE: usize = 2;

fn keys() -> impl Iterator<Item = String> {
    (0..KEYS).map(|n| format!("key:{n}"))
}

#[track_caller]
fn write_all(cluster: &Cluster, at: &[usize], durability: &'static str, value: &str) {
    let known: Vec<_> = at.iter().map(|node| cluster.nodes[*node].addr()).collect();
    let mut router = Router::new(&known, durability);
    for key in keys() {
        let end = Instant::now() + HEALTHY_MAX;
        // One of which nobody knows may be sent again: it is always the same.
        loop {
            match router.call(&key, &["SET", &key, value], end.saturating_duration_since(Instant::now())) {
                Answer::Unknown(why) => println!("{key} is set to {value} again: {why}"),
                answer => break assert_eq!(answer, Answer::Done(ok()), "{key}"),
            }
        }
    }
}

/// All keys of slots that were lost have one value, the others another one.
#[track_caller]
fn check_all(cluster: &Cluster, at: &[usize], lost: &[bool], of_lost: &Value, of_others: &Value) {
    let known: Vec<_> = at.iter().map(|node| cluster.nodes[*node].addr()).collect();
    let mut router = Router::new(&known, "memory");
    for key in keys() {
        let expected = if lost[slot_of(key.as_bytes()) as usize] { of_lost } else { of_others };
        assert_eq!(router.call(&key, &["GET", &key], HEALTHY_MAX), Answer::Done(expected.clone()), "{key}");
    }
}

fn error(reply: Option<Value>) -> String {
    match reply {
        Some(Value::Error(text)) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?} is no error"),
    }
}

fn force_promote(cluster: &Cluster, node: usize, lost: &str, more: &[&str]) -> Output {
    let address = cluster.nodes[node].addr().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_keyloom"));
    command.args(["cluster", "force-promote", &address, "--lost", lost]).args(more).output().unwrap()
}

/// The number that a node has in the cluster.
fn number_of(cluster: &Cluster, node: usize) -> String {
    let Some(Value::Bulk(text)) = cluster.ask(node, &["CLUSTER", "STATUS"]) else { panic!("it says nothing") };
    serde_json::from_slice::<serde_json::Value>(&text).unwrap()["me"].to_string()
}

/// Two copies of everything. One node dies, the other ones go on and write; then one of them dies for good, and the first one is back.
/// Which slots nobody leads then, how many partitions that is, and the number of the lost node. `before_it_is_back` sees the directory of the first one.
fn lose(cluster: &mut Cluster, before_it_is_back: impl FnOnce(&std::path::Path)) -> (Vec<bool>, u64, String) {
    let number = number_of(cluster, LOST);
    write_all(cluster, &[STAYS, LOST, STALE], "quorum-disk", "old");
    cluster.kill(STALE);
    wait_until("others lead everything", || {
        cluster.slots_of(STAYS).is_some_and(|slots| slots.iter().all(|leader| leader.is_some_and(|node| node != STALE)))
    });
    write_all(cluster, &[STAYS, LOST], "memory", "new");
    // What it leads, and the other one has a copy of, is there.
    let mut client = cluster.nodes[LOST].client();
    let followed = cluster.key_led_by(LOST, "waited");
    assert_eq!(client.call(&["SET", &followed, "v"]), ok());
    assert_eq!(client.call(&["WAIT", "1", "10000"]), Value::Int(1));
    cluster.kill(LOST);
    let reply = cluster.nodes[STAYS].client().call(&["CLUSTER", "FORCE-PROMOTE", &number]);
    let said = error(Some(reply));
    assert!(said.starts_with("ERR raft does not answer, nothing is promoted"), "{said}");
    before_it_is_back(cluster.nodes[STALE].dir());
    cluster.restart(STALE);
    let mut stuck = 0;
    wait_until("what the dead one led has other primaries, or none", || {
        let Some(status) = cluster.status_of(STAYS) else { return false };
        stuck = status.partitions - status.served;
        stuck > 0 && status.nodes[&LOST][0] == 0
    });
    let lost = |slots: &Vec<Option<usize>>| -> Vec<bool> { slots.iter().map(Option::is_none).collect() };
    let mut slots = Vec::new();
    wait_until("the node that stayed serves what it leads", || {
        slots = cluster.slots_of(STAYS).as_ref().map(lost).unwrap_or_default();
        let count = slots.iter().filter(|lost| **lost).count() as u64;
        let partitions = cluster.status_of(STAYS).map_or(0, |status| status.partitions);
        partitions > 0 && count == stuck * u64::from(SLOTS) / partitions
    });
    assert!(keys().any(|key| slots[slot_of(key.as_bytes()) as usize]), "no key is lost");
    (slots, stuck, number)
}

fn wait_served(cluster: &Cluster, at: &[usize]) {
    for node in at {
        wait_until("all slots are served", || cluster.slots_of(*node).is_some_and(|slots| !slots.contains(&None)));
    }
}

/// What it has counts for nothing.
#[track_caller]
fn the_lost_one_comes_back(cluster: &mut Cluster, lost: &[bool]) {
    cluster.restart(LOST);
    cluster.wait_healthy();
    check_all(cluster, &[STAYS, LOST, STALE], lost, &bulk("newer"), &bulk("newer"));
    cluster.assert_sound();
    cluster.assert_served_apart();
}

const ARGS: [&str; 6] = ["--cluster-copies", "2", "--appendonly", "yes", "--appendfsync", "always"];

#[test]
fn a_copy_that_was_left_behind_leads_by_force() {
    let mut cluster = Cluster::local(3, &ARGS);
    let (lost, stuck, number) = lose(&mut cluster, |_| ());
    let left = [STAYS, STALE];
    // One that has no copy of that cannot lead it, and nobody gives up anything by mistake.
    let said = error(cluster.ask(STAYS, &["CLUSTER", "FORCE-PROMOTE", &number]));
    assert!(said.starts_with("ERR nothing to promote"), "{said}");
    // As long as the node that had everything is not said to be lost, it is waited for.
    let other = number_of(&cluster, STAYS);
    let said = error(cluster.ask(STALE, &["CLUSTER", "FORCE-PROMOTE", "EMPTY", &other]));
    let kept = format!("of {stuck} everything is on nodes that are not said to be lost: {{{number}}}");
    assert!(said.starts_with("ERR nothing to promote") && said.contains(&kept), "{said}");
    let output = force_promote(&cluster, STALE, &number, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("every write is lost") && said.contains("--yes"), "{said}");
    assert_eq!(cluster.status_of(STAYS).map(|status| status.partitions - status.served), Some(stuck));

    let output = force_promote(&cluster, STALE, &number, &["--yes"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains(&format!("leads {stuck} partitions that nobody led")), "{said}");
    wait_served(&cluster, &left);
    check_all(&cluster, &left, &lost, &bulk("old"), &bulk("new"));
    let log = cluster.nodes[STALE].log();
    assert!(log.contains("asks to lead by force") && log.contains("after epoch"), "{log}");
    let said = error(cluster.ask(STALE, &["CLUSTER", "FORCE-PROMOTE", "empty", &number]));
    assert!(said.starts_with("ERR nothing to promote"), "{said}");
    write_all(&cluster, &left, "memory", "newer");
    check_all(&cluster, &left, &lost, &bulk("newer"), &bulk("newer"));
    the_lost_one_comes_back(&mut cluster, &lost);
}

#[test]
fn what_nobody_has_whole_begins_empty_and_lasts() {
    let mut cluster = Cluster::local(3, &ARGS);
    let (lost, stuck, number) = lose(&mut cluster, |dir| {
        // It does not know any more which of its copies are whole.
        std::fs::remove_file(dir.join("cluster/whole-partitions")).unwrap();
    });
    let left = [STAYS, STALE];
    let said = error(cluster.ask(STALE, &["CLUSTER", "FORCE-PROMOTE", &number]));
    assert!(said.starts_with("ERR nothing to promote") && said.contains(&format!("of {stuck} it has")), "{said}");
    let output = force_promote(&cluster, STALE, &number, &["--empty"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("begin empty"), "{said}");
    let output = force_promote(&cluster, STALE, &number, &["--empty", "--yes"]);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(output.status.success() && said.contains(&format!("leads {stuck} partitions that nobody led")), "{said}");
    wait_served(&cluster, &left);
    check_all(&cluster, &left, &lost, &Value::Null, &bulk("new"));
    write_all(&cluster, &left, "disk", "newer");
    // It is whole from now on: the next process believes what is on its disk.
    cluster.kill(STALE);
    cluster.restart(STALE);
    wait_served(&cluster, &left);
    check_all(&cluster, &left, &lost, &bulk("newer"), &bulk("newer"));
    the_lost_one_comes_back(&mut cluster, &lost);
}

/// Two of three nodes are lost for good, and with them raft: what the third one has, led or followed, begins a new cluster.
#[test]
fn what_a_survivor_has_begins_a_new_cluster() {
    let mut cluster = Cluster::local(3, &["--cluster-copies", "3", "--appendonly", "yes"]);
    // What the survivor has led and what it has followed are told apart by nothing in its log.
    assert_eq!(cluster.ask(0, &["CLUSTER", "REBALANCE", "PAUSE"]), Some(ok()));
    let mut gone = Router::new(&cluster.addresses(), "quorum");
    assert_eq!(gone.call("gone", &["SET", "gone", "v"], HEALTHY_MAX), Answer::Done(ok()));
    for (leader, value) in [(0, "first"), (1, "second"), (0, "third"), (1, "value")] {
        take_over(&cluster, leader);
        write_all(&cluster, &[0, 1, 2], "quorum", value);
    }
    assert_eq!(gone.call("gone", &["DEL", "gone"], HEALTHY_MAX), Answer::Done(Value::Int(1)));
    // What it has received and not heard to be committed, would not be there.
    let (mut client, mut reader) = (cluster.nodes[1].client(), cluster.nodes[0].client());
    assert_eq!(client.call(&["SET", "last", "v"]), ok());
    assert_eq!(reader.call(&["READONLY"]), ok());
    wait_until("the one that stays has everything", || {
        assert_eq!(client.call(&["WAIT", "2", "10000"]), Value::Int(2));
        reader.call(&["GET", "last"]) == bulk("v")
    });
    let lost = [number_of(&cluster, 1), number_of(&cluster, 2)].join(",");
    cluster.kill(1);
    cluster.kill(2);
    let said = String::from_utf8(force_promote(&cluster, 0, &lost, &["--yes"]).stderr).unwrap();
    assert!(said.contains("raft does not answer, nothing is promoted") && said.contains("keyloom export"), "{said}");
    wait_until("it says that nobody leads raft", || cluster.status_of(0).is_some_and(|is| is.raft_leader.is_none()));
    assert_eq!(cluster.ask(0, &["SHUTDOWN", "NOW"]), None);
    assert_eq!(cluster.nodes[0].wait_for_exit(HEALTHY_MAX), Some(0));

    cluster.run_one_more(&[]);
    cluster.kill(3);
    for files in std::fs::read_dir(cluster.nodes[3].dir()).unwrap() {
        let path = files.unwrap().path();
        if path.is_dir() { std::fs::remove_dir_all(path).unwrap() } else { std::fs::remove_file(path).unwrap() }
    }
    let (from, to) = (cluster.nodes[0].dir(), cluster.nodes[3].dir().join("dump.rdb"));
    let exported = Command::new(env!("CARGO_BIN_EXE_keyloom")).arg("export").args([from, &to]).output().unwrap();
    let said = String::from_utf8(exported.stdout).unwrap();
    assert!(said.contains(&format!(" {} keys in 1 databases\n", KEYS + 1)), "{said}");
    cluster.restart(3);
    let first = cluster.addresses()[3].to_string();
    cluster.operate(&["create", &first]);
    (0..3).for_each(|_| drop(cluster.forget(0)));
    cluster.join(&[]);
    cluster.wait_healthy();
    check_all(&cluster, &[0, 1], &vec![false; SLOTS.into()], &Value::Null, &bulk("value"));
}
