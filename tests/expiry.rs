//! Expiry of keys that nobody looks at. Each test starts the program; the clients ask for nothing but totals.

mod common;

use common::{Client, Server, info, ok, wait_until};
use keyloom::resp::read::{Value, encode_command};

const KEYS: usize = 20_000;
const VALUE_BYTES: usize = 1_000;

/// Sends one command for each key as a pipeline, and reads the replies.
fn for_each_key(client: &mut Client, command: impl Fn(&str) -> Vec<String>, reply: &Value) {
    for first in (0..KEYS).step_by(500) {
        let mut bytes = Vec::new();
        (first..first + 500).for_each(|i| encode_command(&command(&format!("key:{i}")), &mut bytes));
        client.send_bytes(&bytes);
        (first..first + 500).for_each(|_| assert_eq!(&client.read(), reply));
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

#[test]
fn untouched_keys_vanish_and_give_their_memory_back_in_every_database() {
    let server = Server::keyloom(&[]);
    let mut client = server.client();
    let before = info(&mut client, "used_memory");
    let value = "v".repeat(VALUE_BYTES);
    for db in ["0", "1"] {
        assert_eq!(client.call(&["SELECT", db]), ok());
        for_each_key(&mut client, |key| words(&["SET", key, &value, "EX", "100000"]), &ok());
        assert_eq!(client.call(&["SET", "lasting", "v"]), ok());
    }
    let all = 2 * KEYS * VALUE_BYTES;
    assert!(info(&mut client, "used_memory") > before + all as u64);
    for (db, ms) in [("0", "1"), ("1", "50")] {
        assert_eq!(client.call(&["SELECT", db]), ok());
        for_each_key(&mut client, |key| words(&["PEXPIRE", key, ms]), &Value::Int(1));
    }
    for db in ["0", "1"] {
        assert_eq!(client.call(&["SELECT", db]), ok());
        wait_until("all keys have expired", || client.call(&["DBSIZE"]) == Value::Int(1));
        assert_eq!(client.call(&["EXISTS", "lasting"]), Value::Int(1));
    }
    wait_until("the memory is back", || info(&mut client, "used_memory") < before + all as u64 / 4);
    assert_eq!(info(&mut client, "expired_keys"), 2 * KEYS as u64);
    // A burst like this is worked off in pieces.
    assert!(info(&mut client, "expire_lag_max_ms") >= info(&mut client, "expire_lag_p50_ms"));
}

#[test]
fn a_node_without_clients_at_work_expires_keys() {
    let server = Server::keyloom(&[]);
    let mut client = server.client();
    for (db, ms) in [("0", "1"), ("1", "30"), ("15", "700"), ("0", "1200")] {
        assert_eq!(client.call(&["SELECT", db]), ok());
        assert_eq!(client.call(&["SET", "key", "v", "PX", ms]), ok());
    }
    wait_until("three keys have expired", || info(&mut client, "expired_keys") >= 3);
    assert_eq!(client.call(&["SET", "key", "v", "PX", "1"]), ok());
    assert_eq!(client.call(&["SET", "kept", "v", "PX", "1"]), ok());
    // Whether PERSIST comes in time or not, what DBSIZE says agrees with it.
    let kept = client.call(&["PERSIST", "kept"]);
    wait_until("the rest has expired", || client.call(&["DBSIZE"]) == kept);
}

#[test]
fn active_expiry_can_be_switched_off() {
    let server = Server::keyloom(&["--enable-debug-command", "yes"]);
    let mut client = server.client();
    assert_eq!(client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "0"]), ok());
    for i in 0..100 {
        assert_eq!(client.call(&["SET", &format!("key:{i}"), "v", "PX", "1"]), ok());
    }
    // A key that is looked at has expired, the others are still there.
    wait_until("the key has expired", || client.call(&["GET", "key:99"]) == Value::Null);
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(99));
    assert_eq!(info(&mut client, "expired_keys"), 1);
    assert_eq!(client.call(&["DEBUG", "SET-ACTIVE-EXPIRE", "1"]), ok());
    wait_until("the others have expired", || client.call(&["DBSIZE"]) == Value::Int(0));
    assert_eq!(info(&mut client, "expired_keys"), 100);
}
