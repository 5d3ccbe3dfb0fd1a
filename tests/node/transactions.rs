//! Transactions, as far as they are not compared with Redis elsewhere: what bounds them, and what CLIENT INFO says.

use crate::common::{Server, info, ok, wait_until};
use keyloom::resp::read::Value;

fn queued() -> Value {
    Value::Simple(b"QUEUED".to_vec())
}

fn error(text: &str) -> Value {
    Value::Error(text.as_bytes().to_vec())
}

/// What is queued counts as what the client has sent: there is a limit, and EXEC is refused beyond it.
#[test]
fn the_queue_is_bounded() {
    let server = Server::keyloom(&["--cpus", "0-1", "--client-query-buffer-limit", "1mb"]);
    let mut client = server.client();
    let value = "v".repeat(300_000);
    assert_eq!(client.call(&["MULTI"]), ok());
    for n in 0..3 {
        assert_eq!(client.call(&["SET", &format!("key{n}"), &value]), queued());
    }
    assert_eq!(client.call(&["SET", "key3", &value]), error("ERR the transaction is too large"));
    assert_eq!(client.call(&["GET", "key0"]), queued());
    assert_eq!(client.call(&["EXEC"]), error("EXECABORT Transaction discarded because of previous errors."));
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(0));
    // The next transaction begins with nothing.
    assert_eq!(client.call(&["MULTI"]), ok());
    for n in 0..3 {
        assert_eq!(client.call(&["SET", &format!("key{n}"), &value]), queued());
    }
    assert_eq!(client.call(&["EXEC"]), Value::Array(vec![ok(), ok(), ok()]));
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(3));
}

/// Large values are queued, run and come back whole, on one core and over two.
#[test]
fn large_values_pass_through_transactions() {
    for cpus in ["0", "0-1"] {
        let server = Server::keyloom(&["--cpus", cpus]);
        let mut client = server.client();
        let value = |n: usize| format!("{n}").repeat(100_000 * (n + 1));
        client.call(&["MULTI"]);
        for n in 0..8 {
            assert_eq!(client.call(&["SET", &format!("key{n}"), &value(n)]), queued());
            assert_eq!(client.call(&["GET", &format!("key{n}")]), queued());
        }
        let Value::Array(replies) = client.call(&["EXEC"]) else { panic!("EXEC did not run") };
        for n in 0..8 {
            assert_eq!(replies[2 * n], ok());
            assert!(replies[2 * n + 1] == Value::Bulk(value(n).into_bytes()), "key{n}");
        }
        let names: Vec<String> = (0..8).map(|n| format!("key{n}")).collect();
        let Value::Array(values) = client.call(&[&["MGET".to_string()], &names[..]].concat()) else { panic!("MGET") };
        assert!(values.iter().enumerate().all(|(n, got)| *got == Value::Bulk(value(n).into_bytes())));
        // An EXEC for one core alone, and its replies in their order.
        client.call(&["MULTI"]);
        client.call(&["STRLEN", "key7"]);
        client.call(&["PING"]);
        client.call(&["GET", "key7"]);
        let Value::Array(replies) = client.call(&["EXEC"]) else { panic!("EXEC did not run") };
        assert_eq!(replies[..2], [Value::Int(800_000), Value::Simple(b"PONG".to_vec())]);
        assert!(replies[2] == Value::Bulk(value(7).into_bytes()));
    }
}

#[test]
fn client_info_tells_of_the_queue() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let (mut client, mut other) = (server.client(), server.client());
    client.call(&["CLIENT", "SETNAME", "queues"]);
    let mut line = || {
        let Value::Bulk(list) = other.call(&["CLIENT", "LIST"]) else { panic!("no text") };
        let list = String::from_utf8(list).unwrap();
        list.lines().find(|line| line.contains("name=queues")).unwrap().to_string()
    };
    let field = |line: &str, name: &str| {
        let text = line.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('=')).unwrap().to_string();
        text.parse::<i64>().unwrap()
    };
    assert_eq!((field(&line(), "multi"), field(&line(), "watch"), field(&line(), "multi-mem")), (-1, 0, 0));
    client.call(&["WATCH", "k0", "k1", "k2", "k0"]);
    client.call(&["MULTI"]);
    client.call(&["SET", "k0", &"v".repeat(10_000)]);
    client.call(&["GET", "k0"]);
    let with = line();
    assert!(with.contains(" flags=x "), "{with}");
    assert_eq!((field(&with, "multi"), field(&with, "watch")), (2, 3));
    assert!(field(&with, "multi-mem") > 10_000 && field(&with, "tot-mem") > field(&with, "multi-mem"), "{with}");
    client.call(&["EXEC"]);
    assert_eq!((field(&line(), "multi"), field(&line(), "watch"), field(&line(), "multi-mem")), (-1, 0, 0));
}

/// Clients that vanish while they queue or watch are forgotten, with what they queued.
#[test]
fn vanished_clients_are_forgotten() {
    let server = Server::keyloom(&["--cpus", "0-1"]);
    let mut client = server.client();
    for n in 0..50 {
        let mut gone = server.client();
        gone.call(&["WATCH", "k0", "k1", &format!("w{n}")]);
        gone.call(&["MULTI"]);
        gone.call(&["SET", "k0", "never"]);
    }
    wait_until("they are gone", || info(&mut client, "connected_clients") == 1);
    assert_eq!(client.call(&["EXISTS", "k0"]), Value::Int(0));
    assert_eq!(client.call(&["MSET", "k0", "1", "k1", "2"]), ok());
}
