//! REPLICAOF and FAILOVER, in and out of season.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use keyloom::resp::read::Value;

use crate::common::{Client, Server, free_port, ok, wait_until};
use crate::load::{Load, pair};
use crate::nodes::{Role, equal_at_rest, leads, logs, primary, replica, role, text, wait_connected};
use crate::proxy::Proxy;

fn replica_of(client: &mut Client, port: u16) -> Value {
    client.call(&["REPLICAOF", "127.0.0.1", &port.to_string()])
}

fn no_one(client: &mut Client) -> String {
    text(&client.call(&["REPLICAOF", "NO", "ONE"]))
}

fn configured(client: &mut Client) -> String {
    let Value::Array(pair) = client.call(&["CONFIG", "GET", "replicaof"]) else { panic!("a pair") };
    text(&pair[1])
}

fn addr(port: u16) -> std::net::SocketAddr {
    (std::net::Ipv4Addr::LOCALHOST, port).into()
}

/// Pushes to two lists on different cores, in a transaction or by itself. The length of both.
fn push_to_both(client: &mut Client, list: &str, n: u64) -> Option<Value> {
    let n = n.to_string();
    let [a, b] = pair(0).map(|key| format!("{{{key}}}:{list}"));
    client.try_call(&["MULTI"])?;
    let queued = [client.try_call(&["RPUSH", &a, &n])?, client.try_call(&["RPUSH", &b, &n])?];
    let done = client.try_call(&["EXEC"])?;
    match done {
        Value::Array(both) => {
            assert_eq!(both[0], both[1], "half of a transaction");
            Some(both[0].clone())
        }
        _ => queued.into_iter().find(|reply| matches!(reply, Value::Error(_))).or(Some(done)),
    }
}

/// Pushes 0, 1, 2, ... to wherever the lead is, until told to stop; `pushed` counts.
fn push_everywhere(list: &str, ports: [u16; 2], pushed: &AtomicU64, stop: &AtomicBool) {
    let mut at = ports[0];
    let mut client = Client::try_connect(addr(at)).unwrap();
    let mut n = 0;
    while !stop.load(Ordering::Relaxed) {
        match push_to_both(&mut client, list, n) {
            Some(Value::Int(len)) => {
                assert_eq!(len as u64, n + 1, "a write was lost, or done twice");
                n += 1;
                pushed.store(n, Ordering::Relaxed);
            }
            Some(error) => {
                let error = text(&error);
                assert!(["READONLY", "LOADING", "EXECABORT"].iter().any(|word| error.starts_with(word)), "{error}");
                at = if at == ports[0] { ports[1] } else { ports[0] };
                client = Client::try_connect(addr(at)).unwrap();
            }
            None => panic!("a failover breaks no connection"),
        }
    }
}

#[test]
fn failovers_under_load_lose_nothing() {
    let nodes = [primary(&[]), Server::keyloom(&["--cpus", "0,1", "--appendonly", "yes"])];
    assert_eq!(replica_of(&mut nodes[1].client(), nodes[0].port), ok());
    wait_connected(&nodes[1]);
    let ports = [nodes[0].port, nodes[1].port];
    let (stop, pushed) = (Arc::new(AtomicBool::new(false)), [(); 3].map(|()| Arc::new(AtomicU64::new(0))));
    let threads: Vec<_> = (0..3)
        .map(|n| {
            let (stop, pushed) = (Arc::clone(&stop), Arc::clone(&pushed[n]));
            std::thread::spawn(move || push_everywhere(&format!("list:{n}"), ports, &pushed, &stop))
        })
        .collect();
    let all = |from: [u64; 3]| (0..3).all(|n| pushed[n].load(Ordering::Relaxed) >= from[n] + 20);
    let mut clients = [nodes[0].client(), nodes[1].client()];
    for turn in 0..4 {
        let (old, new) = (turn % 2, 1 - turn % 2);
        let from = [0, 1, 2].map(|n| pushed[n].load(Ordering::Relaxed));
        wait_until("all clients write", || all(from));
        wait_until("the other one is in sync", || {
            let port = nodes[new].port.to_string();
            let plain = turn < 2;
            let args = ["FAILOVER", "TO", "127.0.0.1", &port, "TIMEOUT", "5000"];
            clients[old].call(if plain { &args[..1] } else { &args[..] }) == ok()
        });
        wait_until("the lead has changed", || leads(&mut clients[new]) && !leads(&mut clients[old]));
        assert!(text(&clients[old].call(&["SET", "a", "b"])).starts_with("READONLY"));
        assert_eq!(configured(&mut clients[old]), format!("127.0.0.1 {}", nodes[new].port));
        assert_eq!(configured(&mut clients[new]), "");
        wait_connected(&nodes[old]);
    }
    stop.store(true, Ordering::Relaxed);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    equal_at_rest(&[&nodes[0], &nodes[1]]);
    for (n, pushed) in pushed.iter().enumerate() {
        let [a, b] = pair(0).map(|key| clients[0].call(&["LRANGE", &format!("{{{key}}}:list:{n}"), "0", "-1"]));
        let expected = (0..pushed.load(Ordering::Relaxed)).map(|n| Value::Bulk(n.to_string().into_bytes())).collect();
        assert_eq!(a, Value::Array(expected), "{}", logs(&[&nodes[0], &nodes[1]]));
        assert_eq!(a, b);
    }
    // Nobody has needed a copy but the first replica.
    let copies = |node: &Server| node.log().matches("a copy of the primary's data begins").count();
    assert_eq!([copies(&nodes[0]), copies(&nodes[1])], [0, 1], "{}", logs(&[&nodes[0], &nodes[1]]));
}

