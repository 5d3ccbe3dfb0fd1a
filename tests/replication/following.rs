//! Replicas under load: they hold the same in the end, show nothing half, and do nothing of their own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use keyloom::resp::read::Value;

use crate::common::{info, seed, wait_until};
use crate::load::{Load, watch_pairs};
use crate::nodes::{Role, digest, equal_at_rest, primary, replica, role, text, wait_connected};

#[test]
fn replicas_of_all_shapes_hold_the_same() {
    let seed = seed();
    println!("seed {seed}");
    let first = primary(&["--databases", "3"]);
    let load = Load::start(&first, 4, seed);
    load.goes_on(2_000);
    // They come while writes go on, so there are copies to take.
    let two = replica(first.port, "0,1", &["--databases", "3"]);
    let one = replica(first.port, "0", &["--databases", "3", "--partitions", "64"]);
    let chained = replica(two.port, "1", &["--databases", "16", "--appendonly", "yes"]);
    [&two, &one, &chained].into_iter().for_each(wait_connected);
    let stop = Arc::new(AtomicBool::new(false));
    let watchers = [&two, &one, &chained].map(|node| {
        let (mut client, stop) = (node.client(), Arc::clone(&stop));
        std::thread::spawn(move || watch_pairs(&mut client, &stop))
    });
    load.goes_on(30_000);
    stop.store(true, Ordering::Relaxed);
    for watcher in watchers {
        assert!(watcher.join().unwrap() > 50, "too little was seen");
    }
    load.stop();
    let all = equal_at_rest(&[&first, &two, &one, &chained]);
    assert!(all.len() > 50, "there is little to compare: {}", all.len());
    for node in [&two, &one, &chained] {
        let mut client = node.client();
        assert!(text(&client.call(&["SET", "a", "b"])).starts_with("READONLY"));
        assert!(text(&client.call(&["FLUSHALL"])).starts_with("READONLY"));
        client.call(&["MULTI"]);
        assert!(text(&client.call(&["SET", "a", "b"])).starts_with("READONLY"));
        assert!(text(&client.call(&["EXEC"])).starts_with("EXECABORT"));
        let said = node.log();
        assert!(!said.contains("ERROR"), "{said}");
    }
}

#[test]
fn large_collections_are_copied_from_a_relay_under_load() {
    let first = primary(&["--databases", "3"]);
    let mut client = first.client();
    for key in ["large", "{a}large", "{b}large"] {
        for n in 0..200 {
            let mut command = vec!["SADD".to_string(), key.to_string()];
            command.extend((0..250).map(|m| format!("member {n} {m} {}", "x".repeat(20))));
            client.send(&command);
        }
        (0..200).for_each(|_| drop(client.read()));
    }
    let load = Load::start(&first, 2, seed() + 21);
    let second = replica(first.port, "0,1", &["--databases", "3"]);
    wait_connected(&second);
    // They change all the time, on the relay, too, while they are copied from there in pieces.
    let changing = {
        let (mut client, load) = (first.client(), std::sync::Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&load);
        let thread = std::thread::spawn(move || {
            for n in 0.. {
                let member = format!("new {n}");
                for key in ["large", "{a}large", "{b}large"] {
                    client.call(&["SADD", key, &member]);
                    client.call(&["SPOP", key]);
                }
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        (load, thread)
    };
    let third = replica(second.port, "0", &["--databases", "3", "--appendonly", "yes"]);
    let fourth = replica(third.port, "1", &["--databases", "3"]);
    [&third, &fourth].into_iter().for_each(wait_connected);
    load.goes_on(500);
    changing.0.store(true, Ordering::Relaxed);
    changing.1.join().unwrap();
    load.stop();
    equal_at_rest(&[&first, &second, &third, &fourth]);
}

#[test]
fn a_replica_expires_and_evicts_nothing_by_itself() {
    let first = primary(&["--databases", "3"]);
    let second =
        replica(first.port, "0,1", &["--databases", "3", "--maxmemory", "3mb", "--maxmemory-policy", "allkeys-lru"]);
    wait_connected(&second);
    let (mut client, mut reader) = (first.client(), second.client());
    // The primary stands still when the deadline comes, so nobody tells the replica.
    client.call(&["SET", "short", "1", "PX", "1500"]);
    client.call(&["HSET", "h", "f", "1", "g", "2"]);
    client.call(&["HPEXPIRE", "h", "1500", "FIELDS", "1", "f"]);
    client.call(&["SET", "long", "1"]);
    wait_until("all is applied", || reader.call(&["GET", "long"]) != Value::Null);
    assert_ne!(reader.call(&["GET", "short"]), Value::Null);
    first.signal("STOP");
    wait_until("the key is over", || reader.call(&["GET", "short"]) == Value::Null);
    assert_eq!(reader.call(&["EXISTS", "short"]), Value::Int(0));
    wait_until("the field is over", || reader.call(&["HGET", "h", "f"]) == Value::Null);
    // Hidden, and not removed.
    assert_eq!(info(&mut reader, "expired_keys"), 0);
    assert_eq!(info(&mut reader, "expired_subkeys"), 0);
    first.signal("CONT");
    equal_at_rest(&[&first, &second]);
    wait_until("the primary has removed it", || reader.call(&["DBSIZE"]) == Value::Int(2));
    // More than the replica may hold: what its primary keeps, it keeps.
    for n in 0..40 {
        client.call(&["SET", &format!("big:{n}"), &"x".repeat(200_000)]);
    }
    let all = equal_at_rest(&[&first, &second]);
    assert_eq!(all.len(), 42);
    assert_eq!(info(&mut reader, "evicted_keys"), 0);
    assert_eq!(info(&mut reader, "expired_keys"), 0);
}

#[test]
fn bgsave_on_a_replica_under_load_is_whole() {
    let first = primary(&["--databases", "3"]);
    let load = Load::start(&first, 3, seed() + 1);
    load.goes_on(3_000);
    let files = ["--databases", "3", "--appendonly", "yes"];
    let mut second = replica(first.port, "0,1", &files);
    wait_connected(&second);
    let mut client = second.client();
    for _ in 0..3 {
        let saves = second.log().matches("the snapshot is complete").count();
        assert_eq!(client.call(&["BGSAVE"]), Value::Simple(b"Background saving started".to_vec()));
        load.goes_on(1_000);
        wait_until("the snapshot is complete", || second.log().matches("the snapshot is complete").count() > saves);
    }
    load.goes_on(500);
    load.stop();
    let before = equal_at_rest(&[&first, &second]);
    second.kill();
    // Alone: what it holds comes from its files.
    second.restart(&[&["--cpus", "0"], &files[..]].concat());
    let mut client = second.client();
    assert!(matches!(role(&mut client), Role::Leads { .. }));
    let after = digest(&mut client);
    let over: Vec<_> = crate::nodes::differences(&before, &after);
    // Time has gone on: what has a deadline may be over.
    assert!(over.iter().all(|line| line.ends_with("| None")), "{over:#?}");
    assert!(after.len() + 50 > before.len() && !after.is_empty());
}
