//! What a former primary does with what the others do not have.

use keyloom::resp::read::Value;

use crate::common::{Client, Server, ok, wait_until};
use crate::nodes::{digest, equal_at_rest, leads, logs, primary, replica, wait_connected};
use crate::proxy::Proxy;

const COPY: &str = "a copy of the primary's data begins";
const LOGGED: [&str; 2] = ["--appendonly", "yes"];

fn write(client: &mut Client, name: &str, count: usize) {
    for n in 0..count {
        assert_eq!(client.call(&["SET", &format!("{name}:{n}"), &format!("{name} {n}")]), ok());
    }
}

fn promote(server: &Server) -> Client {
    let mut client = server.client();
    assert_eq!(client.call(&["REPLICAOF", "NO", "ONE"]), ok());
    wait_until("it leads", || leads(&mut client));
    client
}

/// What the files hold that were set aside.
fn set_aside(server: &Server) -> Vec<Vec<u8>> {
    let entries = std::fs::read_dir(server.dir().join("appendonlydir")).unwrap().flatten();
    let files = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("set-aside-"));
    files.map(|entry| std::fs::read(entry.path()).unwrap()).collect()
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn the_tail_of_a_former_primary_is_set_aside() {
    let mut first = primary(&LOGGED);
    let way = Proxy::to(first.port);
    let second = replica(way.port, "0,1", &LOGGED);
    wait_connected(&second);
    let mut client = first.client();
    write(&mut client, "both", 100);
    equal_at_rest(&[&first, &second]);
    way.cut();
    write(&mut client, "tail", 50);
    assert_eq!(client.call(&["WAITAOF", "1", "0", "20000"]), Value::Array(vec![Value::Int(1), Value::Int(0)]));
    first.kill();
    let mut promoted = promote(&second);
    write(&mut promoted, "later", 30);
    first.restart(&[&["--cpus", "0,1", "--replicaof", "127.0.0.1", &second.port.to_string()], &LOGGED[..]].concat());
    let all = equal_at_rest(&[&second, &first]);
    assert_eq!(all.len(), 130);
    let said = first.log();
    assert!(said.contains("the primary does not have the end of this node's log"), "{said}");
    assert!(said.contains("complete=true"), "{said}");
    assert_eq!(said.matches(COPY).count(), 1, "{said}");
    let files = set_aside(&first);
    assert_eq!(files.len(), 1, "{said}");
    for n in 0..50 {
        assert!(contains(&files[0], &format!("tail {n}")), "tail {n} is lost");
    }
    assert!(!contains(&files[0], "both 3") && !contains(&files[0], "later 3"));
    // And it goes on with the new log, also from its files.
    write(&mut promoted, "more", 10);
    equal_at_rest(&[&second, &first]);
    first.kill();
    first.restart(&[&["--cpus", "0"], &LOGGED[..]].concat());
    assert_eq!(digest(&mut first.client()).len(), 140);
}

#[test]
fn a_former_primary_without_a_tail_goes_on_without_a_copy() {
    let mut first = primary(&LOGGED);
    let second = replica(first.port, "0,1", &LOGGED);
    let mut third = replica(first.port, "0", &LOGGED);
    [&second, &third].into_iter().for_each(wait_connected);
    let mut client = first.client();
    write(&mut client, "both", 100);
    client.call(&["MSET", "a", "1", "b", "2", "c", "3"]);
    assert_eq!(client.call(&["WAITAOF", "1", "2", "20000"]), Value::Array(vec![Value::Int(1), Value::Int(2)]));
    equal_at_rest(&[&first, &second, &third]);
    first.kill();
    let mut promoted = promote(&second);
    write(&mut promoted, "later", 30);
    let port = second.port.to_string();
    let copies = third.log().matches(COPY).count();
    assert_eq!(third.client().call(&["REPLICAOF", "127.0.0.1", &port]), ok());
    first.restart(&[&["--cpus", "0,1", "--replicaof", "127.0.0.1", &port], &LOGGED[..]].concat());
    equal_at_rest(&[&second, &first, &third]);
    assert_eq!(first.log().matches(COPY).count(), 0, "{}", first.log());
    assert_eq!(third.log().matches(COPY).count(), copies, "{}", third.log());
    // The log on disk goes on through the new history.
    write(&mut promoted, "more", 10);
    assert_eq!(promoted.call(&["WAITAOF", "1", "2", "20000"]), Value::Array(vec![Value::Int(1), Value::Int(2)]));
    let all = equal_at_rest(&[&second, &first, &third]);
    for server in [&mut first, &mut third] {
        server.kill();
        server.restart(&[&["--cpus", "0,1"], &LOGGED[..]].concat());
        assert_eq!(digest(&mut server.client()), all, "{}", server.log());
        assert!(!server.log().contains("ERROR"), "{}", server.log());
    }
}

#[test]
fn two_that_were_promoted_do_not_look_alike() {
    let mut first = primary(&[]);
    let second = replica(first.port, "0,1", &LOGGED);
    let third = replica(first.port, "0,1", &LOGGED);
    [&second, &third].into_iter().for_each(wait_connected);
    write(&mut first.client(), "both", 20);
    equal_at_rest(&[&first, &second, &third]);
    first.kill();
    // As many records each, at the same indices.
    write(&mut promote(&second), "second", 5);
    write(&mut promote(&third), "third", 5);
    let copies = third.log().matches(COPY).count();
    assert_eq!(third.client().call(&["REPLICAOF", "127.0.0.1", &second.port.to_string()]), ok());
    let all = equal_at_rest(&[&second, &third]);
    assert_eq!(all.len(), 25);
    assert_eq!(third.log().matches(COPY).count(), copies + 1, "{}", logs(&[&third]));
    let files = set_aside(&third);
    assert!(files.len() == 1 && (0..5).all(|n| contains(&files[0], &format!("third {n}"))), "{}", logs(&[&third]));
}