#[test]
fn failovers_that_cannot_be_done_change_nothing() {
    let first = primary(&[]);
    let mut client = first.client();
    let failover = |client: &mut Client, rest: &[&str]| text(&client.call(&[&["FAILOVER"], rest].concat()));
    assert!(failover(&mut client, &[]).starts_with("ERR"));
    assert!(failover(&mut client, &["ABORT"]).starts_with("ERR"));
    let second = replica(first.port, "0,1", &[]);
    wait_connected(&second);
    let gone = free_port().to_string();
    assert!(failover(&mut client, &["TO", "127.0.0.1", &gone]).starts_with("ERR"));
    assert!(failover(&mut second.client(), &[]).starts_with("ERR"));
    let port = second.port.to_string();
    // It stands still: the failover waits, and clients with it, until it is over by itself, or ended.
    second.signal("STOP");
    client.call(&["SET", "before", "1"]);
    assert_eq!(failover(&mut client, &["TO", "127.0.0.1", &port, "TIMEOUT", "700"]), "OK");
    assert!(failover(&mut client, &[]).starts_with("ERR"));
    assert!(text(&replica_of(&mut client, second.port)).starts_with("ERR REPLICAOF not allowed while failing over"));
    let mut writer = first.client();
    assert_eq!(writer.call(&["SET", "waits", "1"]), ok());
    assert!(failover(&mut client, &["ABORT"]).starts_with("ERR"), "it is over");
    assert_eq!(failover(&mut client, &["TO", "127.0.0.1", &port]), "OK");
    writer.send(&["SET", "waits", "2"]);
    assert_eq!(failover(&mut client, &["ABORT"]), "OK");
    assert_eq!(writer.read(), ok());
    // Writes that are on their way between cores when it begins wait, too, in their order; reads do not.
    for _ in 0..20 {
        let mut writers: Vec<Client> = (0..4).map(|_| first.client()).collect();
        let keys: Vec<String> = (0..40).map(|n| format!("way:{n}")).collect();
        let send = |writers: &mut [Client]| {
            writers.iter_mut().for_each(|writer| keys.iter().for_each(|key| writer.send(&["INCR", key])));
        };
        client.call(&["FLUSHALL"]);
        send(&mut writers);
        assert_eq!(failover(&mut client, &["TO", "127.0.0.1", &port]), "OK");
        send(&mut writers);
        let mut reader = first.client();
        keys.iter().for_each(|key| assert!(!matches!(reader.call(&["GET", key]), Value::Error(_))));
        assert_eq!(failover(&mut client, &["ABORT"]), "OK");
        for writer in &mut writers {
            let mut replies = || keys.iter().map(|_| writer.read()).collect::<Vec<_>>();
            let (one, two) = (replies(), replies());
            for pair in one.iter().zip(&two) {
                assert!(matches!(pair, (Value::Int(one), Value::Int(two)) if one < two), "{pair:?}");
            }
        }
        let sum = Value::Bulk(b"8".to_vec());
        keys.iter().for_each(|key| assert_eq!(client.call(&["GET", key]), sum));
    }
    assert!(leads(&mut client));
    second.signal("CONT");
    equal_at_rest(&[&first, &second]);
}

#[test]
fn odd_primaries_are_refused_politely() {
    let guarded = primary(&["--requirepass", "secret"]);
    let node = Server::keyloom(&["--cpus", "0,1"]);
    let mut client = node.client();
    client.call(&["SET", "mine", "1"]);
    let kept = |client: &mut Client| {
        assert_eq!(no_one(client), "OK");
        wait_until("it leads", || leads(client));
        assert_eq!(client.call(&["GET", "mine"]), Value::Bulk(b"1".to_vec()));
        assert_eq!(client.call(&["SET", "mine", "1"]), ok());
    };
    let fails = |client: &mut Client, port: u16, word: &str| {
        let before = node.log().len();
        assert_eq!(replica_of(client, port), ok());
        wait_until("it is said why", || node.log()[before..].contains(word));
        assert!(matches!(role(client), Role::Follows { state, .. } if state == "connect"), "{}", node.log());
        assert_eq!(configured(client), format!("127.0.0.1 {port}"));
    };
    fails(&mut client, node.port, "refuses this replica");
    kept(&mut client);
    fails(&mut client, free_port(), "cannot be reached");
    kept(&mut client);
    fails(&mut client, guarded.port, "NOAUTH");
    client.call(&["CONFIG", "SET", "masterauth", "wrong"]);
    kept(&mut client);
    fails(&mut client, guarded.port, "WRONGPASS");
    client.call(&["CONFIG", "SET", "masterauth", "secret"]);
    wait_connected(&node);
    assert_eq!(client.call(&["GET", "mine"]), Value::Null);
    assert_eq!(no_one(&mut client), "OK");
    wait_until("it leads", || leads(&mut client));
    assert_eq!(configured(&mut client), "");
    client.call(&["SET", "mine", "1"]);
    if Server::redis_version().is_some() {
        client.call(&["CONFIG", "SET", "masterauth", ""]);
        let redis = Server::redis(&[]);
        fails(&mut client, redis.port, "unknown command");
        kept(&mut client);
    }
}

