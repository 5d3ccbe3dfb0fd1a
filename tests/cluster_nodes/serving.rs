//! A cluster that nothing befalls: every key is where slots say, and nowhere else.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::Command;

use keyloom::resp::read::Value;
use keyloom::route::slot_of;

use crate::client::{Answer, Router};
use crate::common::{Client, info, ok, wait_until};
use crate::load::Load;
use crate::nodes::{CORE_ENDPOINTS, Cluster, HEALTHY_MAX, slots};
use crate::rounds::copies;

const KEYS: usize = 600;

fn error(reply: Value) -> String {
    match reply {
        Value::Error(text) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?} is no error"),
    }
}

fn count(client: &mut Client, command: &str) -> i64 {
    match client.call(&[command]) {
        Value::Int(count) => count,
        other => panic!("{command} is answered {other:?}"),
    }
}

/// `redis-cli --cluster check`, if there is one.
fn redis_cli_is_content(cluster: &Cluster) {
    let address = cluster.nodes[0].addr().to_string();
    let Ok(output) = Command::new("redis-cli").args(["--cluster", "check", &address]).output() else {
        return println!("there is no redis-cli");
    };
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains("[OK] All 16384 slots covered"), "{said}");
    assert!(said.contains("[OK] All nodes agree about slots configuration"), "{said}");
}

/// WAIT counts the copies that others have received.
#[test]
fn copies_are_waited_for() {
    let cluster = Cluster::local(3, &["--cluster-copies", "3"]);
    for node in 0..3 {
        let key = cluster.key_led_by(node, "waited");
        let mut client = cluster.nodes[node].client();
        assert_eq!(client.call(&["SET", &key, "value"]), ok());
        assert_eq!(client.call(&["WAIT", "2", "10000"]), Value::Int(2));
    }
}

#[test]
fn every_key_is_where_slots_say() {
    for seed in 1..3 {
        let cluster = Cluster::local(3, &["--cluster-copies", copies(seed)]);
        let status = cluster.status_of(0).unwrap();
        assert_eq!(status.copies.to_string(), copies(seed));
        // Each node has its part, as far as it goes.
        let share = status.partitions / 3;
        for [leads, holds, in_sync] in status.nodes.values() {
            assert!((share..=share + 1).contains(leads), "{status:?}");
            assert!((share * status.copies..=(share + 1) * status.copies).contains(holds), "{status:?}");
            assert_eq!(holds, in_sync, "{status:?}");
        }
        let leaders = cluster.slots_of(0).unwrap();
        let mut clients: Vec<Client> = cluster.nodes.iter().map(|node| node.client()).collect();
        let mut router = Router::new(&cluster.addresses()[..1], "quorum");
        let mut led = [0; 3];
        for n in 0..KEYS {
            let key = format!("key:{n}");
            let slot = slot_of(key.as_bytes());
            let leader = leaders[slot as usize].unwrap();
            led[leader] += 1;
            let moved = format!("MOVED {slot} {}", cluster.nodes[leader].addr());
            for node in (0..3).filter(|node| *node != leader) {
                assert_eq!(error(clients[node].call(&["SET", &key, "x"])), moved);
                assert_eq!(error(clients[node].call(&["GET", &key])), moved);
            }
            assert_eq!(clients[leader].call(&["GET", &key]), Value::Null);
            assert_eq!(router.call(&key, &["SET", &key, &n.to_string()], HEALTHY_MAX), Answer::Done(ok()));
            assert_eq!(clients[leader].call(&["GET", &key]), Value::Bulk(n.to_string().into_bytes()));
        }
        assert!(led.iter().all(|&count| count > KEYS as i64 / 6), "{led:?}");
        // A node counts and shows what it leads, not its copies.
        for (client, led) in clients.iter_mut().zip(led) {
            assert_eq!(count(client, "DBSIZE"), led);
            let Value::Array(keys) = client.call(&["KEYS", "*"]) else { panic!("KEYS is an array") };
            assert_eq!(keys.len() as i64, led);
        }
        let crossed = "CROSSSLOT Keys in request don't hash to the same slot";
        assert_eq!(error(clients[0].call(&["MSET", "a", "1", "b", "2", "c", "3"])), crossed);
        assert_eq!(error(clients[1].call(&["MGET", "a", "b", "c"])), crossed);
        redis_cli_is_content(&cluster);
        cluster.wait_healthy();
    }
}

