//! Expiry of keys, and of fields of hashes, that nobody looks at. Each test starts the program; the clients ask for nothing but totals.

use crate::common::{Client, Server, info, ok, wait_until};
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

/// A hash of each size for each of so many names, on both cores.
const HASHES: usize = 40;
const FIELDS_OF_LARGE: usize = 300;

fn set_fields(client: &mut Client, key: &str, fields: usize) {
    let mut args = words(&["HSET", key]);
    (0..fields).for_each(|n| args.extend([format!("f{n}"), "v".repeat(20)]));
    assert_eq!(client.call(&args), Value::Int(fields as i64));
}

/// Gives the first `fields` fields of a hash a deadline.
fn expire_fields(client: &mut Client, command: &str, key: &str, time: &str, fields: usize) {
    let mut args = words(&[command, key, time, "FIELDS", &fields.to_string()]);
    args.extend((0..fields).map(|n| format!("f{n}")));
    assert_eq!(client.call(&args), Value::Array(vec![Value::Int(1); fields]));
}

#[test]
fn fields_vanish_on_both_cores_wherever_their_hashes_have_been() {
    let server = Server::keyloom(&["--cpus", "0-1", "--notify-keyspace-events", "Kgh"]);
    let mut client = server.client();
    let mut listener = server.client();
    listener.call(&["PSUBSCRIBE", "__keyspace@*__:moved:*"]);
    let names = |i| ["key", "copy", "moved"].map(|name| format!("{name}:{i}"));
    let fields_of = |i: usize| if i.is_multiple_of(2) { 5 } else { FIELDS_OF_LARGE };
    for i in 0..HASHES {
        let [key, copy, moved] = names(i);
        set_fields(&mut client, &key, fields_of(i));
        expire_fields(&mut client, "HPEXPIREAT", &key, "4000000000123", fields_of(i));
        // Commands over two cores bring the entries to one core and back.
        assert_eq!(client.call(&["COPY", &key, &copy]), Value::Int(1));
        assert_eq!(client.call(&["COPY", &key, &moved]), Value::Int(1));
        for key in [&key, &copy] {
            let at = client.call(&["HPEXPIRETIME", key, "FIELDS", "2", "f3", "none"]);
            assert_eq!(at, Value::Array(vec![Value::Int(4_000_000_000_123), Value::Int(-2)]));
        }
    }
    let full = info(&mut client, "used_memory_dataset");
    let mut expected = 0;
    for i in 0..HASHES {
        let ([key, copy, moved], fields) = (names(i), fields_of(i));
        // All of the hash that moves, all but one of the other.
        expire_fields(&mut client, "HPEXPIRE", &moved, "1500", fields);
        expire_fields(&mut client, "HPEXPIRE", &key, "1500", fields - 1);
        assert_eq!(client.call(&["RENAME", &moved, &format!("moved:to:{i}")]), ok());
        for command in [vec!["MULTI"], vec!["RENAME", &key, &copy], vec!["HGET", &copy, "f4"], vec!["EXEC"]] {
            let reply = client.call(&command);
            assert!(!matches!(reply, Value::Error(_)), "{reply:?}");
        }
        expected += 2 * fields as u64 - 1;
    }
    wait_until("the fields have expired", || info(&mut client, "expired_subkeys") == expected);
    assert_eq!(client.call(&["DBSIZE"]), Value::Int(HASHES as i64));
    assert_eq!(info(&mut client, "expired_keys"), 0);
    for i in 0..HASHES {
        let last = if i % 2 == 0 { 4 } else { FIELDS_OF_LARGE - 1 };
        let left = Value::Array(vec![Value::Bulk(format!("f{last}").into_bytes())]);
        assert_eq!(client.call(&["HKEYS", &format!("copy:{i}")]), left);
    }
    let data = (HASHES / 2 * FIELDS_OF_LARGE * 3 * 40) as u64;
    wait_until("the memory is back", || info(&mut client, "used_memory_dataset") < full - data);
    // The end of each hash that has moved.
    let mut gone = 0;
    while gone < HASHES {
        if let Value::Push(words) | Value::Array(words) = listener.read() {
            let Some(Value::Bulk(event)) = words.last() else { panic!("{words:?}") };
            gone += (event == b"del") as usize;
        }
    }
}