/// Before a copy has begun there may be nothing at the key.
fn is_loading(client: &mut Client) -> bool {
    matches!(client.call(&["GET", "a"]), Value::Error(error) if error.starts_with(b"LOADING"))
}

#[test]
fn the_role_can_change_during_a_copy() {
    let first = primary(&["--databases", "3"]);
    let mut client = first.client();
    for n in 0..100 {
        client.call(&["SET", &format!("big:{n}"), &"x".repeat(100_000)]);
    }
    let other = primary(&["--databases", "3"]);
    let load = Load::start(&first, 1, 3);
    let other_load = Load::start(&other, 1, 4);
    let way = Proxy::to(first.port);
    let node = Server::keyloom(&["--cpus", "0,1", "--databases", "3", "--appendonly", "yes"]);
    let mut client = node.client();
    for _ in 0..3 {
        way.hold_after(2_000_000);
        assert_eq!(replica_of(&mut client, way.port), ok());
        wait_until("a copy has begun", || way.is_still() && is_loading(&mut client));
        let refused = no_one(&mut client);
        assert!(refused.starts_with("ERR a copy was begun and is not complete"), "{refused}");
        assert!(text(&client.call(&["SET", "a", "b"])).starts_with("READONLY"));
        assert!(!leads(&mut client));
        assert_eq!(replica_of(&mut client, other.port), ok());
        wait_connected(&node);
        way.mend();
    }
    load.stop();
    other_load.stop();
    equal_at_rest(&[&other, &node]);
    assert_eq!(replica_of(&mut client, first.port), ok());
    equal_at_rest(&[&first, &node]);
    // To the same one again is no news.
    let known = Value::Simple(b"OK Already connected to specified master".to_vec());
    assert_eq!(replica_of(&mut client, first.port), known);
    equal_at_rest(&[&first, &node]);
    assert!(!node.log().contains("does not fit"), "{}", node.log());
}

#[test]
fn the_role_is_kept_by_config_rewrite() {
    let first = primary(&[]);
    let mut node = Server::keyloom(&["--cpus", "0"]);
    node.kill();
    let file = node.dir().join("node.conf");
    std::fs::write(&file, "cpus 0\n").unwrap();
    // The file comes before the options.
    let file = file.to_str().unwrap().to_string();
    node.restart(&["--config", &file]);
    let mut client = node.client();
    assert_eq!(replica_of(&mut client, first.port), ok());
    assert_eq!(client.call(&["CONFIG", "REWRITE"]), ok());
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(kept.contains(&format!("replicaof 127.0.0.1 {}", first.port)), "{kept}");
    wait_connected(&node);
    assert_eq!(no_one(&mut client), "OK");
    assert_eq!(client.call(&["CONFIG", "REWRITE"]), ok());
    let kept = std::fs::read_to_string(&file).unwrap();
    assert!(!kept.contains(&first.port.to_string()), "{kept}");
}

#[test]
fn clients_that_wait_when_the_role_changes() {
    let first = primary(&[]);
    let node = Server::keyloom(&["--cpus", "0,1", "--min-insync", "2"]);
    let follower = replica(node.port, "0", &[]);
    wait_connected(&follower);
    let (mut client, mut blocked, mut quorum) = (node.client(), node.client(), node.client());
    blocked.send(&["BLPOP", "queue", "0"]);
    quorum.call(&["CLIENT", "DURABILITY", "quorum"]);
    wait_until("enough are in sync", || quorum.call(&["SET", "q", "0"]) == ok());
    wait_until("it waits", || crate::common::info(&mut client, "blocked_clients") == 1);
    follower.signal("STOP");
    // Nobody can say any more whether this one will last.
    quorum.send(&["SET", "q", "1"]);
    quorum.send(&["SET", "another", "1"]);
    wait_until("it is executed", || client.call(&["GET", "another"]) != Value::Null);
    assert_eq!(replica_of(&mut client, first.port), ok());
    assert!(text(&blocked.read()).starts_with("UNBLOCKED"));
    assert_eq!(quorum.try_read_raw(), None, "what is not confirmed must not be acknowledged");
    wait_connected(&node);
    equal_at_rest(&[&first, &node]);
    follower.signal("CONT");
}