/// Asks each key where CLUSTER SLOTS says, and counts the requests that were handed on to another core for all that.
fn hops_where_slots_say(cluster: &Cluster, value: &str) -> u64 {
    let hops =
        |cluster: &Cluster| -> u64 { cluster.nodes.iter().map(|node| info(&mut node.client(), "core_hops")).sum() };
    let ranges = slots(cluster.ask(0, &["CLUSTER", "SLOTS"]).unwrap()).unwrap();
    let before = hops(cluster);
    let mut clients: HashMap<SocketAddr, Client> = HashMap::new();
    for n in 0..KEYS {
        let key = format!("key:{n}");
        let slot = slot_of(key.as_bytes());
        let (.., address) = ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&slot)).unwrap();
        let client = clients.entry(*address).or_insert_with(|| Client::try_connect(*address).unwrap());
        assert_eq!(client.call(&["SET", &key, value]), ok());
        assert_eq!(client.call(&["GET", &key]), Value::Bulk(value.into()));
        // Others send clients to the core, too.
        let leader = cluster.at(*address).unwrap();
        let moved = format!("MOVED {slot} {address}");
        assert_eq!(error(cluster.ask((leader + 1) % 3, &["GET", &key]).unwrap()), moved);
    }
    hops(cluster) - before
}

/// The nodes have two cores, one and one.
#[test]
fn clients_reach_the_core_that_has_the_key() {
    let cluster = Cluster::local(3, &CORE_ENDPOINTS);
    assert_eq!(hops_where_slots_say(&cluster, "first"), 0);
    redis_cli_is_content(&cluster);
    // The node with two cores takes all roles: they are elsewhere on it than where they were.
    assert_eq!(cluster.nodes[0].client().call(&["CLUSTER", "FAILOVER"]), ok());
    wait_until("one node leads everything", || {
        (0..3).all(|node| cluster.slots_of(node).is_some_and(|slots| slots.iter().all(|leader| *leader == Some(0))))
    });
    assert_eq!(hops_where_slots_say(&cluster, "second"), 0);
}

/// What a connection waits for, and what expires, is led as everything else.
#[test]
fn keys_expire_and_clients_wait_on_each_node() {
    let cluster = Cluster::local(3, &[]);
    let all = cluster.addresses();
    for node in 0..3 {
        let (list, timed) = (cluster.key_led_by(node, "list"), cluster.key_led_by(node, "timed"));
        let mut waits = cluster.nodes[node].client();
        waits.send(&["BLPOP", &list, "0"]);
        let mut router = Router::new(&all, "quorum");
        assert_eq!(router.call(&list, &["RPUSH", &list, "1"], HEALTHY_MAX), Answer::Done(Value::Int(1)));
        assert_eq!(waits.read(), Value::Array(vec![Value::Bulk(list.into()), Value::Bulk(b"1".to_vec())]));
        assert_eq!(router.call(&timed, &["SET", &timed, "1", "PX", "30"], HEALTHY_MAX), Answer::Done(ok()));
        crate::common::wait_until("it has expired", || {
            router.call(&timed, &["GET", &timed], HEALTHY_MAX) == Answer::Done(Value::Null)
        });
        assert_eq!(count(&mut cluster.nodes[node].client(), "DBSIZE"), 0);
    }
}

/// The checks are worth something: when keys are lost, they say so.
#[test]
fn what_is_lost_shows() {
    let cluster = Cluster::alone(&[]);
    let load = Load::start(&cluster, "memory", 1);
    load.wait_progress(&cluster);
    assert_eq!(cluster.nodes[0].client().call(&["FLUSHALL"]), ok());
    load.wait_progress(&cluster);
    let checked = catch_unwind(AssertUnwindSafe(|| load.stop()));
    let said = checked.expect_err("everything is gone, and nobody has seen it");
    let said = said.downcast_ref::<String>().expect("a text");
    assert!(said.contains("not linearisable") || said.contains("Lost("), "{said}");
}

/// And they say nothing when nothing is lost, though clients do not know what became of their requests.
#[test]
fn what_is_not_lost_does_not() {
    let mut cluster = Cluster::alone(&["--appendonly", "yes"]);
    let load = Load::start(&cluster, "disk", 1);
    for _ in 0..3 {
        load.wait_progress(&cluster);
        cluster.kill(0);
        cluster.restart(0);
    }
    load.wait_progress(&cluster);
    let counts = load.stop();
    assert!(counts.unknown > 0, "{counts:?}");
}
